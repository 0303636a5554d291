"""One call that is cancelled: at any checkpoint of its own, or between any two steps of those who work for it.

A `Watch` drives the call itself, trap by trap, and so knows where it was parked and where it was told to go away; a
`Log` keeps that over all schedules of a search. It spawns nothing.
"""

from __future__ import annotations

import inspect
import math
import types
from collections import Counter
from collections.abc import Coroutine, Generator, Iterator
from contextlib import AbstractAsyncContextManager
from types import FrameType, TracebackType
from typing import Any, Literal, TypeVar, get_args

import attrs
import outcome
import trio

from changeover_sim import cancel_anywhere, choose

T = TypeVar("T")

Pause = Literal["never", "shielded", "yields", "waits"]
"""How a call pauses at most: not at all, where nobody can cancel it, to let others go first, or until it is woken."""
PAUSES: tuple[Pause, ...] = get_args(Pause)
Place = tuple[str, ...]
"""Where a call stands: the engine's functions and lines, the outermost first."""
Checkpoint = tuple[int, Place]
"""Which of the checkpoints of a call, counted from 1, and where that is."""
When = Literal["inside", "beside"] | int
"""When a caller goes away: at any checkpoint of the call, between any two steps of others, or behind so many steps."""
LOOKS_S = 0.25
"""So long nobody looks whether to cancel while everybody waits for time to pass."""


@attrs.define(eq=False)
class Log:
    """What was seen of one call in all schedules of a search."""

    name: str
    """The call, as `awaitables` has it."""
    pause: Pause = "never"
    """How it paused before it was cancelled."""
    parked: dict[Checkpoint, None] = attrs.field(factory=dict)
    """Where it was parked before it was cancelled, and not shielded."""
    cancelled: dict[Checkpoint, None] = attrs.field(factory=dict)
    """Where the cancellation was delivered."""
    ends: Counter[str] = attrs.field(factory=Counter)
    """How it ended, and how often."""

    @property
    def missed(self) -> list[Checkpoint]:
        """The checkpoints at which it was never cancelled."""
        return [one for one in self.parked if one not in self.cancelled]


class Watch:
    """A caller of one call, who goes away at a moment that the explorer chooses."""

    scope: trio.CancelScope
    """Around everything that the caller does."""

    def __init__(self, log: Log, when: When) -> None:
        """Have made no call yet."""
        self._log = log
        self._when = when
        self._began = trio.Event()
        self._is_over = False
        self._parked = 0
        """How often it was, before it was cancelled."""

    async def __call__(self, call: Coroutine[Any, Any, T]) -> T:
        """Make the call that the scene is about; from here on it may be cancelled."""
        assert call.__qualname__.rpartition(".")[2] == self._log.name.rpartition(".")[2], call
        self._began.set()
        if self._when == "inside":
            cancel_anywhere(self.scope)
        try:
            returned: T = await self._driven(call)
            return returned
        finally:
            self._is_over = True

    async def cancel_beside(self) -> None:
        """Cancel the caller when all others have made some steps, or when some time has passed that all waited for."""
        await self._began.wait()
        rounds = 0
        while not self._is_over and self._when != "inside":
            if choose([False, True]) if self._when == "beside" else rounds == self._when:
                self.scope.cancel()
                return
            rounds += 1
            if trio.lowlevel.current_statistics().tasks_runnable:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(LOOKS_S)

    @types.coroutine
    def _driven(self, call: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Do for a call what `await` does, and write down where it is parked."""
        resume, answer = call.send, None
        while True:
            try:
                trap = resume(answer)
            except StopIteration as end:
                return end.value
            place, shielded = place_of(call), self._is_shielded()
            if not self.scope.cancel_called:
                self._note(place, "shielded" if shielded else _pause(trap))
            try:
                answer = yield trap
                resume = call.send
            except BaseException as error:  # noqa: BLE001 - it is the call's
                answer, resume = error, call.throw
            was_told = isinstance(answer, outcome.Error) and isinstance(answer.error, trio.Cancelled)
            if was_told and self.scope.cancel_called and not shielded:
                self._log.cancelled[self._parked, place] = None

    def _note(self, place: Place, pause: Pause) -> None:
        log = self._log
        log.pause = max(log.pause, pause, key=PAUSES.index)
        if pause != "shielded":
            self._parked += 1
            log.parked[self._parked, place] = None

    def _is_shielded(self) -> bool:
        """Return whether a cancellation of the caller does not get as far as where this task stands."""
        was_told = trio.current_effective_deadline() == -math.inf
        if self.scope.cancel_called:
            return not was_told
        if was_told:  # by a scope of the call's own, whose time is up
            return True
        before, self.scope.deadline = self.scope.deadline, -math.inf
        try:
            return trio.current_effective_deadline() != -math.inf
        finally:
            self.scope.deadline = before


@attrs.define
class Block:
    """An async block of which one end is watched: `"__aenter__"` or `"__aexit__"`."""

    manager: AbstractAsyncContextManager[Any]
    here: Watch
    end: Literal["__aenter__", "__aexit__"]

    async def __aenter__(self) -> Any:
        call: Any = self.manager.__aenter__()
        return await (self.here(call) if self.end == "__aenter__" else call)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        call: Any = self.manager.__aexit__(kind, error, trace)
        left: bool | None = await (self.here(call) if self.end == "__aexit__" else call)
        return left


def _pause(trap: Any) -> Pause:
    """Return what a step ends with, by Trio's traps: to be woken by somebody, or just not to be the next."""
    return "waits" if hasattr(trap, "abort_func") else "yields"


def place_of(call: Any) -> Place:
    """Return where in the engine a call that is parked stands."""
    return tuple(
        f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        for frame in _frames(call)
        if str(frame.f_globals.get("__name__", "")).startswith("changeover.")
    )


def _frames(call: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and of all that it awaits."""
    frame: FrameType | None = None
    while call is not None:
        if inspect.iscoroutine(call):
            frame, call = call.cr_frame, call.cr_await
        elif inspect.isgenerator(call):
            frame, call = call.gi_frame, call.gi_yieldfrom
        elif inspect.isasyncgen(call):
            frame, call = call.ag_frame, call.ag_await
        elif frame is not None and type(call).__name__.startswith("async_generator_"):
            call = getattr(frame.f_locals.get("self"), "gen", None)  # a step of the generator behind a block
            continue
        else:
            return
        if frame is not None:
            yield frame
