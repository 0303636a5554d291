"""Where warm-up data comes from: zeros by the signature, JSON and NPZ files, a version's folder; also without NumPy.

Owns no state; files lie in the test's own folder.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from changeover import Batching
from changeover.plugin import Signature, TensorSpec
from changeover.runtime import samples
from tests.support.models import BATCHED, Cast
from tests.support.rig import Rig, open_rig
from tests.support.warmups import GOOD, SIGNED, failure, seen, write


def takes(dtype: str, *shape: int | str | None) -> Signature:
    """Return the signature of a model with one input, `x`."""
    return Signature((TensorSpec("x", dtype, shape),), ())


# --- by the signature -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool", "complex64"])
async def test_the_signature_makes_zeros(rig: Rig, dtype: str) -> None:
    """One request of the declared dtype and shape: free dimensions have size 1, and so has the batch."""
    await rig.ready(warmup="signature", signature=takes(dtype, "batch", 3, None, "words"))
    ((x,),) = [call.values() for call in seen(rig)]
    assert (x.dtype, x.shape, x.any()) == (np.dtype(dtype), (1, 3, 1, 1), np.False_)


@pytest.mark.parametrize("dtype", ["", "object"])
async def test_texts_are_empty(rig: Rig, dtype: str) -> None:
    """What may be of any dtype, as loaders say of texts, and what holds objects is the empty text."""
    await rig.ready(warmup="signature", signature=takes(dtype, "batch", 2))
    assert seen(rig)[0]["x"].tolist() == [["", ""]]


async def test_a_batched_version_is_warmed_by_a_full_batch_too(rig: Rig) -> None:
    """Where requests are gathered, a second request has as many rows as a batch may."""
    batching = Batching(max_batch=7)
    await rig.ready(warmup="signature", signature=BATCHED, execution="worker", batching=batching)
    assert [call["x"].shape for call in seen(rig)] == [(1, 2), (7, 2)]


async def test_a_batch_of_one_is_no_second_request(rig: Rig) -> None:
    """A batch that holds one row is warmed by the first request."""
    batching = Batching(max_batch=1)
    await rig.ready(warmup="signature", signature=BATCHED, execution="worker", batching=batching)
    assert [call["x"].shape for call in seen(rig)] == [(1, 2)]


@pytest.mark.parametrize("signature", [Signature(checked=False), Signature()], ids=["unchecked", "no inputs"])
async def test_a_signature_that_says_nothing_is_an_error(rig: Rig, signature: Signature) -> None:
    """A model that declares no inputs cannot be warmed by its signature, and the error says what to do instead."""
    error = await failure(rig, "signature", signature=signature)
    assert "declares no inputs" in str(error)
    assert "give warm-up data by hand" in str(error)


async def test_a_dtype_that_numpy_does_not_know_is_an_error(rig: Rig) -> None:
    """It names the input and the dtype."""
    error = await failure(rig, "signature", signature=takes("bfloat17", 1))
    assert "'x' is 'bfloat17'" in str(error)


# --- files ----------------------------------------------------------------------------------------------------------


async def test_json_becomes_arrays_of_the_declared_dtypes(rig: Rig, tmp_path: Path) -> None:
    """One object is one request; its numbers become arrays of the dtypes that the signature declares."""
    await rig.ready(warmup=str(write(tmp_path / "w.json", GOOD)), signature=SIGNED)
    (call,) = seen(rig)
    assert (call["x"].dtype, call["x"].tolist()) == (np.float64, [[1.0, 2.5]])
    assert (call["n"].dtype, call["n"].tolist()) == (np.int8, [3])


async def test_a_list_in_json_is_several_requests(rig: Rig, tmp_path: Path) -> None:
    """They run in order; a byte-order mark and capitals in the suffix do no harm."""
    path = write(tmp_path / "w.JSON", "\ufeff" + json.dumps([{**GOOD, "n": [n]} for n in range(3)]))
    await rig.ready(warmup=path, signature=SIGNED)
    assert [call["n"].tolist() for call in seen(rig)] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("float16", [1, 2], [1.0, 2.0]),
        ("float32", [0.1, 2], np.array([0.1, 2], "float32").tolist()),
        ("uint64", [2**64 - 1, 0], [2**64 - 1, 0]),
        ("int8", [-128, 127], [-128, 127]),
        ("bool", [True, False], [True, False]),
        ("", ["a", "bc"], ["a", "bc"]),
        ("", [1, 2], [1, 2]),
        ("object", ["a", "bc"], ["a", "bc"]),
        ("<U2", ["a", "bc"], ["a", "bc"]),
    ],
)
async def test_what_json_can_say_arrives_unchanged(
    rig: Rig, tmp_path: Path, dtype: str, value: Any, expected: Any
) -> None:
    """Numbers up to the ends of their dtype, truth values and texts."""
    await rig.ready(warmup=write(tmp_path / "w.json", {"x": value}), signature=takes(dtype, 2))
    assert seen(rig)[0]["x"].tolist() == expected


async def test_a_number_alone_is_an_array_without_dimensions(rig: Rig, tmp_path: Path) -> None:
    """The shape of an array is that of its nesting."""
    await rig.ready(warmup=write(tmp_path / "w.json", {"x": 5}), signature=takes("float32"))
    assert (seen(rig)[0]["x"].shape, float(seen(rig)[0]["x"])) == ((), 5.0)


async def test_an_unchecked_model_gets_plain_lists(rig: Rig, tmp_path: Path) -> None:
    """Where the signature says nothing of an input, JSON goes through as it is; where it does, it is an array."""
    signature = Signature((TensorSpec("x", "int8", ()), TensorSpec("y", "", ())), checked=False)
    await rig.ready(warmup=write(tmp_path / "w.json", {"x": [1], "y": [1], "z": [[1], 2]}), signature=signature)
    (call,) = seen(rig)
    assert (call["x"].dtype, call["y"], call["z"]) == (np.int8, [1], [[1], 2])


async def test_an_npz_file_is_one_request(rig: Rig, tmp_path: Path) -> None:
    """Its arrays go to the model by name, as they are."""
    arrays = {"x": np.ones((4, 2)), "n": np.arange(4, dtype=np.int8)}
    await rig.ready(warmup=str(write(tmp_path / "w.npz", arrays)), signature=SIGNED)
    (call,) = seen(rig)
    assert (call["x"].tolist(), call["n"].tolist()) == (arrays["x"].tolist(), [0, 1, 2, 3])


async def test_the_files_of_a_folder_are_read_in_order(rig: Rig, tmp_path: Path) -> None:
    """By name, JSON and NPZ alike; hidden files and others are none of it."""
    for name, content in {
        "b.json": [{"n": 2}, {"n": 3}],
        "a.npz": {"n": np.array(1)},
        "c.json": {"n": 4},
        ".d.json": {"n": 5},
        "README.md": "n = 6",
    }.items():
        write(tmp_path / "warm" / name, content)
    await rig.ready(warmup=tmp_path / "warm")
    assert [int(call["n"]) for call in seen(rig)] == [1, 2, 3, 4]


async def test_a_file_is_read_when_its_turn_comes(rig: Rig, tmp_path: Path) -> None:
    """What the second file holds is looked at after the requests of the first have run."""
    write(tmp_path / "a.json", {"n": 1})
    write(tmp_path / "b.json", "no JSON yet")
    rig.script().on_predict = lambda _inputs: void(write(tmp_path / "b.json", {"n": 2}))
    await rig.ready(warmup=tmp_path)
    assert [call["n"] for call in seen(rig)] == [1, 2]


async def test_a_relative_folder_is_that_of_the_process(rig: Rig, tmp_path: Path, monkeypatch: Any) -> None:
    """As with the source, a relative path begins where the process stands."""
    write(tmp_path / "warm" / "a.json", {"n": 1})
    monkeypatch.chdir(tmp_path)
    await rig.ready(warmup=Path("warm"))
    assert seen(rig) == [{"n": 1}]


async def test_files_are_read_in_the_thread_of_the_warm_up(tmp_path: Path, monkeypatch: Any) -> None:
    """Reading and computing never happen on the loop."""
    threads: list[str] = []
    read = samples._in_file

    def recorded(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return read(*args)

    monkeypatch.setattr(samples, "_in_file", recorded)
    async with open_rig(real=True) as rig:
        rig.script().on_predict = lambda _inputs: threads.append(threading.current_thread().name)
        await rig.ready(warmup=write(tmp_path / "w.json", GOOD))
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


# --- without NumPy --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_numpy(monkeypatch: Any) -> None:
    """Be a machine without NumPy."""
    monkeypatch.setitem(sys.modules, "numpy", None)


@pytest.mark.parametrize("name", ["w.json", "w.npz", "signature"])
async def test_without_numpy_the_error_says_what_to_install(rig: Rig, tmp_path: Path, name: str, no_numpy: Any) -> None:
    """Where arrays have to be made, the error names the package."""
    write(tmp_path / name, json.dumps(GOOD))
    error = await failure(rig, "signature" if name == "signature" else tmp_path / name, signature=SIGNED)
    assert "pip install numpy" in str(error)


async def test_without_numpy_an_unchecked_model_gets_plain_lists(rig: Rig, tmp_path: Path, no_numpy: Any) -> None:
    """A model that takes anything needs no arrays, whatever dtypes it mentions."""
    signature = Signature((TensorSpec("x", "int8", ()),), checked=False)
    await rig.ready(warmup=write(tmp_path / "w.json", [{"x": [1]}, {}]), signature=signature)
    assert seen(rig) == [{"x": [1]}, {}]


# --- in a repository ------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a version's folder with a model in it."""
    return write(tmp_path / "draft" / "m" / "1" / "model.bin", "x").parent


