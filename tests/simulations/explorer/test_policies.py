"""The policies by themselves, with letters for tasks; and what each of them finds in a program."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.lowlevel import checkpoint

from changeover_sim import PCT, Exhaustive, RandomWalk, explore
from changeover_sim.explorer.tape import CANCEL, ORDER, VALUE, Decision
from changeover_sim.policies.base import Cancels
from changeover_sim.policies.exhaustive import following
from changeover_sim.policies.portfolio import Portfolio
from changeover_sim.policies.pos import POS
from changeover_sim.policies.starvation import Starvation
from changeover_sim.policies.surw import SURW
from tests.simulations.explorer.orders import Say, orders_of, side_by_side

SAMPLING: list[Any] = [RandomWalk(), PCT(1), PCT(3), POS(), SURW(), Starvation(), Portfolio()]


def chooser_of(policy: Any, seed: int, decisions: int = 0) -> Any:
    """Return who decides a schedule, of a program whose schedules had so many decisions."""
    strategy = policy.begin()
    strategy.learn(0, [(ORDER, 2, 0)] * decisions)
    chooser = strategy.chooser(1, Random(seed))
    assert chooser is not None
    return chooser


# --- what all of them have in common ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (RandomWalk(), "RandomWalk()"),
        (PCT(), "PCT(depth=3)"),
        (PCT(5), "PCT(depth=5)"),
        (POS(), "POS()"),
        (SURW(), "SURW()"),
        (Starvation(), "Starvation(freezes=2)"),
        (Portfolio(), "Portfolio()"),
        (Portfolio([PCT(2), POS()]), "Portfolio((PCT(depth=2), POS()))"),
        (Exhaustive(), "Exhaustive(delays=2)"),
    ],
)
def test_a_policy_is_a_value_that_says_how_it_is_made(policy: Any, text: str) -> None:
    """Equal ones are equal, nothing of them can be changed, and what they say makes them again."""
    assert repr(policy) == text
    kinds = (RandomWalk, PCT, POS, SURW, Starvation, Portfolio, Exhaustive)
    again = eval(text, {kind.__name__: kind for kind in kinds})
    assert again == policy
    assert hash(again) == hash(policy)
    with pytest.raises(AttributeError):
        policy.samples = None
    assert policy.begin() is not policy.begin()


@pytest.mark.parametrize("policy", SAMPLING, ids=str)
def test_a_schedule_is_drawn_from_its_own_chance(policy: Any) -> None:
    """The same generator makes the same decisions, another makes others."""

    def decisions(seed: int) -> list[int]:
        chooser = chooser_of(policy, seed, 30)
        made = [chooser.pick("abcde") for _ in range(30)]
        made += [chooser.value(7) for _ in range(30)]
        return made + [int(chooser.cancel(0, moment)) for moment in range(5)]

    assert decisions(1) == decisions(1)
    assert len({tuple(decisions(seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize("policy", SAMPLING, ids=str)
def test_options_are_chosen_evenly(policy: Any) -> None:
    """Each of five options a thousand times in five thousand, give or take."""
    counts = Counter(chooser_of(policy, seed).value(5) for seed in range(5_000))
    assert set(counts) == set(range(5))
    assert all(800 < count < 1_200 for count in counts.values())


@pytest.mark.parametrize("policy", SAMPLING, ids=str)
def test_the_first_step_is_any_with_the_same_probability(policy: Any) -> None:
    """Three thousand schedules begin with each of three tasks a thousand times, give or take."""
    counts = Counter(chooser_of(policy, seed, 10).pick("abc") for seed in range(3_000))
    assert all(850 < counts[index] < 1_150 for index in range(3))


@pytest.mark.parametrize("policy", SAMPLING, ids=str)
def test_the_same_holds_in_a_program(policy: Any) -> None:
    """Three tasks of one step start in each of six orders about as often as in any other."""
    _, told = orders_of(side_by_side(dict.fromkeys("abc", 0)), policy=policy, schedules=600)
    counts = Counter(told)
    assert len(counts) == 6
    assert all(60 < count < 150 for count in counts.values()), counts


def cancelled_at(cancels: Cancels, seed: int, scope: int, moments: int) -> int:
    """Return the first moment at which a scope is cancelled in a late schedule; as many as there are for never."""
    drawn = cancels.drawn(5_000, Random(seed))
    asked = [drawn.cancel(scope, moment) for moment in range(moments)]
    assert sum(asked) <= 1
    return [*asked, True].index(True)


def test_cancellations_are_drawn_evenly_over_all_moments_and_never() -> None:
    """A probe had seven moments: later each of them is drawn as often as any other, and so is never."""
    cancels = Cancels()
    probe = cancels.drawn(0, Random(0))
    assert not any(probe.cancel(0, moment) for moment in range(7)), "the first probe is to see how long it can be"
    counts = Counter(cancelled_at(cancels, seed, 0, 7) for seed in range(5_000))
    assert set(counts) == set(range(8))
    assert all(count > 300 for count in counts.values())


def test_each_scope_draws_for_itself() -> None:
    """One scope had three moments and one had nine: all pairs come."""
    cancels = Cancels()
    probe = cancels.drawn(0, Random(0))
    for moment in range(9):
        probe.cancel(1, moment)
        if moment < 3:
            probe.cancel(0, moment)
    pairs = Counter()
    for seed in range(5_000):
        drawn = cancels.drawn(5_000, Random(seed))
        one, other = ([drawn.cancel(scope, moment) for moment in range(9)] for scope in (0, 1))
        pairs[[*one, True].index(True), [*other, True].index(True)] += 1
    assert {pair for pair in pairs if pair[0] < 3} == set(itertools.product(range(3), range(10)))


# --- random walk ------------------------------------------------------------------------------------------------------


def test_a_random_walk_remembers_nothing() -> None:
    """Whoever ran may run again: every sequence of picks happens."""
    walks = (chooser_of(RandomWalk(), seed) for seed in range(3_000))
    sequences = Counter(tuple(walk.pick("ab") for _ in range(4)) for walk in walks)
    assert set(sequences) == set(itertools.product(range(2), repeat=4))
    assert all(100 < count < 280 for count in sequences.values())


# --- PCT --------------------------------------------------------------------------------------------------------------


def ranks(chooser: Any, names: str) -> str:
    """Return the names from the highest to the lowest priority, by asking without the highest again and again."""
    left, found = names, ""
    while left:
        found += left[chooser.pick(left)]
        left = "".join(name for name in names if name not in found)
    return found


def test_without_demotions_the_highest_runs_as_long_as_it_can() -> None:
    """Depth 1: one order of priorities for the whole schedule, whoever else is ready and wherever he stands."""
    for seed in range(200):
        chooser = chooser_of(PCT(1), seed, 50)
        order = ranks(chooser, "abcde")
        for candidates in itertools.permutations("abcde", 3):
            assert candidates[chooser.pick(candidates)] == min(candidates, key=order.index)


def test_every_order_of_priorities_is_drawn() -> None:
    """Four tasks, 24 orders, none of them rare."""
    counts = Counter(ranks(chooser_of(PCT(1), seed), "abcd") for seed in range(4_800))
    assert len(counts) == 24
    assert all(120 < count < 280 for count in counts.values())


def test_who_comes_later_gets_a_priority_of_his_own() -> None:
    """A task that is spawned in the middle is put anywhere among the others, which keep their order."""
    places: Counter[int] = Counter()
    for seed in range(600):
        chooser = chooser_of(PCT(1), seed)
        before = ranks(chooser, "abc")
        behind = ranks(chooser, "abcx")
        assert behind.replace("x", "") == before
        places[behind.index("x")] += 1
    assert all(90 < places[place] < 210 for place in range(4)), places


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_one_demotion_fewer_than_the_depth(depth: int) -> None:
    """Of two that are always ready the one that runs changes at most depth - 1 times."""
    changes: Counter[int] = Counter()
    for seed in range(300):
        chooser = chooser_of(PCT(depth), seed, 40)
        ran = ["ab"[chooser.pick("ab")] for _ in range(41)]
        changes[sum(one != other for one, other in itertools.pairwise(ran))] += 1
    assert max(changes) <= depth - 1
    assert changes[depth - 1] > 0


def test_who_is_demoted_is_the_one_that_would_have_run_and_goes_below_all() -> None:
    """The first runs until a decision, and from there on nothing but when nobody else is ready."""
    demoted = 0
    for seed in range(300):
        chooser = chooser_of(PCT(2), seed, 20)
        ran = ["abcd"[chooser.pick("abcd")] for _ in range(21)]
        if ran[0] != ran[-1]:
            demoted += 1
            assert ranks(chooser, "abcd")[-1] == ran[0]
            assert ranks(chooser, "abcd")[0] == ran[-1]
    assert demoted > 200


def test_who_is_demoted_later_goes_below_those_before() -> None:
    """Two demotions: the second one ends below the first."""
    seen = 0
    for seed in range(500):
        chooser = chooser_of(PCT(3), seed, 20)
        ran = ["abcd"[chooser.pick("abcd")] for _ in range(21)]
        order = list(dict.fromkeys(ran))
        if len(order) == 3:
            seen += 1
            assert ranks(chooser, "abcd")[-2:] == order[0] + order[1]
    assert seen > 100


def test_demotions_are_spread_over_the_measured_length() -> None:
    """A schedule of forty decisions was seen: the change comes anywhere among forty, and not only at the beginning."""
    at: Counter[int] = Counter()
    for seed in range(4_000):
        chooser = chooser_of(PCT(2), seed, 40)
        ran = [chooser.pick("ab") for _ in range(40)]
        if ran[0] != ran[-1]:
            at[ran.index(ran[-1])] += 1
    assert set(range(1, 40)) <= set(at)
    assert all(30 < at[decision] < 250 for decision in range(1, 40)), at


def starvation() -> Any:
    """Return a program that fails if one task makes fourteen steps while the other makes none."""

    async def program() -> None:
        moved = False

        async def patient() -> None:
            for _ in range(14):
                await checkpoint()
            assert moved, "the other one has not moved"

        async def mover() -> None:
            nonlocal moved
            moved = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mover)
            nursery.start_soon(patient)

    return program


@pytest.mark.slow
def test_starvation_is_found_by_priorities_and_not_by_walking() -> None:
    """In two thousand schedules the walk is never that unfair; of four hundred PCT seeds more than a hundred are."""
    assert explore(starvation(), policy=RandomWalk(), schedules=2_000).failure is None
    found = sum(explore(starvation(), policy=PCT(3), schedules=1, seed=seed).failure is not None for seed in range(400))
    assert found > 100


def test_what_is_shallow_is_found_by_all() -> None:
    """A lost update, in a few schedules, by each."""

    async def program() -> None:
        count = 0

        async def add() -> None:
            nonlocal count
            seen = count
            await checkpoint()
            count = seen + 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
            nursery.start_soon(add)
        assert count == 2

    for policy in (*SAMPLING, Exhaustive(0), Exhaustive(None)):
        failure = explore(program, policy=policy, schedules=10 if policy != PCT(1) else 1).failure
        assert (failure is None) == (policy == PCT(1)), policy


# --- exhaustive -------------------------------------------------------------------------------------------------------

Tree = Callable[[tuple[int, ...]], tuple[int, int] | None]
"""Kind and width of the decision behind some picks; None: the schedule is over."""


def tree(seed: int, depth: int) -> Tree:
    """Return a program as the search sees it: any decisions, which depend on those before."""

    def at(picks: tuple[int, ...]) -> tuple[int, int] | None:
        drawn = Random(f"{seed} {picks}")
        if len(picks) >= depth or drawn.random() < 0.15:
            return None
        kind = drawn.choice([ORDER, ORDER, VALUE, CANCEL])
        return kind, 2 if kind == CANCEL else drawn.randint(2, 4)

    return at


def all_tapes(at: Tree, delays: int | None, picks: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Yield the picks of every schedule within the bound, in lexical order."""
    decision = at(picks)
    if decision is None:
        yield picks
        return
    kind, width = decision
    for taken in range(width):
        spent = taken if kind == ORDER else 0
        if delays is None or spent <= delays:
            yield from all_tapes(at, None if delays is None else delays - spent, (*picks, taken))


