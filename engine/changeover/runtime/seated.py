"""What the faces outside Trio have in common: an engine that sits in another thread, and the calls that need its loop.

It shares every part with that engine, so that `lease` and all that only looks are the very same calls, in the
caller's own thread. What changes something takes one short, blocking hop. It owns nothing and spawns nothing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, overload

import attrs

from changeover.core.shift import Shift
from changeover.core.values import Drain, Timeouts, VersionSpec
from changeover.errors import ChangeoverError, EngineFailed
from changeover.runtime.base import EngineBase
from changeover.runtime.calls import Engine
from changeover.runtime.mailbox import twin
from changeover.runtime.seat import Seat, closed
from changeover.runtime.stay import World
from changeover.runtime.swaps import OnBusy


class Seated(EngineBase):
    """The synchronous half of a face."""

    def __init__(self, seat: Seat, blocks: World) -> None:
        """Be a face of the engine that sits there; `blocks` is where `async with` takes place."""
        engine = seat.engine
        assert engine is not None, "it is open"
        # The very same parts, and not copies: nothing of them is ever replaced.
        vars(self).update(vars(engine))
        self._engine: Engine = engine
        self._seat = seat
        self._until_ready_there = self._lease_world.until_ready
        self._lease_world = attrs.evolve(self._lease_world, until_ready=self._until_ready, blocks=blocks)

    @overload
    def register(self, model: VersionSpec, /) -> VersionSpec: ...

    @overload
    def register(
        self, model: str, version: str, source: str | Path, /, *, loader: str, **fields: Any
    ) -> VersionSpec: ...

    def register(
        self,
        model: VersionSpec | str,
        version: str | None = None,
        source: str | Path | None = None,
        /,
        **fields: Any,
    ) -> VersionSpec:
        """Make a version known, by its spec or by the spec's fields; loads nothing.

        Raises `AlreadyRegistered`, `InvalidValue`, `LoaderNotInstalled` and `CodeNotAllowed`.
        """
        self._check_open()
        register: Any = self._engine.register  # its overloads leave out what it says of a call that is neither
        spec: VersionSpec = self._seat.call(partial(register, *_given(model, version, source), **fields))
        return spec

    def start_swap(
        self,
        model: str,
        to: str,
        *,
        from_: str | None = None,
        plan: Shift | None = None,
        drain: Drain | None = None,
        timeouts: Timeouts | None = None,
        on_busy: OnBusy = "refuse",
    ) -> str:
        """Begin a swap and return its id at once; `swap_status` and `events` tell how it goes.

        Where another swap of the model has not reached its pivot, the order is refused, waits for its turn ("queue"),
        or turns that one and all that wait round and comes next ("supersede"): the newest order wins. `wait_for_swap`
        waits for its end. Raises `ModelNotRegistered`, `SwapNotAllowed` and `SwapInProgress`, and then nothing has
        begun.
        """
        self._check_open()
        return self._seat.call(
            partial(
                self._engine.start_swap, model, to,
                from_=from_, plan=plan, drain=drain, timeouts=timeouts, on_busy=on_busy,
            )
        )  # fmt: skip

    def pause(self, swap_id: str) -> None:
        """Let a ramp stand still where it is; its guard goes on looking.

        Raises `SwapNotFound`, and `SwapNotAllowed` where the swap is past its pivot, turned round or ended.
        """
        self._check_open()
        self._seat.call(partial(self._engine.pause, swap_id))

    def resume(self, swap_id: str) -> None:
        """Let a ramp go on; raises as `pause`."""
        self._check_open()
        self._seat.call(partial(self._engine.resume, swap_id))

    def promote(self, swap_id: str) -> None:
        """Give the new version all of the traffic now, and leave out the rest of its ramp; raises as `pause`."""
        self._check_open()
        self._seat.call(partial(self._engine.promote, swap_id))

    def abort(self, swap_id: str) -> None:
        """Turn a swap round before its pivot, without waiting; it ends as CANCELLED.

        Raises `SwapNotFound`, and `SwapNotAllowed` behind the pivot, where `rollback` is the way back.
        """
        self._check_open()
        self._seat.call(partial(self._engine.abort, swap_id))

    def _over(self) -> ChangeoverError:
        """Return the error for a call that was on its way when the engine ended: its crash, where that was the end."""
        refusal = self._router.refusal
        return twin(refusal) if isinstance(refusal, EngineFailed) else closed()


def _given(*arguments: object) -> tuple[object, ...]:
    """Return the arguments that were given."""
    return tuple(argument for argument in arguments if argument is not None)
