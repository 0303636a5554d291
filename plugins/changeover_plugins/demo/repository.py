"""The demo's model repository: the folder in which its versions turn up, one after the other.

Owns nothing but the path. A version appears under its final name with all its files or not at all, so that a scan
never finds half of one. Spawns nothing.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from changeover import Batching, VersionSpec
from changeover_plugins.demo.digits import MODEL, PIXELS, HeldOut, write_repository
from changeover_plugins.demo.witness import LOADER

LINEAR, NETWORK = "1", "2"
"""The versions that are there from the start; the second answers better."""
BROKEN, HANGING, REBUILT = "3", "4", "5"
RAISING, OVERTAKEN = "6", "7"
"""Those that turn up while the clients ask."""

KINDS = {
    LINEAR: "linear",
    NETWORK: "neural network",
    BROKEN: "cut short",
    HANGING: "hangs in load",
    REBUILT: "neural network",
    RAISING: "raises at first",
    OVERTAKEN: "overtaken",
}
"""What each version is, in a word."""

LOAD_TIMEOUT_S = 1.0
"""The time limit on the load of the version that hangs."""
HANG_S = 4.0
"""How long that load hangs: past its time limit, and past the order that comes after it."""

RAISE_TIMES = 100
"""On how many requests the version raises that loads and warms up well."""

# Batches by a worker, not calls in the clients' own thread: 32 clients on two cores wait 0.8-1.0 ms at p99 instead of
# 1.3-1.8 ms, with about as many answers a second (50,000-60,000). With 32 closed-loop clients the delay runs out only
# while two versions share them, for then no batch is full; hence so short a delay.
_BATCHING = Batching(max_batch=32, max_delay_s=0.0005)
_SETTINGS = f"""\
loader = "{LOADER}"
execution = "worker"
load_timeout_s = %s

[batching]
max_batch = {_BATCHING.max_batch}
max_delay_s = {_BATCHING.max_delay_s}
"""
_FILE = "model.onnx"


@attrs.frozen
class Repository:
    """A folder that holds `digits/VERSION/model.onnx` and `model.toml`."""

    root: Path
    """What `open_engine(repository=...)` is given."""

    def fill(self) -> HeldOut:
        """Train, write versions 1 and 2, and return the held-out images; blocks for a second or two.

        Raises LoaderNotInstalled without the demo's packages, and OSError.
        """
        held_out = write_repository(self.root)
        for version in (LINEAR, NETWORK):
            (self._folder(version) / "model.toml").write_text(_SETTINGS % 60.0, "utf-8")
        return held_out

    def publish(self, version: str, *, like: str, share: float = 1.0, hang_s: float = 0.0) -> None:
        """Put a copy of another version there, or the first `share` of its file, or one that hangs while it loads."""
        content = (self._folder(like) / _FILE).read_bytes()
        settings = _SETTINGS % (LOAD_TIMEOUT_S if hang_s else 60.0)
        if hang_s:
            settings += f"\n[options]\nhang_s = {hang_s}\n"
        beside = self._folder(f".{version}.part")  # a scan leaves out what begins with a dot
        beside.mkdir()
        (beside / _FILE).write_bytes(content[: int(len(content) * share)])
        (beside / "model.toml").write_text(settings, "utf-8")
        beside.rename(self._folder(version))

    def raising(self) -> VersionSpec:
        """Return the spec of the version that raises on its first requests behind its warm-up.

        It is registered by hand, because warm-up data does not come from a file.
        """
        import numpy as np

        return VersionSpec(
            MODEL,
            RAISING,
            self._folder(NETWORK) / _FILE,
            loader=LOADER,
            execution="worker",
            batching=_BATCHING,
            warmup={"image": np.zeros((1, PIXELS), np.float32)},
            options={"raise_after": 1, "raise_times": RAISE_TIMES},
        )

    def shorten(self, text: str) -> str:
        """Return a message with paths below the root made relative to it."""
        return text.replace(f"{self.root}/", "")

    def _folder(self, version: str) -> Path:
        return self.root / MODEL / version
