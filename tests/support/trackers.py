"""Reference trackers to be tested: one that stands alone, and an engine's, each with a version `m/1` that can be held.

An engine's is closed behind the block, and then no model may have been misused. It spawns nothing else.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

from changeover import ReferenceTracker, VersionKey
from changeover_sim.ports import VirtualClock
from tests.support.rig import open_rig
from tests.support.threads import PATIENCE_S, Crowd

KEY = VersionKey("m", "1")
KINDS = ("alone", "an engine's")
of_each_kind = pytest.mark.parametrize("kind", KINDS)


@attrs.define
class HandClock:
    """A clock that a test turns by hand."""

    now_s: float = 0.0

    def now(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a tracker never sleeps")


@asynccontextmanager
async def open_tracker(kind: str, *, real: bool = False, debug: bool = False) -> AsyncGenerator[ReferenceTracker, None]:
    """Open a tracker of either kind, in virtual time or, for threads, on the real clock."""
    if kind == "alone":
        yield ReferenceTracker(clock=None if real else VirtualClock(), debug_references=debug)
        return
    async with open_rig(real=real, debug_references=debug) as rig:
        await rig.ready()
        yield rig.engine.references


@pytest.fixture(params=KINDS)
async def tracker(request: pytest.FixtureRequest, autojump_clock: Any) -> AsyncGenerator[ReferenceTracker, None]:
    """Open a tracker of each kind in virtual time; nothing may be held when a test ends."""
    async with open_tracker(request.param) as tracker:
        yield tracker
        assert tracker.audit().clean


def watchers(tracker: ReferenceTracker, model: str = "m", version: str = "1") -> int:
    """Return how many watchers the accounts of a version, and how many waits the tracker still know."""
    accounts = tracker._world.books.of(model, version)
    return sum(len(account._watchers) for account in accounts) + len(tracker._world.waits._waiting)


def start_calmly(crowd: Crowd) -> None:
    """Start a thousand threads: interrupted as often as a small crowd is, they do nothing but wait for each other."""
    interval_s = sys.getswitchinterval()
    crowd.start()
    sys.setswitchinterval(interval_s)


def until_watched(tracker: ReferenceTracker) -> None:
    """Block until somebody waits for m/1 of a tracker, in another thread."""
    for _ in range(int(PATIENCE_S * 1_000)):
        if watchers(tracker) == 2:
            return
        threading.Event().wait(0.001)
    raise AssertionError("nobody waits")


async def eventually(condition: Callable[[], bool]) -> None:
    """Return when other threads have made `condition` true; on the real clock."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.lowlevel.checkpoint()


def in_thread(call: Callable[..., object], *args: object) -> object:
    """Make a call in a thread of its own, and return what came of it: a value, or the error."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call(*args))
        except Exception as error:  # noqa: BLE001 - it is what is asked for
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert found, "the thread hangs"
    return found[0]
