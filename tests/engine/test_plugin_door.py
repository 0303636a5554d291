"""The door for loader authors keeps what it promises them.

Owns no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from changeover import plugin
from changeover.errors import ChangeoverError
from changeover.plugin import BATCH, FatalModelError, Model, Signature, Source, TensorSpec

ROWS = TensorSpec("x", "float32", (BATCH, 4))
ONE = TensorSpec("y", "float32", (4,))
SCALAR = TensorSpec("z", "float32", ())
LAST = TensorSpec("w", "float32", (4, BATCH))
FREE = TensorSpec("v", "float32", (None, 4))
NAMED = TensorSpec("u", "float32", ("n", 4))
FIXED = TensorSpec("t", "float32", (1, 4))


# --- sources --------------------------------------------------------------------------------------------------------


def test_a_file_is_its_path(tmp_path: Path) -> None:
    """`file` returns the path of a file that is there."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"")
    assert Source("digits", "1", str(path)).file() == path


def test_a_missing_file_is_named_with_its_version(tmp_path: Path) -> None:
    """A file that is not there raises, naming the path and who asked for it."""
    path = tmp_path / "model.bin"
    with pytest.raises(FileNotFoundError) as caught:
        Source("digits", "1", str(path)).file()
    assert str(path) in str(caught.value)
    assert "digits/1" in str(caught.value)


@pytest.mark.parametrize("location", ["", "."])
def test_a_directory_is_named_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    """A directory, which an empty location is too, raises as what it is, naming who asked for it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"directory; digits/1 needs the path of a file"):
        Source("digits", "1", location).file()


def test_a_source_has_options_of_its_own() -> None:
    """Without options a source has an empty mapping, and no two sources share it."""
    first, second = Source("digits", "1", "a"), Source("digits", "2", "b")
    assert first.options == {}
    assert first.options is not second.options


@pytest.mark.parametrize("value", [Source("digits", "1", "a"), Signature(), ROWS])
def test_what_a_loader_is_given_or_gives_is_frozen(value: Any) -> None:
    """Neither sources nor signatures can be changed behind the engine's back."""
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, None)


# --- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "outputs", "batched"),
    [
        ((ROWS,), (ROWS,), True),
        ((ROWS,), (), True),
        ((ROWS, ROWS), (ROWS, ROWS), True),
        ((), (), False),
        ((), (ROWS,), False),
        ((ROWS, ONE), (ROWS,), False),
        ((ROWS,), (ROWS, ONE), False),
        ((ROWS,), (SCALAR,), False),
        ((SCALAR,), (ROWS,), False),
        ((LAST,), (LAST,), False),
        ((FREE,), (FREE,), False),
        ((NAMED,), (NAMED,), False),
        ((FIXED,), (FIXED,), False),
    ],
)
def test_a_model_is_batched_where_every_tensor_is(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], batched: bool
) -> None:
    """A model can be batched where it has inputs, and the first dimension of each tensor is the one called batch."""
    assert Signature(inputs, outputs).batched is batched


def test_an_unchecked_model_is_not_batched() -> None:
    """Where nothing is known of the inputs nobody knows how to join them."""
    assert not Signature((ROWS,), (ROWS,), checked=False).batched
    assert Signature().checked


# --- protocols ------------------------------------------------------------------------------------------------------


class Complete:
    """A model with everything."""

    signature = Signature()
    thread_safe = True

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return inputs

    def memory_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize("missing", ["signature", "thread_safe", "predict", "memory_bytes", "close"])
def test_a_model_is_known_by_what_it_has(missing: str) -> None:
    """An object with every member is a `Model`, and one that lacks any of them is none."""
    assert isinstance(Complete(), Model)
    members = {name: value for name, value in vars(Complete).items() if name != missing}
    assert not isinstance(type("Incomplete", (), members)(), Model)


def test_a_fatal_error_is_an_error_of_the_model() -> None:
    """`FatalModelError` is for models to raise, so it is no error of the engine."""
    assert issubclass(FatalModelError, Exception)
    assert not issubclass(FatalModelError, ChangeoverError)


def test_the_door_has_a_number() -> None:
    """A loader compares against one whole number."""
    assert type(plugin.API_VERSION) is int
