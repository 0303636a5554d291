"""A real uvicorn in a process of its own, processes of clients, and gates that hold requests in the middle.

Who opens one of them with `with` closes it: what is left of a process is killed. Every wait is bounded, and returns
when what it waits for has happened.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import attrs
import httpx

from tests.house.tree import ROOT

PATIENCE_S = 30.0
LOOPS = ("asyncio", "uvloop")
RUNNING = "Uvicorn running on http://127.0.0.1:"
ALARMS = ("Traceback", "Warning", "ERROR", "Task exception", "never retrieved", "Exception ignored")
"""None of these may be in what a server says."""


class Process:
    """A Python module that runs, and the lines that it has said so far."""

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", *arguments],
            cwd=cwd,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._has_ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left of it."""
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def line(self, text: str) -> str:
        """Return the first line that has `text` in it, once it is there."""
        with self._news:
            assert self._news.wait_for(lambda: self._has_ended or self._find(text), PATIENCE_S), self.output
            found = self._find(text)
        assert found, f"it ended without {text!r}:\n{self.output}"
        return found[0]

    def _find(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    @property
    def output(self) -> str:
        """All that it has said."""
        return "".join(self.lines)

    def end_input(self) -> None:
        """Let it read the end of its input, unless it has ended already."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()


class Server(Process):
    """uvicorn with one worker on a free port, and a client of it."""

    def __init__(
        self, witness: Path, *options: str, app: str = "tests.http.app:app", cwd: Path = ROOT, **environment: str
    ) -> None:
        arguments = ("uvicorn", app, "--port", "0", "--no-access-log", "--lifespan", "on", *options)
        super().__init__(*arguments, cwd=cwd, WITNESS=str(witness), **environment)
        self.witness = witness
        self.port = 0
        self.answered = 0
        """How many answers the client got."""
        self.client = httpx.Client(timeout=PATIENCE_S, event_hooks={"response": [self._count]})

    def __enter__(self) -> Self:
        """Return once it takes requests."""
        try:
            running = self.line(RUNNING)
        except BaseException:
            self.__exit__()
            raise
        self.port = int(running.partition(RUNNING)[2].split()[0])
        self.client.base_url = httpx.URL(f"http://127.0.0.1:{self.port}")
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client, and kill what is left of the process."""
        self.client.close()
        super().__exit__()

    def post(self, path: str, inputs: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        """Ask, over a connection that is kept alive."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, json=inputs or {"x": -1}, headers=named)

    def get(self, path: str) -> Any:
        """Return the JSON that is found there."""
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def _count(self, _response: httpx.Response) -> None:
        self.answered += 1

    def stop(self) -> Lives:
        """Stop it as an orchestrator does, and return what the witness saw."""
        self.client.close()
        self.terminate()
        return self.stopped()

    def stopped(self) -> Lives:
        """Wait for its end after a SIGTERM; it must have had nothing to complain of. Return what the witness saw."""
        assert self.ended() == -signal.SIGTERM, self.output
        assert [alarm for alarm in ALARMS if alarm in self.output] == [], self.output
        return Lives.of(self.witness)


@attrs.frozen
class Lives:
    """What the witness saw, once the server has ended."""

    open: list[str]
    """Models that were loaded and not closed."""
    wrongs: list[str]
    """Models that were used after they were closed, or closed twice."""
    counts: dict[str, int]
    """How many requests were begun, and answered."""

    @classmethod
    def of(cls, witness: Path) -> Lives:
        """Read the witness's file."""
        lines = [line.split() for line in witness.read_text().splitlines()]
        loaded = [(line[1], line[2]) for line in lines if line[0] == "loaded"]
        closed = [(line[1], line[2]) for line in lines if line[0] == "closed"]
        wrongs = [" ".join(line) for line in lines if line[0] == "misused"]
        wrongs += [f"closed {life} twice" for life in set(closed) if closed.count(life) > 1]
        counts = {line[0]: int(line[1]) for line in lines if line[0] in ("begun", "answered")}
        return cls(sorted(name for name, _ in set(loaded) - set(closed)), wrongs, counts)


class Clients(Process):
    """A process that asks each of its paths without a pause."""

    def __init__(self, server: Server, *paths: str) -> None:
        super().__init__("tests.http.clients", str(server.port), *paths, cwd=ROOT)

    def __enter__(self) -> Self:
        """Return once each of them has its first answer."""
        try:
            self.line("begun")
        except BaseException:
            super().__exit__()
            raise
        return self

    def summary(self) -> dict[str, Any]:
        """Let them end, and return what they saw."""
        self.end_input()
        assert self.ended() == 0, self.output
        summary: dict[str, Any] = json.loads(self.lines[-1])
        return summary


class Gate:
    """Where a model waits in the middle of a request."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._opened: list[int] = []

    def wait_for_a_model(self) -> None:
        """Return when a model waits there."""
        # To open a FIFO for writing is to wait for who reads from it.
        opening = threading.Thread(target=lambda: self._opened.append(os.open(self.path, os.O_WRONLY)), daemon=True)
        opening.start()
        opening.join(PATIENCE_S)
        assert self._opened, "no model came to the gate"

    def open(self) -> None:
        """Let it go on."""
        os.close(self._opened.pop())


@contextmanager
def asked(server: Server, path: str, inputs: dict[str, Any], **headers: str) -> Generator[HTTPConnection, None, None]:
    """Send a request over a connection of its own, which is closed behind the block, whatever has come by then."""
    named = {name.replace("_", "-"): value for name, value in headers.items()} | {"content-type": "application/json"}
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    try:
        connection.request("POST", path, json.dumps(inputs), named)
        yield connection
    finally:
        connection.close()