def toml(home: Path, text: str = "") -> None:
    """Write the settings of the version's folder."""
    write(home / "model.toml", f'loader = "scripted"\n{text}')


async def warmed(home: Path, **script: Any) -> list[Mapping[str, Any]]:
    """Open an engine on the repository, load the version, and return what its model was asked."""
    cast = Cast()
    for name, value in script.items():
        setattr(cast.script("m", "1"), name, value)
    repository = home.parent.parent.parent / "repository"
    repository.mkdir()
    async with open_rig(cast=cast, repository=repository) as rig:
        home.parent.rename(repository / "m")  # found only now that the rig has its loader
        (spec,) = await rig.engine.scan()
        assert Path(spec.source).name == "model.bin"
        await rig.engine.load("m", "1")
        return seen(rig)


@pytest.mark.parametrize("name", ["warmup.json", "warmup.npz", "warmup/a.json"])
async def test_warm_up_data_in_a_version_folder_is_found_by_its_name(
    home: Path, name: str, autojump_clock: Any
) -> None:
    """`warmup.json`, `warmup.npz` or a folder `warmup` beside the model is its warm-up data, and not its model."""
    toml(home)
    write(home / name, {"n": np.array(4)} if name.endswith("npz") else {"n": 4})
    assert [int(call["n"]) for call in await warmed(home)] == [4]


