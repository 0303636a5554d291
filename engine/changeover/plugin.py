"""The door for loader authors: what a loader is given, what it returns, what a model must be able to do.

NumPy is not needed here: an array is anything with a `shape` and a `dtype`. Owns no state, spawns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import attrs

API_VERSION = 1
"""The loader protocol that this engine speaks; a loader carries the number that it was written for."""

BATCH = "batch"
"""The name of the batch dimension in a `TensorSpec.shape`."""


class FatalModelError(Exception):
    """A model raises this (or a subclass) from `predict` to say that it is beyond use and must be loaded afresh."""


class SourceAway(Exception):
    """A loader raises this (or a subclass) where its source cannot be reached just now, and trying again may help.

    Connections that fail, time-outs and a disk that is away (`OSError`s of that kind) count as that by themselves.
    """


@attrs.frozen
class TensorSpec:
    """One input or output of a model."""

    name: str
    """The key in the mapping that `predict` takes or returns."""
    dtype: str
    """A NumPy dtype name, `"float32"`; the empty string accepts any."""
    shape: tuple[int | str | None, ...]
    """One entry per dimension: a number, or a name or None for a free one; `BATCH` first where it can be batched."""


def _as_tensors(value: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    tensors = tuple(value)
    for tensor in tensors:
        if not isinstance(tensor, TensorSpec):  # pyright: ignore[reportUnnecessaryIsInstance] - plugins without a type checker
            raise TypeError(f"a signature is made of TensorSpecs, not of {type(tensor).__name__}")
    return tensors


@attrs.frozen
class Signature:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...] = attrs.field(default=(), converter=_as_tensors)
    """Every input; all of them are required."""
    outputs: tuple[TensorSpec, ...] = attrs.field(default=(), converter=_as_tensors)
    """Every output."""
    checked: bool = True
    """False where the model says nothing about its inputs (a plain callable): requests go through unlooked at."""

    @property
    def batched(self) -> bool:
        """True where the first dimension of every input and output is the declared batch dimension."""
        tensors = self.inputs + self.outputs
        return self.checked and bool(self.inputs) and all(t.shape[:1] == (BATCH,) for t in tensors)


@attrs.frozen
class Source:
    """What a loader is given."""

    model: str
    """The model's name, for messages."""
    version: str
    """The version, for messages."""
    location: str
    """What the version was registered with: a path, or a loader's own notation such as `"module:function"`."""
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """The loader's own settings, from `VersionSpec.options`."""
    allow_code: bool = False
    """True where the version was registered with `allow_code=True`; options may come from a file, this never does."""

    def file(self) -> Path:
        """Return `location` as the path of an existing file.

        Raises FileNotFoundError or IsADirectoryError, each naming the path and the version that asked for it.
        """
        path = Path(self.location)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory; {self.model}/{self.version} needs the path of a file")
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist (source of {self.model}/{self.version})")
        return path


@runtime_checkable
class Model(Protocol):
    """A loaded model; the engine closes it exactly once, after its last use."""

    signature: Signature
    """Inputs and outputs; requests are checked against it before `predict` is called."""
    thread_safe: bool
    """True where several threads may call `predict` at once."""

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Map input arrays by name to output arrays by name; may block, may raise."""
        ...

    def memory_bytes(self) -> int | None:
        """Return what the model occupies, or None where it cannot tell."""
        ...

    def close(self) -> None:
        """Give everything back; called once, off the event loop."""
        ...


@runtime_checkable
class StreamingModel(Model, Protocol):
    """A model that can also answer in chunks, for `infer_stream`."""

    def predict_stream(self, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield output arrays by name, chunk by chunk; a generator is closed where its caller goes away."""
        ...


class Loader(Protocol):
    """Makes models out of sources; found by entry point in the group `changeover.loaders`, made without arguments."""

    api_version: ClassVar[int]
    """The `API_VERSION` that it was written for."""
    executes_code_on_load: ClassVar[bool]
    """True where loading runs code that came with the source; such versions need `allow_code=True`."""

    def load(self, source: Source) -> Model:
        """Load; runs in a thread of its own and may block. Whatever it raises becomes a `LoadFailed`.

        After a `SourceAway` it is tried again, as often as the version's `load_retries` says.
        """
        ...
