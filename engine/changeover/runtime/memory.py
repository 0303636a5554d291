"""Measures what a load took from the system, and sees to it that a close gives it back.

Owns no state; runs in the load, warm-up and close threads and spawns nothing. It never runs on the loop, and never
raises but for what a model's own `close` raises.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from changeover.core.occupancy import Returned, Size, Step, next_step
from changeover.core.values import VersionSpec
from changeover.plugin import Model
from changeover.runtime import sites
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.ports import Memory


class Window:
    """The time in which a piece of work changes what the process occupies: a load, a warm-up, a close."""

    def __init__(self, memory: Memory) -> None:
        """Measure by `memory`, from the moment that it is entered."""
        self._memory = memory
        self._before: int | None = None
        self.resident_bytes: int | None = None
        """What the process occupied when it was last looked at."""

    def __enter__(self) -> Self:
        """Begin."""
        self._span = self._memory.overlaps.begin()
        self._before = self.resident_bytes = self._memory.resident_bytes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._memory.overlaps.end(self._span)

    def grown_bytes(self) -> int | None:
        """Return by how much the process has grown, below 0 where it shrank; None where others had a part in that."""
        self.resident_bytes = self._memory.resident_bytes()
        if sites.ON and sites.buggify("memory-not-told"):
            return None
        if self._before is None or self.resident_bytes is None or not self._memory.overlaps.is_alone(self._span):
            return None
        return self.resident_bytes - self._before


def guess(spec: VersionSpec) -> Size:
    """Return what a version will occupy, as far as can be told without loading it."""
    if spec.memory_hint_bytes is not None:
        return spec.memory_hint_bytes, "hint"
    try:
        return Path(spec.source).stat().st_size, "source_size"
    except (OSError, ValueError):
        return None, "unknown"


def close(loaded: LoadedModel, memory: Memory) -> None:
    """Close a model and bring its memory back, which `loaded.returned` then tells; raises what its `close` raises."""
    if not loaded.is_open:
        return
    is_alive = _watch(loaded.model)
    error: BaseException | None = None
    with Window(memory) as window:
        try:
            loaded.close()
        except BaseException as raised:  # noqa: BLE001 - it is raised below, when what it holds on to is gone
            let_go(raised)
            error = raised
        with suppress(Exception):  # what a port may raise is no reason to call a close failed
            loaded.returned = _bring_back(loaded, memory, window, is_alive)
    if error is not None:
        try:
            raise error
        finally:
            del error  # or it would hold this frame, which holds it


def _bring_back(loaded: LoadedModel, memory: Memory, window: Window, is_alive: Callable[[], bool]) -> Returned:
    """Do what `next_step` says until it is content, looking after each step at what came back."""
    expected = loaded.memory[0]
    done: Step | None = None
    while True:
        grown = window.grown_bytes()
        returned = None if grown is None else max(0, -grown)
        step = next_step(
            done, expected_bytes=expected, grown_bytes=loaded.grown_bytes,
            returned_bytes=returned, is_alive=is_alive(),
        )  # fmt: skip
        if step is None:
            break
        done = step
        if not memory.give_back(collect=step == "collect") and returned is None:
            break  # nothing can be handed back here, and nothing is known to be missing
    return Returned(expected, returned, window.resident_bytes, collected=done == "collect")


def _watch(model: Model) -> Callable[[], bool]:
    """Return how to ask whether a model still exists, without keeping it; no, where it cannot be watched."""
    try:
        found = weakref.ref(model)
    except TypeError:  # a class with `__slots__`, say
        return lambda: False
    return lambda: found() is not None


def let_go(error: BaseException | None) -> None:
    """Empty the frames that led to an error: their variables hold the model, of which nothing would come back."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
