"""A project of its own in a folder of its own, for the tests that run pytest over files that they write.

Owns nothing; imports the explorer, once for all of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from changeover_sim import pytest_given

assert pytest_given

HEAD = """
import pytest, trio
from changeover_sim import PCT, RandomWalk, choose

async def lose(n, *, atomic=False):
    total = 0
    async def add():
        nonlocal total
        seen = total
        print("seen", seen)
        if not atomic:
            await trio.lowlevel.checkpoint()
        total = seen + 1
    async with trio.open_nursery() as nursery:
        for _ in range(n):
            nursery.start_soon(add)
    assert total == n, f"{n - total} lost"
"""
"""A program that loses what it counts, at the head of every file of tests."""


class Project:
    """A folder with one file of tests, and pytest in it, for which every warning is an error."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make it, where tests are told as on a developer's machine."""
        for name in ("CI", "BUILD_NUMBER"):  # with these pytest's summary is not cut to one line
            monkeypatch.delenv(name, raising=False)
        self.pytester = pytester
        self.configure("trio_mode = true")

    def configure(self, line: str) -> None:
        settings = "addopts = --import-mode=importlib --strict-markers --strict-config -m 'not slow'"
        self.pytester.makefile(
            ".ini", pytest=f"[pytest]\n{settings}\nfilterwarnings = error\nmarkers =\n    slow\n{line}\n"
        )

    def write(self, text: str, name: str = "test_it") -> None:
        self.pytester.makepyfile(**{name: HEAD + text})

    def run(self, *arguments: str | Path, **outcomes: int) -> str:
        """Run pytest, check how many tests came to what, and return what it said."""
        result = self.pytester.runpytest_inprocess(*arguments)
        text = f"{result.stdout}\n{result.stderr}"
        assert result.parseoutcomes() == outcomes, text
        return text

    def failing(self, text: str, *arguments: str) -> str:
        """Return what pytest says of a file with one test, which fails."""
        self.write(text)
        return self.run(*arguments, failed=1)

    def refused(self, text: str, **outcomes: int) -> str:
        """Return what is said, without a traceback, of a test that cannot be run."""
        self.write(text)
        said = self.run(**(outcomes or {"errors": 1}))
        assert "Traceback" not in said
        assert "During handling" not in said
        assert "pytest_plugin.py" not in said
        return said


def command(said: str) -> Sequence[str]:
    """Return the arguments of the command line that a report ends with."""
    lines = said.splitlines()
    name, *arguments = shlex.split(lines[lines.index("Run it again with:") + 1])
    assert name == "pytest"
    return arguments
