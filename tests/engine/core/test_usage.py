"""How much an account is used: peak and average, exact for few uses and sampled for many.

And sound under every interleaving of threads that use and read it; planted mistakes show that the search can fail.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core import ledger
from changeover.core import usage as usage_module
from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.usage import _EACH, _EVERY_MAX, _PEAKS_MAX, _SPANS_MAX, Usage, Used
from changeover.errors import AlreadyHeld, ReferenceNotHeld
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation
from tests.support.trackers import HandClock


class Stage:
    """An account on a clock that is turned by hand."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.account = Account(now=self.clock.now)

    def take(self, name: str | None = None) -> RefId:
        """Acquire now."""
        ref = self.account.acquire(("request", self.clock.now_s, name, None))
        assert ref is not None
        return ref

    def read(self) -> Used:
        """Return the figures."""
        return self.account.usage.read()


@pytest.fixture
def stage() -> Stage:
    """Make an account."""
    return Stage()


# --- figures --------------------------------------------------------------------------------------------------------


def test_an_account_without_uses_has_no_figures(stage: Stage) -> None:
    """Peak and average are zero, before any time has passed and after it."""
    assert (stage.read().peak, stage.read().average) == (0, 0.0)
    stage.clock.now_s = 10.0
    assert stage.read() == Used(0, 0.0, 10.0)
    assert stage.read().average == 0.0


def test_the_average_is_weighted_by_time(stage: Stage) -> None:
    """One use for ten seconds and another for the last four of them, in twenty seconds, are 0.7 on average."""
    first = stage.take()
    stage.clock.now_s = 6.0
    second = stage.take()
    stage.clock.now_s = 10.0
    assert stage.read().average == pytest.approx(1.4)  # those that are still held count up to now
    stage.account.release(first)
    stage.account.release(second)
    stage.clock.now_s = 20.0
    assert stage.read() == Used(2, 14.0, 20.0)
    assert stage.read().average == pytest.approx(0.7)


def test_the_peak_stays(stage: Stage) -> None:
    """It is the most that were held at once, also when all of that is long over."""
    for most in (3, 5, 2):
        refs = [stage.take() for _ in range(most)]
        for ref in refs:
            stage.account.release(ref)
    assert stage.read().peak == 5


def test_a_peak_is_kept_in_bounded_room(stage: Stage) -> None:
    """However often it rises, few of the values before it are remembered."""
    for most in range(1, 500):
        stage.take()
        assert stage.read().peak == most
        assert len(stage.account.usage._peaks) <= _PEAKS_MAX + 1


def test_figures_of_several_incarnations_add_up() -> None:
    """The peak is the highest, and the average is over all the time that there was an account."""
    total = Used(3, 10.0, 10.0) + Used(2, 5.0, 90.0)
    assert (total, total.average) == (Used(3, 15.0, 100.0), 0.15)


def test_a_clock_that_does_not_move_is_no_trouble(stage: Stage) -> None:
    """No time is no average; and a clock that went back makes no use negative."""
    stage.clock.now_s = 5.0
    ref = stage.take()
    assert stage.read().average == 0.0
    stage.clock.now_s = 4.0
    stage.account.release(ref)
    assert stage.read().held_s == 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.integers(0, 9)), max_size=80))
def test_few_uses_are_counted_exactly(steps: list[tuple[float, bool, int]]) -> None:
    """Whatever is taken and given back, peak and average are those of adding up second by second."""
    stage, held = Stage(), list[RefId]()
    area, peak = 0.0, 0
    for pause_s, is_acquire, which in steps:
        stage.clock.now_s += pause_s
        area += pause_s * len(held)
        if is_acquire:
            held.append(stage.take())
            peak = max(peak, len(held))
        elif held:
            stage.account.release(held.pop(which % len(held)))
    assert stage.read().held_s == pytest.approx(area)
    assert (stage.read().peak, stage.read().lived_s) == (peak, stage.clock.now_s)


# --- many uses ------------------------------------------------------------------------------------------------------


