"""Promise 6, for those who only look on: who waits until nobody holds a version is woken when that is so, or on time.

Owns who waits just now. Whether a version is held it asks the engine's books, which promise 3 is about.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from changeover.errors import DrainTimeout
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.states import EPS_S, Clockwork

if TYPE_CHECKING:
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.life import Life
    from changeover_sim.simulate.run import Run


@attrs.define(eq=False)
class _Wait:
    call: Call
    empty_s: float = 0.0
    acquired: int | None = None
    """How many references had ever been taken when nobody held one; None: somebody did when it was looked last."""


class ZeroWaits(Oracle):
    """Looks after everybody who waits for zero."""

    promise = 6
    says = "who waits until nobody holds a version is woken by whoever leaves last, or when his time is up"

    def __init__(self, run: Run) -> None:
        """Watch a run."""
        super().__init__(run)
        self._clock = Clockwork()
        self._waits: dict[int, _Wait] = {}

    def life_began(self, life: Life) -> None:
        """Forget who waited in the process before."""
        self._waits = {}
        self._books = life.engine._host.books  # `audit()` says the same of all versions, and is dear

    def began(self, call: Call) -> None:
        """Note who waits."""
        if call.kind == "wait_for_drain":
            self._waits[call.number] = _Wait(call)

    def step(self, life: Life) -> None:
        """When time has passed, look who could have been woken in the time before."""
        if self._waits and self._clock.has_moved():
            for wait in self._waits.values():
                self._look_at(wait)

    def _look_at(self, wait: _Wait) -> None:
        """Break the promise where nobody has held the version since the last look, nor taken and given it back."""
        call, accounts = wait.call, self._books.of(str(wait.call.model), str(wait.call.version))
        if any(account.held for account in accounts):
            wait.acquired = None
            return
        acquired = sum(account.balance().acquired for account in accounts)
        if wait.acquired != acquired:
            wait.acquired, wait.empty_s = acquired, self._clock.at_s
        else:
            self.broken(f"{call} is not woken at {self._clock.at_s:g}, and nobody holds it since {wait.empty_s:g}")

    def ended(self, call: Call) -> None:
        """Look whether the wait was as long as it may be, and no shorter where it was in vain."""
        if self._waits.pop(call.number, None) is None or call.ended_s is None or call.timeout_s is None:
            return
        until_s = call.began_s + call.timeout_s
        self.holds(call.ended_s <= until_s + EPS_S, f"{call}: it was to end by {until_s:g}")
        if isinstance(call.error, DrainTimeout):
            self.holds(call.ended_s >= until_s - EPS_S, f"{call}: out of time, and it had time until {until_s:g}")
            self.holds(call.error.holders, f"{call}: in vain, and nobody is named who holds it")
