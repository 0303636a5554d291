"""What a process occupies, for tests that look at the real one: whether it tells, and how to leave garbage alone.

Owns no state.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from changeover.runtime import ports
from tests.house.tree import ROOT

MB = 2**20

_M_TRIM_THRESHOLD = -1  # of <malloc.h>

TELLS = ports.SystemMemory().resident_bytes() is not None
"""Whether the system says what a process occupies."""

on_linux = pytest.mark.skipif(
    not TELLS or ports._malloc_trim() is None, reason="only Linux with glibc tells what a process occupies and trims"
)


_ALONE, _LIMIT_S = "CHANGEOVER_TEST_ALONE", 300.0


def in_its_own_process(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run this test, which measures what the process occupies, in a process that has run no other.

    What other tests have freed lies in pages that hold something else as well, which nothing hands back: a model may
    come to lie there, and the process does not grow by it. It has two heaps: by default glibc begins a new one for each
    of the first threads, eight for each core, so that a process grows by them for as long as that takes.
    """
    if os.environ.get(_ALONE):
        return test

    def alone(request: pytest.FixtureRequest) -> None:
        options = ("-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-rs", "-m", "")
        environment = {**os.environ, _ALONE: "1", "MALLOC_ARENA_MAX": "2"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, request.node.nodeid],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=_LIMIT_S,
        )  # fmt: skip
        if " skipped" in done.stdout and not done.returncode:
            pytest.skip(done.stdout)
        assert not done.returncode, done.stdout + done.stderr
        assert "1 passed" in done.stdout, done.stdout

    alone.__name__, alone.__doc__, alone.__module__ = test.__name__, test.__doc__, test.__module__
    alone.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
    return alone


def resident_bytes() -> int:
    """Return the resident set."""
    resident = ports.SystemMemory().resident_bytes()
    assert resident is not None
    return resident


def trim_as_at_the_start() -> None:
    """Have glibc trim the ends of its arenas as in a new process.

    It trims them the later, up to 64 MB, the larger the largest array was that was freed before: in a process that has
    run other tests a model may leave that much behind, for the next one to use, and `malloc_trim` does not touch it.
    """
    if ports._malloc_trim() is not None:
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 128 * 1024)


@contextmanager
def no_collections() -> Iterator[None]:
    """Collect no garbage that nobody orders to be collected."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