def test_a_thousand_uses_are_counted_exactly(stage: Stage) -> None:
    """Up to 1,024 uses each one is timed, whatever its duration."""
    held_s = 0.0
    for number in range(_EACH):
        ref = stage.take()
        duration_s = 1.0 + number % 7
        stage.clock.now_s += duration_s
        stage.account.release(ref)
        held_s += duration_s
    assert stage.read().held_s == pytest.approx(held_s)
    assert stage.read().average == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_thousand_uses_are_counted_closely(seed: int) -> None:
    """Of 100,000 uses of random duration the sampled average is within 5 % of the true one, and the peak is exact."""
    chance, stage = random.Random(seed), Stage()
    ends: list[tuple[float, int, RefId]] = []
    true_s, peak, began_s = 0.0, 0, 0.0
    for number in range(100_000):
        began_s += chance.expovariate(20.0)
        while ends and ends[0][0] <= began_s:
            stage.clock.now_s, _, ref = heapq.heappop(ends)
            stage.account.release(ref)
        stage.clock.now_s = began_s
        duration_s = chance.expovariate(1.0)
        true_s += duration_s
        heapq.heappush(ends, (began_s + duration_s, number, stage.take()))
        peak = max(peak, len(ends))
    while ends:
        stage.clock.now_s, _, ref = heapq.heappop(ends)
        stage.account.release(ref)
    used = stage.read()
    assert used.held_s == pytest.approx(true_s, rel=0.05)
    assert used.average == pytest.approx(true_s / stage.clock.now_s, rel=0.05)
    assert used.peak == peak
    assert stage.account.usage.timed == {}


def test_many_uses_take_bounded_room_and_few_looks_at_the_clock() -> None:
    """Of very many uses one in 64 is timed, and no more than about a thousand durations are kept."""
    looks = 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    account = Account(now=now)
    for _ in range(_EACH * _EVERY_MAX):
        account.release(account.acquire(("request", 0.0, None, None)))
    assert account.usage.mask == _EVERY_MAX - 1
    looks = 0
    for _ in range(64 * 100):
        account.release(account.acquire(("request", 0.0, None, None)))
        assert len(account.usage._spans) <= _SPANS_MAX + 1
    assert looks == 100


# --- every interleaving ---------------------------------------------------------------------------------------------


class World:
    """An account that two threads use and read; it knows how many held it at most."""

    def __init__(self, pause: Pause, usage: type[Usage], account: type[Account], before: int) -> None:
        self.pause = pause
        with patch.object(ledger, "Usage", usage):
            self.account = account()
        self.numbers = itertools.count()
        self.using: set[int] = set()
        self.most = 0
        self.meddled = False
        """True where a use may have ended before anybody could count it."""
        self.reads: list[Used] = []
        for _ in range(before):
            self.account.release(self.account.acquire(("request", 0.0, None, None)))

    def use(self, name: str | None = None) -> None:
        """Take and give back."""
        me = next(self.numbers)
        self.using.add(me)  # announced before it is taken, so that `most` is no less than the truth
        self.most = max(self.most, len(self.using))
        try:
            ref = self.account.acquire(("request", 0.0, name, None))
            self.pause()
            self.account.release(ref)
        finally:
            self.using.discard(me)

    def named(self) -> None:
        """Take and give back under the one id."""
        with suppress(AlreadyHeld):
            self.use("id")

    def meddle(self) -> None:
        """Give the one id back in place of whoever took it."""
        self.meddled = True
        with suppress(ReferenceNotHeld):
            self.account.release("id")

    def owner(self) -> None:
        """Take the one id, and leave it to the meddler whether it is given back."""
        self.account.acquire(("request", 0.0, "id", None))
        self.pause()
        self.meddle()

    def read(self) -> None:
        """Look at the figures."""
        self.reads.append(self.account.usage.read())

    def check(self) -> Iterator[str]:
        """Yield what is wrong at rest."""
        usage = self.account.usage
        if usage.timed:
            yield f"at rest {usage.timed} is timed"
        if self.account.held:
            yield f"at rest {self.account.held} is held"
        for read in (*self.reads, usage.read()):
            if read.peak > max(1, self.most) or read.held_s < 0:
                yield f"{read}, and {self.most} at once"
        if usage.read().peak < 1 and not self.meddled:
            yield "no peak"
        if usage.mask not in (0, 1):
            yield f"one in {usage.mask + 1} uses is timed"
        if len(usage._spans) > SMALL["_SPANS_MAX"] + 2:
            yield f"{len(usage._spans)} durations are kept"


def world(
    *programs: Callable[[World], None], usage: type[Usage] = Usage, account: type[Account] = Account, before: int = 0
) -> Make:
    """Make cases in which every program runs in a thread of its own, after so many uses."""

    def make(pause: Pause) -> Case:
        it = World(pause, usage, account, before)
        return Case([partial(program, it) for program in programs], it.check)

    return make


