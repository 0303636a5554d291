"""The same seed does the same, a token does it again, in any process; and shrinking keeps what matters."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import (
    PCT,
    Exhaustive,
    Failure,
    RandomWalk,
    TokenError,
    cancel_anywhere,
    choose,
    explore,
    replay,
    shrink,
)
from changeover_sim.explorer import token
from changeover_sim.explorer.tape import Played, deviations
from tests.simulations.explorer import busy, must_fail
from tests.simulations.explorer.must_fail import CASES, Case

ROOT = Path(__file__).parents[3]
REPLAYABLE = [case for case in CASES if case.verdict != "nondeterminism"]
SEED = 7


def failure_of(program: Any, **how: Any) -> Failure:
    """Return how a program fails."""
    failure = explore(program, **{"schedules": 2_000, **how}).failure
    assert failure is not None
    return failure


def told(failure: Failure) -> tuple[Any, ...]:
    """Return all that a failure says, but for objects that are others in each run."""
    waiting = [str(wait) for wait in failure.waiting]
    fields = (failure.verdict, failure.token, failure.program, failure.policy, failure.seed, failure.schedule_index)
    return (*fields, failure.trace, waiting, failure.leftover, repr(failure.exception), failure.stock)


# --- the same again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REPLAYABLE, ids=str)
def test_a_token_does_the_same_again(case: Case) -> None:
    """The replay has the verdict, the steps, the lines and the token of the schedule that failed."""
    failure = failure_of(case.program, **case.how)
    result = replay(case.program, failure.token)
    assert result.failure is not None
    assert told(result.failure) == told(failure)
    assert (result.notes, result.schedules_run, result.exhausted) == ((), 1, False)


@pytest.mark.parametrize("how", [{"mode": "trio-batch"}, {"timeouts": "any-time"}, {"steps_max": 40}], ids=str)
@pytest.mark.parametrize("policy", [RandomWalk(), PCT(2), Exhaustive(1)], ids=str)
def test_a_token_carries_the_rules_of_its_exploration(policy: Any, how: dict[str, Any]) -> None:
    """Mode, timeouts and limits are those of the exploration, without being told again."""
    failure = failure_of(busy.busy, policy=policy, **how)
    again = replay(busy.busy, failure.token)
    assert again.failure is not None
    assert told(again.failure) == told(failure)
    assert attrs.asdict(token.decode(failure.token).rules).items() >= how.items()


@pytest.mark.parametrize(
    ("policy", "times"),
    [(RandomWalk(), 10), (PCT(3), 10), pytest.param(RandomWalk(), 100, marks=pytest.mark.slow)],
    ids=str,
)
def test_the_same_seed_does_the_same_a_hundred_times(policy: Any, times: int) -> None:
    """All that happened in every schedule, the failing one, its trace and its token: one digest."""
    digests = {busy.digest(seed=SEED, policy=policy)[0] for _ in range(times)}
    assert len(digests) == 1


def test_another_seed_does_something_else() -> None:
    """Ten seeds give ten digests, so the digest tells them apart."""
    assert len({busy.digest(seed=seed)[0] for seed in range(10)}) == 10


def in_processes(hash_seeds: range) -> set[str]:
    """Return what processes of their own print, each with another PYTHONHASHSEED."""

    def run(hash_seed: int) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)}
        code = [sys.executable, "-c", f"from tests.simulations.explorer import busy; busy.tell({SEED})"]
        done = subprocess.run(code, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with ThreadPoolExecutor(2) as pool:
        return set(pool.map(run, hash_seeds))


def test_fresh_processes_do_the_same_whatever_their_hashes() -> None:
    """Addresses and the hashes of strings differ, and the digest does not; the token from there does the same here."""
    (printed,) = in_processes(range(1, 5))
    digest, found = printed.split()
    here, result = busy.digest(seed=SEED)
    assert result.failure is not None
    assert (digest, found) == (here, result.failure.token)
    again = replay(busy.busy, found)
    assert again.failure is not None
    assert (again.notes, told(again.failure)) == ((), told(result.failure))


@pytest.mark.slow
def test_twenty_hash_seeds_do_the_same() -> None:
    """The promise in full: 20 values of PYTHONHASHSEED, one digest."""
    assert len(in_processes(range(20))) == 1


# --- several processes ------------------------------------------------------------------------------------------------


async def rare() -> None:
    """Fail if the last of four tasks is started first, and the first is started last."""
    order: list[int] = []

    async def one(number: int) -> None:
        order.append(number)
        await checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(one, number)
    assert order != [3, 1, 2, 0]


async def rare_cancellation() -> None:
    """Fail if one of twenty checkpoints is the last."""
    passed = 0
    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        for _ in range(20):
            await checkpoint()
            passed += 1
    assert passed != 13


async def of_many_lengths() -> None:
    """Have schedules of very different lengths, and fail in one of those that are long."""
    order: list[str] = []

    async def steps(letter: str, number: int) -> None:
        for _ in range(number):
            order.append(letter)
            await checkpoint()

    async def chooser() -> None:
        await steps("x", choose([1, 30]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(chooser)
        nursery.start_soon(steps, "a", 4)
        nursery.start_soon(steps, "b", 4)
    assert "baaa" not in "".join(order) or "xbbbx" not in "".join(order)


SHARED = (rare, rare_cancellation, of_many_lengths, busy.busy)


@pytest.mark.parametrize("policy", [RandomWalk(), PCT(3)], ids=str)
@pytest.mark.parametrize("program", SHARED, ids=lambda program: program.__name__)
def test_several_processes_find_the_same_failure(program: Any, policy: Any) -> None:
    """The same arguments find the same failure, of the same index, with the same token, whoever is faster."""
    for seed, jobs in ((0, 2), (1, 3)):
        alone = failure_of(program, policy=policy, seed=seed)
        shared = failure_of(program, policy=policy, seed=seed, jobs=jobs)
        assert told(shared) == told(alone)


class FromIndex:
    """A policy that chooses 0 in the schedules before an index, and 1 in all from there on."""

    samples = True

    def __init__(self, first: int) -> None:
        self.first = first

    def begin(self) -> FromIndex:
        return self

    def chooser(self, index: int, rng: Any) -> Any:
        return Played((1,) if index >= self.first else ())

    def learn(self, index: int, tape: Any) -> bool:
        return True


@pytest.mark.parametrize("first", [0, 1, 99, 100, 150, 151, 298])
def test_of_several_failures_the_one_of_the_lowest_index_is_told(first: int) -> None:
    """Every schedule from an index on fails, and each process finds one of its own: the earliest is told."""

    async def program() -> None:
        assert not choose([False, True])

    for jobs in (1, 2, 4):
        result = explore(program, policy=FromIndex(first), schedules=300, jobs=jobs)
        assert result.failure is not None
        assert result.failure.schedule_index == first
        assert result.schedules_run == first + 1


def test_processes_run_as_many_schedules_as_there_are() -> None:
    """The indices are shared out: none is left out, none is run twice; more jobs than schedules are no matter."""
    for schedules, jobs in ((7, 2), (10, 3), (2, 5)):
        result = explore(checkpoint, schedules=schedules, jobs=jobs)
        assert (result.failure, result.schedules_run) == (None, schedules)


# --- what a token is not good for -------------------------------------------------------------------------------------


def test_a_token_of_another_program_is_refused() -> None:
    """Both are named."""
    failure = failure_of(must_fail.raises)
    for use in (replay, shrink):
        with pytest.raises(TokenError, match=r"must_fail:raises', and this is '.*must_fail:spins'"):
            use(must_fail.spins, failure.token)


def test_a_program_that_has_changed_is_noticed() -> None:
    """The steps are not those of the token any more; whether it still fails is told all the same."""

    def version(number: int) -> Any:
        async def program() -> None:
            for _ in range(number):
                await checkpoint()
            assert number == 2

        return program

    failure = failure_of(version(1))
    still, not_any_more = replay(version(3), failure.token), replay(version(2), failure.token)
    assert still.failure is not None
    assert not_any_more.failure is None
    assert all("the program has changed since" in result.notes[0] for result in (still, not_any_more))
    assert replay(version(3), still.failure.token).notes == (), "the token of what it does now"


def test_a_token_of_another_trio_is_run_and_noted() -> None:
    """Where the steps are others, the note names both versions."""
    made = token.decode(failure_of(must_fail.raises).token)
    same = replay(must_fail.raises, token.encode(attrs.evolve(made, trio="0.22.0")))
    assert same.notes == ()
    other = replay(must_fail.raises, token.encode(attrs.evolve(made, trio="0.22.0", print=1)))
    assert "Trio 0.22.0" in other.notes[0]
    assert trio.__version__ in other.notes[0]


# --- shrinking --------------------------------------------------------------------------------------------------------


async def noisy() -> None:
    """Fail if b starts before a, among others that have nothing to do with it."""
    order: list[str] = []

    async def noise() -> None:
        for _ in range(4):
            await checkpoint()

    async def task(letter: str) -> None:
        await noise()
        order.append(letter)
        await noise()

    async with trio.open_nursery() as nursery:
        for letter in "ab":
            nursery.start_soon(task, letter)
            nursery.start_soon(noise)
    assert order == ["a", "b"]


SHRINKABLE = [must_fail.loses_an_update, must_fail.two_locks, noisy, rare, rare_cancellation, busy.busy]


def weight(text: str) -> int:
    """Return how often a token deviates from first-in-first-out."""
    return deviations(token.decode(text).picks)


SOME_SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))]
"""Shrinking takes seconds."""


@pytest.mark.parametrize("seed", SOME_SEEDS)
@pytest.mark.parametrize("program", SHRINKABLE, ids=lambda program: program.__name__)
def test_shrinking_keeps_the_failure_and_takes_deviations_away(program: Any, seed: int) -> None:
    """Never more deviations, the same verdict and type, the same result each time, and nothing left to take."""
    failure = failure_of(program, seed=seed)
    small = shrink(program, failure.token)
    assert weight(small) <= weight(failure.token)
    assert small == shrink(program, failure.token)
    assert weight(shrink(program, small)) == weight(small)
    again = replay(program, small)
    assert again.failure is not None
    assert again.notes == ()
    assert again.failure.verdict == failure.verdict
    assert type(again.failure.exception) is type(failure.exception)
    assert again.failure.token == small


def test_what_fails_first_in_first_out_shrinks_to_nothing() -> None:
    """An update is lost without any deviation, so none is left."""
    for seed in range(5):
        assert (
            token.decode(
                shrink(must_fail.loses_an_update, failure_of(must_fail.loses_an_update, seed=seed).token)
            ).picks
            == ()
        )


@pytest.mark.parametrize("seed", SOME_SEEDS)
def test_no_deviation_that_is_left_could_be_taken_back(seed: int) -> None:
    """Much of the noise is gone, and without any one of what is left the program goes well."""
    failure = failure_of(noisy, seed=seed)
    small = token.decode(shrink(noisy, failure.token))
    assert 1 <= deviations(small.picks) <= weight(failure.token) // 2
    for at, taken in enumerate(small.picks):
        if taken:
            without = (*small.picks[:at], 0, *small.picks[at + 1 :])
            assert replay(noisy, token.encode(attrs.evolve(small, picks=without))).failure is None


@pytest.mark.parametrize("runs", [1, 2, 5, 50])
def test_shrinking_ends_when_its_runs_are_spent(runs: int) -> None:
    """The program is run at most so often, and twice more for the token that comes out; half the way is kept."""
    calls: list[None] = []

    async def program() -> None:
        calls.append(None)
        await noisy()

    failure = failure_of(program)
    calls.clear()
    small = shrink(program, failure.token, runs=runs)
    assert len(calls) <= runs + 2
    assert weight(small) <= weight(failure.token)
    assert replay(program, small).failure is not None


def test_what_does_not_fail_cannot_be_shrunk() -> None:
    """The token of a program that was mended in the meantime."""

    def version(wrong: bool) -> Any:
        async def program() -> None:
            assert not wrong

        return program

    failure = failure_of(version(True))
    with pytest.raises(TokenError, match="does not fail"):
        shrink(version(False), failure.token)


@pytest.mark.parametrize("runs", [0, -1, 1.5, "2"])
def test_the_number_of_runs_is_checked(runs: Any) -> None:
    """A ValueError names it."""
    with pytest.raises(ValueError, match="runs"):
        shrink(must_fail.raises, failure_of(must_fail.raises).token, runs=runs)
