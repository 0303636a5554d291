"""The account keeps its promises under every interleaving of its byte code with a bounded number of preemptions.

This runs the real `Account`. The model: a byte code instruction is one step, and so is a call into C that runs no
Python code (`next` on a count, what a dict or a deque does with numbers, texts and functions), because both happen
under the interpreter's lock. Planted mistakes at the end show that the check can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from changeover.core.ledger import Account, RefId, Use
from changeover.errors import AlreadyHeld, ReferenceNotHeld
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation


class World:
    """An account, the thing that it keeps alive, and whoever uses, drains and closes that thing."""

    def __init__(self, pause: Pause, account: Account) -> None:
        self.pause = pause
        self.account = account
        self.using: list[RefId] = []
        self.closed = 0
        self.drained = 0
        self.wrong: list[str] = []

    def take(self, name: str | None = None) -> RefId | None:
        """Acquire, and note that the thing may be used from now on."""
        ref = self.account.acquire(("request", 0.0, name, None))
        if ref is not None:
            if self.closed:
                self.wrong.append(f"{ref!r} was acquired after the close")
            if ref in self.using:
                self.wrong.append(f"{ref!r} is held twice")
            self.using.append(ref)
        return ref

    def give_back(self, ref: RefId) -> None:
        """Release; from here on the thing must not be used."""
        self.using.remove(ref)
        self.account.release(ref)

    def use(self, name: str | None = None) -> None:
        """Acquire, use, release."""
        ref = self.take(name)
        if ref is not None:
            self.pause()
            self.give_back(ref)

    def drain(self) -> None:
        """Do as a version does: no new references, then close at zero."""
        self.account.shut()
        self.watch()

    def watch(self) -> None:
        """Watch for zero, once more."""
        self.drained += 1
        self.account.watch(self.close)

    def close(self) -> None:
        """Be the watcher."""
        self.closed += 1
        if self.using:
            self.wrong.append(f"closed while {self.using} used it")
        if self.account.open:
            self.wrong.append("closed with the gate open")

    def check(self) -> Iterator[str]:
        """Yield what is wrong at rest."""
        yield from self.wrong
        if self.closed != self.drained:
            yield f"{self.closed} of {self.drained} watchers were called"
        if self.account._watchers:
            yield "a watcher is left behind"
        balance = self.account.balance()
        if not balance.conserved or balance.held or self.account.held:
            yield f"at rest {balance} with {self.account.held}"


def world(*programs: Callable[[World], object], held: int = 0, is_open: bool = True, kind: type[Account] = Account) -> Make:
    """Make cases: so many references are held before, and every program runs in a thread of its own."""

    def make(pause: Pause) -> Case:
        it = World(pause, kind())
        for _ in range(held):
            it.take()
        it.account.open = is_open
        return Case([lambda p=p: p(it) for p in programs], it.check)

    return make

def releaser(n):
    return lambda it: it.give_back(n)

import time
for pre in (1,2,3):
  for every in (False,True):
    with Explorer(Account, every=every) as ex:
        for name, mk in dict(du=world(World.drain, World.use), duu=world(World.drain, World.use, World.use), drr=world(World.drain, releaser(0), releaser(1), held=2)).items():
            t=time.perf_counter(); n=ex.explore(mk, preemptions=pre); d=time.perf_counter()-t
            print(pre,every,name,n,round(d,2),round(n/d), ex._run.step)
            if d>20: break
