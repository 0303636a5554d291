"""Two real classifiers of handwritten digits, trained here in a moment: the demo's "before" and "after".

Uses the 1,797 images that come with scikit-learn, so nothing is downloaded; chance has a fixed seed. Owns no state,
spawns nothing, and never leaves a half-written file under a final name.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from changeover.errors import LoaderNotInstalled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL = "digits"
"""The model's name, and its folder in a repository."""
PIXELS = 64
"""8 x 8 pixels, row by row, each 0 (paper) to 16 (ink)."""
CLASSES = 10

_SEED = 0
_HELD_OUT_SHARE = 0.3
_OPSET = 17  # fixed: the newest that skl2onnx knows may be ahead of the ONNX Runtime that is installed


class Classifier(Protocol):
    """The part of a fitted scikit-learn classifier that is used here."""

    def fit(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> object:
        """Learn from images float32 (n, 64) and labels int64 (n,)."""
        ...

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return labels int64 (n,) for images float32 (n, 64)."""
        ...

    def predict_proba(self, images: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Return probabilities (n, 10) for images float32 (n, 64)."""
        ...


@attrs.frozen(eq=False)  # == on arrays has no single truth
class HeldOut:
    """The images that no version has seen in training."""

    images: NDArray[np.float32]
    """float32 (n, 64), 0 to 16."""
    labels: NDArray[np.int64]
    """int64 (n,), the digit that each image shows."""


def train() -> tuple[dict[str, Classifier], HeldOut]:
    """Return both versions, fitted, by version name, and the held-out 30 %; the same on every call.

    Raises LoaderNotInstalled without scikit-learn.
    """
    data = need("sklearn.datasets").load_digits()
    images, held_images, labels, held_labels = need("sklearn.model_selection").train_test_split(
        data.data.astype("float32"),
        data.target.astype("int64"),
        test_size=_HELD_OUT_SHARE,
        stratify=data.target,
        random_state=_SEED,
    )
    versions = {"1": _simple(), "2": _better()}
    # With more threads the matrix library spins between its tiny products: 0.8 s became 3-18 s on two busy cores.
    with need("threadpoolctl").threadpool_limits(1):
        for classifier in versions.values():
            classifier.fit(images, labels)
    return versions, HeldOut(images=held_images, labels=held_labels)


def export(estimator: Classifier, path: Path) -> None:
    """Write a fitted classifier as ONNX, whole or not at all.

    Input `image` float32 (batch, 64); outputs `label` int64 (batch,) and `probabilities` float32 (batch, 10).
    Raises LoaderNotInstalled without skl2onnx, and OSError.
    """
    types = need("skl2onnx.common.data_types")
    model = need("skl2onnx").convert_sklearn(
        estimator,
        name=MODEL,
        initial_types=[("image", types.FloatTensorType([None, PIXELS]))],
        final_types=[
            ("label", types.Int64TensorType([None])),
            ("probabilities", types.FloatTensorType([None, CLASSES])),
        ],
        options={"zipmap": False},  # with it the probabilities were a list of dicts, which no loader can serve
        target_opset=_OPSET,
    )
    write_whole(path, model.SerializeToString())


def write_repository(root: Path) -> HeldOut:
    """Train, write model.onnx and model.toml into `root/digits/1` and `root/digits/2`, and return the held-out part.

    Raises LoaderNotInstalled without the demo's packages, and OSError.
    """
    need("skl2onnx")  # before the training, not after it
    versions, held_out = train()
    for version, classifier in versions.items():
        folder = root / MODEL / version
        folder.mkdir(parents=True, exist_ok=True)
        export(classifier, folder / "model.onnx")
        write_whole(folder / "model.toml", b'loader = "onnx"\n')
    return held_out


def _simple() -> Classifier:
    """Return the unfitted version 1: a linear model, held back so that there is something to gain."""
    linear = need("sklearn.linear_model").LogisticRegression(C=0.2)
    return _scaled(linear)


def _better() -> Classifier:
    """Return the unfitted version 2: a small neural network."""
    network = need("sklearn.neural_network").MLPClassifier((128,), max_iter=400, random_state=_SEED)
    return _scaled(network)


def _scaled(classifier: object) -> Classifier:
    """Return the classifier behind a scaling of the pixels to 0..1, so that the file takes them as they are."""
    scaler = need("sklearn.preprocessing").MinMaxScaler()
    pipeline: Classifier = need("sklearn.pipeline").make_pipeline(scaler, classifier)
    return pipeline


def need(module_name: str) -> Any:
    """Return a module of a package that only the demo needs and that has no type information.

    Raises LoaderNotInstalled naming the extra.
    """
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise LoaderNotInstalled(
            f"the digits demo needs {module_name.partition('.')[0]} ({error}); "
            'install it with: pip install "changeover[demo]"'
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the final name and rename, so that whoever looks sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
