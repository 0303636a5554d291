"""What cannot be meant, cannot be controlled or never ends: a clear error, and everything is as before."""

from __future__ import annotations

import functools
import signal
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import (
    PCT,
    BadProgram,
    Exhaustive,
    ExplorerError,
    NotExploring,
    Portfolio,
    cancel_anywhere,
    choose,
    explore,
    replay,
    shrink,
    touch,
)
from changeover_sim.explorer.errors import BadPolicy
from tests.simulations.explorer import must_fail, must_not
from tests.simulations.explorer.steady import nothing_left


@pytest.fixture(autouse=True)
def _as_before() -> Generator[None, None, None]:
    """Behind each of these everything is as it was."""
    with nothing_left():
        yield


async def fine() -> None:
    """Two tasks, and one decision between them."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checkpoint)
        nursery.start_soon(checkpoint)


def plain() -> Any:
    """Return something to await, without being async."""
    return fine()


async def needs_one(argument: int) -> None:
    """Take what nobody gives."""


async def yields() -> Any:
    """Be an async generator, which is no coroutine."""
    yield 1


# --- arguments --------------------------------------------------------------------------------------------------------

WRONG = [
    ("schedules", {"schedules": 0}),
    ("schedules", {"schedules": -1}),
    ("schedules", {"schedules": 1.5}),
    ("schedules", {"schedules": True}),
    ("jobs", {"jobs": 0}),
    ("jobs", {"jobs": "2"}),
    ("steps_max", {"steps_max": 0}),
    ("steps_max", {"steps_max": 1 << 40}),
    ("seed", {"seed": -1}),
    ("seed", {"seed": 1 << 63}),
    ("seed", {"seed": None}),
    ("stall_s", {"stall_s": 0}),
    ("stall_s", {"stall_s": -1.0}),
    ("stall_s", {"stall_s": float("nan")}),
    ("stall_s", {"stall_s": float("inf")}),
    ("stall_s", {"stall_s": "5"}),
    ("mode", {"mode": "batch"}),
    ("mode", {"mode": None}),
    ("timeouts", {"timeouts": "never"}),
    ("policy", {"policy": PCT}),
    ("policy", {"policy": "random"}),
    ("jobs", {"jobs": 2, "policy": Exhaustive(2)}),
]


@pytest.mark.parametrize(("name", "how"), WRONG, ids=str)
def test_a_wrong_argument_is_named(name: str, how: dict[str, Any]) -> None:
    """A ValueError says which argument is wrong, and nothing was run."""
    runs: list[None] = []

    async def program() -> None:
        runs.append(None)

    with pytest.raises(ValueError, match=name):
        explore(program, **how)
    assert runs == []


@pytest.mark.parametrize("make", [lambda: PCT(0), lambda: PCT(1.5), lambda: Exhaustive(-1), lambda: Exhaustive("2")])
def test_a_policy_checks_its_own_arguments(make: Any) -> None:
    """It is refused when it is made, and told what it needs."""
    with pytest.raises(ValueError, match="needs a"):
        make()


@pytest.mark.parametrize("program", [None, 5, "module:function", object()])
def test_what_cannot_be_called_is_no_program(program: Any) -> None:
    """The error says what a program is."""
    for use in (explore, lambda given: replay(given, "sx1-x"), lambda given: shrink(given, "sx1-x")):
        with pytest.raises(ExplorerError, match=r"async callable|token"):
            use(program)


def test_a_coroutine_is_no_program() -> None:
    """The call instead of the function: it can run only once. It is closed, so nobody warns of it later."""
    with pytest.raises(BadProgram, match="the function itself, not its call"):
        explore(fine())


@pytest.mark.parametrize("program", [lambda: 5, lambda: None, print, yields, functools.partial(yields)])
def test_a_plain_function_is_no_program(program: Any) -> None:
    """It returned something that cannot be awaited."""
    with pytest.raises(BadProgram, match="async function"):
        explore(program)


@pytest.mark.parametrize("program", [needs_one, lambda argument: fine(), functools.partial(needs_one)])
def test_a_program_that_needs_arguments_is_no_program(program: Any) -> None:
    """Nobody would give them."""
    with pytest.raises(BadProgram, match="argument"):
        explore(program)


@pytest.mark.parametrize("program", [functools.partial(needs_one, 1), plain, functools.partial(fine)])
def test_any_async_callable_is_a_program(program: Any) -> None:
    """Arguments can be bound beforehand; a plain function that returns something to await will do."""
    assert explore(program, schedules=2).failure is None


def test_a_type_error_of_the_program_itself_is_a_finding() -> None:
    """Only the call of the program is judged, not the calls that it makes."""

    async def program() -> None:
        await needs_one()  # type: ignore[call-arg]

    failure = explore(program).failure
    assert failure is not None
    assert isinstance(failure.exception, TypeError)


# --- runs within runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [explore, lambda given: explore(given, jobs=2)])
def test_explore_inside_a_run_is_refused(use: Any) -> None:
    """It runs Trio itself, so it cannot be called from inside."""

    async def main() -> None:
        with pytest.raises(BadProgram, match="plain code"):
            use(fine)

    trio.run(main)


def test_replay_and_shrink_inside_a_run_are_refused() -> None:
    """They, too, run Trio."""
    failure = explore(must_fail.raises).failure
    assert failure is not None

    async def main() -> None:
        for use in (replay, shrink):
            with pytest.raises(BadProgram, match=r"trio\.run"):
                use(must_fail.raises, failure.token)

    trio.run(main)


def in_a_child(call: Any) -> Any:
    """Return a program that makes a call in a child task, in a nursery within a nursery."""

    async def child() -> None:
        await checkpoint()
        call()

    async def program() -> None:
        async with trio.open_nursery() as outer:
            outer.start_soon(checkpoint)
            async with trio.open_nursery() as inner:
                inner.start_soon(child)

    return program


def directly(call: Any) -> Any:
    """Return a program that makes a call."""

    async def program() -> None:
        await checkpoint()
        call()

    return program


@pytest.mark.parametrize("where", [directly, in_a_child])
@pytest.mark.parametrize("call", [lambda: trio.run(fine), lambda: explore(fine)])
def test_a_program_that_runs_trio_is_no_program(where: Any, call: Any) -> None:
    """Whether it calls `trio.run` or explores, itself or in a child, that is no finding but a misuse."""
    with pytest.raises(BadProgram, match=r"inside|itself"):
        explore(where(call))


def interrupted() -> None:
    """Raise it as the handler of Ctrl-C does."""
    raise KeyboardInterrupt


def struck() -> None:
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("where", [directly, in_a_child])
@pytest.mark.parametrize("strike", [interrupted, struck])
def test_ctrl_c_ends_the_exploration(where: Any, strike: Any) -> None:
    """It is no finding, wherever it strikes."""
    with pytest.raises(KeyboardInterrupt):
        explore(where(strike))


def test_ctrl_c_ends_the_exploration_of_a_program_that_catches_it() -> None:
    """Nor can a program keep it for itself, or spin on."""

    async def program() -> None:
        with suppress(KeyboardInterrupt):
            struck()
            await checkpoint()
        while True:
            await checkpoint()

    with pytest.raises(KeyboardInterrupt):
        explore(program)


def test_ctrl_c_ends_replay_and_shrink() -> None:
    """They run the same program."""
    failure = explore(must_fail.raises).failure
    assert failure is not None
    twin = directly(struck)
    twin.__module__, twin.__qualname__ = must_fail.raises.__module__, must_fail.raises.__qualname__
    for use in (replay, shrink):
        with pytest.raises(KeyboardInterrupt):
            use(twin, failure.token)


# --- choices ----------------------------------------------------------------------------------------------------------


def test_outside_an_exploration_nothing_is_chosen() -> None:
    """`choose` and `cancel_anywhere` say so, plainly and in a real run; `touch` has no say anyway and does nothing."""

    async def main() -> None:
        with pytest.raises(NotExploring, match="explore"):
            choose([1, 2])
        with pytest.raises(NotExploring, match="explore"):
            cancel_anywhere(trio.CancelScope())
        touch("resource")

    trio.run(main)
    with pytest.raises(NotExploring, match="explore"):
        choose("abc")
    touch("resource")


@pytest.mark.parametrize("scope", [None, 5, trio.CancelScope])
def test_only_a_scope_can_be_cancelled(scope: Any) -> None:
    """A TypeError where the program offers something else, such as the class."""

    async def program() -> None:
        cancel_anywhere(scope)

    failure = explore(program).failure
    assert failure is not None
    assert isinstance(failure.exception, TypeError)
    assert "CancelScope" in str(failure.exception)


def test_behind_an_exploration_nothing_is_chosen() -> None:
    """Whatever was the end of it."""
    explore(must_not.chance, schedules=2)
    explore(must_fail.catches_everything, schedules=2)
    with pytest.raises(NotExploring):
        choose([1, 2])


@pytest.mark.parametrize("options", [[], "", ()])
def test_there_must_be_something_to_choose_from(options: Any) -> None:
    """No options: a ValueError where the program asks."""

    async def program() -> None:
        choose(options)

    failure = explore(program).failure
    assert failure is not None
    assert isinstance(failure.exception, ValueError)
    assert "at least one option" in str(failure.exception)


# --- policies ---------------------------------------------------------------------------------------------------------


class Oracle:
    """A policy that lets a function decide."""

    samples = True

    def __init__(self, pick: Any, value: Any = None, cancel: Any = None) -> None:
        self.pick = pick
        self.value = value or (lambda width: 0)
        self.cancel = cancel or (lambda scope, moment: False)

    def begin(self) -> Oracle:
        return self

    def chooser(self, index: int, rng: Any) -> Oracle:
        return self

    def learn(self, index: int, tape: Any) -> bool:
        return True


def first(candidates: Any) -> int:
    """Pick the first."""
    return 0


async def everything() -> None:
    """Ask a policy for all that it can be asked for."""
    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        await fine()
    choose([1, 2])


NONSENSE = [-1, 2, 99, None, "0", 0.0, 1 << 70]


@pytest.mark.parametrize("mode", ["any-runnable", "trio-batch"])
@pytest.mark.parametrize("answer", NONSENSE)
def test_a_policy_that_picks_nonsense_is_told_so(answer: Any, mode: Any) -> None:
    """There are two candidates: an index out of range, or no index at all, is the policy's mistake and not a crash."""
    with pytest.raises(BadPolicy, match="policy"):
        explore(fine, policy=Oracle(lambda candidates: answer), mode=mode)


