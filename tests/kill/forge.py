"""Processes to kill, forked from one that has imported everything: a life begins in milliseconds, not in half a second.

A `Forge` owns the process that forks and every life that is not ended; leaving its block kills them all. This file is
also that process's program. A life tells lines of JSON through a pipe of its own.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, Self

from tests.house.tree import ROOT
from tests.support.threads import PATIENCE_S

MESSAGE_BYTES_MAX = 65_536


class Forge:
    """Starts lives."""

    def __enter__(self) -> Self:
        self._door, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-W", "error", "-m", "tests.kill.forge", str(theirs.fileno())]
            env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # who has threads cannot be forked safely
            self._process = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()])
        self._door.settimeout(PATIENCE_S)
        self._lives: list[Life] = []
        return self

    def __exit__(self, *exc: object) -> None:
        for life in self._lives:
            if life.status is None:
                life.ends(killed=True)
        self._door.close()
        self._process.wait(PATIENCE_S)

    def begin(self, life: str, *arguments: Any) -> Life:
        """Begin a life: a function of `lives.py`, with these arguments."""
        ours, theirs = os.pipe()
        order = json.dumps([life, arguments]).encode()
        socket.send_fds(self._door, [order], [theirs])
        os.close(theirs)
        began = Life(self, int(self._door.recv(MESSAGE_BYTES_MAX)), ours)
        self._lives.append(began)
        return began

    def wait_for(self, pid: int) -> int:
        """Return the exit status of a life that has ended; -9 where it was killed."""
        self._door.send(json.dumps(pid).encode())
        return os.waitstatus_to_exitcode(int(self._door.recv(MESSAGE_BYTES_MAX)))


class Life:
    """One process."""

    def __init__(self, forge: Forge, pid: int, pipe: int) -> None:
        self._forge = forge
        self._pid = pid
        self._pipe = pipe
        self._unread = b""
        self.told: list[dict[str, Any]] = []
        """All that it has told and that was heard."""
        self.status: int | None = None
        """Its exit status, once it was waited for."""

    def hears(self) -> dict[str, Any] | None:
        """Return the next thing that it tells; None where it has ended."""
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._pipe], [], [], PATIENCE_S)
            assert ready, f"it says nothing any more: {self.told[-5:]}"
            read = os.read(self._pipe, MESSAGE_BYTES_MAX)
            if not read:
                return None
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        self.told.append(json.loads(line))
        return self.told[-1]

    def until(self, name: str) -> Any:
        """Return the next fact of this name that it tells."""
        while (fact := self.hears()) is not None:
            if name in fact:
                return fact[name]
        raise AssertionError(f"it ended without a word of {name}: {self.told[-5:]}")

    def lives_for(self, seconds: float) -> None:
        """Let it live for so long, in real time: the moment of its death is the chance that a test is about."""
        select.select([], [], [], seconds)
        os.kill(self._pid, signal.SIGKILL)

    def ends(self, *, killed: bool = False) -> int:
        """Return its exit status once it has ended, and has told everything; kills it first where told."""
        if killed:
            os.kill(self._pid, signal.SIGKILL)
        while self.hears() is not None:
            pass
        os.close(self._pipe)
        self.status = self._forge.wait_for(self._pid)
        return self.status

    def facts(self, name: str) -> list[Any]:
        """Return all that it has told under this name."""
        return [fact[name] for fact in self.told if name in fact]


# --- the other side -------------------------------------------------------------------------------------------------


def serve(door: socket.socket, lives: dict[str, Callable[..., None]]) -> None:
    """Fork and wait as told, until nobody is there any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(door, MESSAGE_BYTES_MAX, 1)
        if not message:
            return
        order = json.loads(message)
        if isinstance(order, int):
            door.send(str(os.waitpid(order, 0)[1]).encode())
            continue
        pid = os.fork()
        if pid == 0:
            door.close()
            live(lives[order[0]], descriptors[0], order[1])
        os.close(descriptors[0])
        door.send(str(pid).encode())


def live(life: Callable[..., None], out: int, arguments: list[Any]) -> None:
    """Be a life, to its natural end; returns never."""
    status = 1

    def tell(**facts: Any) -> None:
        os.write(out, (json.dumps(facts) + "\n").encode())  # one piece: threads do not break each other's lines

    try:
        life(tell, *arguments)
        status = 0
    except BaseException:  # noqa: BLE001 - whatever ends it, the test has to hear of it
        tell(crashed=traceback.format_exc()[-3000:])
    finally:
        os._exit(status)


if __name__ == "__main__":
    from tests.kill.lives import LIVES
    from tests.kill.storms import storms

    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as there:
        serve(there, {**LIVES, "storms": storms})
