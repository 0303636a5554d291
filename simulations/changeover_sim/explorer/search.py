"""Explore and replay: schedule after schedule until one fails, and that one again, step by step.

Owns the stage of one exploration. Every failure is run again before it is told, and told only if it fails again.
"""

from __future__ import annotations

import functools
import inspect
import io
from collections.abc import Iterable
from contextlib import redirect_stdout
from typing import Any, get_args

import attrs

from changeover_sim.explorer import inside_trio, machine, token
from changeover_sim.explorer.errors import BadProgram
from changeover_sim.explorer.judge import confirm, failure_of, fingerprint
from changeover_sim.explorer.queue import Mode, Timeouts
from changeover_sim.explorer.results import Failure, Result
from changeover_sim.explorer.schedule import (
    SEED_MAX,
    STALL_LEAST_S,
    STALL_MAX_S,
    STEPS_MAX,
    Ending,
    Program,
    Rules,
    limits_hold,
)
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import Chooser, Played, picks_of
from changeover_sim.explorer.trace import Recorder, Roll
from changeover_sim.policies import Policy, Portfolio

_ORDER_STREAM, _CHANCE_STREAM = 1, 2
_TWICE_EVERY = 100
"""Every so many schedules one is run twice, to see whether the program is deterministic; the first always is."""


@attrs.frozen
class Plan:
    """What is to be explored, checked."""

    program: Program
    schedules: int
    policy: Policy
    seed: int
    rules: Rules
    name: str
    seconds: float | None = None

    def chance(self, index: int) -> int:
        """Return the seed of the program's own draws in one schedule: the same in all of them for a search."""
        drawn = machine.chance(self.seed, _CHANCE_STREAM, index if self.policy.samples else 0)
        return drawn.getrandbits(32)

    def token(self, index: int, ending: Ending, print_: int) -> token.Token:
        """Return what replays a schedule."""
        picks = picks_of(ending.tape)
        policy = repr(self.policy.arm(index) if isinstance(self.policy, Portfolio) else self.policy)
        return token.Token(
            self.name,
            self.rules,
            self.chance(index),
            picks,
            policy,
            self.seed,
            index,
            ending.steps,
            print_,
            *inside_trio.versions(),
        )


def explore(
    program: Program,
    *,
    schedules: int = 10_000,
    policy: Policy | None = None,
    seed: int = 0,
    mode: Mode = "any-runnable",
    timeouts: Timeouts = "when-idle",
    jobs: int = 1,
    seconds: float | None = None,
    steps_max: int = 10_000,
    stall_s: float = 5.0,
) -> Result:
    """Run `program` under one schedule after the other until one fails, and return what was found.

    `program` is an async callable without arguments that makes all it needs afresh: it is called once per schedule, in
    a Trio run of its own, under a virtual clock that starts at 0 s and moves only when nothing can run. It fails by
    raising, by a deadlock or a livelock, or by returning while a system task that it spawned is still running. The same
    arguments find the same failure; with `jobs` processes it is that of the lowest index, whoever finds it.

    `policy` is a `Portfolio()` unless told otherwise. `mode="trio-batch"` keeps to what stock Trio can do today: every
    ready task once, in any order, then the next batch. `timeouts="any-time"` lets a deadline come although something
    can run.
    After `seconds` of real time no further schedule is begun, and `Result.stopped` says so: how many were run then
    depends on the machine.
    Behind `steps_max` steps a schedule goes on first-in-first-out, behind twice as many it is given up.

    A worker thread takes no virtual time: a deadline beats it only with `timeouts="any-time"`. That `stall_s` is kept
    is watched in the main thread only, and where nobody else has taken SIGALRM; `notes` says where it is not.

    Raises `BadProgram` for what is no such program, `Uncontrolled` where it uses real sockets, threads or processes,
    `Stalled` where it makes no step for `stall_s` real seconds, `TrioNotSupported`, and ValueError for the rest.
    """
    policy = Portfolio() if policy is None else policy
    plan = _checked(program, schedules, policy, seed, Rules(mode, timeouts, steps_max, stall_s), jobs, seconds)
    if jobs > 1:
        from changeover_sim.explorer.processes import explore_in_processes  # noqa: PLC0415 - it knows this module

        return explore_in_processes(plan, jobs)
    began = machine.stopwatch()
    with Stage(plan.rules, plan.seed).open() as stage:
        found = Search(plan, stage).run(range(plan.schedules))
        failure = found.confirm(plan, stage)
    return found.result(plan, failure, machine.stopwatch() - began, stage.guard.notes)


