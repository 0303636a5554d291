"""What a program says to the explorer: `choose`, `cancel_anywhere`, `touch` and `touch_next`.

Owns the list of scopes that may be cancelled in one schedule; the schedule that runs in this thread is found here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NoReturn, TypeVar, cast

import attrs
import trio

from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.errors import Abandoned, BadPolicy, NotExploring
from changeover_sim.explorer.queue import RunQueue
from changeover_sim.explorer.tape import CANCEL, VALUE, Chooser
from changeover_sim.explorer.watching import Watching

T = TypeVar("T")

_here = threading.local()


@attrs.define(eq=False)
class Offer:
    """A scope that the explorer may cancel, and at how many moments it was asked so far."""

    scope: trio.CancelScope
    number: int
    """Which of the schedule's scopes it is, in the order in which they were offered."""
    moments: int = 0


class Choices:
    """The decisions of one schedule that are not about order."""

    def __init__(self, chooser: Chooser) -> None:
        self.queue: RunQueue
        self._chooser = chooser
        self._offers: list[Offer] = []
        self._offered = 0

    def value(self, width: int) -> int:
        """Return one of `range(width)`, and write it on the tape."""
        if width == 1:
            return 0
        taken = self._decide(partial(self._chooser.value, width))
        if taken.__class__ is not int or not 0 <= taken < width:
            self._fail(BadPolicy(f"the policy chose {taken!r} of {width} options"))
        self.queue.tape.append((VALUE, width, taken))
        return taken

    def offer(self, scope: trio.CancelScope) -> None:
        """Take a scope that may be cancelled, now or at any later moment."""
        offer = Offer(scope, self._offered)
        self._offered += 1
        self._offers.append(offer)
        self.queue.after_step = self.after_step
        self._ask(offer)

    def after_step(self) -> None:
        """Ask for each scope inside of which something has moved whether it is cancelled now."""
        if not self._offers:
            return
        self._offers = [offer for offer in self._offers if not inside_trio.is_over(offer.scope)]
        moved = sorted(
            (step for step in self.queue.fresh() if isinstance(step, inside_trio.Task)), key=inside_trio.spawn_order
        )
        if self.queue.last is not None:
            moved.append(self.queue.last)
            self.queue.last = None
        for offer in self._offers:
            if any(inside_trio.is_inside(task, offer.scope) for task in moved):
                self._ask(offer)

    def _ask(self, offer: Offer) -> None:
        taken = bool(self._decide(partial(self._chooser.cancel, offer.number, offer.moments)))
        self.queue.tape.append((CANCEL, 2, int(taken)))
        offer.moments += 1
        if taken:
            offer.scope.cancel()

    def _decide(self, ask: Callable[[], T]) -> T:
        """Ask the policy; what it raises is no error of the program that happens to be running."""
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - raised again by the schedule
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        self.queue.fail(error)
        raise Abandoned from error

    def give_up(self) -> None:
        """Cancel nothing any more."""
        self._offers.clear()


def install(choices: Choices | None) -> None:
    """Say which schedule this thread runs."""
    _here.choices = choices


def _current(wanted_by: str) -> Choices:
    choices: Choices | None = getattr(_here, "choices", None)
    if choices is None:
        raise NotExploring(f"{wanted_by} decides nothing outside explore(); run the program by explore or replay")
    return choices


def choose(options: Sequence[T]) -> T:
    """Return one of `options`, as the schedule has it; every one of them is tried sooner or later.

    Raises `NotExploring` outside an exploration, and ValueError where there is nothing to choose from.
    """
    if not options:
        raise ValueError("choose() needs at least one option")
    return options[_current("choose()").value(len(options))]


def cancel_anywhere(scope: trio.CancelScope) -> None:
    """Let the explorer decide where `scope` is cancelled: now, at any checkpoint inside it, or never.

    Call it inside the scope, before the first checkpoint. It is asked now, whenever a task inside the scope has parked
    at a checkpoint, and whenever one was woken and has not run yet: from there on the cancellation is delivered by
    Trio as ever, at the next checkpoint that is not shielded. While all inside are parked and only others move, it is
    not asked: for a cancellation that comes then, have a task cancel behind `choose(range(n))` checkpoints of its own.
    With `Exhaustive(delays=0)` each of these moments is tried once, in the order in which Trio would run the program
    anyway. Raises TypeError for what is no scope, and
    `NotExploring` outside an exploration.
    """
    if not isinstance(cast("object", scope), trio.CancelScope):
        raise TypeError(f"cancel_anywhere() needs a trio.CancelScope, not {scope!r}")
    _current("cancel_anywhere()").offer(scope)


def touch(resource: Hashable) -> None:
    """Say that the work of this task up to its next checkpoint uses `resource`; outside an exploration it does nothing.

    Policies that look at conflicts use it (POS, SURW, and a search with sleep sets, which takes each task at its word);
    others do not. A resource is known by its value, which must be the same in every schedule: a name, say. An object
    that is equal to itself alone stands for all of its type. Raises TypeError for what is not hashable.
    """
    known, watching = _known(resource), _watching()
    if watching is not None:
        watching.touch(trio.lowlevel.current_task(), known)


def touch_next(resource: Hashable) -> None:
    """Say that the work of this task behind its next checkpoint, up to the one after that, will use `resource`.

    As `touch`, said one step ahead: policies that weigh what could come next can only use what is said by then. Raises
    TypeError for what is not hashable.
    """
    known, watching = _known(resource), _watching()
    if watching is not None:
        watching.touch_next(trio.lowlevel.current_task(), known)


def _known(resource: Hashable) -> Hashable:
    """Return what a resource is known by in every schedule, each of which makes its objects anew."""
    hash(resource)
    if isinstance(resource, tuple):
        return tuple(_known(part) for part in cast("tuple[Hashable, ...]", resource))
    return type(resource) if type(resource).__hash__ is object.__hash__ else resource


def _watching() -> Watching | None:
    choices: Choices | None = getattr(_here, "choices", None)
    return choices.queue.watching if choices is not None and trio.lowlevel.in_trio_task() else None
