"""Loaders: found by entry point, kept from running code unasked, and looked at before and after the load."""

from __future__ import annotations

import hashlib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from changeover import Batching, VersionSpec
from changeover.errors import CodeNotAllowed, LoaderNotInstalled, LoadFailed
from changeover.plugin import API_VERSION, Source
from changeover.runtime import loaders as loaders_module
from changeover.runtime.loaders import GROUP, Loaders, load
from tests.support.models import BATCHED, Broken, Cast, Script, ScriptedModel


class Outdated:
    """A loader that was written for another protocol."""

    api_version: ClassVar[int] = API_VERSION + 1
    executes_code_on_load: ClassVar[bool] = False


class Unlabelled:
    """A loader that does not say what it was written for."""


class Coding:
    """A loader that runs the source's code."""

    api_version: ClassVar[int] = API_VERSION
    executes_code_on_load: ClassVar[bool] = True


class Plain:
    """A loader that only reads."""

    api_version: ClassVar[int] = API_VERSION
    executes_code_on_load: ClassVar[bool] = False


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Install entry points, and no others, until the test ends."""
    found = [
        EntryPoint(name, f"{__name__}:{kind.__name__}", GROUP)
        for name, kind in {"outdated": Outdated, "coding": Coding, "plain": Plain, "unlabelled": Unlabelled}.items()
    ]
    found.append(EntryPoint("gone", "no_such_package_anywhere:Loader", GROUP))
    found.append(EntryPoint("misspelt", f"{__name__}:NoSuchLoader", GROUP))
    monkeypatch.setattr(loaders_module, "entry_points", lambda group: found if group == GROUP else [])
    monkeypatch.setattr(EntryPoint, "load", _load_point)
    return found


def _load_point(point: EntryPoint) -> Any:
    """Load an entry point of this very file, which has no importable name."""
    if point.module == __name__ and point.attr in globals():
        return globals()[point.attr]
    if point.module == __name__:
        raise AttributeError(point.attr)
    raise ModuleNotFoundError(f"No module named {point.module!r}")


def spec(loader: str = "scripted", source: Any = "script", **fields: Any) -> VersionSpec:
    """Return a spec of m/1."""
    return VersionSpec("m", "1", source, loader=loader, **fields)


def test_loaders_are_found_by_their_entry_points(points: list[EntryPoint]) -> None:
    """What is installed in the group `changeover.loaders` is known by name."""
    loaders = Loaders()
    assert loaders.find(spec("plain")) is Plain
    assert loaders.names() == ("coding", "gone", "misspelt", "outdated", "plain", "unlabelled")


def test_the_projects_own_loaders_are_installed() -> None:
    """The distribution brings the loaders `callable` and `onnx`."""
    assert {"callable", "onnx"} <= set(Loaders().names())


def test_an_added_loader_needs_no_entry_point(points: list[EntryPoint]) -> None:
    """A loader can be made known by hand, and comes before an installed one of its name."""
    loaders = Loaders()
    loaders.add("plain", Cast().loader)
    loaders.add("mine", Cast().loader)
    assert loaders.find(spec("plain")) is not Plain
    assert "mine" in loaders.names()


def test_a_loader_that_is_not_installed_is_named_with_its_extra(points: list[EntryPoint]) -> None:
    """The message names the version, the loader, what there is, and how to install more."""
    with pytest.raises(LoaderNotInstalled) as caught:
        Loaders().find(spec("onnx"))
    assert all(text in str(caught.value) for text in ("m/1", "'onnx'", "coding", "pip install 'changeover[onnx]'"))


@pytest.mark.parametrize("name", ["gone", "misspelt", "unlabelled"])
def test_a_loader_that_cannot_be_imported_is_not_installed(points: list[EntryPoint], name: str) -> None:
    """A broken installation is told as one, with the version and the loader by name."""
    with pytest.raises(LoaderNotInstalled, match=rf"m/1.*{name}"):
        Loaders().find(spec(name))


def test_a_loader_for_another_protocol_is_refused(points: list[EntryPoint]) -> None:
    """The message names both versions of the protocol."""
    with pytest.raises(LoaderNotInstalled, match=rf"'outdated'.*version {API_VERSION + 1}.*version {API_VERSION}"):
        Loaders().find(spec("outdated"))


def test_code_runs_only_where_it_is_allowed(points: list[EntryPoint]) -> None:
    """A loader that runs the source's code is refused without `allow_code=True`, and found with it."""
    with pytest.raises(CodeNotAllowed, match=r"m/1.*'coding'.*allow_code=True"):
        Loaders().find(spec("coding"))
    assert Loaders().find(spec("coding", allow_code=True)) is Coding


# --- the load itself ------------------------------------------------------------------------------------------------


def run(fields: dict[str, Any] | None = None, **script: Any) -> tuple[Any, Cast]:
    """Load m/1 by a scripted loader and return the outcome: the model and its size, or the error."""
    cast = Cast()
    cast.scripts["m/1"] = Script(**script)
    try:
        return load(cast.loader, spec(**(fields or {}))), cast
    except LoadFailed as error:
        return error, cast


