"""What the folders of a repository say: real files in a temporary folder, and what is wrong with some of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from changeover import Batching, ModelPolicy, VersionSpec
from changeover.errors import InvalidValue
from changeover.runtime.repository import Found, look
from tests.support.repositories import put, rule


def scan(repository: Path) -> Found:
    """Take all that is there at once."""
    return look(repository, lambda _model: (), {}, at_once=True)


def only_problem(repository: Path) -> str:
    """Return what is wrong with the one folder of a repository."""
    found = scan(repository)
    assert found.specs == ()
    (problem,) = found.problems
    return problem


def test_a_folder_with_one_file_is_a_version(tmp_path: Path) -> None:
    """NAME/VERSION/file needs no settings where the file's ending names its loader."""
    put(tmp_path, "digits", "2", model_onnx="x")
    put(tmp_path, "digits", "1", model_onnx="x")
    found = scan(tmp_path)
    assert [(s.key, s.loader) for s in found.specs] == [(("digits", "1"), "onnx"), (("digits", "2"), "onnx")]
    assert found.specs[0].source == tmp_path / "digits" / "1" / "model.onnx"
    assert found.problems == ()


def test_settings_are_the_fields_of_a_spec(tmp_path: Path) -> None:
    """What `model.toml` says becomes the spec, tables included."""
    toml = """
        source = "weights.bin"
        loader = "mine"
        execution = "worker"
        workers = 2
        queue_limit = 7
        load_timeout_s = 5
        sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
        memory_hint_bytes = 9
        pinned = true
        [options]
        threads = 4
        [batching]
        max_batch = 8
        max_delay_s = 0.5
    """
    folder = put(tmp_path, toml=toml, weights_bin="x", notes_txt="x")
    (found,) = scan(tmp_path).specs
    assert found == VersionSpec(
        "m", "1", folder / "weights.bin", loader="mine", execution="worker", workers=2, queue_limit=7,
        load_timeout_s=5, sha256="0" * 64, memory_hint_bytes=9, pinned=True, options={"threads": 4},
        batching=Batching(8, 0.5),
    )  # fmt: skip


@pytest.mark.parametrize(
    "field", ["allow_code = true", 'model = "other"', 'version = "9"', "warmup = []", "nonsense = 1"]
)
def test_a_file_cannot_say_who_it_is_nor_that_its_code_may_run(tmp_path: Path, field: str) -> None:
    """Fields that only code may set, and fields that do not exist, are refused by name."""
    put(tmp_path, toml=field, model_onnx="x")
    assert field.split(" ", maxsplit=1)[0] in only_problem(tmp_path)


@pytest.mark.parametrize("name", ["../../../outside.bin", "../../other/1/model.onnx"])
def test_a_source_stays_inside_its_own_folder(tmp_path: Path, name: str) -> None:
    """A path that leads out of the version's folder is refused, whether or not there is something."""
    (tmp_path.parent / "outside.bin").write_text("x")
    put(tmp_path, toml=f'source = "{name}"\nloader = "onnx"', model_onnx="x")
    assert "outside the version's own folder" in only_problem(tmp_path)


def test_an_absolute_source_stays_inside_its_own_folder(tmp_path: Path) -> None:
    """An absolute path elsewhere is refused."""
    outside = tmp_path.parent / "absolute.onnx"
    outside.write_text("x")
    put(tmp_path, toml=f'source = "{outside}"')
    assert "outside the version's own folder" in only_problem(tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path, named: bool) -> None:
    """A symbolic link to a file elsewhere is refused, named in the settings or found as the only file."""
    outside = tmp_path.parent / "target.onnx"
    outside.write_text("x")
    folder = put(tmp_path, toml='source = "model.onnx"' if named else None)
    (folder / "model.onnx").symlink_to(outside)
    assert "outside the version's own folder" in only_problem(tmp_path)


@pytest.mark.parametrize(("files", "names"), [({}, "none"), ({"a_onnx": "x", "b_onnx": "x"}, "a.onnx, b.onnx")])
def test_a_folder_without_one_clear_file_is_refused(tmp_path: Path, files: dict[str, str], names: str) -> None:
    """No file, or two: the problem names them and says what to do."""
    put(tmp_path, **files)
    problem = only_problem(tmp_path)
    assert f"it holds {names}" in problem
    assert "model.toml" in problem


def test_two_files_are_fine_where_one_is_named(tmp_path: Path) -> None:
    """The settings choose."""
    put(tmp_path, toml='source = "b.onnx"', a_onnx="x", b_onnx="x")
    assert [Path(s.source).name for s in scan(tmp_path).specs] == ["b.onnx"]


