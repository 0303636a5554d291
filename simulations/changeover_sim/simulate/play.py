"""Play one run in this process: a scenario, a seed and a policy, under the explorer; the same three, the same run.

A `Player` keeps the explorer's stage for many runs. `play` is for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import attrs

from changeover_sim.explorer import machine
from changeover_sim.explorer.schedule import Ending, Rules, leaves
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import ORDER, Decision
from changeover_sim.oracles.all import ORACLES
from changeover_sim.oracles.base import Oracle
from changeover_sim.policies import PCT, Exhaustive, Policy, RandomWalk
from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate.judge import PromiseBroken
from changeover_sim.simulate.life import silenced
from changeover_sim.simulate.run import Run

POLICIES: Mapping[str, Callable[[], Policy]] = {
    "random": RandomWalk,
    "pct": lambda: PCT(3),
    "fifo": lambda: Exhaustive(0),
}
"""Who decides the order of steps: any that is ready; strict priorities; who was ready first."""

_ORDER_STREAM = 1
_DECISIONS = 1_500
"""About so many decisions has a run: PCT spreads its demotions over them."""
STEPS_MAX = 60_000
"""A run that takes longer is a livelock, if it does not end first-in-first-out."""
STALL_S = 30.0


@attrs.frozen
class Outcome:
    """What came of one run."""

    scenario: str
    seed: int
    policy: str
    broken: str | None = None
    """None: all promises held; else `promise 3`, or what the explorer says: `deadlock`, `exception`, ..."""
    what: str = ""
    header: tuple[str, ...] = ()
    """What the run was like."""
    log: tuple[str, ...] = ()
    """The last things that happened."""
    trace: str = ""
    """The hash of all that happened."""
    steps: int = 0
    virtual_s: float = 0.0
    real_s: float = 0.0
    judged: Mapping[int, int] = attrs.field(factory=dict[int, int])
    """By promise, how often it was judged."""
    struck: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """By fault, how often it struck."""
    reached: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Rare branches of the engine that were reached."""


class Player:
    """Plays one run after the other: `with Player() as player`."""

    def __init__(self, oracles: Sequence[type[Oracle]] = ORACLES, *, log_lines: int = 60) -> None:
        """Have runs watched by these."""
        self._oracles = oracles
        self._log_lines = log_lines
        self._stack = ExitStack()
        self._stage: Stage

    def __enter__(self) -> Self:
        """Take over this thread; refused inside `trio.run`."""
        with ExitStack() as stack:
            self._stage = stack.enter_context(Stage(Rules(steps_max=STEPS_MAX, stall_s=STALL_S), 0).open())
            stack.enter_context(silenced())  # behind the stage, which lets one in at a time
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Let it go."""
        self._stack.close()

    def play(
        self, scenario: str, seed: int, policy: str = "random", prepare: Callable[[Run], None] | None = None
    ) -> Outcome:
        """Play one run; `prepare` may change it before it begins, to plant a bug say."""
        run = Run(SCENARIOS[scenario], seed, self._appoint)
        if prepare is not None:
            prepare(run)
        began = machine.stopwatch()
        strategy = POLICIES[policy]().begin()
        strategy.learn(0, _LONG)
        chooser = strategy.chooser(0, machine.chance(seed, _ORDER_STREAM, 0)) if policy != "fifo" else _First()
        assert chooser is not None
        ending = self._stage.play(run.play, chooser, seed)
        return self._outcome(run, policy, ending, machine.stopwatch() - began)

    def _appoint(self, run: Run) -> Iterable[Oracle]:
        return [oracle(run) for oracle in self._oracles]

    def _outcome(self, run: Run, policy: str, ending: Ending, real_s: float) -> Outcome:
        broken, what = _verdict(ending)
        judged: dict[int, int] = {}
        for oracle in run.judge.oracles:
            judged[oracle.promise] = judged.get(oracle.promise, 0) + oracle.judged
        log = run.judge.log(self._log_lines)
        return Outcome(
            run.scenario.name, run.seed, policy, broken, what,
            (*run.shape.lines(), f"struck: {', '.join(f'{n} {c}' for n, c in sorted(run.faults.struck.items()) if c)}"),
            tuple(map(str, log)) if broken else (),
            run.judge.trace, ending.steps, run.judge.ended_s, real_s, judged,
            {name: count for name, count in run.faults.struck.items() if count}, dict(run.sink.reached),
        )  # fmt: skip


class _First:
    """Decides nothing: whoever was ready first goes first."""

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return the first."""
        return 0

    def value(self, width: int) -> int:
        """Return the first."""
        return 0

    def cancel(self, scope: int, moment: int) -> bool:
        """Return no."""
        return False


_LONG: list[Decision] = [(ORDER, 2, 0)] * _DECISIONS


def _verdict(ending: Ending) -> tuple[str | None, str]:
    """Return what a run has come to, in words."""
    if ending.verdict is None:
        return None, ""
    if ending.error is None:
        told = [*map(str, ending.waiting), *ending.leftover]
        return ending.verdict, "; ".join(told)
    for leaf in leaves(ending.error):
        if isinstance(leaf, PromiseBroken):
            return f"promise {leaf.promise}", str(leaf)
    return ending.verdict, "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in leaves(ending.error))


def play(
    scenario: str, seed: int, policy: str = "random", *, oracles: Sequence[type[Oracle]] = ORACLES,
    prepare: Callable[[Run], None] | None = None,
) -> Outcome:  # fmt: skip
    """Play one run, in a stage of its own."""
    with Player(oracles) as player:
        return player.play(scenario, seed, policy, prepare)
