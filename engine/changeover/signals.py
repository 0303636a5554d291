"""SIGTERM as Ctrl-C: what an orchestrator sends leaves the blocks, and so the engine drains before the process ends.

It owns the handler of SIGTERM for its block and gives the old one back. It spawns nothing, and touches no other signal.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from changeover.errors import WrongLoop


@contextmanager
def drain_on_sigterm() -> Generator[None, None, None]:
    """Let SIGTERM do for the block what Ctrl-C does: cancel `asyncio.run`, interrupt `trio.run` or the main thread.

    It ends, as with Ctrl-C, in `KeyboardInterrupt`. Raises `WrongLoop` outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise WrongLoop("signals are handled by the main thread: enter drain_on_sigterm() there")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        # None: a handler that was not installed from Python, and that Python cannot give back
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Call whoever handles Ctrl-C now: asyncio and Trio have handlers of their own while they run."""
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)
    else:  # a process in the background may ignore Ctrl-C, and must be drained all the same
        raise KeyboardInterrupt
