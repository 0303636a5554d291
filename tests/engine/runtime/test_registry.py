"""Registering by hand and by folder: real files in a temporary folder, and what is wrong with some of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from changeover import Batching, VersionKey, VersionSpec, open_engine
from changeover.errors import AlreadyRegistered, InvalidValue, ModelNotRegistered
from changeover.runtime import registry
from changeover.runtime.registry import Registry, scan
from changeover_sim import open_world
from tests.support.models import Cast
from tests.support.rig import LOADER


def put(repository: Path, model: str = "m", version: str = "1", toml: str | None = None, **files: str) -> Path:
    """Write a version folder; `model_onnx="x"` makes the file `model.onnx`."""
    folder = repository / model / version
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    if toml is not None:
        (folder / "model.toml").write_text(toml)
    return folder


def only_problem(repository: Path) -> str:
    """Return what is wrong with the one folder of a repository."""
    found = scan(repository)
    assert found.specs == ()
    (problem,) = found.problems
    return problem


# --- by hand --------------------------------------------------------------------------------------------------------


def spec(model: str = "m", version: str = "1", source: str = "script") -> VersionSpec:
    """Return a spec."""
    return VersionSpec(model, version, source, loader=LOADER)


def test_versions_are_kept_in_the_order_of_their_registration() -> None:
    """The registry knows what was added to it, in order."""
    known = Registry()
    for version in ("2", "10", "1"):
        known.add(spec(version=version))
    known.add(spec("other", "5"))
    assert known.versions("m") == ("2", "10", "1")
    assert (len(known), VersionKey("m", "10") in known, VersionKey("m", "11") in known) == (4, True, False)
    assert known.get(VersionKey("other", "5")) == spec("other", "5")


def test_a_version_never_changes_its_meaning() -> None:
    """Registered twice is refused, naming the source that stands; the first one stays."""
    known = Registry()
    known.add(spec(source="first"))
    with pytest.raises(AlreadyRegistered, match=r"m/1.*'first'") as caught:
        known.add(spec(source="second"))
    assert (caught.value.model, caught.value.version) == ("m", "1")
    assert known.get(VersionKey("m", "1")).source == "first"
    assert len(known) == 1


def test_what_is_not_registered_is_named_with_what_is() -> None:
    """An unknown model, and an unknown version of a known one, are told apart."""
    known = Registry()
    with pytest.raises(ModelNotRegistered, match=r"no model is called 'm'; registered are none"):
        known.versions("m")
    known.add(spec())
    known.add(spec(version="2"))
    with pytest.raises(ModelNotRegistered, match=r"m has no version '3'; registered are 1, 2"):
        known.get(VersionKey("m", "3"))
    with pytest.raises(ModelNotRegistered, match=r"no model is called 'n'; registered are m"):
        known.get(VersionKey("n", "3"))


# --- by folder ------------------------------------------------------------------------------------------------------


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


# --- the engine and its repository ----------------------------------------------------------------------------------


async def test_an_engine_registers_what_its_repository_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """At the start and at each `scan` what is new is registered, nothing is loaded, and problems are logged."""
    put(tmp_path, version="1", toml='loader = "onnx"', model_onnx="x")
    put(tmp_path, version="2", toml="nonsense = 1", model_onnx="x")
    caplog.set_level(logging.WARNING)
    async with open_world() as world, open_engine(ports=world.ports, repository=tmp_path) as engine:
        assert engine.statistics().registered == 1
        assert "nonsense" in caplog.text
        put(tmp_path, version="3", toml='loader = "onnx"', model_onnx="x")
        assert [found.version for found in await engine.scan()] == ["3"]
        assert await engine.scan() == ()
        assert engine.loaded_versions("m") == ()


async def test_a_version_whose_loader_is_missing_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """It is logged, and the rest is registered; a loader that runs code is not allowed to by a file."""
    put(tmp_path, version="1", toml='loader = "nobody-has-this"', model_bin="x")
    put(tmp_path, version="2", toml='loader = "callable"', model_py="x")
    put(tmp_path, version="3", toml=f'loader = "{LOADER}"', model_bin="x")
    async with open_world() as world, open_engine(ports=world.ports) as engine:
        engine._settings = registry.attrs.evolve(engine._settings, repository=tmp_path)
        engine._host.loaders.add(LOADER, Cast().loader)
        assert [found.version for found in await engine.scan()] == ["3"]
    assert "nobody-has-this" in caplog.text
    assert "allow_code=True" in caplog.text


async def test_an_engine_without_a_repository_cannot_scan(autojump_clock: Any) -> None:
    """The message says which argument is missing."""
    async with open_world() as world, open_engine(ports=world.ports) as engine:
        with pytest.raises(InvalidValue, match="repository="):
            await engine.scan()


async def test_a_repository_that_is_not_there_keeps_the_engine_closed(tmp_path: Path, autojump_clock: Any) -> None:
    """`open_engine` raises the plain error, and the body does not run."""
    ran = False
    async with open_world() as world:
        with pytest.raises(InvalidValue, match="nowhere"):
            async with open_engine(ports=world.ports, repository=tmp_path / "nowhere"):
                ran = True
    assert not ran
