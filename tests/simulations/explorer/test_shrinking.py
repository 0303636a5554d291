"""What is left of a failing schedule: nothing that could be taken back, the same each time, and the same failure."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import attrs
import hypothesis
import pytest
import trio
from hypothesis import strategies as st
from trio.lowlevel import checkpoint

from changeover_sim import (
    PCT,
    RandomWalk,
    Uncontrolled,
    cancel_anywhere,
    choose,
    explore,
    replay,
    shrink,
)
from changeover_sim.explorer import shrink_hypothesis, token
from changeover_sim.explorer.anchors import Anchored, Noted
from changeover_sim.explorer.schedule import Ending, Rules
from changeover_sim.explorer.shrink import smaller
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import ORDER, VALUE, Chooser, Picks, Played, deviations, picks_of
from tests.simulations.explorer import busy, must_fail
from tests.simulations.explorer.test_replay import noisy, of_many_lengths, rare, rare_cancellation

PROGRAMS = (noisy, rare, rare_cancellation, of_many_lengths, must_fail.two_locks)

# --- random small programs --------------------------------------------------------------------------------------------

MOVES = "_+=rwcl"
Moves = Sequence[str]


class Shared:
    """What the tasks of one run share."""

    def __init__(self) -> None:
        self.count = self.made = 0
        self.seen: dict[int, int] = {}
        self.lock = trio.Lock()

    async def task(self, number: int, moves: str) -> None:
        """Make one move behind each checkpoint."""
        with trio.CancelScope() as scope:
            if "c" in moves:
                cancel_anywhere(scope)
            for move in moves:
                await checkpoint()
                if move == "l":
                    async with self.lock:
                        await checkpoint()
                else:
                    self.move(number, move)

    def move(self, number: int, move: str) -> None:
        """Count up, read, write what was read, or have both counts set to what is chosen."""
        if move == "+":
            self.count, self.made = self.count + 1, self.made + 1
        elif move == "r":
            self.seen[number] = self.count
        elif move == "w":
            self.count = self.seen.get(number, 0)
        elif move == "=":
            self.count = self.made = self.made + choose(range(3))


def program_of(tasks: Moves) -> Any:
    """Return a program in which each task makes its moves on what is shared; it fails where two counts differ."""

    async def program() -> None:
        shared = Shared()
        async with trio.open_nursery() as nursery:
            for number, moves in enumerate(tasks):
                nursery.start_soon(shared.task, number, moves)
        assert shared.count == shared.made

    return program


def is_minimal(program: Any, text: str) -> bool:
    """Return whether each deviation is needed: without it the program goes well, or fails in another way."""
    made = token.decode(text)
    failure = replay(program, text).failure
    assert failure is not None
    for at, taken in enumerate(made.picks):
        if taken:
            without = (*made.picks[:at], 0, *made.picks[at + 1 :])
            other = replay(program, token.encode(attrs.evolve(made, picks=without))).failure
            if other is not None and (other.verdict, repr(other.exception)) == (
                failure.verdict,
                repr(failure.exception),
            ):
                return False
    return True


def check(tasks: Moves, seed: int) -> bool:
    """Shrink how a program fails; return whether it does, and anything was left."""
    program = program_of(tasks)
    failure = explore(program, schedules=30, policy=PCT(3) if seed % 2 else RandomWalk(), seed=seed).failure
    if failure is None:
        return False
    small = shrink(program, failure.token)
    assert is_minimal(program, small)
    assert shrink(program, failure.token) == small
    assert shrink(program, small) == small
    return bool(token.decode(small).picks)


@hypothesis.settings(derandomize=True, deadline=None, max_examples=12)
@hypothesis.given(
    st.lists(st.text(MOVES, min_size=1, max_size=5), min_size=2, max_size=4),
    st.integers(0, 100),
)
def test_no_deviation_that_is_left_can_be_taken_back(tasks: Moves, seed: int) -> None:
    """Whatever the program is: without any one of them it does not fail in the same way; nor is there a next time."""
    check(tasks, seed)


@pytest.mark.parametrize(("programs", "least"), [(4, 1), pytest.param(14, 4, marks=pytest.mark.slow)])
def test_none_can_be_taken_back_from_what_hypothesis_proposed(programs: int, least: int) -> None:
    """The same outside a test of Hypothesis, where it is asked; enough of the programs fail by a deviation."""
    rng = Random(0)
    left = 0
    for seed in range(programs):
        tasks = ["".join(rng.choices(MOVES, k=rng.randint(1, 5))) for _ in range(rng.randint(2, 4))]
        left += check(tasks, seed)
    assert left >= least


# --- any game ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Game:
    """What is not Trio: so many decisions, and which tapes fail."""

    decisions: Sequence[tuple[int, int]]
    """Kind and width of each."""
    fails: Callable[[Picks], bool]

    def __call__(self, chooser: Chooser) -> Ending:
        """Play it."""
        tape = []
        for kind, width in self.decisions:
            taken = chooser.pick(range(width)) if kind == ORDER else chooser.value(width)
            tape.append((kind, width, taken))
        return Ending("deadlock" if self.fails(picks_of(tape)) else None, None, tape, len(tape))


@pytest.mark.parametrize("proposals", [False, True])
def test_what_is_needed_is_kept_and_nothing_else(proposals: bool) -> None:
    """Of forty decisions two matter, a step and a value: these are left, the value as small as it may be."""

    def fails(picks: Picks) -> bool:
        at = dict(enumerate(picks))
        return at.get(9, 0) == 2 and at.get(30, 0) >= 5

    game = Game([(VALUE if at % 10 == 0 else ORDER, 100 if at == 30 else 4) for at in range(40)], fails)
    rng = Random(1)
    for _ in range(5):
        found = [rng.randrange(1, width) for _, width in game.decisions]
        found[9], found[30] = 2, rng.randrange(5, 100)
        picks = smaller(game, tuple(found), runs=2_000, proposals=proposals)
        assert picks is not None
        assert {at: taken for at, taken in enumerate(picks) if taken} == {9: 2, 30: 5}


def test_it_stays_the_same_failure() -> None:
    """With fewer deviations it would be a livelock, and that is another one."""

    def play(chooser: Chooser) -> Ending:
        tape = [(ORDER, 2, chooser.pick((0, 1))) for _ in range(6)]
        count = deviations(picks_of(tape))
        return Ending("deadlock" if count >= 4 else "livelock" if count else None, None, tape, 6)

    assert deviations(smaller(play, (1,) * 6, runs=1_000) or ()) == 4


def test_what_does_not_fail_has_nothing_smaller() -> None:
    """The answer is None after a single run."""
    assert smaller(Game([(ORDER, 2)], lambda _: False), (1,), runs=10) is None


# --- Hypothesis -------------------------------------------------------------------------------------------------------


def size(program: Any, policy: Any, seed: int, *, proposals: bool) -> int:
    """Return how many deviations are left, with Hypothesis or without it."""
    made = token.decode(explore(program, policy=policy, seed=seed).failure.token)  # type: ignore[union-attr]

    def play(chooser: Chooser) -> Ending:
        with Stage(made.rules, made.seed).open() as stage:
            return stage.play(program, chooser, made.chance)

    return deviations(smaller(play, made.picks, runs=2_000, proposals=proposals) or ())


@pytest.mark.slow
def test_hypothesis_makes_it_smaller_still(pytestconfig: pytest.Config) -> None:
    """One deviation fewer in this schedule; and never more, for it only proposes."""
    if pytestconfig.getoption("hypothesis_seed", None) is not None:
        pytest.skip("under --hypothesis-seed Hypothesis takes nothing from a database, and so proposes nothing")
    without, with_ = (size(of_many_lengths, PCT(3), 3, proposals=proposals) for proposals in (False, True))
    assert with_ < without


def test_hypothesis_leaves_no_trace(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It prints nothing and writes no folder, and the program's chance is what the caller had."""
    monkeypatch.chdir(tmp_path)
    failure = explore(rare).failure
    assert failure is not None
    shrink(rare, failure.token)
    assert (list(tmp_path.iterdir()), *capfd.readouterr()) == ([], "", "")


