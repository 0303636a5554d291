"""Marks on rare branches for a simulator: which of them were reached, and where something legal but rare is done.

It owns one switch, off but under a simulator, and who is told. A mark costs an attribute read and a branch, and none
stands on the way of a request; `tests/bench/bench_sites.py` shows the price. It changes nothing while it is off.
"""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Who is told of marks, and decides what is done at those that may do something rare."""

    def reach(self, name: str) -> None:
        """Hear that a rare branch was reached."""
        ...

    def fires(self, name: str) -> bool:
        """Return whether the rare thing is done this time."""
        ...


ON: bool = False
"""Whether anybody listens; every mark looks here first: `if sites.ON:`."""

_sink: Sink | None = None


def install(sink: Sink | None) -> None:
    """Have `sink` told from now on; None: nobody, as in production."""
    global ON, _sink
    ON, _sink = sink is not None, sink  # pyright: ignore[reportConstantRedefinition] - a constant but for simulators


def sometimes(name: str) -> None:
    """Tell that a branch was reached that a good simulation reaches sometimes."""
    if _sink is not None:
        _sink.reach(name)


def buggify(name: str) -> bool:
    """Return whether to do here what is legal and rare; never, unless a simulator says so."""
    return _sink is not None and _sink.fires(name)