@attrs.define
class Found:
    """What a search has come to."""

    run: int = 0
    index: int | None = None
    ending: Ending | None = None
    again: Ending | None = None
    """How the same schedule ended a second time, where that was another way."""
    exhausted: bool = False
    stopped: bool = False
    """Whether there was no more time."""
    cut: list[int] = attrs.field(factory=list[int])
    """The schedules that were longer than the limit, so that their ends were not explored."""

    def confirm(self, plan: Plan, stage: Stage) -> Failure | None:
        """Run the schedule that failed, if any did, again, and return the failure."""
        if self.index is None or self.ending is None:
            return None
        return confirm(plan, stage, self.index, self.ending, self.again)

    def result(self, plan: Plan, failure: Failure | None, seconds: float, notes: Iterable[str]) -> Result:
        """Return the result of an exploration that took so long."""
        speed = self.run / seconds if seconds else 0.0
        told = list(notes)
        if self.cut:
            most = f"steps_max={plan.rules.steps_max:,}"
            longer = f"{len(self.cut):,} schedules were longer than {most}"
            told.append(f"{longer} and went on first-in-first-out from there")
        policy = repr(plan.policy)
        return Result(failure, self.run, speed, self.exhausted, policy, plan.seed, self.stopped, tuple(told))


class Search:
    """One policy at work on one program."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage
        self._strategy = plan.policy.begin()
        self._until_s = None if plan.seconds is None else machine.stopwatch() + plan.seconds

    def run(self, indices: Iterable[int]) -> Found:
        """Run these schedules up to the first that fails, or that goes another way when it is run again."""
        found = Found()
        for index in indices:
            if self._until_s is not None and machine.stopwatch() >= self._until_s:
                found.stopped = True
                break
            ending = self._schedule(index)
            if ending is None:
                found.exhausted = not found.cut
                break
            found.run += 1
            if ending.steps > self._plan.rules.steps_max:
                found.cut.append(index)
            found.again = self._again_if_due(index, ending)
            if ending.verdict is not None or found.again is not None:
                found.index, found.ending = index, ending
                break
            if self._strategy.learn(index, ending.tape) is False:
                found.index, found.ending, found.again = index, ending, ending
                break
        else:
            left = self._plan.policy.samples or found.cut or self._schedule_left(found.run) is not None
            found.exhausted = not left
        return found

    def _schedule(self, index: int) -> Ending | None:
        chooser = self._strategy.chooser(index, machine.chance(self._plan.seed, _ORDER_STREAM, index))
        return None if chooser is None else self._play(index, chooser)

    def _play(self, index: int, chooser: Chooser) -> Ending:
        """Run a schedule, and note who was ready and who ran where it is one of those that are run twice."""
        roll = None if index % _TWICE_EVERY else Roll()
        return self._stage.play(self._plan.program, chooser, self._plan.chance(index), roll)

    def _schedule_left(self, index: int) -> object | None:
        return self._strategy.chooser(index, machine.chance(self._plan.seed, _ORDER_STREAM, index))

    def _again_if_due(self, index: int, ending: Ending) -> Ending | None:
        """Run a schedule that went well again, now and then; return how, where it ended in another way."""
        if ending.verdict is not None or index % _TWICE_EVERY:
            return None
        again = self._play(index, Played(picks_of(ending.tape)))
        same = again.tape == ending.tape and again.roll == ending.roll and again.verdict is None
        return None if same else again


def replay(program: Program, token_text: str) -> Result:
    """Run the one schedule of a token again and return what came of it, recorded step by step.

    Raises `TokenError` for a token that is damaged, of another version or of another program, and what `explore`
    raises. A program is known by its name: of two closures of one factory, hand over the one that failed. Where the
    steps are not those that the token was made with, `notes` says so: the program has changed since.
    """
    made = token.decode(token_text)
    if made.program != token.name_of(program):
        raise token.for_another(made, token.name_of(program))
    plan = _checked(program, 1, _Named(made.policy), made.seed, made.rules, 1)
    began = machine.stopwatch()
    with Stage(plan.rules, plan.seed).open() as stage:
        ending = stage.play(program, Played(made.picks), made.chance, Recorder(made.steps))
        has_changed = fingerprint(ending) != made.print and not _was_only_the_first(program, made, stage)
    print_, notes = fingerprint(ending), list(stage.guard.notes)
    if has_changed:
        notes.append(_changed(made))
    exact = attrs.evolve(made, picks=picks_of(ending.tape), steps=ending.steps, print=print_)
    failure = None if ending.verdict is None else failure_of(exact, ending)
    return Found(1).result(plan, failure, machine.stopwatch() - began, notes)


def _was_only_the_first(program: Program, made: token.Token, stage: Stage) -> bool:
    """Return whether a second run is exact: the first of a process fills caches, and tokens are made by later ones."""
    with redirect_stdout(io.StringIO()):
        again = stage.play(program, Played(made.picks), made.chance, Recorder(made.steps))
    return fingerprint(again) == made.print


def _changed(made: token.Token) -> str:
    versions = token.versions_note(made)
    reason = versions or "the program has changed since, or what it does depends on something that is not controlled"
    return f"the steps are not those that the token was made with: {reason}"


@attrs.frozen(repr=False)
class _Named:
    """Stands for the policy that a token was found by."""

    name: str
    samples = True

    def __repr__(self) -> str:
        return self.name

    def begin(self) -> Any:
        """Never asked: a replay decides nothing."""
        raise NotImplementedError


def _check_callable(program: Any) -> None:
    wanted = f"the program must be an async callable without arguments, not {program!r}"
    if inspect.iscoroutine(program):
        program.close()  # else Python warns that it was never awaited
        raise BadProgram(f"{wanted}; hand over the function itself, not its call")
    if not callable(program):
        raise BadProgram(wanted)
    try:
        signature = inspect.signature(program)
    except ValueError as error:
        if isinstance(program, functools.partial):
            raise BadProgram(f"{wanted}: {error}") from None
        return  # it does not say what it takes
    try:
        signature.bind()
    except TypeError as error:
        raise BadProgram(f"{wanted}: {error}; functools.partial takes arguments along") from None


def _checked(
    program: Any, schedules: int, policy: Any, seed: int, rules: Rules, jobs: int, seconds: float | None = None
) -> Plan:
    """Return the plan, or raise for what cannot be meant."""
    _check_callable(program)
    for name, number in (("schedules", schedules), ("jobs", jobs), ("steps_max", rules.steps_max)):
        if type(number) is not int or number < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {number!r}")
    if type(seed) is not int or not 0 <= seed < SEED_MAX:
        raise ValueError(f"seed must be a whole number of at least 0, not {seed!r}")
    if not limits_hold(rules):
        raise ValueError(
            f"stall_s must be seconds between {STALL_LEAST_S} and {STALL_MAX_S:.0f} and steps_max below {STEPS_MAX}, "
            f"not {rules.stall_s!r} and {rules.steps_max!r}"
        )
    for name, given, known in (("mode", rules.mode, Mode), ("timeouts", rules.timeouts, Timeouts)):
        if given not in get_args(known):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(known)))}, not {given!r}")
    if isinstance(policy, type) or not hasattr(policy, "begin"):
        raise ValueError(f"policy must be a policy such as RandomWalk(), not {policy!r}")
    if jobs > 1 and not policy.samples:
        raise ValueError(f"{policy!r} decides each schedule by the one before, so it cannot be shared out: use jobs=1")
    if seconds is not None and (type(seconds) not in {int, float} or not seconds > 0):
        raise ValueError(f"seconds must be a number above 0, or None for no limit, not {seconds!r}")
    return Plan(program, schedules, policy, seed, rules, token.name_of(program), seconds)
