"""Looking at a repository: what is new, what may still be written, what leads out of it, and what has vanished."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from changeover import ModelPolicy, VersionKey
from changeover.core.values import VersionSpec
from changeover.errors import InvalidValue
from changeover.runtime import repository as module
from changeover.runtime.repository import Found, Memory, look
from tests.support.repositories import put, rule


class Watcher:
    """Looks at a repository again and again, and registers what it finds."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.known: dict[str, set[str]] = {}
        self.left: frozenset[VersionKey] = frozenset()
        self.memory: Memory = {}

    def look(self, *, at_once: bool = False) -> Found:
        """Look once."""
        known = lambda model: self.known.get(model, set())  # noqa: E731 - as short as it is
        found = look(self.repository, known, self.memory, at_once=at_once, left=self.left)
        self.memory = found.memory
        for spec in found.specs:
            self.known.setdefault(spec.model, set()).add(spec.version)
        return found

    def names(self, *, at_once: bool = False) -> list[str]:
        """Look once; return what was found."""
        return [str(spec.key) for spec in self.look(at_once=at_once).specs]


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    """Return a watcher of an empty repository."""
    return Watcher(tmp_path)


def later(path: Path, by_ns: int = 1) -> None:
    """Let a file have been written a moment later."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + by_ns))


# --- who may still be writing ---------------------------------------------------------------------------------------


def test_a_folder_is_taken_when_two_looks_saw_the_same(watcher: Watcher) -> None:
    """The first look remembers it, the second takes it, and then it is not looked at any more."""
    put(watcher.repository, model_onnx="x")
    assert watcher.names() == []
    assert watcher.names() == ["m/1"]
    assert watcher.names() == []
    assert watcher.memory == {}


@pytest.mark.parametrize("change", ["name", "size", "time", "inside", "empty folder"])
def test_a_folder_that_changes_waits(watcher: Watcher, change: str) -> None:
    """A new name, another size, another time of change, also further down: it is taken one quiet look later."""
    folder = put(watcher.repository, toml='source = "a.bin"\nloader = "onnx"', a_bin="x")
    (folder / "parts").mkdir()
    (folder / "parts" / "one").write_text("x")
    watcher.look()
    match change:
        case "name":
            (folder / "b.bin").write_text("x")
        case "size":
            before = (folder / "a.bin").stat()
            (folder / "a.bin").write_text("xx")
            os.utime(folder / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
        case "time":
            later(folder / "a.bin")
        case "inside":
            later(folder / "parts" / "one")
        case _:
            (folder / "parts" / "two").mkdir()
    assert watcher.names() == []
    assert watcher.names() == ["m/1"]


def test_somebody_who_asks_gets_it_at_once(watcher: Watcher) -> None:
    """`scan()` and the start take what is there; so do they what was a problem before."""
    put(watcher.repository, model_onnx="x")
    put(watcher.repository, version="2", toml="nonsense = 1")
    rule(watcher.repository, 'load = "all"')
    first = watcher.look(at_once=True)
    assert ([spec.version for spec in first.specs], first.policies) == (["1"], {"m": ModelPolicy("all")})
    again = watcher.look(at_once=True)
    assert (again.specs, again.problems) == ((), first.problems)


def test_hidden_folders_are_not_looked_at(watcher: Watcher) -> None:
    """Write into `.2.part` and rename it: nobody sees it before."""
    hidden = put(watcher.repository, version=".2.part", model_onnx="x")
    put(watcher.repository, ".cache", "1", model_onnx="x")
    assert (watcher.names(), watcher.memory) == ([], {})
    hidden.rename(hidden.with_name("2"))
    watcher.look()
    assert watcher.names() == ["m/2"]


def test_a_policy_is_taken_when_two_looks_saw_the_same(watcher: Watcher) -> None:
    """So is each change of it; a policy that has not changed is not read again."""
    file = rule(watcher.repository, 'load = "all"')
    assert watcher.look().policies == {}
    assert watcher.look().policies == {"m": ModelPolicy("all")}
    assert watcher.look().policies == {}
    file.write_text('load = "latest"')
    assert watcher.look().policies == {}
    later(file)
    assert watcher.look().policies == {}
    assert watcher.look().policies == {"m": ModelPolicy("latest")}


# --- problems -------------------------------------------------------------------------------------------------------


def test_a_problem_is_told_once(watcher: Watcher) -> None:
    """Not at every look; again when the folder has changed and is still one; and it is taken when it is mended."""
    folder = put(watcher.repository, toml="nonsense = 1", model_onnx="x")
    assert [len(watcher.look().problems) for _ in range(4)] == [0, 1, 0, 0]
    (folder / "model.toml").write_text("other nonsense")
    assert [len(watcher.look().problems) for _ in range(4)] == [0, 1, 0, 0]
    (folder / "model.toml").unlink()
    assert [watcher.names() for _ in range(3)] == [[], ["m/1"], []]


def test_a_bad_policy_is_told_once(watcher: Watcher) -> None:
    """And taken when it is mended."""
    file = rule(watcher.repository, "nonsense = 1")
    assert [len(watcher.look().problems) for _ in range(3)] == [0, 1, 0]
    file.write_text('load = "all"')
    assert [watcher.look().policies for _ in range(3)] == [{}, {"m": ModelPolicy("all")}, {}]


def test_whatever_one_folder_raises_the_others_are_taken(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that makes the reader fail in a way that nobody thought of is that folder's problem."""
    real = module.read_version

    def read(folder: Path) -> VersionSpec:
        if folder.name == "2":
            raise ZeroDivisionError("nobody thought of it")
        return real(folder)

    monkeypatch.setattr(module, "read_version", read)
    for version in ("1", "2", "3"):
        put(watcher.repository, version=version, model_onnx="x")
    found = watcher.look(at_once=True)
    assert [spec.version for spec in found.specs] == ["1", "3"]
    assert "nobody thought of it" in found.problems[0]


