"""Bad input, line by line: each is a clear error that names the culprit, and changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import trio

from changeover import Balance, Batching, Drain, Engine, Timeouts, VersionKey, VersionSpec
from changeover.errors import (
    AlreadyLoaded,
    AlreadyRegistered,
    ChangeoverError,
    CodeNotAllowed,
    InvalidInput,
    InvalidValue,
    LastVersion,
    LoaderNotInstalled,
    LoadFailed,
    ModelNotRegistered,
    SwapFailed,
    SwapNotAllowed,
    SwapNotFound,
    VersionNotLoaded,
)
from tests.support.models import BATCHED, first_column
from tests.support.rig import Rig, settle

Call = Callable[[Engine, Path], Any]

NAN = float("nan")


@attrs.frozen
class Case:
    """One way to get it wrong."""

    name: str
    call: Call
    error: type[ChangeoverError]
    says: tuple[str, ...]
    """What the message must have in it."""


def case(name: str, call: Call, error: type[ChangeoverError], *says: str) -> Case:
    """Return a case."""
    return Case(name, call, error, says)


def onnx(engine: Engine, source: Path, **fields: Any) -> Awaitable[None]:
    """Register a source for the onnx loader and load it."""
    engine.register("file", "1", source, loader="onnx", **fields)
    return engine.load("file", "1")


def code(engine: Engine, source: str) -> Awaitable[None]:
    """Register a source for the callable loader and load it."""
    engine.register("code", "1", source, loader="callable", allow_code=True)
    return engine.load("code", "1")


def write(folder: Path, name: str, data: bytes) -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(data)
    return path


# On the stage: m/1 is ready and active, m/2 is ready, m/3 is registered; alone/1 is ready; odd/1 loads no model.
NAMES = [
    case("load of an unknown model", lambda e, _: e.load("nobody", "1"), ModelNotRegistered, "nobody", "m"),
    case("load of an unknown version", lambda e, _: e.load("m", "9"), ModelNotRegistered, "m", "'9'", "1, 2, 3"),
    case("unload of an unknown model", lambda e, _: e.unload("nobody", "1"), ModelNotRegistered, "nobody"),
    case("unload of an unknown version", lambda e, _: e.unload("m", "9"), ModelNotRegistered, "'9'"),
    case("infer of an unknown model", lambda e, _: e.infer("nobody", {}), ModelNotRegistered, "nobody"),
    case("infer of an unknown version", lambda e, _: e.infer("m", {}, version="9"), ModelNotRegistered, "'9'"),
    case("lease of an unknown model", lambda e, _: e.lease("nobody").__enter__(), ModelNotRegistered, "nobody"),
    case("lease of an unknown version", lambda e, _: e.lease("m", version="9").__enter__(), ModelNotRegistered, "'9'"),
    case("warm-up of an unknown model", lambda e, _: e.warm_up("nobody", "1", {}), ModelNotRegistered, "nobody"),
    case("wait for an unknown model", lambda e, _: e.wait_for_drain("nobody", "1"), ModelNotRegistered, "nobody"),
    case("info on an unknown model", lambda e, _: e.load_info("nobody", "1"), ModelNotRegistered, "nobody"),
    case("info on an unknown version", lambda e, _: e.is_loaded("m", "9"), ModelNotRegistered, "'9'"),
    case("is an unknown version active", lambda e, _: e.is_active("m", "9"), ModelNotRegistered, "'9'"),
    case("who holds an unknown version", lambda e, _: e.who_holds("m", "9"), ModelNotRegistered, "'9'"),
    case("versions of an unknown model", lambda e, _: e.loaded_versions("nobody"), ModelNotRegistered, "nobody"),
    case(
        "reference on an unknown model",
        lambda e, _: e.references.acquire("nobody", "1", "x"),
        ModelNotRegistered,
        "nobody",
    ),
    case("status of an unknown swap", lambda e, _: e.swap_status("nonsense"), SwapNotFound, "nonsense"),
    case("rollback of an unknown swap", lambda e, _: e.rollback("nonsense"), SwapNotFound, "nonsense"),
]

TWICE = [
    case(
        "registered twice",
        lambda e, _: e.register("m", "1", "other", loader="scripted"),
        AlreadyRegistered,
        "m/1",
        "'script'",
    ),
    case(
        "registered twice with a loader that is missing",
        lambda e, _: e.register("m", "1", "other", loader="gone"),
        AlreadyRegistered,
        "m/1",
    ),
    case("loaded twice", lambda e, _: e.load("m", "1"), AlreadyLoaded, "m/1", "ensure_loaded"),
    case("unload of what is not loaded", lambda e, _: e.unload("m", "3"), VersionNotLoaded, "m/3", "registered"),
    case("warm-up of what is not loaded", lambda e, _: e.warm_up("m", "3", {}), VersionNotLoaded, "m/3"),
    case("lease of what is not loaded", lambda e, _: e.lease("m", version="3").__enter__(), VersionNotLoaded, "m/3"),
    case("unload of the last one", lambda e, _: e.unload("alone", "1"), LastVersion, "alone/1", "force=True"),
]


def swap_to_bad(engine: Engine, _folder: Path) -> Awaitable[Any]:
    """Swap to a version whose source is not there."""
    engine.register("m", "4", "nowhere.onnx", loader="onnx")
    return engine.swap("m", "4")


SWAPS = [
    case("swap from what is not active", lambda e, _: e.swap("m", "3", from_="2"), SwapNotAllowed, "m/2", "1"),
    case("swap from what is unknown", lambda e, _: e.swap("m", "3", from_="9"), ModelNotRegistered, "'9'"),
    case("swap to what is not registered", lambda e, _: e.swap("m", "9"), ModelNotRegistered, "'9'", "1, 2, 3"),
    case("swap of an unknown model", lambda e, _: e.swap("nobody", "2"), ModelNotRegistered, "nobody"),
    case("swap to itself", lambda e, _: e.swap("m", "1"), SwapNotAllowed, "m/1", "active already"),
    case("swap from itself to itself", lambda e, _: e.swap("m", "1", from_="1"), SwapNotAllowed, "m/1"),
    case("swap of what serves nothing", lambda e, _: e.swap("odd", "1"), SwapNotAllowed, "odd", "no active version"),
    case("start of a swap to itself", lambda e, _: e.start_swap("m", "1"), SwapNotAllowed, "m/1"),
    case("swap with a strange on_busy", lambda e, _: e.swap("m", "3", on_busy="panic"), InvalidValue, "'panic'"),
    case("swap with a strange on_cancel", lambda e, _: e.swap("m", "3", on_cancel="no"), InvalidValue, "'no'"),
    case("swap by a plan that is none", lambda e, _: e.swap("m", "3", plan="canary"), InvalidValue, "'canary'"),
    case("swap to what does not load", swap_to_bad, SwapFailed, "m", "4"),
]


SOURCES = [
    case("a source that does not exist", lambda e, p: onnx(e, p / "gone.onnx"), LoadFailed, "file/1", "gone.onnx"),
    case("a source that is a directory", onnx, LoadFailed, "file/1", "directory"),
    case(
        "a source that is empty",
        lambda e, p: onnx(e, write(p, "empty.onnx", b"")),
        LoadFailed,
        "file/1",
        "empty.onnx",
    ),
    case(
        "a source that is truncated",
        lambda e, p: onnx(e, truncated(p)),
        LoadFailed,
        "file/1",
        "cut.onnx",
    ),
    case(
        "a source that its loader cannot read",
        lambda e, p: onnx(e, write(p, "text.onnx", b"hello, world")),
        LoadFailed,
        "file/1",
        "text.onnx",
    ),
    case(
        "a module that is not there", lambda e, _: code(e, "no_such_module_at_all:f"), LoadFailed, "code/1", "no_such"
    ),
    case(
        "a function that is not there", lambda e, _: code(e, "math:no_such_function"), LoadFailed, "code/1", "no_such"
    ),
    case("a function that is no name", lambda e, _: code(e, "not a name"), LoadFailed, "code/1", "module:function"),
    case("a loader that returns no model", lambda e, _: e.load("odd", "1"), LoadFailed, "odd/1", "int", "not a model"),
    case(
        "a digest that is not the file's",
        lambda e, p: onnx(e, write(p, "x.onnx", b"x"), sha256="0" * 64),
        LoadFailed,
        "file/1",
        "sha256",
    ),
]


def truncated(folder: Path) -> Path:
    """Return the first half of a real ONNX file."""
    helper = pytest.importorskip("onnx.helper")
    node = helper.make_node("Identity", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, 1, ["batch", 64]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:])).SerializeToString()
    return write(folder, "cut.onnx", model[: len(model) // 2])


LOADERS = [
    case(
        "a loader that is not installed",
        lambda e, _: e.register("new", "1", "s", loader="gone"),
        LoaderNotInstalled,
        "new/1",
        "'gone'",
        "changeover[onnx]",
    ),
    case(
        "code that is not allowed",
        lambda e, _: e.register("new", "1", "math:floor", loader="callable"),
        CodeNotAllowed,
        "new/1",
        "allow_code=True",
    ),
]

INPUTS = [
    case("wrong input names", lambda e, _: e.infer("m", {"y": np.zeros((1, 2))}), InvalidInput, "m/1", "'x'", "'y'"),
    case("a wrong shape", lambda e, _: e.infer("m", {"x": np.zeros((1, 5))}), InvalidInput, "m/1", "'x'", "(1, 5)"),
    case(
        "a wrong dtype",
        lambda e, _: e.infer("m", {"x": np.zeros((1, 2), "int8")}),
        InvalidInput,
        "m/1",
        "'x'",
        "int8",
        "float64",
    ),
    case("no array", lambda e, _: e.infer("m", {"x": [[1.0, 2.0]]}), InvalidInput, "m/1", "'x'", "list"),
    case("no mapping", lambda e, _: e.infer("m", 5), InvalidInput, "m/1", "int"),
    case("warm-up data that is no mapping", lambda e, _: e.warm_up("m", "1", [5]), InvalidValue, "int"),
    case("warm-up data that is nothing of the kind", lambda e, _: e.warm_up("m", "1", 5), InvalidValue, "warm-up", "5"),
]


def numbers(bad: Any) -> list[Case]:
    """Return every place for a number of seconds, with a bad one in it."""
    says = repr(bad)
    return [
        case(f"deadline_s={bad}", lambda e, _: e.unload("m", "2", drain=Drain(bad)), InvalidValue, "deadline_s", says),
        case(
            f"unload_s={bad}", lambda e, _: e.swap("m", "3", timeouts=Timeouts(unload_s=bad)), InvalidValue, "unload_s"
        ),
        case(
            f"load_s={bad}", lambda e, _: e.swap("m", "3", timeouts=Timeouts(load_s=bad)), InvalidValue, "load_s", says
        ),
        case(f"infer timeout_s={bad}", lambda e, _: e.infer("m", {}, timeout_s=bad), InvalidValue, "timeout_s", says),
        case(f"lease wait_s={bad}", lambda e, _: e.lease("m", wait_s=bad).__aenter__(), InvalidValue, "wait_s", says),
        case(f"drain timeout_s={bad}", lambda e, _: e.wait_for_drain("m", "1", bad), InvalidValue, "timeout_s", says),
        case(
            f"suspect_after_s={bad}", lambda e, _: e.audit(suspect_after_s=bad), InvalidValue, "suspect_after_s", says
        ),
        case(f"max_delay_s={bad}", lambda _e, _p: Batching(4, bad), InvalidValue, "max_delay_s", says),
        case(
            f"load_timeout_s={bad}",
            lambda e, _: e.register("new", "1", "s", loader="scripted", load_timeout_s=bad),
            InvalidValue,
            "load_timeout_s",
            says,
        ),
    ]


NUMBERS = [one for bad in (-1.0, NAN, float("inf"), "soon", True) for one in numbers(bad)]

FIELDS = [
    case(f"register {name}", lambda e, _, fields=fields: register(e, fields), InvalidValue, *says)
    for name, fields, says in [
        ("without a version", {"version": None}, ("version",)),
        ("an empty model", {"model": ""}, ("model",)),
        ("a model that is a path", {"model": "a/b"}, ("model", "'a/b'")),
        ("a hidden version", {"version": ".1"}, ("version", "'.1'")),
        ("a number as version", {"version": 1}, ("version", "1")),
        ("a source of no kind", {"source": 5}, ("source", "5")),
        ("an unknown field", {"flavour": "mild"}, ("flavour", "load_timeout_s")),
        ("no workers", {"workers": 0}, ("workers", "0")),
        ("half a worker", {"workers": 1.5}, ("workers", "1.5")),
        ("no room in the queue", {"queue_limit": 0}, ("queue_limit", "0")),
        ("a strange execution", {"execution": "magic"}, ("execution", "'magic'", "worker")),
        ("isolation that comes later", {"isolation": "process"}, ("isolation", "planned")),
        ("batching inline", {"batching": Batching(4)}, ("batching", "worker")),
        ("batching that is none", {"batching": 4, "execution": "worker"}, ("batching", "4")),
        ("options that are none", {"options": 5}, ("options", "5")),
        ("a hint below zero", {"memory_hint_bytes": -1}, ("memory_hint_bytes", "-1")),
        ("allow_code that is no bool", {"allow_code": "yes"}, ("allow_code", "'yes'")),
        ("warm-up that is no data", {"warmup": [5]}, ("warm-up", "int")),
    ]
] + [
    case("drain policy that is none", lambda e, _: Drain(then="panic"), InvalidValue, "then", "'panic'"),
    case("no rows in a batch", lambda e, _: Batching(0), InvalidValue, "max_batch", "0"),
    case("events without a buffer", lambda e, _: e.events(buffer=0), InvalidValue, "buffer", "0"),
    case("scan without a repository", lambda e, _: e.scan(), InvalidValue, "repository="),
]


def register(engine: Engine, fields: dict[str, Any]) -> VersionSpec:
    """Register a version with some fields that make no sense."""
    known: dict[str, Any] = {"model": "new", "version": "1", "source": "s", "loader": "scripted"} | fields
    return engine.register(known.pop("model"), known.pop("version"), known.pop("source"), **known)


ALL = NAMES + TWICE + SWAPS + SOURCES + LOADERS + INPUTS + NUMBERS + FIELDS


async def set_the_stage(rig: Rig) -> None:
    """Make three versions of m, one of alone, and one that is no model."""
    for version in "12":
        await rig.ready("m", version, signature=BATCHED, answers=first_column)
    rig.add("m", "3")
    await rig.ready("alone", "1")
    rig.add("odd", "1", loads=5)


async def make(bad: Case, engine: Engine, folder: Path) -> None:
    """Make the mistake, and wait for what it leads to."""
    result = bad.call(engine, folder)
    if hasattr(result, "__await__"):
        with trio.fail_after(1_000):
            await result


def picture(engine: Engine, *, but: set[VersionKey] = frozenset()) -> Any:
    """Return all that a mistake must not change; `but` names versions that it may.

    A request with wrong inputs takes a reference, because the signature is its version's, and gives it back.
    """
    models = ("m", "alone", "odd")
    counts = engine.statistics()
    versions = {
        key: attrs.evolve(one, references=at_rest(one.references), usage=one.usage.current)
        for key, one in counts.versions.items()
        if key not in but
    }
    return (
        {model: (engine.loaded_versions(model), engine._router.active(model)) for model in models},
        {key: at_rest(balance) for key, balance in engine.audit().balances.items()},
        engine.audit().holders,
        attrs.evolve(counts, versions=versions, registered=0),
    )


def at_rest(balance: Balance) -> Balance:
    """Return a balance without what was taken and given back."""
    assert balance.conserved
    return attrs.evolve(balance, acquired=balance.held, released=0)


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: bad.name)
async def test_bad_input_is_named_and_changes_nothing(rig: Rig, bad: Case, tmp_path: Path, autojump_clock: Any) -> None:
    """The error is of the right branch, names the culprit, and the engine is as it was."""
    if bad.name.startswith("a source"):
        pytest.importorskip("onnxruntime")
    await set_the_stage(rig)
    before, known = picture(rig.engine), rig.engine.statistics()
    with pytest.raises(bad.error) as caught:
        await make(bad, rig.engine, tmp_path)
    assert type(caught.value) is bad.error
    for text in bad.says:
        assert text in str(caught.value)
    await settle()
    after = rig.engine.statistics()
    new = after.versions.keys() - known.versions.keys()
    if bad.error not in (LoadFailed, SwapFailed):
        assert (new, after.registered) == (set(), known.registered)
    assert all(after.versions[key].state.value in ("failed", "unloaded") for key in new)
    assert picture(rig.engine, but=new) == before
    assert (await rig.engine.infer("m", {"x": np.zeros((1, 2))})).version == "1"


def test_every_error_says_who_can_act() -> None:
    """A caller's mistake is the caller's, is not worth a retry, and is a ChangeoverError as all are."""
    for bad in ALL:
        assert issubclass(bad.error, ChangeoverError)
        assert bad.error.acts in ("caller", "model")
        assert not bad.error.retryable
