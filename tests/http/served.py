"""The models that the application serves: they echo, wait behind a gate, raise at first, and write down their lives.

Each life is two lines, `loaded NAME` and `closed NAME`, in the file that WITNESS names; `misused NAME` must never be
there. Owns nothing else and spawns nothing. A gate is a FIFO: who waits behind it goes on when its writer closes it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from changeover.plugin import Signature


def note(line: str) -> None:
    """Write a line into the witness's file, whole, from any thread."""
    with Path(os.environ["WITNESS"]).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class Served:
    """A model that answers what it was asked."""

    signature = Signature(checked=False)
    thread_safe = True

    def __init__(self, name: str, fails: int) -> None:
        self._name = name
        self._left = iter(range(fails))
        self._closed = False
        self._life = next(_LIVES)
        note(f"loaded {self._name} {self._life}")

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self._look()
        if "gate" in inputs:
            wait_behind(inputs["gate"])
        if next(self._left, None) is not None:
            raise ValueError("this version is not what it was in the laboratory")
        self._look()
        return dict(inputs)

    def predict_stream(self, inputs: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        self._look()
        try:
            yield {"chunk": "first"}
            for _ in range(inputs.get("large", 0)):
                yield {"chunk": "x" * 1_000_000}
            wait_behind(inputs["gate"])
            self._look()
            yield {"chunk": "last"}
        finally:
            note(f"left {self._name}")

    def memory_bytes(self) -> int:
        return 1

    def close(self) -> None:
        self._closed = True
        note(f"closed {self._name} {self._life}")

    def _look(self) -> None:
        if self._closed:
            note(f"misused {self._name} {self._life}")


_LIVES = itertools.count(1)


def wait_behind(gate: str) -> None:
    """Return when somebody has opened the gate and closed it again."""
    Path(gate).read_bytes()


def make(name: str, fails: int) -> Served:
    """Be what the callable loader calls."""
    return Served(name, fails)
