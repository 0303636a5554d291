"""What a process occupies, for tests that look at the real one: whether it tells, and how to leave garbage alone.

Owns no state.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from changeover.runtime import ports

MB = 2**20

_M_TRIM_THRESHOLD = -1  # of <malloc.h>

TELLS = ports.SystemMemory().resident_bytes() is not None
"""Whether the system says what a process occupies."""

on_linux = pytest.mark.skipif(
    not TELLS or ports._malloc_trim() is None, reason="only Linux with glibc tells what a process occupies and trims"
)


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