def test_hidden_folders_and_loose_files_are_passed_over(tmp_path: Path) -> None:
    """What begins with a dot, and files where folders are expected, are nobody's problem."""
    put(tmp_path, ".git", "1", model_onnx="x")
    put(tmp_path, "m", ".tmp", model_onnx="x")
    put(tmp_path, "m", "1", model_onnx="x")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "m" / "notes.txt").write_text("x")
    found = scan(tmp_path)
    assert [s.key for s in found.specs] == [("m", "1")]
    assert found.problems == ()


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("this is not toml", "line 1"),
        ("workers = 0", "workers"),
        ('execution = "magic"', "execution"),
        ("load_timeout_s = nan", "load_timeout_s"),
        ("[batching]\nmax_batch = 0", "max_batch"),
        ("[batching]\nsize = 3", "size"),
        ('isolation = "process"', "isolation"),
        ("batching = 3", "batching"),
    ],
)
def test_settings_that_make_no_sense_are_told_by_name(tmp_path: Path, toml: str, says: str) -> None:
    """Each problem names the folder and what is wrong in it."""
    put(tmp_path, toml=toml, model_onnx="x")
    problem = only_problem(tmp_path)
    assert str(tmp_path / "m" / "1") in problem
    assert says in problem


def test_settings_in_another_encoding_are_told(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are a problem of that folder only."""
    folder = put(tmp_path, model_onnx="x")
    (folder / "model.toml").write_bytes(b"\xff\xfe")
    put(tmp_path, version="2", model_onnx="x")
    found = scan(tmp_path)
    assert [s.version for s in found.specs] == ["2"]
    assert len(found.problems) == 1


def test_an_unknown_ending_needs_a_loader_by_name(tmp_path: Path) -> None:
    """The problem says how to name one."""
    put(tmp_path, model_pickle="x")
    assert 'loader = "..."' in only_problem(tmp_path)


def test_a_folder_name_that_is_no_word_is_told(tmp_path: Path) -> None:
    """A version must be a word that fits into a log line."""
    put(tmp_path, "m", "1 final", model_onnx="x")
    assert "'1 final'" in only_problem(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_repository_is_a_folder(tmp_path: Path, kind: str) -> None:
    """A repository that is not there, or is a file, is named."""
    path = tmp_path / kind
    if kind == "file":
        path.write_text("x")
    with pytest.raises(InvalidValue, match=kind):
        scan(path)


# --- warm-up data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["warmup.json", "warmup.npz"])
def test_warm_up_data_is_not_the_model(tmp_path: Path, name: str) -> None:
    """It lies beside the one file and is found by its name, or by one that the settings say."""
    folder = put(tmp_path, model_onnx="x")
    (folder / name).write_text("x")
    other = put(tmp_path, version="2", toml='warmup = "mine.json"', model_onnx="x", mine_json="x")
    first, second = scan(tmp_path).specs
    assert (first.source, first.warmup) == (folder / "model.onnx", folder / name)
    assert (second.source, second.warmup) == (other / "model.onnx", other / "mine.json")


# --- policies -------------------------------------------------------------------------------------------------------


def test_a_policy_lies_beside_the_versions(tmp_path: Path) -> None:
    """`NAME/policy.toml` is the model's policy, also where there is no version yet; it is no version."""
    put(tmp_path, "m", "1", model_onnx="x")
    rule(tmp_path, 'load = "latest"\ncount = 2', "m")
    rule(tmp_path, 'load = "all"', "n")
    found = scan(tmp_path)
    assert found.policies == {"m": ModelPolicy("latest", 2), "n": ModelPolicy("all")}
    assert (len(found.specs), found.problems) == (1, ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lode = 1", "it may have count, load, plan, versions"),
        ("[plan]\nstage = 1", "it may have confirm_s"),
        ("load = ", "Invalid value"),
        ("count = 0", "count"),
        ("x = " + "[" * 10_000, "nested too deeply"),
    ],
    ids=lambda value: value[:20],
)
def test_a_policy_that_makes_no_sense_names_the_file(tmp_path: Path, text: str, says: str) -> None:
    """The problem names file and key, and what may be there; versions and other models are taken."""
    file = rule(tmp_path, text)
    put(tmp_path, "m", "1", model_onnx="x")
    rule(tmp_path, 'load = "all"', "n")
    found = scan(tmp_path)
    (problem,) = found.problems
    assert str(file) in problem
    assert says in problem
    assert (found.policies, len(found.specs)) == ({"n": ModelPolicy("all")}, 1)


def test_a_policy_of_a_folder_that_is_no_word_is_told(tmp_path: Path) -> None:
    """A model that cannot be registered has no policy either."""
    rule(tmp_path, 'load = "all"', "my model")
    found = scan(tmp_path)
    assert (found.policies, len(found.problems)) == ({}, 1)
    assert "my model" in found.problems[0]