def test_without_hypothesis_it_shrinks_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed nothing is asked of it, and nothing else is missing."""
    failure = explore(noisy).failure
    assert failure is not None
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    assert not shrink_hypothesis.usable()
    assert is_minimal(noisy, shrink(noisy, failure.token))


def test_inside_a_test_of_hypothesis_it_is_not_asked() -> None:
    """It would refuse: a test inside a test."""
    asked: list[bool] = []

    @hypothesis.settings(derandomize=True, max_examples=1)
    @hypothesis.given(st.integers())
    def inner(number: int) -> None:
        asked.append(shrink_hypothesis.usable())

    inner()
    assert asked == [False]
    assert shrink_hypothesis.usable()


def test_while_hypothesis_thinks_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No alarm rings, and what it does for real is not taken for the program's."""
    seen: list[Any] = []

    def propose(tape: Any, fails: Any) -> None:
        thread = threading.Thread(target=lambda: seen.append(signal.getitimer(signal.ITIMER_REAL)[0]))
        thread.start()
        thread.join()
        assert fails(Played(picks_of(tape)))

    monkeypatch.setattr(shrink_hypothesis, "propose", propose)
    failure = explore(noisy).failure
    assert failure is not None
    assert is_minimal(noisy, shrink(noisy, failure.token))
    assert seen == [0.0]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_a_run_raises_comes_out_of_hypothesis(error: type[BaseException]) -> None:
    """As it is, and at once."""
    runs: list[None] = []

    def fails(_: object) -> bool:
        runs.append(None)
        if len(runs) == 3:
            raise error("enough")
        return True

    tape = [(ORDER, 3, number % 3) for number in range(20)]
    with pytest.raises(error, match="enough"):
        shrink_hypothesis.propose(tape, fails)
    assert len(runs) == 3


