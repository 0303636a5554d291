"""How small failing schedules become, by what and at what price: deviations from first-in-first-out, steps, runs.

Each failure is shrunk in four ways: by taking deviations back where they stand on the tape, as the explorer once did;
by the explorer's own passes; by Hypothesis alone; and by the passes and Hypothesis, which is what `shrink` does.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import attrs
import measure
import trio
from measure import Figure
from trio.lowlevel import checkpoint

from changeover_sim import PCT, RandomWalk, cancel_anywhere, choose, explore
from changeover_sim.explorer import shrink_hypothesis, token
from changeover_sim.explorer.schedule import Ending, Program
from changeover_sim.explorer.shrink import smaller
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import Chooser, Picks, Played, deviations, picks_of
from changeover_sim.kernels import KERNELS

RUNS, SEEDS = 2_000, 5
NAMES = ("account", "bluetooth_driver", "deadlock01", "stack", "reorder_3", "reorder_5", "dining_3")
PORTS = ("natural", "spawned_4")
POLICIES = (RandomWalk(), PCT(3))


class Once:
    """Loads once for all who ask, unless whoever asked first is cancelled: the README's."""

    def __init__(self) -> None:
        self.loaded: trio.Event | None = None

    async def get(self) -> None:
        """Load, or wait for who does."""
        if self.loaded is None:
            self.loaded = trio.Event()
            await trio.sleep(1)
            self.loaded.set()
        await self.loaded.wait()


async def once() -> None:
    """Have one reader cancelled."""
    loaded = Once()

    async def impatient() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await loaded.get()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        nursery.start_soon(loaded.get)


async def handover() -> None:
    """Lose an item when a consumer is cancelled between two checkpoints; sizes are chosen, two can be cancelled."""
    jobs, size = choose(range(5)), choose([0, 1, 3])
    send, receive = trio.open_memory_channel[int](size)
    sent: list[int] = []
    done: list[int] = []

    async def producer() -> None:
        async with send:
            for number in range(jobs):
                await checkpoint()
                await send.send(number)
                sent.append(number)

    async def consumer() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            async for number in receive:
                await checkpoint()
                done.append(number)

    async with trio.open_nursery() as nursery:
        for task in (producer, consumer, consumer):
            nursery.start_soon(task)
    done.extend([] if receive.statistics().current_buffer_used == 0 else sent)
    assert set(done) == set(sent)


