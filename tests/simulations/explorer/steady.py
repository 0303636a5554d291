"""What an exploration must leave as it found it: the process, the interpreter, Trio, and no thread behind.

Owns nothing for longer than a `with`; it reads private places of Trio, as only a test may.
"""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import sniffio
import trio
import trio._core._run as run_loop
import trio._threads as trio_threads
from trio._core import _thread_cache
from trio.lowlevel import checkpoint

from changeover_sim import NotExploring, choose, explore

_WAIT_S = 5.0

_refrozen = [0]
"""How often `nothing_frozen` has frozen everything anew."""


def surroundings() -> dict[str, Any]:
    """Return all that an exploration could have changed, by name."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "trace function": sys.gettrace(),
        "profile function": sys.getprofile(),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "alarm": signal.getitimer(signal.ITIMER_REAL),
        "wakeup descriptor": wakeup,
        "random state": random.getstate(),
        "collector on": gc.isenabled(),
        "collector": (gc.get_threshold(), list(gc.callbacks)),
        "time.sleep": time.sleep,
        "Thread.start": threading.Thread.start,
        "thread cache": _thread_cache.THREAD_CACHE,
        "messages from threads": trio_threads._send_message_to_trio,
        "asyncgen hooks": sys.get_asyncgen_hooks(),
        "unraisable hook": sys.unraisablehook,
        "exception hooks": (sys.excepthook, threading.excepthook),
        "warning filters": list(warnings.filters),
        "async library": sniffio.thread_local.name,
        "run of Trio": dict(run_loop.GLOBAL_RUN_CONTEXT.__dict__),
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
    }


@contextmanager
def nothing_frozen() -> Generator[None, None, None]:
    """Let the garbage collector look at everything in the block, which tests/conftest.py has it leave alone else."""
    gc.unfreeze()
    try:
        yield
    finally:
        gc.freeze()
        _refrozen[0] += 1


@contextmanager
def nothing_left() -> Generator[None, None, None]:
    """Whatever happens in the block, behind it all is as before, and Trio and the explorer can be used again."""
    hook, noise = sys.unraisablehook, list[str]()
    threads = set(threading.enumerate())
    sys.unraisablehook = lambda unraisable: noise.append(f"{unraisable.exc_value!r} in {unraisable.object!r}")
    frozen, refrozen, before = gc.get_freeze_count(), _refrozen[0], surroundings()
    try:
        yield
        after, still_frozen = surroundings(), gc.get_freeze_count()
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert noise == []
    assert bool(still_frozen) is bool(frozen)
    # Of what tests/conftest.py has frozen something may have ended.
    assert still_frozen <= frozen or _refrozen[0] > refrozen
    assert {name: after[name] for name in after if after[name] != before[name]} == {}
    assert_no_thread_beside(threads)
    assert_all_works()


def assert_no_thread_beside(threads: set[threading.Thread]) -> None:
    """No thread is alive that was not; those that Trio itself keeps idle for the next piece of work are its own."""
    give_up = time.monotonic() + _WAIT_S
    while left := set(threading.enumerate()) - threads - _idle():
        assert time.monotonic() < give_up, f"threads are left: {left}"
        left.pop().join(0.001)  # it has delivered, and is on its way back to Trio's cache


def _idle() -> set[threading.Thread]:
    return {worker._thread for worker in list(_thread_cache.THREAD_CACHE._idle_workers)}


def assert_all_works() -> None:
    """A real run and another exploration go well, and nothing thinks that it is still inside the last one."""

    async def fine() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checkpoint)
            nursery.start_soon(trio.sleep, 0)

    trio.run(fine)
    result = explore(fine, schedules=2)
    assert (result.failure, result.schedules_run) == (None, 2)
    with pytest.raises(NotExploring):
        choose([1, 2])
