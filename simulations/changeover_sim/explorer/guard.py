"""What cannot be controlled, real sockets, threads and processes, is seen here and refused; files are noted.

Owns the process-wide audit hook, which is installed once and does nothing outside an exploration, and the stand-ins
for `time.sleep` and `Thread.start` while one goes on: older Pythons tell their audit hooks nothing of those.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from changeover_sim.explorer.errors import Uncontrolled

_REFUSED = {
    "socket.connect": "opens a real connection; use trio.testing.memory_stream_pair()",
    "socket.bind": "binds a real socket; use trio.testing.memory_stream_pair()",
    "socket.sendto": "sends over a real socket; use trio.testing.memory_stream_pair()",
    "socket.sendmsg": "sends over a real socket; use trio.testing.memory_stream_pair()",
    "socket.getaddrinfo": "asks a real name server",
    "socket.gethostbyname": "asks a real name server",
    "socket.gethostbyaddr": "asks a real name server",
    "subprocess.Popen": "starts a real process",
    "os.posix_spawn": "starts a real process",
    "os.system": "starts a real process",
    "os.fork": "forks",
    "os.forkpty": "forks",
    "os.exec": "becomes another program",
    "os.spawn": "starts a real process",
    "_thread.start_new_thread": "starts a real thread; use trio.to_thread.run_sync, whose threads are controlled",
}
"""Audit events that end an exploration, and what to say of them."""

_NOTED = {
    "os.mkdir": "makes the folder",
    "os.rmdir": "removes the folder",
    "os.remove": "removes the file",
    "os.rename": "renames the file",
    "os.truncate": "cuts the file",
    "sqlite3.connect": "opens the database",
}
"""Audit events of what outlives a schedule, and what to say of them."""

_WRITING = frozenset("wax+")

_local = threading.local()
_hooked = False


class Guard:
    """Watches one thread for the use of something real, from `watching` to its end."""

    def __init__(self) -> None:
        self.refused: str | None = None
        """The first thing that cannot be controlled."""
        self.notes: dict[str, None] = {}
        """What was seen that outlives a schedule, in order."""

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at an audit event; raises `Uncontrolled` for what is refused."""
        if _is_paused():
            return
        if event == "open":
            path, mode, flags = arguments
            writes = _WRITING & set(mode) if mode else flags & (os.O_WRONLY | os.O_RDWR)
            if isinstance(path, str | bytes) and writes:
                self.notes[f"the program writes the file {_text(path)}, whose content outlives the schedule"] = None
        elif event in _NOTED:
            self.notes[f"the program {_NOTED[event]} {_text(arguments[0])}, which outlives the schedule"] = None
        elif event in _REFUSED:
            self.refuse(f"the program {_REFUSED[event]} ({event})")

    def refuse(self, sentence: str) -> None:
        """Remember what cannot be controlled, and raise `Uncontrolled` where it is done."""
        self.refused = self.refused or sentence
        raise Uncontrolled(sentence)

    @contextmanager
    def pause(self) -> Generator[None, None, None]:
        """See nothing for the length of the block: it is the explorer itself that acts."""
        before, _local.is_paused = _is_paused(), True  # in this thread only: the one that is started is watched at once
        try:
            yield
        finally:
            _local.is_paused = before

    def over(self, work: Callable[[], None]) -> None:
        """Watch this worker thread while it does its work."""
        _local.guard, _local.is_worker = self, True
        try:
            work()
        finally:
            _local.guard = None

    @contextmanager
    def watching(self) -> Generator[None, None, None]:
        """Watch this thread for the length of the block."""
        global _hooked  # noqa: PLW0603 - an audit hook cannot be taken back: one for the process, and only once
        if not _hooked:
            sys.addaudithook(_audit)
            _hooked = True
        before, _local.guard = getattr(_local, "guard", None), self
        sleep, start = time.sleep, threading.Thread.start
        time.sleep = _sleep_with(sleep)  # type: ignore[assignment]
        threading.Thread.start = _start_with(start)  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            _local.guard = before
            time.sleep = sleep
            threading.Thread.start = start  # type: ignore[method-assign]


def _is_paused() -> bool:
    return getattr(_local, "is_paused", False)


def current_guard() -> Guard | None:
    """Return the guard of this thread, if it is exploring."""
    return getattr(_local, "guard", None)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    guard = getattr(_local, "guard", None)
    if guard is not None:
        guard.see(event, arguments)


def _sleep_with(sleep: Callable[[float], None]) -> Callable[[float], None]:
    """Return a `time.sleep` that refuses; Python tells its audit hooks nothing of sleeping."""

    def refusing(seconds: float) -> None:
        guard = getattr(_local, "guard", None)
        if guard is not None and getattr(_local, "is_worker", False):
            guard.notes["a worker thread sleeps for real; it stops the whole schedule for as long"] = None
        elif guard is not None and seconds > 0:
            guard.refuse("time.sleep() blocks the run loop for real; await trio.sleep(), which takes no real time here")
        sleep(seconds)

    return refusing


def _start_with(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """Return a `Thread.start` that refuses; Python before 3.12 tells its audit hooks nothing of threads."""

    def refusing(thread: threading.Thread) -> None:
        guard = getattr(_local, "guard", None)
        if guard is not None and not _is_paused():
            guard.refuse(
                f"the program starts a real thread ({thread.name}); use trio.to_thread.run_sync, whose threads are "
                "controlled"
            )
        start(thread)

    return refusing


def _text(path: object) -> str:
    return path.decode(errors="replace") if isinstance(path, bytes) else str(path)
