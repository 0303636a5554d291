"""The callable loader: what a function may return, and what is said about one that cannot be used.

Modules are made in `sys.modules` or in a temporary folder, and are gone after each test.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from changeover.plugin import API_VERSION, Model, Signature, Source
from changeover_plugins.callable_loader import CallableLoader

MODULE = "changeover_test_shop"

Define = Callable[..., None]


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Define:
    """Return a function that puts names into a module that can be imported until the test ends."""
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module.__dict__.update


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the Python path, with no module in it yet."""
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def load(location: str = f"{MODULE}:build", **options: Any) -> Model:
    """Load the location as version 7 of the model "shop"."""
    return CallableLoader().load(Source(model="shop", version="7", location=location, options=options))


class FullModel:
    """A model in its author's own words, with none of this project's base classes."""

    signature = Signature(checked=False)
    thread_safe = True

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": inputs["x"]}

    def memory_bytes(self) -> int:
        return 5

    def close(self) -> None:
        pass


# --- what may be returned -------------------------------------------------------------------------------------------


def test_is_found_by_entry_point() -> None:
    """The installed package offers the loader as `callable`, for this engine's API, as one that runs code on load."""
    (point,) = entry_points(group="changeover.loaders", name="callable")
    found = point.load()
    assert found is CallableLoader
    assert (found.api_version, found.executes_code_on_load) == (API_VERSION, True)


def test_plain_callable_becomes_a_model(define: Define) -> None:
    """A returned function gets the mapping and gives one back; nothing is promised in its name."""
    define(build=lambda: lambda inputs: {"y": inputs["x"] + 1})
    model = load()
    assert isinstance(model, Model)
    assert model.predict({"x": 1}) == {"y": 2}
    assert model.signature == Signature(checked=False)
    assert model.thread_safe is False
    assert model.memory_bytes() is None


def test_options_are_keyword_arguments(define: Define) -> None:
    """The version's options arrive as the function's keyword arguments."""
    define(build=lambda *, add, times=1: lambda inputs: {"y": (inputs["x"] + add) * times})
    assert load(add=2, times=10).predict({"x": 1}) == {"y": 30}


def test_model_is_served_as_it_is(define: Define) -> None:
    """A returned model is not wrapped: its own signature, thread safety and size are what the engine sees."""
    mine = FullModel()
    define(build=lambda: mine)
    assert load() is mine


def test_class_as_function_and_dotted_names(define: Define) -> None:
    """The function may be a class, or sit inside one."""
    define(build=FullModel, Shop=SimpleNamespace(build=FullModel))
    assert isinstance(load(), FullModel)
    assert isinstance(load(f"{MODULE}:Shop.build"), FullModel)


def test_callable_with_predict_alone_is_called(define: Define) -> None:
    """An object that happens to have a `predict` and is no model (as Keras' are) is used as a callable."""

    class Network:
        def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"called": True}

        def predict(self) -> None:
            raise AssertionError

    define(build=Network)
    assert load().predict({}) == {"called": True}


def test_close_reaches_the_object_once(define: Define) -> None:
    """Closing calls the object's own `close`, once, and a later predict is refused in words."""
    closed: list[str] = []

    class Answer:
        def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            return {}

        def close(self) -> None:
            closed.append("closed")

    define(build=Answer)
    model = load()
    assert closed == []
    model.close()
    model.close()
    assert closed == ["closed"]
    with pytest.raises(RuntimeError, match=rf"{MODULE}:build.*after close"):
        model.predict({})


def test_close_without_one_lets_go(define: Define) -> None:
    """A function without a `close` is let go of, and with it what it holds."""
    define(build=lambda: lambda inputs: {})
    model = load()
    model.close()
    with pytest.raises(RuntimeError, match="after close"):
        model.predict({})


def test_result_must_be_a_mapping(define: Define) -> None:
    """A callable that answers with a bare value is told so, by the name of its source."""
    define(build=lambda: lambda inputs: [1, 2])
    with pytest.raises(TypeError, match=rf"'{MODULE}:build' \(source of shop/7\) answered with a list; .*mapping"):
        load().predict({})


# --- what may not be returned ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "named"), [(None, "None"), (42, "an int"), ({}, "a dict"), ("model", "a str")])
def test_neither_model_nor_callable(define: Define, made: object, named: str) -> None:
    """Anything else is named, together with what is needed."""
    define(build=lambda: made)
    with pytest.raises(TypeError, match=rf"source of shop/7\) returned {named}; return a callable .*signature"):
        load()


def test_class_is_not_an_instance(define: Define) -> None:
    """A class that looks like a model is refused: its methods would lack a `self`."""
    define(build=lambda: FullModel)
    with pytest.raises(TypeError, match="returned the class FullModel; return an instance"):
        load()


@pytest.mark.parametrize("part", ["thread_safe", "memory_bytes"])
def test_half_a_model_is_told_what_it_lacks(define: Define, part: str) -> None:
    """An object with predict, close and signature is meant as a model, and is told which part is missing."""
    parts = {
        name: getattr(FullModel(), name) for name in ("signature", "thread_safe", "predict", "memory_bytes", "close")
    }
    del parts[part]
    define(build=lambda: SimpleNamespace(**parts))
    with pytest.raises(TypeError, match=rf"a model without {part}; add it"):
        load()


