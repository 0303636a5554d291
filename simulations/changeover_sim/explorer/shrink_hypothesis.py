"""Hypothesis at work on a schedule that fails: what it draws are the deviations from first-in-first-out.

Owns an example database in memory for as long as it works. It imports Hypothesis when it is called, and decides
nothing about what counts as smaller: it only proposes.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from changeover_sim.explorer.tape import CANCEL, ORDER, VALUE, Decision

if TYPE_CHECKING:
    from hypothesis import Phase
    from hypothesis.strategies import DrawFn, SearchStrategy

Pair = tuple[int, int]
Pairs = list[Pair]
Draw = Callable[[int, int], int]
"""Returns a number from 0 to the first one; the second is what is known to fail."""

DEVIATIONS_MAX = 40
"""With more than this Hypothesis takes minutes, and saves next to nothing."""

_EXAMPLES_MAX = 1_500
_KINDS: tuple[int, ...] = (VALUE, CANCEL, ORDER)


class _Found(Exception):
    """Tells Hypothesis that an example is one."""


class _Enough(BaseException):
    """Ends its work; it does not catch this."""


class Lists:
    """Decides by three lists, one of each kind: so one is shrunk without moving what another means."""

    def __init__(self, lists: Iterable[Sequence[Pair]]) -> None:
        """Take the deviations of each kind: how many decisions of it lie between, and which alternative behind 0."""
        self._taken = {kind: dict(_places(pairs)) for kind, pairs in zip(_KINDS, lists, strict=True)}
        self._at = dict.fromkeys(_KINDS, -1)

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return what the list says."""
        return self._next(ORDER, len(candidates))

    def value(self, width: int) -> int:
        """Return what the list says."""
        return self._next(VALUE, width)

    def cancel(self, scope: int, moment: int) -> bool:
        """Return what the list says."""
        return bool(self._next(CANCEL, 2))

    def _next(self, kind: int, width: int) -> int:
        self._at[kind] += 1
        return min(self._taken[kind].get(self._at[kind], 0), width - 1)


def usable() -> bool:
    """Return whether Hypothesis is here, and is not at work on a test already: it refuses to work inside itself."""
    try:
        import hypothesis  # noqa: PLC0415 - an extra
    except ImportError:
        return False
    return not hypothesis.currently_in_test_context()


def propose(tape: Sequence[Decision], fails: Callable[[Lists], bool]) -> None:
    """Have Hypothesis shrink the failing schedule of a tape; `fails(chooser)` plays what it proposes.

    Raises what `fails` raises. The same tape is worked on in the same way each time.
    """
    import hypothesis  # noqa: PLC0415 - an extra
    from hypothesis.database import InMemoryExampleDatabase  # noqa: PLC0415
    from hypothesis.errors import HypothesisException  # noqa: PLC0415

    examples, database, phase = _Examples(fails), InMemoryExampleDatabase(), hypothesis.Phase
    checks: Any = list(hypothesis.HealthCheck)
    given: Any = hypothesis.given
    seeded: Any = hypothesis.seed(0)

    def example(lists: list[Pairs]) -> None:
        examples.judge(lists)

    def work(strategy: Any, *phases: Phase) -> None:
        how: Any = hypothesis.settings(
            database=database,
            phases=phases,
            deadline=None,
            max_examples=_EXAMPLES_MAX,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=checks,
            verbosity=hypothesis.Verbosity.quiet,
        )
        # It is skipped where pytest was told a seed for Hypothesis: nothing is taken from databases then.
        with suppress(_Found, unittest.SkipTest, HypothesisException):
            how(seeded(given(strategy)(example)))()

    try:
        # Hypothesis cannot be handed an example that fails. But a strategy that can draw nothing else finds it, and
        # puts it into the database, from where one that draws anything of the same shape takes it up.
        work(_known(tape), phase.generate)
        work(_anything(tape), phase.reuse, phase.shrink)
    except _Enough as enough:
        if enough.__cause__ is not None:
            raise enough.__cause__ from None


class _Examples:
    """Judges what Hypothesis draws."""

    def __init__(self, fails: Callable[[Lists], bool]) -> None:
        self._fails = fails
        self._count = 0

    def judge(self, lists: list[Pairs]) -> None:
        """Raise where the schedule fails; the first is the one that is known to."""
        self._count += 1
        if self._count > _EXAMPLES_MAX:
            raise _Enough
        try:
            failed = self._count == 1 or self._fails(Lists(lists))
        except BaseException as error:  # Hypothesis would take it for a failure of another kind
            raise _Enough from error
        if failed:
            raise _Found


def _known(tape: Sequence[Decision]) -> SearchStrategy[list[Pairs]]:
    import hypothesis.strategies as st  # noqa: PLC0415 - an extra

    @st.composite
    def known(draw: DrawFn) -> list[Pairs]:
        lists = _draw(lambda _, number: draw(st.integers(number, number)), tape)
        draw(st.integers(0, 0))  # one too many: what fits exactly Hypothesis would take for shrunk already
        return lists

    return known()


def _anything(tape: Sequence[Decision]) -> SearchStrategy[list[Pairs]]:
    import hypothesis.strategies as st  # noqa: PLC0415 - an extra

    @st.composite
    def anything(draw: DrawFn) -> list[Pairs]:
        return _draw(lambda most, _: draw(st.integers(0, most)), tape)

    return anything()


def _draw(draw: Draw, tape: Sequence[Decision]) -> list[Pairs]:
    """Draw the lists of a schedule that decides about as often, and among as many, as that of the tape."""
    lists: list[Pairs] = []
    for kind in _KINDS:
        made = [(width, taken) for one, width, taken in tape if one == kind]
        known = list(_pairs(taken for _, taken in made))
        widest = max((width for width, _ in made), default=0)
        drawn: Pairs = []
        while widest and draw(1, int(len(drawn) < len(known))):
            between, taken = known[len(drawn)] if len(drawn) < len(known) else (0, 0)
            drawn.append((draw(len(made), between), draw(widest - 2, taken)))
        lists.append(drawn)
    return lists


def _pairs(picks: Iterable[int]) -> Iterator[Pair]:
    between = 0
    for taken in picks:
        if taken:
            yield between, taken - 1
        between = 0 if taken else between + 1


def _places(pairs: Iterable[Pair]) -> Iterator[Pair]:
    at = -1
    for between, taken in pairs:
        at += between + 1
        yield at, taken + 1