async def test_settings_may_name_the_warm_up_data(home: Path, autojump_clock: Any) -> None:
    """`warmup = "data.json"` names a file of the version's folder, which is not taken for the model."""
    toml(home, 'warmup = "data.json"')
    write(home / "data.json", {"n": 5})
    assert await warmed(home) == [{"n": 5}]


async def test_settings_may_ask_for_the_signature(home: Path, autojump_clock: Any) -> None:
    """`warmup = "signature"` wins over a file that lies there."""
    toml(home, 'warmup = "signature"')
    write(home / "warmup.json", {"n": 5})
    assert [call["x"].shape for call in await warmed(home, signature=BATCHED)] == [(1, 2)]


def outside(home: Path, name: str) -> None:
    """Make a link in the version's folder that leads out of it."""
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).symlink_to(write(home.parent.parent.parent / "secret.json", GOOD))


@pytest.mark.parametrize(
    ("text", "files", "wrong"),
    [
        ('warmup = "../../../secret.json"', {}, "outside the version's own folder"),
        ('warmup = "link.json"', {"link.json": None}, "outside the version's own folder"),
        ("", {"warmup.json": None}, "outside the version's own folder"),
        ("", {"warmup/a.json": None}, "'warmup/a.json' lies outside the version's own folder"),
        ('warmup = "none.json"', {}, "there is no such file"),
        ('warmup = "model.bin"', {}, "name a .json or .npz file, not 'model.bin'"),
        ('warmup = "."', {}, "name a .json or .npz file"),
        ('warmup = ""', {}, "name a .json or .npz file"),
        ("warmup = [{n = 1}]", {}, 'warmup must be "signature" or the name of a file'),
        ("", {"warmup.json": "{}", "warmup.npz": "x"}, "warm-up data twice, warmup.json and warmup.npz"),
    ],
)
async def test_a_version_folder_with_bad_warm_up_data_is_not_registered(
    home: Path, text: str, files: dict[str, str | None], wrong: str, autojump_clock: Any, caplog: Any
) -> None:
    """Nothing outside the folder is read, also not by a link; the log says what is wrong."""
    toml(home, text)
    for name, content in files.items():
        if content is None:
            outside(home, name)
        else:
            write(home / name, content)
    async with open_rig(repository=home.parent.parent) as rig:
        assert await rig.engine.scan() == ()
    assert wrong in caplog.text


def void(_value: object) -> None:
    """Drop a value."""
