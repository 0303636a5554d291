"""What becomes of open engines in a forked process: each is told that it is a copy without threads and loops.

It owns a weak set of what is open, and spawns nothing.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What must know that it was forked."""

    def orphan(self) -> None:
        """Refuse all work from now on; called in the child, where no other thread exists."""
        ...


_open: WeakSet[Forkable] = WeakSet()


def tell(it: Forkable) -> None:
    """Tell it in every child that is forked from now on, for as long as it lives."""
    _open.add(it)


def _in_child() -> None:
    for it in list(_open):
        it.orphan()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
