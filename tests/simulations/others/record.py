"""A finding as a record, and what tests ask: does it fail as it did, is it found again, does all else go well.

Owns nothing. `findings` prints the records as a table, and makes the schedules of `tokens.json` anew.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast

import attrs
import pytest
import trio
import trio.testing

from changeover_sim import PCT, Exhaustive, Failure, RandomWalk, choose, explore, replay

Program = Callable[[], Awaitable[None]]

TRIO = "0.35.0"
"""The Trio that all of this was found with."""

TOKENS = Path(__file__).with_name("tokens.json")


@attrs.frozen
class Finding:
    """What the explorer found in a library, in a schedule that is kept."""

    library: str
    """`name==version`, as pip has it."""
    primitive: str
    program: Program
    what: str
    """What happens, and in which line of the library that is decided."""
    against: str
    """The sentence of the library's documentation that this contradicts; empty: it says nothing about it."""
    shows: str
    """How the schedule fails: a verdict, or the type and the first line of what is raised."""
    stock: bool = True
    """Whether stock Trio, which runs each ready task once per batch, can make such a schedule."""
    known: str = ""
    """Where the library's tracker, or that of a library like it, speaks of it, as far as was found."""

    @property
    def verdict(self) -> str:
        """Return `bug` for what contradicts the documentation, and `surprise` for what it is silent about."""
        return "bug" if self.against else "surprise"

    @property
    def mode(self) -> Literal["trio-batch", "any-runnable"]:
        """Return the mode in which it is looked for."""
        return "trio-batch" if self.stock else "any-runnable"

    @property
    def token(self) -> str:
        """Return the schedule that is kept."""
        return _tokens()[self.name]

    @property
    def name(self) -> str:
        """Return the program's name, without its folder."""
        return f"{self.program.__module__.rpartition('.')[2]}:{self.program.__qualname__}"

    def __str__(self) -> str:
        return self.program.__qualname__


@functools.cache
def _tokens() -> dict[str, str]:
    return cast("dict[str, str]", json.loads(TOKENS.read_text()))


def shown(failure: Failure | None) -> str:
    """Return how a schedule failed, as `Finding.shows` has it."""
    if failure is None or failure.exception is None:
        return "nothing" if failure is None else failure.verdict
    error = failure.exception
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- what tests ask ---------------------------------------------------------------------------------------------------


def assert_fails_again(finding: Finding) -> None:
    """Fail unless the schedule that is kept fails as it did, with the very version of the library."""
    name, _, wanted = finding.library.partition("==")
    assert version(name) == wanted, f"found in {finding.library}: look at it again, and renew the tokens"
    assert shown(replay(finding.program, finding.token).failure) == finding.shows


def assert_found(finding: Finding, schedules: int = 400) -> None:
    """Fail unless a random walk finds it."""
    found = explore(finding.program, policy=RandomWalk(), schedules=schedules, mode=finding.mode).failure
    assert shown(found) == finding.shows, found


def assert_well(program: Program, part: int) -> None:
    """Fail if any schedule does, of which only one in `part` is tried."""
    for policy in (RandomWalk(), PCT(3), Exhaustive(delays=1)):
        failure = explore(program, policy=policy, schedules=400 // part).failure
        if failure is not None:
            pytest.fail(str(failure), pytrace=False)


# --- what programs use ------------------------------------------------------------------------------------------------

checkpoint = trio.lowlevel.checkpoint
at_rest = trio.testing.wait_all_tasks_blocked


async def cancel_later(scope: trio.CancelScope, most: int = 4) -> None:
    """Cancel a scope at some later moment: also where its task has waited for long, while others have moved."""
    for _ in range(choose(range(most))):
        await checkpoint()
    scope.cancel()
