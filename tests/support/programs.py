"""Programs of their own for tests of signals, forks and ends of processes: run, watched, and always ended.

`Program` owns one process and a pipe to it; leaving its block kills what is left.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import Self

from tests.house.tree import ROOT
from tests.support.threads import PATIENCE_S


class Program:
    """A Python program that prints lines."""

    def __init__(self, text: str, *arguments: str) -> None:
        self._command = [sys.executable, "-W", "error", "-c", text, *arguments]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def says(self, line: str) -> None:
        """Return when it prints this line, which must be its next one."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        assert said == line, (said, self.process.communicate(timeout=PATIENCE_S) if not said else None)

    def send(self, signals: Iterable[signal.Signals]) -> None:
        """Send it signals, one after the other."""
        for number in signals:
            self.process.send_signal(number)

    def ends(self) -> tuple[int, str, str]:
        """Return its exit status and what it printed since, to both pipes."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err
