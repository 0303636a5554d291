"""The faults by name, and the switchboard of one run: which are on, when they strike, and the switch that ends all.

What a run may do is never more than what the design promises to survive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

import trio

FAULTS: dict[str, str] = {
    "load-raises": "a loader raises",
    "load-leaks": "a loader raises at the end of its work, and nobody hands over what it had made by then",
    "load-hangs": "a load's thread hangs until the faults are off",
    "load-slow": "a load takes longer than its time limit",
    "warm-up-raises": "a model raises on its warm-up data",
    "warm-up-slow": "a warm-up takes longer than the time limit of its load",
    "predict-raises": "a model raises on some requests",
    "predict-hangs": "a request's thread hangs until the faults are off",
    "predict-slow": "a request takes much longer than others",
    "model-beyond-use": "a model says that it is beyond use: its version crashes",
    "close-raises": "a model raises when it is closed",
    "close-hangs": "closing a model hangs until the faults are off",
    "cancel": "a caller goes away, at any checkpoint of his call",
    "disconnect": "the reader of a stream goes away in the middle",
    "journal-full": "an entry of the journal cannot be written: the disk is full",
    "journal-fsync": "an entry of the journal cannot be synced",
    "journal-slow": "an entry of the journal takes seconds",
    "journal-hung": "an entry of the journal hangs until the faults are off",
    "kill": "the process is killed, between any two of its steps",
    "power-cut": "the power fails: what was not synced is lost",
    "close-early": "the engine is closed under its callers",
    "cancel-early": "everything around the engine is cancelled",
    "late-wake": "wake-ups come late",
    "clock-jump": "the wall clock jumps",
    "budget-of-one": "the memory budget has room for one model more than is needed, or for none",
    "mailbox-of-one": "a queue has room for one request",
    "deadline-zero": "drains have no time at all",
    "not-registered": "a version is registered late, or not at all, behind a restart",
    "buggify": "the engine's own sites of rare and legal behaviour are on",
}


class Faults:
    """The switchboard of one run."""

    def __init__(self, on: Iterable[str], chance: Random) -> None:
        """Have some faults on, each of which is in `FAULTS`."""
        self.on = frozenset(on)
        unknown = sorted(self.on - FAULTS.keys())
        assert not unknown, f"no such faults: {unknown}"
        self.struck: Counter[str] = Counter()
        """How often each has struck."""
        self.stopped = False
        self._chance = chance
        self._released = trio.Event()

    def strikes(self, name: str, probability: float = 1.0) -> bool:
        """Return whether a fault strikes here and now; what has no chance to strike draws nothing."""
        if self.stopped or name not in self.on:
            return False
        struck = probability >= 1.0 or self._chance.random() < probability
        self.struck[name] += struck
        return struck

    def note(self, name: str) -> None:
        """Count a fault that somebody else has made strike."""
        self.struck[name] += 1

    @property
    def hang(self) -> trio.Event:
        """What everything that hangs waits for."""
        return self._released

    def let_go(self) -> None:
        """Let go of what hangs just now: its process is dead."""
        self._released.set()
        self._released = trio.Event()

    def begin_anew(self) -> None:
        """Switch them on again, for a life behind one that has ended."""
        self.stopped = False
        self.let_go()

    def stop(self) -> None:
        """Switch all of them off, and let go of what hangs."""
        self.stopped = True
        self._released.set()
