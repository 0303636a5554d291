"""An errand has one outcome, told once, in whatever order its beginning, its end and its calling off arrive."""

from __future__ import annotations

from itertools import permutations, product

import pytest

from changeover.errors import EngineClosed
from changeover.runtime.errand import Errand, Stage

ENDS = ("returned", "raised", "interrupted")


class Told:
    """An errand, how often it said that it has ended, and how often its call was stopped."""

    def __init__(self) -> None:
        self.wakes = 0
        self.stops = 0
        self.errand: Errand[str] = Errand(self._call, self._wake)
        self.is_running = False

    async def _call(self) -> str:
        return "value"

    def _wake(self) -> None:
        self.wakes += 1

    def _stop(self) -> None:
        self.stops += 1

    def step(self, name: str) -> None:
        """Do what the engine's loop does when this happens."""
        if name == "begin":
            self.is_running = self.errand.begin(self._stop) is not None
        elif name == "call_off":
            self.errand.call_off()
        elif self.is_running and not self.errand.has_ended:
            {
                "returned": lambda: self.errand.returned("value"),
                "raised": lambda: self.errand.raised(ValueError("error")),
                "interrupted": self.errand.interrupted,
            }[name]()


def orders() -> list[tuple[str, ...]]:
    """Return every order of a beginning, an end of each kind and one or two callings off."""
    events = [("begin", end, *["call_off"] * times) for end, times in product(ENDS, (0, 1, 2))]
    return sorted({order for some in events for order in permutations(some)})


@pytest.mark.parametrize("order", orders(), ids="-".join)
def test_every_order(order: tuple[str, ...]) -> None:
    """It wakes whoever waits once, exactly when it ends; what it came to is there; a call is stopped while it runs."""
    told = Told()
    for name in order:
        ended = told.errand.has_ended
        told.step(name)
        assert told.wakes == told.errand.has_ended
        assert not ended or told.errand.has_ended
    before_begin = "call_off" in order[: order.index("begin")]
    assert told.is_running is not before_begin
    ending = next((name for name in order[order.index("begin") :] if name in ENDS), None)
    if not before_begin and ending is None:
        assert told.errand.stage is Stage.RUNNING
        assert told.stops == order.count("call_off")
        return
    if not before_begin:
        between = order[order.index("begin") : order.index(ending or "")]
        assert told.stops == between.count("call_off")
    outcome = ending if not before_begin else "interrupted"
    if outcome == "returned":
        assert told.errand.take(EngineClosed) == "value"
    else:
        with pytest.raises(ValueError if outcome == "raised" else EngineClosed):
            told.errand.take(lambda: EngineClosed("closed"))


def test_a_refused_errand_never_begins() -> None:
    """An errand may be answered with an error before it has begun; then nobody makes its call."""
    told = Told()
    told.errand.raised(EngineClosed("closed"))
    assert told.wakes == 1
    assert told.errand.begin(lambda: None) is None


def test_the_outcome_is_taken_once() -> None:
    """Whoever leaves is given the error that nobody will hear of, once; it is kept nowhere."""
    told = Told()
    told.step("begin")
    error = ValueError("error")
    told.errand.raised(error)
    assert told.errand.leave() is error
    assert told.errand.leave() is None


def test_an_outcome_twice_is_a_mistake_of_ours() -> None:
    """Nothing can end an errand that has ended, but for an interruption that comes too late."""
    told = Told()
    told.step("begin")
    told.errand.returned("value")
    told.errand.interrupted()
    for end in (lambda: told.errand.returned("other"), lambda: told.errand.raised(ValueError())):
        with pytest.raises(AssertionError):
            end()
    assert told.errand.take(EngineClosed) == "value"
