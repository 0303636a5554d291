"""Many runs: each scenario with each seed, in this process or in several, until all are made or somebody says stop.

Owns nothing between two fleets; its processes have ended when it returns. Some seeds are run twice, the second time in
another process where there is one, and beside some a canary is run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from typing import TYPE_CHECKING, Literal, Protocol, Self

import attrs

from changeover_sim.explorer import machine
from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.simulate.tally import Tally

if TYPE_CHECKING:
    from changeover_sim.simulate.play import Outcome
    from changeover_sim.simulate.run import Run

TWICE_EVERY = 21
"""Every so many seeds one is run twice, and so is each run in which something is broken."""
CANARY_EVERY = 101
"""Beside every so many seeds one is run with a lie that must be found."""

Kind = Literal["plain", "again", "canary"]


@attrs.frozen
class Item:
    """One run that is to be made."""

    scenario: str
    seed: int
    policy: str
    kind: Kind = "plain"

    def again(self, outcome: Outcome) -> Item | None:
        """Return the second time of this run, where it has one."""
        if self.kind == "plain" and (outcome.broken is not None or self.seed % TWICE_EVERY == 0):
            return attrs.evolve(self, kind="again")
        return None


class Plays(Protocol):
    """What plays one run after the other: `play.Player`, or a test's."""

    def play(
        self, scenario: str, seed: int, policy: str = "random", prepare: Callable[[Run], None] | None = None
    ) -> Outcome:
        """Play one run; `prepare` may change it before it begins."""
        ...


OpenPlayer = Callable[[], AbstractContextManager[Plays]]
"""A function of a module: other processes import it."""
Played = tuple[Item, "Outcome"]
OnPlayed = Callable[[Item, "Outcome | None", Tally], None]
"""Told of each run: how it failed, if it did, and what all have come to so far."""


def fleet(
    scenarios: Sequence[str],
    seeds: Iterable[int],
    *,
    policy: str = "random",
    jobs: int = 1,
    tally: Tally | None = None,
    on_played: OnPlayed | None = None,
    stop: Callable[[], bool] | None = None,
    open_player: OpenPlayer | None = None,
) -> Tally:
    """Play every scenario with every seed, and return what came of it; Ctrl-C ends it early and is noted.

    `seeds` may be without end. `stop` is asked before each run. Raises `ExplorerError` where a run could not be made.
    """
    tally, began = tally or Tally(), machine.stopwatch()
    player = open_player or player_of_the_engine
    chosen = items(scenarios, seeds, policy)
    if stop is not None:
        chosen = itertools.takewhile(lambda _: not stop(), chosen)
    try:
        with closing(_made(chosen, jobs, player)) as made:
            for item, outcome in made:
                failed = tally.add(item, outcome)
                tally.wall_s = machine.stopwatch() - began
                if on_played is not None:
                    on_played(item, failed, tally)
    except KeyboardInterrupt:
        tally.interrupted = True
    tally.wall_s = machine.stopwatch() - began
    return tally


def player_of_the_engine() -> AbstractContextManager[Plays]:
    """Return what plays the real runs."""
    from changeover_sim.simulate.play import Player  # noqa: PLC0415 - it imports the engine, which a mutant may precede

    return Player()


def items(scenarios: Sequence[str], seeds: Iterable[int], policy: str) -> Iterator[Item]:
    """Yield what is to be run, all scenarios in turns: a fleet that is stopped has played each."""
    for seed in seeds:
        for scenario in scenarios:
            yield Item(scenario, seed, policy)
            if seed % CANARY_EVERY == 0:
                yield Item(scenario, seed, policy, "canary")


class Performer:
    """Makes runs; behind one that could not be made to its end it goes on with a new player."""

    def __init__(self, open_player: OpenPlayer) -> None:
        """Have none yet."""
        self._open = open_player
        self._stack = ExitStack()
        self._player: Plays

    def __enter__(self) -> Self:
        """Open a player."""
        self._player = self._stack.enter_context(self._open())
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self._stack.close()

    def perform(self, item: Item) -> Outcome:
        """Make one run; one that blocks, or reaches into the real world, has failed."""
        from changeover_sim.simulate import canary, play  # noqa: PLC0415 - they import the engine

        prepare = canary.plant if item.kind == "canary" else None
        try:
            return self._player.play(item.scenario, item.seed, item.policy, prepare)
        except ExplorerError as error:
            self._stack.close()
            self._player = self._stack.enter_context(self._open())
            return play.Outcome(item.scenario, item.seed, item.policy, type(error).__name__.lower(), str(error))


def _made(chosen: Iterator[Item], jobs: int, open_player: OpenPlayer) -> Generator[Played, None, None]:
    if jobs > 1:
        from changeover_sim.simulate import crew  # noqa: PLC0415 - it knows this module

        yield from crew.made(chosen, jobs, open_player)
        return
    with Performer(open_player) as performer:
        for item in chosen:
            outcome = performer.perform(item)
            yield item, outcome
            again = item.again(outcome)
            if again is not None:
                yield again, performer.perform(again)