@pytest.mark.parametrize("answer", [*NONSENSE])
def test_a_policy_that_chooses_nonsense_is_told_so(answer: Any) -> None:
    """The same holds for `choose`."""
    with pytest.raises(BadPolicy, match="policy"):
        explore(everything, policy=Oracle(first, value=lambda width: answer))


class Mistake(Exception):
    """Made by a policy."""


def mistaken(*_: Any) -> Any:
    """Make it."""
    raise Mistake


@pytest.mark.parametrize("policy", [Oracle(mistaken), Oracle(first, mistaken), Oracle(first, None, mistaken)])
def test_what_a_policy_raises_comes_out(policy: Any) -> None:
    """It is neither the program's exception nor Trio's."""
    with pytest.raises(Mistake):
        explore(everything, policy=policy)


def test_a_policy_may_cancel_at_its_second_thought() -> None:
    """What `cancel` returns is a truth value, asked at each moment; the exploration goes on behind it."""
    asked: list[int] = []

    def cancel(scope: int, moment: int) -> bool:
        assert scope == 0
        asked.append(moment)
        return moment == 2

    assert explore(everything, policy=Oracle(first, cancel=cancel), schedules=1).failure is None
    assert asked[:3] == [0, 1, 2]


def test_the_default_policy_is_a_portfolio() -> None:
    """All arms take turns by default, and a failure says which of them has found it."""
    assert explore(fine, schedules=1).policy == repr(Portfolio())
