"""Hostile warm-up files: each fails the load with what is wrong with it, leaves nothing, and is never unpickled.

Owns no state; files lie in the test's own folder.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from changeover.errors import WarmUpFailed
from changeover.plugin import Signature, TensorSpec
from tests.support.rig import Rig
from tests.support.warmups import GOOD, SIGNED, failure, write


def npz(**arrays: Any) -> bytes:
    """Return the bytes of an NPZ file."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def npy(array: Any) -> bytes:
    """Return the bytes of one array as NumPy keeps it."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return the bytes of a zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


UNPICKLED: list[str] = []
"""What was unpickled in this process: nothing."""


class Trap:
    """Says when it is unpickled."""

    def __reduce__(self) -> Any:
        return UNPICKLED.append, ("trap",)


GOOD_N = '"n": [3]}'
"""How an object ends whose second input is right."""

JSON = (
    ("", "Expecting value"),
    ("{", "JSONDecodeError"),
    (b"\xff\xfe\xfa{}", "Error"),
    ("[]", "empty list"),
    ("5", "entry 1 must be an object"),
    (json.dumps([GOOD, [GOOD]]), "entry 2 must be an object"),
    ("[" * 100_000 + "]" * 100_000, "RecursionError"),
    ("{}", "wrong input names: missing 'n', 'x'"),
    ('{"y": [[1, 2]], ' + GOOD_N, "wrong input names: missing 'x'; unknown 'y'"),
    ('{"x": [[1, 2]], "y": 1, ' + GOOD_N, "unknown 'y'"),
    ('{"x": [[NaN, 1]], ' + GOOD_N, "NaN is no number in JSON"),
    ('{"x": [[-Infinity, 1]], ' + GOOD_N, "-Infinity is no number in JSON"),
    ('{"x": [["NaN", "1"]], ' + GOOD_N, "'x' holds str"),
    ('{"x": [[null, 1]], ' + GOOD_N, "no numbers, and must be float64"),
    ('{"x": {"a": 1}, ' + GOOD_N, "no numbers, and must be float64"),
    ('{"x": [[true, false]], ' + GOOD_N, "bool values and must be float64"),
    ('{"x": [[1e400, 1]], ' + GOOD_N, "'x' holds values that do not fit float64"),
    ('{"x": [[1' + "0" * 30 + ", 1]], " + GOOD_N, "numbers that are too big"),
    ('{"x": [[1' + "0" * 5_000 + ", 1]], " + GOOD_N, "4300 digits"),
    ('{"x": [[1, 2], [3]], ' + GOOD_N, "'x' cannot be made an array"),
    ('{"x": ' + "[" * 100 + "]" * 100 + ", " + GOOD_N, "'x'"),
    ('{"x": [[1, 2, 3]], ' + GOOD_N, "must have the shape (batch, 2), not (1, 3)"),
    ('{"x": [[1, 2]], "n": [128]}', "'n' holds values that do not fit int8"),
    ('{"x": [[1, 2]], "n": [1.5]}', "'n' holds float64 values and must be int8"),
    ('{"x": [[1, 2]], "n": ["1"]}', "must be int8"),
    ('{"x": [], "n": []}', "must have the shape"),
    ('{"x": [[1, 2], [3, 4]], "n": [1]}', "'n' has 1 rows where another input has 2"),
)
NPZ = (
    (b"", "EOFError"),
    (b"PK\x03\x04 and no more", "not a zip file"),
    (npz(x=np.ones((1, 2)), n=np.ones(1, "int8"))[:-60], "not a zip file"),
    (npz(x=np.ones((1, 2)), n=np.ones(1, "int8")).replace(np.ones((1, 2)).tobytes(), b"0" * 16), "CRC"),
    (npy(np.ones(2)), "one array, not an NPZ archive"),
    (pickle.dumps(Trap()), "allow_pickle"),
    (zipped({"x.npy": npy(np.array([Trap()]))}), "allow_pickle"),
    (zipped({"x": b"text"}), "'x' is no array"),
    (zipped({"x.npy": npy(np.ones((1, 2)))[:-8], "n.npy": npy(np.ones(1, "int8"))}), "EOF"),
    (zipped({"x.npy": npy(np.ones((1, 2))).replace(b"(1, 2), }  ", b"(9, 2**9) }")}), "ValueError"),
    (zipped({"x.npy": npy(np.ones((1, 2))).replace(b"(1, 2), }" + b" " * 9, b"(999999999, 2), } ")}), "Error"),
    (zipped({}), "wrong input names: missing 'n', 'x'"),
    (npz(x=np.ones((1, 2), "float32"), n=np.ones(1, "int8")), "'x' must be float64, not float32"),
    (npz(x=np.ones((1, 2)), n=np.ones(1, "int8"), z=np.ones(1)), "unknown 'z'"),
)

HOSTILE = [
    pytest.param(suffix, content, wrong, id=f"{suffix[1:]}-{number}-{wrong[:30]}")
    for suffix, table in ((".json", JSON), (".npz", NPZ))
    for number, (content, wrong) in enumerate(table)
]


@pytest.mark.parametrize(("suffix", "content", "wrong"), HOSTILE)
async def test_a_hostile_file_fails_the_load_and_leaves_nothing(
    rig: Rig, tmp_path: Path, suffix: str, content: str | bytes, wrong: str
) -> None:
    """The error names the version, the file and what is wrong; a version with good data loads afterwards."""
    path = write(tmp_path / f"bad{suffix}", content)
    error = await failure(rig, path, signature=SIGNED)
    assert str(error).startswith("m/1 failed its warm-up: ")
    assert str(path) in str(error)
    assert wrong in str(error)
    assert UNPICKLED == []
    assert rig.cast.made[0].calls == []
    await rig.ready("m", "2", warmup=write(tmp_path / "good.json", GOOD), signature=SIGNED)


async def test_what_is_not_there_or_no_warm_up_file_is_named(rig: Rig, tmp_path: Path) -> None:
    """A missing file, an empty folder, a folder in a file's place and a file of another kind each fail the load."""
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "empty").mkdir()
    write(tmp_path / "in" / "x.json" / "y", "")
    paths = {
        "none.json": "there is no such file",
        "empty": "holds no .json and no .npz file",
        "folder.json": "holds no .json and no .npz file",
        "in": "x.json: it is no file",
        "file.txt": "neither a .json nor a .npz file",
    }
    for number, (name, wrong) in enumerate(paths.items()):
        rig.add("m", str(number), warmup=tmp_path / name)
        with pytest.raises(WarmUpFailed, match=wrong) as caught:
            await rig.engine.load("m", str(number))
        assert str(tmp_path / name) in str(caught.value)
    assert rig.cast.open() == []


async def test_what_json_cannot_hold_is_sent_to_npz(rig: Rig, tmp_path: Path) -> None:
    """A dtype without a counterpart in JSON is refused with the way out."""
    error = await failure(
        rig, write(tmp_path / "w.json", {"x": [1]}), signature=Signature((TensorSpec("x", "complex64", (1,)),), ())
    )
    assert "'x' is complex64, which JSON cannot hold; keep it in a .npz file" in str(error)
