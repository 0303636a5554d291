"""POS and SURW by themselves, with letters for tasks: how likely each order is, counted against what it must be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import explore, touch, touch_next
from changeover_sim.kernels.reorder import reorder_10_spawned_4
from changeover_sim.policies.base import PROBES
from changeover_sim.policies.census import EVERY, LIFE
from changeover_sim.policies.pos import POS
from changeover_sim.policies.random_walk import RandomWalk
from changeover_sim.policies.surw import SURW, UniformWalks
from tests.simulations.explorer.orders import Say, extensions, merges, orders_of

Tasks = Mapping[str, Sequence[Hashable]]
"""For each task, by a letter, what each of its steps uses; None: nothing."""

NOBODY: frozenset[Hashable] = frozenset()


def play(chooser: Any, tasks: Tasks, *, said: bool = True) -> str:
    """Run one schedule of tasks that are there from the start; return their letters in the order of the steps.

    `said`: each says ahead what its next step uses, the first step too.
    """
    left = {letter: [NOBODY if used is None else frozenset([used]) for used in uses] for letter, uses in tasks.items()}
    watched = hasattr(chooser, "watch")

    def ahead(letter: str) -> frozenset[Hashable]:
        return left[letter][0] if said and left[letter] else NOBODY

    if watched:
        chooser.watch(ahead)
        for number, letter in enumerate(tasks):
            chooser.spawned(letter, (number,))
    order = ""
    while ready := [letter for letter in tasks if left[letter]]:
        chosen = ready[chooser.pick(ready)] if len(ready) > 1 else ready[0]
        order += chosen
        used = left[chosen].pop(0)
        if watched:
            chooser.made(chosen, used)
    return order


def plays(strategy: Any, tasks: Tasks, count: int, *, said: bool = True, keep: str = "") -> Counter[str]:
    """Count the orders of `count` schedules behind the probes; `keep`: only the steps that use this are told."""
    counts: Counter[str] = Counter()
    for index in range(PROBES + count):
        order = play(strategy.chooser(index, Random(index)), tasks, said=said)
        strategy.learn(index, [])
        if index >= PROBES:
            steps = {letter: iter(uses) for letter, uses in tasks.items()}
            counts["".join(letter for letter in order if next(steps[letter]) == keep or not keep)] += 1
    return counts


def misfit(counts: Mapping[str, int], wanted: Mapping[str, float]) -> float:
    """Return chi-square over its degrees of freedom: about 1 where each order has its wanted probability."""
    assert set(counts) <= set(wanted)
    total = sum(counts.values())
    parts = [(counts.get(order, 0) - total * share) ** 2 / (total * share) for order, share in wanted.items()]
    return sum(parts) / (len(parts) - 1)


def unevenness(counts: Mapping[str, int], orders: Iterable[str]) -> float:
    """Return the misfit to all of `orders` being as likely."""
    orders = list(orders)
    return misfit(counts, dict.fromkeys(orders, 1 / len(orders)))


APART = {"baaaa": 1 / 2, "abaaa": 1 / 6, "aabaa": 1 / 12, "aaaba": 1 / 20, "aaaab": 1 / 5}
"""A step of `b` that keeps its priority u beside four of `a`, each with its own: the integral over u of u(1-u)^k."""
RACING = {"baaaa": 1 / 2, "abaaa": 1 / 4, "aabaa": 1 / 8, "aaaba": 1 / 16, "aaaab": 1 / 16}
"""The same where it draws again behind each of them."""


class Always(UniformWalks):
    """SURW whose set is always the same."""

    def __init__(self, kind: Hashable) -> None:
        super().__init__()
        self._kind = kind

    def drawn(self, rng: Random) -> Hashable:
        """Return the one that it was made with."""
        return self._kind


class Of:
    """A policy of a strategy."""

    samples = True

    def __init__(self, kind: Hashable) -> None:
        self._kind = kind

    def begin(self) -> Always:
        """Return a strategy that has seen nothing yet."""
        return Always(self._kind)


# --- POS --------------------------------------------------------------------------------------------------------------


def test_steps_that_have_nothing_in_common_are_not_shuffled_again() -> None:
    """A step beside four of another task, which use something else: it keeps its priority, high or low."""
    counts = plays(POS().begin(), {"a": ["x"] * 4, "b": ["y"]}, 5_000)
    assert misfit(counts, APART) < 4


def test_steps_that_use_the_same_draw_again() -> None:
    """The same, all using one thing: each time the two are as likely, and it is last in one of sixteen."""
    counts = plays(POS().begin(), {"a": ["x"] * 4, "b": ["x"]}, 5_000)
    assert misfit(counts, RACING) < 4


def test_what_nobody_said_before_is_known_from_the_probes() -> None:
    """Steps that only `touch` are taken to use what the same step of the same task used in the probes."""
    for thing, wanted in (("x", RACING), ("y", APART)):
        counts = plays(POS().begin(), {"a": ["x"] * 4, "b": [thing]}, 5_000, said=False)
        assert misfit(counts, wanted) < 4


def test_a_program_that_touches_nothing_is_not_looked_at() -> None:
    """Behind the probes POS does without being told of steps, and does the same."""
    strategy = POS().begin()
    counts = plays(strategy, {"a": [None] * 4, "b": [None]}, 5_000)
    assert misfit(counts, APART) < 4
    assert hasattr(strategy.chooser(PROBES - 1, Random(0)), "watch")
    assert not hasattr(strategy.chooser(PROBES, Random(0)), "watch")


def test_every_order_of_what_conflicts_can_come() -> None:
    """Two tasks that read and write: each of their orders, also those that are rare."""
    counts = plays(POS().begin(), {"a": ["x", "y", "x"], "b": ["y", "x", "y"]}, 3_000)
    assert set(counts) == set(merges("aaa", "bbb"))


# --- SURW -------------------------------------------------------------------------------------------------------------


def test_every_order_of_all_steps_is_as_likely() -> None:
    """Two tasks of four and of three steps: 35 orders; a random walk prefers those that go to and fro."""
    tasks: Tasks = {"a": [None] * 4, "b": [None] * 3}
    orders = merges("aaaa", "bbb")
    assert unevenness(plays(Always(EVERY), tasks, 7_000), orders) < 2
    assert unevenness(plays(RandomWalk().begin(), tasks, 7_000), orders) > 20


def test_every_order_of_the_steps_of_the_set_is_as_likely() -> None:
    """Three uses of one thing, each behind steps that use other things, and two without: ten orders."""
    tasks: Tasks = {"a": [None, None, "x", None, None, "x", None, "x"], "b": ["x", "y", "x"]}
    orders = merges("aaa", "bb")
    assert unevenness(plays(Always("x"), tasks, 5_000, keep="x"), orders) < 3
    assert unevenness(plays(RandomWalk().begin(), tasks, 5_000, keep="x"), orders) > 100


def test_it_needs_nobody_to_say_it_before() -> None:
    """The same, where it is only known from the probes which step uses what."""
    tasks: Tasks = {"a": [None, None, "x", None, None, "x", None, "x"], "b": ["x", "y", "x"]}
    assert unevenness(plays(Always("x"), tasks, 5_000, keep="x", said=False), merges("aaa", "bb")) < 3


def test_sets_are_drawn_by_how_much_they_are_used_and_shared() -> None:
    """What two tasks use is drawn, the more the more it is used; what one task uses is not; now and then it is all."""
    strategy = SURW().begin()
    plays(strategy, {"a": ["x", "x", "x", "mine"], "b": ["x", "y"], "c": ["y"]}, 0)
    drawn = Counter(strategy.drawn(Random(seed)) for seed in range(3_000))
    assert set(drawn) == {"x", "y", EVERY, LIFE}
    assert 1_450 < drawn["x"] < 1_750
    assert 700 < drawn["y"] < 900
    assert 200 < drawn[EVERY] < 400
    assert 200 < drawn[LIFE] < 400
    plays(strategy := SURW().begin(), {"a": [None], "b": [None]}, 0)
    assert set(Counter(strategy.drawn(Random(seed)) for seed in range(100))) == {EVERY, LIFE}


@pytest.mark.parametrize("kind", [EVERY, LIFE, "x"], ids=str)
def test_what_is_no_task_has_its_turn_as_well(kind: Hashable) -> None:
    """A deadline or a thread has no path and was never counted; it may come first, last and anywhere in between."""
    strategy = Always(kind)
    plays(strategy, {"a": ["x"] * 3, "b": ["x"] * 3}, 0)
    places: Counter[int] = Counter()
    for seed in range(2_000):
        chooser = strategy.chooser(PROBES + seed, Random(seed))
        chooser.watch(lambda letter: frozenset(["x"]) if letter in "ab" else NOBODY)
        chooser.spawned("a", (0,))
        chooser.spawned("b", (1,))
        left, order = {"a": 3, "b": 3, "?": 1}, ""
        while ready := [letter for letter in left if left[letter]]:
            letter = ready[chooser.pick(ready)]
            left[letter] -= 1
            chooser.made(None if letter == "?" else letter, NOBODY if letter == "?" else frozenset(["x"]))
            order += letter
        places[order.index("?")] += 1
    assert set(places) == set(range(7))
    assert min(places.values()) > 15


# --- in programs ------------------------------------------------------------------------------------------------------


async def late(say: Say, pauses: int) -> None:
    """A task starts `a`, which makes two steps, and behind some pauses `b`, which makes two as well."""

    async def task(letter: str) -> None:
        say(letter)
        await checkpoint()
        say(letter)

    async def starter(nursery: trio.Nursery) -> None:
        nursery.start_soon(task, "a")
        for _ in range(pauses):
            await checkpoint()
            say("s")
        nursery.start_soon(task, "b")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(starter, nursery)


def test_who_is_not_there_yet_counts_for_its_spawner() -> None:
    """Every order in which the steps of a spawner, a task and a later one can come is as likely."""
    _, told = orders_of(partial(late, pauses=2), policy=Of(EVERY), schedules=PROBES + 1_500)
    counts = Counter(told[-1_500:])
    orders = [w.translate(str.maketrans("ACSTBD", "aassbb")) for w in extensions("ACSTBD", "AC ST TB BD")]
    assert unevenness(counts, orders) < 2.5


def test_who_comes_late_is_first_as_often_as_not() -> None:
    """With first steps for the set, ten pauses of the spawner are no obstacle; a random walk never gets there."""
    share = {}
    for policy in (Of(LIFE), RandomWalk()):
        _, told = orders_of(partial(late, pauses=10), policy=policy, schedules=PROBES + 400)
        share[type(policy)] = sum(order.index("b") < order.index("a") for order in told[-400:]) / 400
    assert 0.4 < share[Of] < 0.6
    assert share[RandomWalk] < 0.02


def test_a_rare_order_of_many_tasks_is_found_by_surw_alone() -> None:
    """Nine setters that start one by one, and a check that must come before any of them has ended."""
    for seed in range(2):
        assert explore(reorder_10_spawned_4, policy=SURW(), schedules=400, seed=seed).failure is not None
    assert explore(reorder_10_spawned_4, policy=RandomWalk(), schedules=400).failure is None


@pytest.mark.parametrize("policy", [POS(), SURW()], ids=str)
@pytest.mark.parametrize("ahead", [True, False], ids=["said", "unsaid"])
def test_a_lost_update_is_found(policy: Any, *, ahead: bool) -> None:
    """Among many steps that use nothing, whether the uses are said before or not."""

    async def program() -> None:
        count = 0

        async def before_use() -> None:
            if ahead:
                touch_next("count")
            await checkpoint()
            if not ahead:
                touch("count")

        async def add() -> None:
            nonlocal count
            for _ in range(3):
                await checkpoint()
            await before_use()
            seen = count
            await before_use()
            count = seen + 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add)
            nursery.start_soon(add)
        assert count == 2

    assert explore(program, policy=policy, schedules=50).failure is not None


def test_tasks_that_wait_and_are_woken_are_weighed_too() -> None:
    """A lock that three tasks take twice, in each set: all ends well, and they take it in many orders."""

    async def body(say: Say) -> None:
        lock = trio.Lock()

        async def task(letter: str) -> None:
            for _ in range(2):
                touch_next("lock")
                async with lock:
                    say(letter)
                    touch_next("lock")
                    await checkpoint()

        async with trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(task, letter)

    for kind in (EVERY, LIFE, "lock"):
        result, told = orders_of(body, policy=Of(kind), schedules=PROBES + 50)
        assert result.failure is None
        assert len(set(told)) > 10, kind
        assert {order[0] for order in told} == set("abc")
        assert all(sorted(order) == sorted("abc" * 2) for order in told)