def test_a_schedule_on_the_way_that_cannot_be_judged_is_told() -> None:
    """As by explore: the program opens a real socket in some of the schedules that are tried."""

    async def program() -> None:
        first, second = choose(range(3)), choose(range(3))
        if first == 1:
            await trio.open_tcp_stream("127.0.0.1", 1)
        assert not (first and second)

    class Two:
        samples = True

        def begin(self) -> Any:
            return self

        def chooser(self, index: int, rng: Any) -> Any:
            return Played((2, 2))

        def learn(self, index: int, tape: Any) -> bool:
            return True

    failure = explore(program, policy=Two()).failure
    assert failure is not None
    with pytest.raises(Uncontrolled):
        shrink(program, failure.token)


def test_one_deviation_is_left_where_one_is_enough() -> None:
    """Among much noise one task must go before another: without Hypothesis, too, that is all that is left."""
    assert [size(noisy, RandomWalk(), seed, proposals=False) for seed in range(5)] == [1] * 5


# --- deviations by whom they pass over --------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [*PROGRAMS, busy.busy], ids=lambda program: program.__name__)
def test_noted_deviations_make_the_same_schedule_again(program: Any) -> None:
    """What was noted of a schedule, told by whom each passes over, brings about the same tape."""
    for seed in range(3):
        failure = explore(program, policy=PCT(3), seed=seed).failure
        assert failure is not None
        made = token.decode(failure.token)
        with Stage(Rules(), made.seed).open() as stage:
            noted = Noted(Played(made.picks))
            tape = stage.play(program, noted, made.chance).tape
            again = Anchored(noted.taken)
            assert stage.play(program, again, made.chance).tape == tape
        assert again.taken == noted.taken
        assert len(noted.taken) == deviations(made.picks)


def test_a_deviation_keeps_its_meaning_when_one_before_it_is_taken_back() -> None:
    """The second lets a go before b. By whom, it still does when the first is taken back; by its place, b before a."""
    ran: list[str] = []

    async def program() -> None:
        ran.clear()

        async def task(name: str) -> None:
            for number in range(2):
                ran.append(f"{name}{number}")
                await checkpoint()

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(task, name)

    with Stage(Rules(), 0).open() as stage:
        noted = Noted(Played((1, 0, 0, 1)))
        orders: list[str] = []
        for chooser in (lambda: noted, lambda: Anchored(noted.taken[1:]), lambda: Played((0, 0, 0, 1))):
            stage.play(program, chooser(), 0)
            orders.append(" ".join(ran))
    assert orders == ["b0 a0 c0 a1 b1 c1", "a0 b0 c0 a1 b1 c1", "a0 b0 c0 b1 a1 c1"]