def played(at: Tree, start: Sequence[int]) -> list[Decision]:
    """Return the tape of the schedule that begins with these picks and goes on with zeros."""
    tape: list[Decision] = []
    picks: tuple[int, ...] = ()
    while (decision := at(picks)) is not None:
        kind, width = decision
        taken = start[len(picks)] if len(picks) < len(start) else 0
        assert taken < width, "an alternative that there is not"
        tape.append((kind, width, taken))
        picks = (*picks, taken)
    return tape


@settings(derandomize=True, deadline=None, max_examples=300)
@given(seed=st.integers(0, 1 << 30), depth=st.integers(0, 5), delays=st.none() | st.integers(0, 5))
def test_the_search_makes_every_schedule_once_and_in_order(seed: int, depth: int, delays: int | None) -> None:
    """From tape to tape it goes through the same schedules, in the same order, as a plain recursion does."""
    at = tree(seed, depth)
    found: list[tuple[int, ...]] = []
    picks: tuple[int, ...] | None = ()
    while picks is not None:
        tape = played(at, picks)
        found.append(tuple(taken for _, _, taken in tape))
        picks = following(tape, delays)
    assert found == list(all_tapes(at, delays))


def test_behind_the_last_tape_there_is_none() -> None:
    """Every decision has its last alternative; or there was no decision at all; or the bound is spent."""
    assert following([], None) is None
    assert following([(ORDER, 2, 1), (VALUE, 3, 2), (CANCEL, 2, 1)], None) is None
    assert following([(ORDER, 2, 0)], 0) is None
    assert following([(ORDER, 9, 2), (ORDER, 9, 1)], 3) == (3,)
    assert following([(ORDER, 9, 3), (ORDER, 9, 0)], 3) is None


def test_a_search_is_over_when_it_has_nothing_left() -> None:
    """Then it hands out nobody who decides, however often it is asked."""
    strategy = Exhaustive(None).begin()
    assert strategy.chooser(0, Random(0)) is not None
    strategy.learn(0, [(ORDER, 2, 0)])
    assert strategy.chooser(1, Random(0)) is not None
    strategy.learn(1, [(ORDER, 2, 1)])
    assert strategy.chooser(2, Random(0)) is None
    assert strategy.chooser(3, Random(0)) is None


def test_a_larger_bound_makes_the_schedules_of_a_smaller_one_and_more() -> None:
    """Until there are no more."""

    async def body(say: Say) -> None:
        await side_by_side({"a": 1, "b": 1, "c": 0})(say)

    sets = [set(orders_of(body, policy=Exhaustive(delays))[1]) for delays in (0, 1, 2, 3, 4, 5, None)]
    assert all(one <= other for one, other in itertools.pairwise(sets))
    assert len(sets[0]) == 1
    assert sets[-2] == sets[-1]