@pytest.mark.parametrize(
    ("part", "value"),
    [("predict", 1), ("close", None), ("memory_bytes", 1), ("signature", {}), ("thread_safe", lambda: True)],
)
def test_unfit_part_of_a_model_is_named(define: Define, part: str, value: object) -> None:
    """A part of the wrong kind is named at load, and does not fail (or pass as true) on the first request."""
    unfit = FullModel()
    setattr(unfit, part, value)
    define(build=lambda: unfit)
    with pytest.raises(TypeError, match=rf"a FullModel with an unfit {part}; a model has"):
        load()


# --- what cannot be found or called ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    ["", "shop", ":", ":build", "shop:", "shop:build:more", "shop.py:build()", "./shop.py:build", "a b:c", "shop::b"],
)
def test_malformed_location(location: str) -> None:
    """What does not have the form of "module:function" is quoted beside an example of what has."""
    with pytest.raises(
        ValueError, match=r"source of shop/7\) does not name a function; write \"module:function\""
    ) as e:
        load(location)
    assert repr(location) in str(e.value)


@pytest.mark.parametrize(
    ("module", "missing"), [("changeover_no_such", "changeover_no_such"), ("json.no.way", "json.no")]
)
def test_missing_module(module: str, missing: str) -> None:
    """A module that is not there is named as far as the path leads nowhere, with the way out."""
    with pytest.raises(ModuleNotFoundError, match=rf"there is no module '{missing}'; install it") as raised:
        load(f"{module}:build")
    assert f"'{module}:build' (source of shop/7)" in str(raised.value)


def test_missing_import_inside_the_module(folder: Path) -> None:
    """When the module is there and something that it imports is not, the missing one is named, not the module."""
    (folder / "changeover_needy.py").write_text("import changeover_no_such\n")
    with pytest.raises(ImportError, match=r"importing 'changeover_needy' failed: .*'changeover_no_such'") as raised:
        load("changeover_needy:build")
    assert not isinstance(raised.value, ModuleNotFoundError)


def test_module_that_raises_is_not_covered_up(folder: Path) -> None:
    """What a module raises while it is imported comes out as it is."""
    (folder / "changeover_broken.py").write_text("raise ZeroDivisionError('mine')\n")
    with pytest.raises(ZeroDivisionError, match="mine"):
        load("changeover_broken:build")


def test_module_younger_than_the_folder_listing(folder: Path) -> None:
    """A module that was written after Python last looked into its folder is found."""
    before = folder.stat()
    with pytest.raises(ModuleNotFoundError):
        load("changeover_young:build")
    (folder / "changeover_young.py").write_text("def build():\n    return lambda inputs: {'young': True}\n")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))  # a clock too coarse to show the change
    assert load("changeover_young:build").predict({}) == {"young": True}


def test_loads_at_the_same_moment_do_not_meet_in_the_import_system(
    define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In CPython two threads that make it look into its folders anew can trip over one another."""
    define(build=lambda: lambda inputs: inputs)
    errors: list[Exception] = []
    monkeypatch.setattr(sys, "path_importer_cache", dict(sys.path_importer_cache))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=_load_often, args=(errors,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []


@pytest.mark.parametrize("error", [KeyError("/not/there"), RuntimeError("dictionary changed size during iteration")])
def test_a_look_into_folders_that_trips_is_made_again(
    define: Define, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whichever way two threads meet in the import system, the load goes on."""
    define(build=lambda: lambda inputs: inputs)
    trips, look = [error, error], importlib.invalidate_caches

    def trip() -> None:
        if trips:
            raise trips.pop()
        look()

    monkeypatch.setattr(importlib, "invalidate_caches", trip)
    assert load().predict({"n": 1}) == {"n": 1}
    assert trips == []


def _load_often(errors: list[Exception]) -> None:
    for _ in range(300):
        for number in range(3):  # what is left of folders that are not there
            sys.path_importer_cache.setdefault(f"/not/there/{number}", None)
        try:
            load()
        except (KeyError, RuntimeError) as error:
            errors.append(error)


def test_missing_attribute(define: Define) -> None:
    """A function that the module lacks is named, with the module."""
    define(other=1)
    with pytest.raises(AttributeError, match=rf"source of shop/7\): there is no 'build' in the module {MODULE}"):
        load()


def test_not_callable(define: Define) -> None:
    """Something that is not a function is called what it is."""
    define(build=3)
    with pytest.raises(TypeError, match=r"source of shop/7\) is an int, which cannot be called"):
        load()


@pytest.mark.parametrize("options", [{}, {"ad": 1}, {"add": 1, "extra": 2}])
def test_options_that_do_not_fit(define: Define, options: dict[str, Any]) -> None:
    """Options that the function does not take are named with its parameters, and the function is not called."""
    called: list[int] = []

    def build(*, add: int) -> None:
        called.append(add)

    define(build=build)
    with pytest.raises(TypeError, match=r"takes \(\*, add: .*cannot be called with the version's options"):
        load(**options)
    assert called == []


def test_function_without_a_signature_is_called(define: Define) -> None:
    """A function that cannot be looked into, as some written in C, is called all the same."""

    class Sealed:
        __signature__ = "none"

        def __call__(self) -> Callable[..., Any]:
            return lambda inputs: {"sealed": True}

    define(build=Sealed())
    assert load().predict({}) == {"sealed": True}


def test_what_the_function_raises_comes_out(define: Define) -> None:
    """An error of the function itself is not dressed up: the engine says which version it was."""

    def build() -> None:
        raise ZeroDivisionError("mine")

    define(build=build)
    with pytest.raises(ZeroDivisionError, match="mine"):
        load()
