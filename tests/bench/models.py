"""The models of the benchmarks, as functions that the callable loader calls: `"models:trivial"`, ...

A witness stands around a real ONNX model and counts every call that its `close` was too early for. `WITNESS` is the
one count of the process.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from changeover.core.tally import peek
from changeover.plugin import Model, Signature, Source
from changeover_plugins.onnx_loader import OnnxLoader


class Trivial:
    """As little of a model as there can be."""

    __slots__ = ()

    signature = Signature(checked=False)
    thread_safe = True

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the inputs."""
        return inputs

    def memory_bytes(self) -> int:
        """Return nothing worth counting."""
        return 0

    def close(self) -> None:
        """Have nothing to close."""


class Witness:
    """What was seen of all witnessed models of this process; from any thread."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._after_close = itertools.count()
        self._closed_in_use = itertools.count()
        self._closed = itertools.count()

    @property
    def used_after_close(self) -> int:
        """Return how many calls began, or were still running, after `close` had been called."""
        return peek(self._after_close) + peek(self._closed_in_use)

    @property
    def closed(self) -> int:
        """Return how many models were closed."""
        return peek(self._closed)

    def saw_use(self, *, began_closed: bool) -> None:
        """Note a call that `close` came too early for."""
        next(self._after_close if began_closed else self._closed_in_use)

    def saw_close(self) -> None:
        """Note a close."""
        next(self._closed)


WITNESS = Witness()


class Witnessed:
    """A model around another one that looks, before and after each call, whether it was closed."""

    def __init__(self, model: Model) -> None:
        """Pass everything on to `model`."""
        self.signature = model.signature
        self.thread_safe = model.thread_safe
        self._model = model
        self._closed = False

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call the model, and report what must not be."""
        if self._closed:
            WITNESS.saw_use(began_closed=True)
        outputs = self._model.predict(inputs)
        if self._closed:
            WITNESS.saw_use(began_closed=False)
        return outputs

    def memory_bytes(self) -> int | None:
        """Return what the model says."""
        return self._model.memory_bytes()

    def close(self) -> None:
        """Close the model."""
        self._closed = True
        WITNESS.saw_close()
        self._model.close()


def trivial() -> Trivial:
    """Make a model that does nothing."""
    return Trivial()


class Weighty(Trivial):
    """A model that is nothing, and says that it occupies 100 bytes."""

    __slots__ = ()

    def memory_bytes(self) -> int:
        """Return what it says that it occupies."""
        return 100


def weighty() -> Weighty:
    """Make a model that occupies 100 bytes."""
    return Weighty()


LOAD_S = 0.8
"""How long the loads take that others feel, or do not."""

gate = threading.Event()
"""Open: the loads that hang come back."""


def loads_in_c() -> Trivial:
    """Work without the GIL, as a library does that reads weights."""
    ends = time.perf_counter() + LOAD_S
    while time.perf_counter() < ends:
        hashlib.pbkdf2_hmac("sha256", b"weights", b"salt", 100_000)
    return Trivial()


def loads_in_python() -> Trivial:
    """Work with the GIL, as a loader does that builds its model object by object."""
    ends = time.perf_counter() + LOAD_S
    while time.perf_counter() < ends:
        sum(range(1_000))
    return Trivial()


def loads_slowly() -> Trivial:
    """Wait, as for a slow disk."""
    time.sleep(LOAD_S)
    return Trivial()


def loads_long() -> Trivial:
    """Wait for twice as long."""
    time.sleep(2 * LOAD_S)
    return Trivial()


def hangs() -> Trivial:
    """Wait for the gate."""
    gate.wait()
    return Trivial()


def witnessed(path: str) -> Witnessed:
    """Load an ONNX file with the real loader, and put a witness around it."""
    return Witnessed(OnnxLoader().load(Source("digits", Path(path).parent.name, path)))


class Raising(Witnessed):
    """A witnessed model that raises on the first 100 rows that it is asked for, and notes when it was called."""

    calls: ClassVar[list[float]] = []
    """When any of them was called, in seconds since 1970."""

    def __init__(self, model: Model) -> None:
        """Have answered nothing yet."""
        super().__init__(model)
        self._left = 100

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raise, or call the model."""
        self.calls.append(time.time())
        if self._left > 0:
            self._left -= 1
            raise ValueError("this version is not what it was in the laboratory")
        return super().predict(inputs)


def raising(path: str) -> Raising:
    """Load an ONNX file into a model that loads, and then raises on its first requests."""
    return Raising(OnnxLoader().load(Source("digits", Path(path).parent.name, path)))


def raises() -> Trivial:
    """Fail to load."""
    raise OSError("the weights are gone")


class Picky(Trivial):
    """A model that raises where it is asked for something bad."""

    __slots__ = ()

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the inputs, or raise."""
        if "bad" in inputs:
            raise ValueError("this is bad")
        return inputs


def picky() -> Picky:
    """Make a model that fails on bad warm-up data."""
    return Picky()


class Bad(Trivial):
    """A model that raises whatever it is asked for."""

    __slots__ = ()

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raise."""
        raise ValueError("this version is not what it was in the laboratory")


def predicts_badly() -> Bad:
    """Make a model that loads, and never answers."""
    return Bad()
