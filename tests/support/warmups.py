"""Warm-up data for tests: files of it, and what must be true after a warm-up that failed.

Owns no state; files lie where a test wants them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from changeover import VersionState
from changeover.errors import WarmUpFailed
from changeover.plugin import Signature, TensorSpec
from tests.support.rig import Rig

SIGNED = Signature((TensorSpec("x", "float64", ("batch", 2)), TensorSpec("n", "int8", ("batch",))), ())
"""Takes rows of two numbers, each with a small whole one."""

GOOD = {"x": [[1, 2.5]], "n": [3]}
"""A request in JSON that fits it."""


def write(path: Path, content: object) -> Path:
    """Write JSON text, text as it is, bytes, or arrays by name; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    elif path.suffix == ".npz":
        np.savez(path, **content)  # type: ignore[arg-type]
    else:
        path.write_text(json.dumps(content))
    return path


def seen(rig: Rig, version: str = "1") -> list[Mapping[str, Any]]:
    """Return what the model of a version was asked, in order."""
    (made,) = rig.cast.of("m", version)
    return list(made.calls)


async def failure(rig: Rig, warmup: Any, **fields: Any) -> WarmUpFailed:
    """Load a version with this warm-up, which must fail and leave nothing; return why."""
    rig.add("m", "1", warmup=warmup, **fields)
    with pytest.raises(WarmUpFailed) as caught:
        await rig.engine.load("m", "1")
    check_nothing_left(rig)
    return caught.value


def check_nothing_left(rig: Rig) -> None:
    """Nothing is loaded, held, reserved, routed or stuck."""
    statistics = rig.engine.statistics()
    assert (rig.cast.open(), statistics.reserved_bytes, statistics.stuck_loads) == ([], 0, 0)
    assert rig.engine.audit().clean
    assert not rig.engine.is_active("m", "1")
    assert rig.engine.load_info("m", "1").status is VersionState.FAILED
