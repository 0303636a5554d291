"""The public names are the ones that were agreed on, and each has one home."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import get_args

import pytest

import changeover
from changeover import errors
from changeover.errors import Actor, ChangeoverError
from tests.house.public_names import FACES, GOLDEN, UPDATE, defined, modules, names_of, public_names


def descendants(cls: type[ChangeoverError]) -> Iterator[type[ChangeoverError]]:
    """Yield the class and all that derives from it."""
    yield cls
    for child in cls.__subclasses__():
        yield from descendants(child)


def every_error() -> list[type[ChangeoverError]]:
    """Import the whole engine and return each error class that it defines, wherever it does."""
    for found in pkgutil.walk_packages(changeover.__path__, "changeover."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    return [e for e in dict.fromkeys(descendants(ChangeoverError)) if e.__module__.split(".")[0] == "changeover"]


def test_public_names_are_frozen() -> None:
    """The public names are those of the golden file; a change to them is a decision and shows in the diff."""
    agreed, now = GOLDEN.read_text().split(), public_names()
    new, gone = sorted(set(now) - set(agreed)), sorted(set(agreed) - set(now))
    assert now == agreed, f"new: {new}; gone: {gone}; if that is meant, run: {UPDATE}"


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_a_public_name_exists(module: ModuleType) -> None:
    """Every public name is there, and listed once."""
    assert [name for name in names_of(module) if not hasattr(module, name)] == []
    assert len(names_of(module)) == len(set(names_of(module)))


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_nothing_public_is_left_out(module: ModuleType) -> None:
    """What a public module defines without an underscore is public."""
    assert {name for name in defined(module) if not name.startswith("_")} <= set(names_of(module))


def test_the_package_shows_nothing_else() -> None:
    """Whoever types `changeover.` and a tab sees public names and submodules only."""
    assert changeover.__all__, "a package lists what it re-exports"
    shown = {name for name, value in vars(changeover).items() if not isinstance(value, ModuleType)}
    assert {name for name in shown if not name.startswith("_")} - {"annotations"} <= set(changeover.__all__)


def test_a_name_has_one_home() -> None:
    """No name, and no class or function, is public in two modules, but for those that each face has of its own."""
    homes = Counter(q.rpartition(".")[2] for q in public_names() if not q.startswith(FACES))
    assert [name for name, count in homes.items() if count > 1] == []
    things = [getattr(module, name) for module in modules() for name in names_of(module)]
    owned = Counter(thing for thing in things if isinstance(thing, type) or callable(thing))
    assert [thing for thing, count in owned.items() if count > 1] == []


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_an_error_says_what_it_means(error: type[ChangeoverError]) -> None:
    """Every error is caught by its public name, says what happened, who can act and whether a retry may help."""
    assert getattr(errors, error.__name__) is error
    assert error.__name__ in names_of(errors)
    assert error.__doc__
    assert isinstance(error.retryable, bool)
    assert error.acts in get_args(Actor)
