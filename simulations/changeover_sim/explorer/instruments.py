"""What stands where Trio keeps the instruments of a run: a plain dict of hooks, since it is asked four times a step.

Owns the hooks of one run: the explorer's, and those that the program adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio


class Instruments(dict[str, Callable[..., None]]):
    """Hooks by name, as Trio's loop looks them up; a plain dict, because it looks four times in each step."""

    def call(self, hook: str, *args: Any) -> None:
        """Call the hook; it must not raise."""
        self[hook](*args)

    def add_instrument(self, instrument: trio.abc.Instrument) -> None:
        """Add an instrument of the program's, as `trio.lowlevel.add_instrument` does."""
        for hook in _HOOKS:
            own = getattr(instrument, hook, None)
            if own is not None and getattr(own, "__func__", None) is not getattr(trio.abc.Instrument, hook):
                self[hook] = _Both(self.get(hook), instrument, own)

    def remove_instrument(self, instrument: trio.abc.Instrument) -> None:
        """Take an instrument away again; raises KeyError where it was never added."""
        if not any(isinstance(call, _Both) and call.has(instrument) for call in self.values()):
            raise KeyError(instrument)
        for hook, call in list(self.items()):
            left = call.without(instrument) if isinstance(call, _Both) else call
            if left is None:
                del self[hook]
            else:
                self[hook] = left


class _Both:
    """A hook of several instruments: what was there before, then one more."""

    def __init__(self, before: Callable[..., None] | None, instrument: object, own: Callable[..., None]) -> None:
        self._before = before
        self._instrument = instrument
        self._own = own

    def __call__(self, *args: Any) -> None:
        """Call all of them."""
        if self._before is not None:
            self._before(*args)
        self._own(*args)

    def has(self, instrument: object) -> bool:
        """Return whether it is one of them."""
        deeper = isinstance(self._before, _Both) and self._before.has(instrument)
        return self._instrument is instrument or deeper

    def without(self, instrument: object) -> Callable[..., None] | None:
        """Return the others; None where there are none."""
        before = self._before.without(instrument) if isinstance(self._before, _Both) else self._before
        return before if self._instrument is instrument else _Both(before, self._instrument, self._own)


_HOOKS = tuple(name for name in vars(trio.abc.Instrument) if not name.startswith("_"))
