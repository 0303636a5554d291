"""A soak of memory: one version is loaded and unloaded 200 times, and the process occupies what it did at the start.

Each model holds 100 MB: as one ONNX file with one initializer of that size, and as pieces of 32 kB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import changeover
from changeover import Engine
from changeover.plugin import API_VERSION, Source
from changeover_plugins.callable_loader import CallableModel
from tests.support.memory import in_its_own_process, on_linux, resident_bytes

CYCLES = 200
FIRST = 5
"""Cycles before the start: libraries are imported, and each thread gets its heap."""

MODEL_BYTES = 100_000_000
PIECE_BYTES = 32_000
LEFT_BEHIND_MAX = 10_000_000


class InPieces:
    """A callable that holds 100 MB in small pieces."""

    def __init__(self) -> None:
        self.pieces = [bytearray(b"x") * PIECE_BYTES for _ in range(MODEL_BYTES // PIECE_BYTES)]

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"bytes": sum(map(len, self.pieces))}


class InPiecesLoader:
    """Loads such callables."""

    api_version: ClassVar[int] = API_VERSION
    executes_code_on_load: ClassVar[bool] = False

    def load(self, source: Source) -> Any:
        return CallableModel(InPieces(), "pieces")


def write_onnx(path: Path) -> None:
    """Write a model that looks rows up in a table of 100 MB."""
    helper = pytest.importorskip("onnx.helper")
    from onnx import TensorProto

    rows = MODEL_BYTES // 4 // 1_000
    table = helper.make_tensor("w", TensorProto.FLOAT, [rows, 1_000], b"\0\0\x80?" * (rows * 1_000), raw=True)
    given = helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1_000])
    graph = helper.make_graph([helper.make_node("Gather", ["w", "x"], ["y"])], "graph", [given], [answer], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


async def soak(engine: Engine, inputs: Mapping[str, Any]) -> None:
    """Load, ask and unload m/1 so many times; what is left behind must not grow."""
    start = 0
    for cycle in range(FIRST + CYCLES):
        if cycle == FIRST:
            start = resident_bytes()
        await engine.load("m", "1")
        await engine.infer("m", inputs)
        if not cycle:
            assert resident_bytes() - (engine.statistics().baseline_bytes or 0) > 0.95 * MODEL_BYTES
        await engine.unload("m", "1", force=True)
    assert resident_bytes() - start < LEFT_BEHIND_MAX


@on_linux
@pytest.mark.slow
@in_its_own_process
async def test_two_hundred_unloads_of_small_pieces_leave_nothing_behind() -> None:
    """100 MB in pieces of 32 kB, which the C library would keep for itself, come back every time."""
    async with changeover.open_engine() as engine:
        engine._host.loaders.add("pieces", InPiecesLoader)
        engine.register("m", "1", "s", loader="pieces")
        await soak(engine, {})


@on_linux
@pytest.mark.slow
@in_its_own_process
async def test_two_hundred_unloads_of_an_onnx_model_leave_nothing_behind(tmp_path: Path) -> None:
    """A real session on a file of 100 MB; each cycle loads it, asks it once and unloads it (a minute in all)."""
    np = pytest.importorskip("numpy")
    pytest.importorskip("onnxruntime")
    write_onnx(tmp_path / "model.onnx")
    async with changeover.open_engine() as engine:
        engine.register("m", "1", tmp_path / "model.onnx", loader="onnx")
        await soak(engine, {"x": np.arange(10)})