def test_a_load_brings_a_model_and_its_size() -> None:
    """The model comes as its loader made it, with what it says it occupies."""
    brought, cast = run(memory=123)
    model, size = brought.model, brought.size
    assert (model, size) == (cast.made[0], 123)


def test_a_model_may_not_know_its_size() -> None:
    """A size of None is an answer."""
    assert run(memory=None)[0].size is None


def test_a_loader_is_told_what_to_load() -> None:
    """It gets the model's name, the version, the source as text and the options."""
    seen: list[Source] = []

    class Curious:
        api_version: ClassVar[int] = API_VERSION
        executes_code_on_load: ClassVar[bool] = False

        def load(self, source: Source) -> Any:
            seen.append(source)
            return ScriptedModel(Script(), source.model, source.version)

    load(Curious, spec(source=Path("a/b"), options={"x": 1}))
    assert seen == [Source("m", "1", str(Path("a/b")), {"x": 1})]


@pytest.mark.parametrize("error", [Broken("no good"), SystemExit("no good"), KeyboardInterrupt("no good")])
def test_whatever_a_loader_raises_is_a_failed_load(error: BaseException) -> None:
    """The message names the version, the loader and the loader's own words, and the cause is kept."""
    failed, _ = run(load_error=error)
    assert isinstance(failed, LoadFailed)
    assert all(text in str(failed) for text in ("m/1", "'scripted'", type(error).__name__, "no good"))
    assert failed.__cause__ is error
    assert (failed.model, failed.version) == ("m", "1")


def test_a_loader_may_say_itself_that_a_load_failed() -> None:
    """A `LoadFailed` of the loader's own comes out as it is."""
    error = LoadFailed("my own words", model="m", version="1")
    assert run(load_error=error)[0] is error


@pytest.mark.parametrize(
    "thing", [5, "model", object(), lambda _inputs: {}, SimpleNamespace(predict=1, close=lambda: None)]
)
def test_what_is_not_a_model_is_refused_by_its_type(thing: Any) -> None:
    """A loader that returns anything else is told what a model has."""
    failed, _ = run(loads=thing)
    assert isinstance(failed, LoadFailed)
    assert f"returned {type(thing).__name__}, which is not a model" in str(failed)


def test_what_is_refused_is_closed() -> None:
    """A thing with a `close` that is not a model is closed all the same, because it may hold something."""
    closed: list[int] = []
    run(loads=SimpleNamespace(close=lambda: closed.append(1)))
    assert closed == [1]


def test_a_close_that_raises_does_not_hide_why_a_model_was_refused() -> None:
    """The reason to refuse it is what is reported."""

    def close() -> None:
        raise Broken("close")

    failed, _ = run(loads=SimpleNamespace(close=close))
    assert "not a model" in str(failed)


def test_a_model_with_a_signature_of_another_kind_is_refused() -> None:
    """A signature that is no `changeover.plugin.Signature` is no signature."""
    failed, cast = run(signature="float32 in, float32 out")
    assert "not a model" in str(failed)
    assert cast.made[0].closed == 1


def test_a_model_that_cannot_be_batched_is_refused_where_it_is_to_be() -> None:
    """Batching needs a signature with the batch dimension on every tensor."""
    fields = {"execution": "worker", "batching": Batching(4)}
    failed, cast = run(fields)
    assert "batch dimension" in str(failed)
    assert cast.made[0].closed == 1
    assert run(fields, signature=BATCHED)[0].model.closed == 0


def test_several_workers_need_a_thread_safe_model() -> None:
    """A model that one thread at a time may call is refused for two workers, and taken for one."""
    failed, cast = run({"execution": "worker", "workers": 2}, thread_safe=False)
    assert "2 workers" in str(failed)
    assert cast.made[0].closed == 1
    assert run({"execution": "worker", "workers": 1}, thread_safe=False)[0].model.closed == 0


@pytest.mark.parametrize("memory", [Broken("no"), "lots", -1, 1.5])
def test_a_size_that_is_none_fails_the_load(memory: Any) -> None:
    """`memory_bytes` must return a whole number of bytes or None; else the model is closed and the load failed."""
    failed, cast = run(memory=memory)
    assert isinstance(failed, LoadFailed)
    assert "memory_bytes" in str(failed)
    assert cast.made[0].closed == 1


def test_the_digest_is_checked_before_the_loader_sees_the_file(tmp_path: Path) -> None:
    """A file with another digest is not loaded, and the message has both digests; upper case is as good as lower."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert run({"source": path, "sha256": digest.upper()})[0].model.closed == 0
    failed, cast = run({"source": path, "sha256": "0" * 64})
    assert isinstance(failed, LoadFailed)
    assert digest in str(failed)
    assert "0" * 64 in str(failed)
    assert cast.made == []


def test_the_digest_of_a_file_that_is_not_there_fails_the_load(tmp_path: Path) -> None:
    """The missing file is named."""
    failed, _ = run({"source": tmp_path / "none.bin", "sha256": "0" * 64})
    assert "none.bin" in str(failed)
