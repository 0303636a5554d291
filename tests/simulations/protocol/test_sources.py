"""The digest over what decides a trial: what changes it, and what does not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from changeover_sim.protocol import sources, subjects

Edit = Callable[[str, str, str], None]
ACCOUNT, PCT = "changeover_sim.kernels.account", "changeover_sim.policies.pct"


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Return what replaces text in a file of a copy of the package, whose digest is taken from then on."""
    copy = tmp_path / sources.PACKAGE.name
    for folder in ("explorer", "policies", "kernels"):
        shutil.copytree(sources.PACKAGE / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "PACKAGE", copy)

    def forget() -> None:
        for cached in (sources.digest, sources._file, sources._source):
            cached.cache_clear()

    def replace(name: str, old: str, new: str) -> None:
        text = (copy / name).read_text("utf-8")
        assert old in text
        (copy / name).write_text(text.replace(old, new, 1), "utf-8")
        forget()

    forget()
    yield replace
    forget()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("explorer/search.py", "_TWICE_EVERY = 100", "_TWICE_EVERY = 99"),
        ("explorer/inside_trio.py", "return ", "return not "),
        ("policies/pct.py", "self._lowest -= 1.0", "self._lowest -= 2.0"),
        ("policies/base.py", "PROBES = 100", "PROBES = 50"),
        ("kernels/account.py", "X, Y, Z = 1, 2, 4", "X, Y, Z = 1, 2, 5"),
        ("kernels/port.py", "checkpoint()", "checkpoint() and None"),
    ],
)
def test_what_decides_counts(edit: Edit, name: str, old: str, new: str) -> None:
    """A change to the explorer, to the policy, to the kernel, or to what any of them imports, is another digest."""
    before = sources.digest(ACCOUNT, PCT)
    edit(name, old, new)
    assert sources.digest(ACCOUNT, PCT) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("explorer/search.py", '"""Explore and replay', '"""Explore, and replay'),
        ("explorer/search.py", "import attrs\n", "import attrs  # a comment\n\n"),
        ("explorer/report.py", "import ", "import sys\nimport "),
        ("explorer/processes.py", "import ", "import sys\nimport "),
        ("policies/random_walk.py", "self._random()", "0.5"),
        ("policies/__init__.py", '"""', '"""More. '),
        ("kernels/stack.py", "import ", "import sys\nimport "),
        ("kernels/__init__.py", "import ", "import sys\nimport "),
    ],
)
def test_what_does_not_decide_does_not_count(edit: Edit, name: str, old: str, new: str) -> None:
    """Comments, docstrings, what tells of a failure, other policies and other kernels leave results as good as new."""
    before = sources.digest(ACCOUNT, PCT)
    edit(name, old, new)
    assert sources.digest(ACCOUNT, PCT) == before


def test_a_portfolio_is_as_old_as_its_arms(edit: Edit) -> None:
    """It imports them, so a change to one of them counts."""
    portfolio = "changeover_sim.policies.portfolio"
    before = sources.digest(ACCOUNT, portfolio)
    edit("policies/pct.py", "self._lowest -= 1.0", "self._lowest -= 2.0")
    assert sources.digest(ACCOUNT, portfolio) != before


def test_each_cell_has_its_source() -> None:
    """No two kernels of different files, and no two policies, share a digest."""
    known = subjects.subjects()
    digests = {subjects.digest(known[name], "natural", p) for name in ("account", "stack") for p in subjects.POLICIES}
    assert len(digests) == 2 * len(subjects.POLICIES)


def test_a_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that git does not know has none, also where some other repository lies around it."""
    for words in (["init", "-q"], ["-c", "user.name=I", "-c", "user.email=i@i", "commit", "-qm", "1", "--allow-empty"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    assert sources.commit() == "unknown"


def test_what_only_tells_is_there_and_does_not_count() -> None:
    """Each module that is left out by name exists, and is none of those that decide."""
    assert all(sources._file(name) for name in sources._TELLING)
    assert not sources._TELLING & {f"changeover_sim.explorer.{name}" for name in ("search", "queue", "judge", "waits")}
