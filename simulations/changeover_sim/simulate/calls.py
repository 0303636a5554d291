"""A call that an actor makes: what was asked, when, and the one way in which it ended.

Owns the record of each call; it decides nothing. Oracles are told of its beginning and its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal

import attrs
import trio

from changeover.errors import ChangeoverError

if TYPE_CHECKING:
    from changeover_sim.simulate.life import Life

Does = Literal["good", "bad", "poison"]
"""What a request does to its model: nothing, make it raise, put it beyond use."""


@attrs.define(eq=False)
class Call:
    """One call of one actor."""

    number: int
    """Counted through the whole run; the id of the request."""
    life: Life
    kind: str
    """`infer`, `infer_many`, `stream`, `lease`, `async lease`, `lease_many`, `reference`, `load`, `swap`, ..."""
    model: str | None = None
    """The model that it is about; None where it is about several, or none."""
    models: tuple[str, ...] = ()
    """All models that it is about."""
    version: str | None = None
    """The version that it names; None: whatever is active."""
    key: str | None = None
    """The session key of a request."""
    does: Does = "good"
    timeout_s: float | None = None
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """What else was asked: the drain, the plan, ..."""
    began_s: float = 0.0
    ended_s: float | None = None
    ends: list[str] = attrs.field(factory=list[str])
    """`returned`, `cancelled` or the name of an error: exactly one in the end."""
    error: ChangeoverError | None = None
    value: Any = None
    """What it returned."""
    held: tuple[str, ...] = ()
    """`model/version` of what a lease, a stream or a reference holds just now."""
    used: list[str] = attrs.field(factory=list[str])
    """`model/version` of what a lease or a stream was given, all of them."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def end(self) -> str | None:
        """How it ended; None while it runs."""
        return self.ends[-1] if self.ends else None

    @property
    def is_request(self) -> bool:
        """Whether it asks a model something."""
        return self.kind in ("infer", "infer_many", "stream")

    def __str__(self) -> str:
        """Return one clause."""
        about = self.model or "+".join(self.models)
        named = f"/{self.version}" if self.version else ""
        key = f" key={self.key}" if self.key else ""
        end = f" -> {self.end} at {self.ended_s:g}" if self.ended_s is not None else ""
        return f"{self.kind} {self.number} of {about}{named}{key} since {self.began_s:g}{end}"


async def make(call: Call, work: Callable[[Call], Awaitable[Any]]) -> Call:
    """Make a call and note how it ended; an error that is none of the engine's own goes through."""
    judge = call.life.run.judge
    call.began_s = trio.current_time()
    judge.began(call)
    try:
        with call.scope:
            call.value = await work(call)
            call.ends.append("returned")
    except ChangeoverError as error:
        call.error = error
        call.ends.append(type(error).__name__)
    if call.scope.cancelled_caught:
        call.ends.append("cancelled")
    call.ended_s = trio.current_time()
    judge.ended(call)
    return call
