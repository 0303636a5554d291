"""References as messages: what an account that records writes down, and the fold over it.

Messages are values: they can be printed, replayed and audited. Owns no state.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from changeover.core.snapshots import Balance

RefId = int | str
"""A number that the account gave out, or the caller's own request id."""


STREAMS = frozenset({"stream"})
"""The kinds of use that a drain may give more, or less, time than all others."""

USES = frozenset({"request", "fallback", "shadow", "lease", "warmup"})
"""All the other kinds; an account is asked for no kind that is in neither."""


def name_of(ref: RefId) -> str:
    """Return how people read a reference: its number as `#7`, or the caller's own id."""
    return f"#{ref}" if isinstance(ref, int) else ref


@attrs.frozen
class Acquire:
    """Somebody took a reference."""

    ref: RefId
    kind: str
    """What the use is: `request`, `lease`, `stream`, ..."""
    at_s: float = 0.0
    """By the engine's clock, in seconds."""
    where: str | None = None
    """`file:line` that took it; None where nobody looked."""
    thread: str | None = None
    """The thread that took it."""

    def __str__(self) -> str:
        """Return one line of a log."""
        return _line(self.at_s, "acquired", f"{self.kind} {name_of(self.ref)}", self.where, self.thread)


@attrs.frozen
class Release:
    """Somebody gave a reference back, or tried to."""

    ref: RefId
    at_s: float = 0.0
    """By the engine's clock, in seconds."""
    thread: str | None = None
    """The thread that gave it back."""
    was_held: bool = True
    """False: an over-release, which raised `ReferenceNotHeld`."""

    def __str__(self) -> str:
        """Return one line of a log."""
        return _line(self.at_s, "released" if self.was_held else "not held", name_of(self.ref), None, self.thread)


Message = Acquire | Release


def fold(messages: Iterable[Message]) -> tuple[Balance, dict[RefId, str]]:
    """Return the balance of a message log and the kind of every reference that is still held.

    A release of what is not held changes nothing but its count, and so does a second acquire of the same id.
    """
    held: dict[RefId, str] = {}
    acquired = released = over = 0
    for message in messages:
        match message:
            case Acquire(ref, kind) if ref not in held:
                held[ref] = kind
                acquired += 1
            case Release(ref) if ref in held:
                del held[ref]
                released += 1
            case Release():
                over += 1
            case _:
                pass
    return Balance(acquired, released, len(held), over), held


def _line(at_s: float, verb: str, what: str, where: str | None, thread: str | None) -> str:
    place = f"  at {where}" if where else ""
    return f"{at_s:14.6f} s  {verb:8}  {what}{place}" + (f"  in {thread}" if thread else "")
