"""What the faces outside Trio have in common: an engine that sits in another thread, and the calls that need its loop.

It shares every part with that engine, so that `lease` and all that only looks are the very same calls, in the
caller's own thread. What changes something takes one short, blocking hop. It owns nothing and spawns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import attrs

from changeover.errors import ChangeoverError, EngineFailed
from changeover.runtime.calls import Engine
from changeover.runtime.mailbox import twin
from changeover.runtime.ordering import Ordering
from changeover.runtime.seat import Seat, closed
from changeover.runtime.stay import World

T = TypeVar("T")


class Seated(Ordering):
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

    def _on_loop(self, call: Callable[[], T]) -> T:
        """Make a call on the engine's loop, and wait for that turn of it."""
        self._check_open()
        return self._seat.call(partial(super()._on_loop, call))

    def _over(self) -> ChangeoverError:
        """Return the error for a call that was on its way when the engine ended: its crash, where that was the end."""
        refusal = self._router.refusal
        return twin(refusal) if isinstance(refusal, EngineFailed) else closed()