def test_a_model_folder_that_cannot_be_listed_is_its_own_problem(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once, what was seen in it before is not forgotten, and the others are taken."""
    put(watcher.repository, "bad", "1", toml="nonsense = 1")
    watcher.look()
    assert len(watcher.look().problems) == 1
    put(watcher.repository, "good", "1", model_onnx="x")
    with monkeypatch.context() as patch:
        refuse(patch, lambda path: Path(path).name == "bad", PermissionError(13, "no entrance"))
        seen = [watcher.look() for _ in range(4)]
    assert [len(found.problems) for found in seen] == [0, 1, 0, 0]
    assert [spec.model for found in seen for spec in found.specs] == ["good"]
    assert [len(watcher.look().problems) for _ in range(2)] == [0, 0]


def test_what_vanishes_in_the_middle_of_a_look_is_no_problem(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's or a version's folder that is gone when its turn comes: the others are taken, nothing is told."""
    for version in ("1", "2"):
        put(watcher.repository, version=version, model_onnx="x")
    put(watcher.repository, "n", "1", model_onnx="x")
    refuse(monkeypatch, lambda path: path.endswith((f"m{os.sep}1", f"{os.sep}n")), FileNotFoundError(2, "gone"))
    found = watcher.look(at_once=True)
    assert ([str(spec.key) for spec in found.specs], found.problems) == (["m/2"], ())


def refuse(patch: pytest.MonkeyPatch, refused: Callable[[str], bool], error: OSError) -> None:
    """Let listing some folders raise."""
    real: Any = os.scandir

    def scandir(path: Any) -> Any:
        if refused(str(path)):
            raise error
        return real(path)

    patch.setattr(os, "scandir", scandir)


# --- links ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of somebody else."""
    elsewhere = tmp_path_factory.mktemp("outside")
    put(elsewhere, model_onnx="x")
    rule(elsewhere, 'load = "all"')
    return elsewhere


def test_a_link_does_not_lead_out_of_the_repository(watcher: Watcher, outside: Path) -> None:
    """Neither as a model's folder, nor a version's, nor a policy, nor settings; each is told once, with its target."""
    inside = put(watcher.repository, "ok", "1", model_onnx="x").parent
    (watcher.repository / "m").symlink_to(outside / "m")
    (inside / "2").symlink_to(outside / "m" / "1")
    (inside / "policy.toml").symlink_to(outside / "m" / "policy.toml")
    toml = put(watcher.repository, "ok", "3", model_onnx="x") / "model.toml"
    (outside / "model.toml").write_text("pinned = true")
    toml.symlink_to(outside / "model.toml")
    watcher.look()
    found = watcher.look()
    assert [str(spec.key) for spec in found.specs] == ["ok/1"]
    assert found.policies == {}
    assert sum("leads out of the repository, to" in problem for problem in found.problems) == 3
    assert sum("outside the version's own folder" in problem for problem in found.problems) == 1
    assert [len(watcher.look().problems) for _ in range(2)] == [0, 0]


def test_a_link_inside_the_repository_is_fine(watcher: Watcher) -> None:
    """A version, a model or a policy may be a link to another place below the same root."""
    put(watcher.repository, "m", "1", model_onnx="x")
    rule(watcher.repository, 'load = "all"')
    (watcher.repository / "m" / "2").symlink_to(watcher.repository / "m" / "1")
    (watcher.repository / "n").symlink_to("m")
    found = watcher.look(at_once=True)
    assert [str(spec.key) for spec in found.specs] == ["m/1", "m/2", "n/1", "n/2"]
    assert (found.problems, sorted(found.policies)) == ((), ["m", "n"])


def test_a_link_to_itself_or_to_nothing_harms_nobody(watcher: Watcher) -> None:
    """Broken links are passed over, circles told; the others are taken."""
    put(watcher.repository, model_onnx="x")
    (watcher.repository / "m" / "2").symlink_to("2")
    (watcher.repository / "m" / "3").symlink_to("nowhere")
    (watcher.repository / "n").symlink_to("n")
    watcher.look()
    found = watcher.look()
    assert [str(spec.key) for spec in found.specs] == ["m/1"]
    assert len(found.problems) == 2
    assert watcher.look().problems == ()


def test_a_repository_may_itself_be_a_link(watcher: Watcher, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is inside is measured by where it leads."""
    put(watcher.repository, model_onnx="x")
    link = tmp_path_factory.mktemp("links") / "models"
    link.symlink_to(watcher.repository)
    (watcher.repository / "m" / "2").symlink_to(watcher.repository / "m" / "1")
    assert len(Watcher(link).look(at_once=True).specs) == 2


# --- what was taken out, and what is away ---------------------------------------------------------------------------


def test_a_version_that_was_taken_out_is_left_alone(watcher: Watcher) -> None:
    """One that somebody unregistered comes back when its folder changes, or when somebody asks."""
    folder = put(watcher.repository, model_onnx="x")
    assert watcher.names(at_once=True) == ["m/1"]

    def take_out() -> None:
        watcher.look()  # one that is registered is not remembered
        watcher.known.clear()
        watcher.left = frozenset({VersionKey("m", "1")})

    take_out()
    assert [watcher.names() for _ in range(3)] == [[], [], []]
    later(folder / "model.onnx")
    assert [watcher.names() for _ in range(2)] == [[], ["m/1"]]
    take_out()
    assert watcher.names(at_once=True) == ["m/1"]


@pytest.mark.parametrize("kind", ["missing", "file", "unlisted", "half-way"])
def test_a_repository_that_is_away_is_one_kind_of_error(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """No folder, a file, one that cannot be listed, and a listing that breaks off in the middle."""
    put(watcher.repository, model_onnx="x")
    if kind == "missing":
        watcher.repository = watcher.repository / "nowhere"
    elif kind == "file":
        (watcher.repository / "file").write_text("x")
        watcher.repository = watcher.repository / "file"
    elif kind == "unlisted":
        refuse(monkeypatch, lambda path: path == str(watcher.repository), PermissionError(13, "no entrance"))
    else:
        monkeypatch.setattr(os, "scandir", BreaksOff)
    with pytest.raises(InvalidValue, match="the repository"):
        watcher.look()


class BreaksOff:
    """A listing that raises after its first entry."""

    def __init__(self, path: Any) -> None:
        self._entry = next(Path(path).iterdir())
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._count += 1
        if self._count > 1:
            raise OSError(5, "input/output error")
        return self._entry
