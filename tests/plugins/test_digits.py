"""The digits demo: two versions that differ, and files that answer like the classifiers they were made from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from changeover.errors import LoaderNotInstalled
from changeover.plugin import Source
from changeover_plugins.demo import digits
from changeover_plugins.onnx_loader import OnnxLoader

np = pytest.importorskip("numpy")
pytest.importorskip("sklearn")

Repository = tuple[Path, digits.HeldOut]
Trained = tuple[dict[str, digits.Classifier], digits.HeldOut]

VERSIONS = pytest.mark.parametrize("version", ["1", "2"])


@pytest.fixture(scope="module")
def trained() -> Trained:
    """Return what one more training gives."""
    return digits.train()


def answers(root: Path, version: str, images: Any) -> Any:
    """Return the outputs of one version's file."""
    path = root / "digits" / version / "model.onnx"
    model = OnnxLoader().load(Source(model="digits", version=version, location=str(path)))
    try:
        return model.predict({"image": images})
    finally:
        model.close()


def test_held_out_part(trained: Trained) -> None:
    """30 % of the images are held out, of every digit its share, with the shapes and dtypes that are promised."""
    held_out = trained[1]
    assert (held_out.images.shape, held_out.images.dtype) == ((540, 64), np.float32)
    assert (held_out.labels.shape, held_out.labels.dtype) == ((540,), np.int64)
    assert (held_out.images.min(), held_out.images.max()) == (0, 16)
    counts = np.bincount(held_out.labels)
    assert counts.min() >= 52
    assert counts.max() <= 55


def test_nothing_held_out_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image of the held-out part was shown to a classifier in training."""
    seen: list[Any] = []

    class Recorder:
        def fit(self, images: Any, labels: Any) -> None:
            seen.append((images, labels))

    monkeypatch.setattr(digits, "_simple", Recorder)
    monkeypatch.setattr(digits, "_better", Recorder)
    _, held_out = digits.train()
    for images, labels in seen:
        assert len(images) == len(labels) == 1797 - 540
        assert not {row.tobytes() for row in images} & {row.tobytes() for row in held_out.images}


def test_the_second_version_is_better(trained: Trained) -> None:
    """Version 1 is decent, version 2 is better by more than a percent: the swap is worth seeing."""
    versions, held_out = trained
    accuracy = {name: (made.predict(held_out.images) == held_out.labels).mean() for name, made in versions.items()}
    assert list(accuracy) == ["1", "2"]
    assert 0.94 < accuracy["1"] < 0.97
    assert accuracy["2"] > accuracy["1"] + 0.01


@VERSIONS
def test_training_is_deterministic(trained: Trained, digits_repository: Repository, version: str) -> None:
    """Two trainings hold out the same images and answer alike."""
    (versions, held_out), (root, earlier) = trained, digits_repository
    assert np.array_equal(held_out.images, earlier.images)
    assert np.array_equal(held_out.labels, earlier.labels)
    expected = versions[version].predict_proba(held_out.images)
    assert np.allclose(answers(root, version, earlier.images)["probabilities"], expected, atol=1e-5)


@VERSIONS
def test_file_answers_like_the_classifier(
    trained: Trained, tmp_path: Path, digits_repository: Repository, version: str
) -> None:
    """On every held-out image the exported file gives scikit-learn's label and, to 1e-5, its probabilities."""
    versions, held_out = trained
    folder = tmp_path / "digits" / version
    folder.mkdir(parents=True)
    digits.export(versions[version], folder / "model.onnx")
    given = answers(tmp_path, version, held_out.images)
    assert (given["label"].dtype, given["probabilities"].dtype) == (np.int64, np.float32)
    assert np.array_equal(given["label"], versions[version].predict(held_out.images))
    assert np.allclose(given["probabilities"], versions[version].predict_proba(held_out.images), atol=1e-5)


def test_repository_layout(digits_repository: Repository) -> None:
    """A repository has a model and its loader's name per version, and no half-written file beside them."""
    root, _ = digits_repository
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {f"digits/{version}/{name}" for version in "12" for name in ("model.onnx", "model.toml")}
    assert (root / "digits/1/model.toml").read_text() == 'loader = "onnx"\n'


def test_same_bytes_for_the_same_classifier(trained: Trained, tmp_path: Path) -> None:
    """Exporting twice gives the same bytes, so that a file says whether a model changed."""
    for name in ("first", "second"):
        digits.export(trained[0]["1"], tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_reader_keeps_the_whole_old_file(trained: Trained, tmp_path: Path) -> None:
    """Whoever is reading the old file while a new one is written reads the old one to its end."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        digits.export(trained[0]["1"], path)
        assert reader.read() == b"old"
    assert path.stat().st_size > len(b"old")


def test_failed_write_leaves_the_old_file(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up half-way, the old file is whole and nothing lies beside it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    write = Path.write_bytes

    def half(self: Path, content: bytes) -> int:
        write(self, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        digits.export(trained[0]["1"], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("package", ["sklearn.datasets", "skl2onnx"])
def test_without_a_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Without scikit-learn or skl2onnx the demo says what to install, before it trains anything."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(digits, "_simple", pytest.fail)
    with pytest.raises(LoaderNotInstalled, match=r'pip install "changeover\[demo\]"'):
        digits.write_repository(tmp_path)
