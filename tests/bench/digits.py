"""Versions of the digits models to swap between under traffic, each behind the witness, and what no swap may do.

Real ONNX files, trained by the demo. It owns no engine and spawns nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure
from measure import Figure
from models import WITNESS
from traffic import CLIENTS, Traffic

from changeover import Audit, Batching, Engine
from changeover_plugins.demo.digits import MODEL, write_repository

WAYS: Mapping[str, Mapping[str, Any]] = {
    "inline": {},
    "worker, batching": {"execution": "worker", "batching": Batching(max_batch=CLIENTS)},
}
"""The fields of a version's spec that say how it is called."""


class Digits:
    """The two trained models in a folder, and images to ask about."""

    def __init__(self, folder: Path) -> None:
        """Train them."""
        self.images: Any = write_repository(folder).images
        self._folder = folder

    def register(self, engine: Engine, version: str, way: str, function: str = "witnessed") -> None:
        """Register a version that `function` of `models` makes of a file, odd and even versions of one each."""
        path = str(self._folder / MODEL / "21"[int(version) % 2] / "model.onnx")
        engine.register(
            MODEL, version, f"models:{function}",
            loader="callable", allow_code=True, options={"path": path}, **WAYS[way],
        )  # fmt: skip


@contextmanager
def trained() -> Generator[Digits, None, None]:
    """Train the models in a folder that is gone after the block."""
    with tempfile.TemporaryDirectory() as folder:
        yield Digits(Path(folder))


class Watch:
    """What the witness saw and the clients lost of a run of swaps, from here on."""

    def __init__(self) -> None:
        """Begin."""
        self._used, self._closed = WITNESS.used_after_close, WITNESS.closed

    def figures(self, what: str, loads: int, traffic: Traffic, audit: Audit) -> list[Figure]:
        """Return what was lost and misused; every one of the models that were loaded must be closed by now."""
        assert WITNESS.closed - self._closed == loads, "every model that was loaded is closed, once"
        used = WITNESS.used_after_close - self._used
        for text in traffic.lost[:3]:
            measure.say(f"lost: {text}")
        return [
            Figure(
                f"{what}: lost", "0", f"{len(traffic.lost)} of {traffic.sent:,}",
                not traffic.lost and traffic.sent == traffic.answered,
            ),
            Figure("  used after close", "0", str(used), used == 0),
            Figure("  references held, torn", "clean", "clean" if audit.clean else "NOT CLEAN", audit.clean),
        ]  # fmt: skip
