"""Waiting for real threads: bounded, so that a test that hangs fails instead.

Owns no state; the bound is never reached where the test passes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

PATIENCE_S = 30.0
SWITCH_S = 1e-5
"""How long a thread of a crowd runs before another one may: short, so that many orders of events are met."""


def patient(event: threading.Event) -> bool:
    """Wait for a thread's event; False where it does not come."""
    return event.wait(PATIENCE_S)


class Crowd:
    """Threads that are started together; `join` raises what the first of them raised."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._switch_s = sys.getswitchinterval()

    def add(self, work: Callable[..., Any], *args: Any) -> None:
        """Prepare a thread."""

        def run() -> None:
            try:
                work(*args)
            except BaseException as error:  # noqa: BLE001 - it is raised in `join`
                self._errors.append(error)

        self._threads.append(threading.Thread(target=run, daemon=True))

    def start(self) -> None:
        """Start them."""
        sys.setswitchinterval(SWITCH_S)
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Return when all have ended."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a thread hangs"
        sys.setswitchinterval(self._switch_s)
        if self._errors:
            raise self._errors[0]