async def many_lengths() -> None:
    """Fail in one of the long schedules of three tasks, whose length is chosen."""
    order: list[str] = []

    async def steps(letter: str, count: int) -> None:
        for _ in range(count):
            order.append(letter)
            await checkpoint()

    async def chooser() -> None:
        await steps("x", choose([1, 30]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(chooser)
        nursery.start_soon(steps, "a", 4)
        nursery.start_soon(steps, "b", 4)
    assert "baaa" not in "".join(order) or "xbbbx" not in "".join(order)


def programs() -> dict[str, Program]:
    """Return what is shrunk, by name."""
    kernels = {f"{name}, {port}": KERNELS[name].programs[port] for name in NAMES for port in PORTS}
    return {**kernels, "once": once, "handover": handover, "many lengths": many_lengths}


class Failure:
    """One failure, which is played again and again."""

    def __init__(self, program: Program, text: str) -> None:
        """Play what the token says at first."""
        self._program = program
        self._made = token.decode(text)
        self.picks = self._made.picks
        self.runs = 0
        self.kind = _kind(self(Played(self.picks)))

    def __call__(self, chooser: Chooser) -> Ending:
        """Run once."""
        self.runs += 1
        with Stage(self._made.rules, self._made.seed).open() as stage:
            return stage.play(self._program, chooser, self._made.chance)


Way = Callable[[Failure], Picks]


def by_place(failure: Failure) -> Picks:
    """Take blocks of deviations back where they stand on the tape, and then ever smaller ones, until none can be."""
    best, before = failure.picks, None
    while best != before:
        before, size = best, len(best)
        while size:
            for end in range(len(best), 0, -size):
                picks = tuple(0 if end - size <= at < end else taken for at, taken in enumerate(best))
                if deviations(picks) < deviations(best):
                    ending = failure(Played(picks))
                    best = picks_of(ending.tape) if _kind(ending) == failure.kind else best
            size //= 2
    return best


def by_passes(failure: Failure) -> Picks:
    """Do what `shrink` does where Hypothesis is not installed."""
    return smaller(failure, failure.picks, runs=RUNS, proposals=False) or ()


def by_hypothesis(failure: Failure) -> Picks:
    """Ask Hypothesis alone."""
    ending = failure(Played(failure.picks))
    found = [(deviations(failure.picks), ending.steps, failure.picks)]

    def fails(chooser: Chooser) -> bool:
        ending = failure(chooser)
        picks = picks_of(ending.tape)
        if _kind(ending) == failure.kind:
            found.append((deviations(picks), ending.steps, picks))
        return _kind(ending) == failure.kind

    shrink_hypothesis.propose(ending.tape, fails)
    return min(found)[-1]


def by_both(failure: Failure) -> Picks:
    """Do what `shrink` does."""
    return smaller(failure, failure.picks, runs=RUNS) or ()


WAYS: dict[str, Way] = {
    "by place": by_place,
    "passes": by_passes,
    "Hypothesis alone": by_hypothesis,
    "passes and Hypothesis": by_both,
}


@attrs.frozen
class Shrunk:
    """What came of one failure in one way."""

    left: float
    steps: float
    runs: float
    seconds: float


def bench(quick: bool) -> list[Figure]:
    """Return a line for each program and way; that no way leaves fewer deviations in all is what is wanted."""
    all_of: dict[str, list[Shrunk]] = {way: [] for way in WAYS}
    figures: list[Figure] = []
    for name, program in programs().items():
        tokens = list(_tokens(program, 1 if quick else SEEDS))
        figures.append(
            Figure(f"{name}, {len(tokens)} failures", "", f"{statistics.mean(map(_size, tokens)):.1f} deviations")
        )
        for way, shrunk in WAYS.items():
            found = [_shrunk(shrunk, program, text) for text in tokens]
            all_of[way].append(_means(found))
            figures.append(_figure(f"  {way}", all_of[way][-1]))
    means = {way: _means(found) for way, found in all_of.items()}
    least = min(mean.left for mean in means.values())
    figures.append(Figure("the mean of all programs", "", ""))
    for way, mean in means.items():
        wanted = way == "passes and Hypothesis"
        figures.append(_figure(f"  {way}", mean, "fewest deviations" if wanted else "", mean.left <= least))
    return figures


def _tokens(program: Program, seeds: int) -> Iterator[str]:
    for policy in POLICIES:
        for seed in range(seeds):
            failure = explore(program, schedules=10_000, policy=policy, seed=seed).failure
            if failure is not None:
                yield failure.token


def _shrunk(way: Way, program: Program, text: str) -> Shrunk:
    failure = Failure(program, text)
    failure.runs, began = 0, perf_counter()
    picks = way(failure)
    seconds, runs = perf_counter() - began, failure.runs
    ending = failure(Played(picks))
    assert _kind(ending) == failure.kind
    return Shrunk(deviations(picks), ending.steps, runs, seconds)


def _means(found: list[Shrunk]) -> Shrunk:
    columns = zip(*(attrs.astuple(one) for one in found), strict=True)
    return Shrunk(*(statistics.mean(column) for column in columns))


def _figure(name: str, mean: Shrunk, wanted: str = "", met: bool | None = None) -> Figure:
    text = f"{mean.left:.2f} left, {mean.steps:.0f} steps, {mean.runs:.0f} runs, {mean.seconds:.2f} s"
    return Figure(name, wanted, text, met if wanted else None)


def _size(text: str) -> int:
    return deviations(token.decode(text).picks)


def _kind(ending: Ending) -> Any:
    return ending.verdict, type(ending.error)


if __name__ == "__main__":
    measure.command("Shrinking", bench)