SMALL = {"_EACH": 4, "_EVERY_MAX": 4, "_SPANS_MAX": 4, "_PEAKS_MAX": 1}
"""Bounds that a few uses run into."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an account thin its sample, add durations up and forget peaks after a few uses."""
    for name, bound in SMALL.items():
        monkeypatch.setattr(usage_module, name, bound)


PROGRAMS: dict[str, Make] = {
    "two uses": world(World.use, World.use),
    "a use and a look": world(World.use, World.read),
    "two uses and a look": world(World.use, World.use, World.read),
    "two uses of one id": world(World.named, World.named),
    "an id that another gives back": world(World.owner, World.meddle),
    "two uses that raise the peak again": world(World.use, World.use, before=1),
    "two uses where the sample gets thinner": world(World.use, World.use, before=SMALL["_EACH"]),
    "two uses where durations are added up": world(World.use, World.use, before=SMALL["_SPANS_MAX"]),
}
"""Every race that the figures can be in."""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", PROGRAMS)
def test_figures_are_sound_under_every_interleaving(name: str) -> None:
    """Nothing raises, no peak is above the true maximum, and at rest nothing is timed."""
    with Explorer(Usage, Account) as explorer:
        assert explorer.explore(PROGRAMS[name], preemptions=1) > 25, "the trace function saw next to nothing"


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [name for name in PROGRAMS if "id" in name or "added" in name])
def test_figures_are_sound_preempted_once_more(name: str) -> None:
    """The same with two preemptions."""
    with Explorer(Usage, Account) as explorer:
        assert explorer.explore(PROGRAMS[name], preemptions=2) > 100


# --- the search can fail --------------------------------------------------------------------------------------------


class EndsTwice(Usage):
    """Of two threads that end one id, the second finds nothing."""

    def end(self, ref: RefId) -> None:
        if ref in self.timed:
            since_s, stands_for = self.timed[ref]
            del self.timed[ref]
            self._spans.append((self._now() - since_s) * stands_for)


class ReadsWhatChanges(Usage):
    """A look at the dict itself, while others change it."""

    def read(self) -> Used:
        return Used(max(self._peaks, default=0), sum(since_s for since_s, _ in self.timed.values()), 0.0)


class CountsUp(Usage):
    """The peak is counted up by whoever sees more than it."""

    def note(self, ref: RefId, number: int, since_s: float, held: int) -> None:
        super().note(ref, number, since_s, held)
        while held > 1 and max(self._peaks, default=0) < held + 1:
            self._peaks.add(len(self._peaks) + 1)


class ReadsTheMaskTwice(Usage):
    """Of two threads that make the sample thinner, both do."""

    def note(self, ref: RefId, number: int, since_s: float, held: int) -> None:
        if held > self.peak:
            self._raise_peak(held)
        if not number & self.mask:
            self.timed[ref] = (since_s, self.mask + 1)
            if number >= SMALL["_EACH"] * (self.mask + 1):
                self.mask = self.mask * 2 + 1


class LooksOnce(Account):
    """A use that is over before it is timed stays timed."""

    def _note(self, ref: RefId, number: int, since_s: float) -> None:
        self.usage.note(ref, number, since_s, len(self.held))


PLANTED: tuple[tuple[type[Usage], type[Account], tuple[Callable[[World], None], ...], int], ...] = (
    (EndsTwice, Account, (World.owner, World.meddle), 0),
    (ReadsWhatChanges, Account, (World.use, World.read), 0),
    (CountsUp, Account, (World.use, World.use), 0),
    (Usage, LooksOnce, (World.owner, World.meddle), 0),
    (ReadsTheMaskTwice, Account, (World.use, World.use), SMALL["_EACH"]),
)
"""A mistake, the programs that run into it, and how many uses there were before."""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("usage", "account", "programs", "before"), PLANTED)
def test_a_planted_mistake_is_found(
    usage: type[Usage], account: type[Account], programs: tuple[Callable[[World], None], ...], before: int
) -> None:
    """The search fails for this mistake."""
    with Explorer(Usage, Account, usage, account) as explorer, pytest.raises(Violation):
        explorer.explore(world(*programs, usage=usage, account=account, before=before), preemptions=2)
