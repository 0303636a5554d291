"""Models that do what a test tells them, and remember what was done to them.

A `Cast` owns the scripts by version and every model that was made from them; its `loader` class is what an engine is
given. Safe from any thread; spawns nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import attrs

from changeover.plugin import API_VERSION, FatalModelError, Signature, Source, TensorSpec

UNCHECKED = Signature(checked=False)
"""Takes anything."""

BATCHED = Signature((TensorSpec("x", "float64", ("batch", 2)),), (TensorSpec("y", "float64", ("batch",)),))
"""Takes rows of two numbers, gives one number a row."""


class Broken(Exception):
    """What a scripted model or loader raises."""


@attrs.define
class Script:
    """What one version does; each field may be changed while the test runs."""

    load_error: BaseException | None = None
    """What the loader raises."""
    loads: Any = None
    """What the loader returns in place of a model."""
    fails_on: Callable[[Mapping[str, Any]], bool] = lambda _inputs: False
    """Which requests raise `Broken`."""
    fatal_on: Callable[[Mapping[str, Any]], bool] = lambda _inputs: False
    """Which requests raise `FatalModelError`."""
    raises: BaseException | None = None
    """What every request raises."""
    answers: Callable[[Mapping[str, Any]], Any] | None = None
    """What `predict` returns; None: the version, and what was asked."""
    chunks: Callable[[Mapping[str, Any]], Iterator[Any]] | None = None
    """What `predict_stream` yields; None: the model has no `predict_stream`. Looked at when it is loaded."""
    on_load: Callable[[], None] | None = None
    """Called in the load thread."""
    on_predict: Callable[[Mapping[str, Any]], None] | None = None
    """Called in the thread of the request, while it runs."""
    on_close: Callable[[], None] | None = None
    """Called in the close thread."""
    close_error: BaseException | None = None
    """What `close` raises."""
    memory: Any = 10
    """What `memory_bytes` returns; raised where it is an exception."""
    thread_safe: bool = True
    signature: Signature = UNCHECKED


class ScriptedModel:
    """A model that does as its script says and counts what is done to it."""

    def __init__(self, script: Script, model: str, version: str) -> None:
        self.script = script
        self.name = f"{model}/{version}"
        self.version = version
        self.signature = script.signature
        self.thread_safe = script.thread_safe
        self.calls: list[Mapping[str, Any]] = []
        self.running = 0
        self.running_most = 0
        self.closed = 0
        self.used_after_close = 0
        self.closed_in_use = 0
        self._lock = threading.Lock()

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        with self._lock:
            self.used_after_close += self.closed > 0
            self.calls.append(inputs)
            self.running += 1
            self.running_most = max(self.running_most, self.running)
        try:
            return self._answer(inputs)
        finally:
            with self._lock:
                self.used_after_close += self.closed > 0
                self.running -= 1

    def _answer(self, inputs: Mapping[str, Any]) -> Any:
        script = self.script
        if script.on_predict is not None:
            script.on_predict(inputs)
        if script.raises is not None:
            raise script.raises
        if script.fatal_on(inputs):
            raise FatalModelError(f"{self.name} is beyond use")
        if script.fails_on(inputs):
            raise Broken(f"{self.name} cannot answer that")
        if script.answers is not None:
            return script.answers(inputs)
        return {"version": self.version, **inputs}

    def memory_bytes(self) -> Any:
        if isinstance(self.script.memory, BaseException):
            raise self.script.memory
        return self.script.memory

    def close(self) -> None:
        with self._lock:
            self.closed += 1
            self.closed_in_use += self.running > 0
        if self.script.on_close is not None:
            self.script.on_close()
        if self.script.close_error is not None:
            raise self.script.close_error


class StreamingModel(ScriptedModel):
    """A scripted model that can also answer in chunks; a chunk that is being made is a use."""

    def predict_stream(self, inputs: Mapping[str, Any]) -> Iterator[Any]:
        assert self.script.chunks is not None
        with self._lock:
            self.used_after_close += self.closed > 0
            self.running += 1
            self.running_most = max(self.running_most, self.running)
        try:
            yield from self.script.chunks(inputs)
        finally:
            with self._lock:
                self.used_after_close += self.closed > 0
                self.running -= 1


class Cast:
    """All scripts of a test, and all models that were made from them."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.made: list[ScriptedModel] = []
        cast = self

        class ScriptedLoader:
            api_version: ClassVar[int] = API_VERSION
            executes_code_on_load: ClassVar[bool] = False

            def load(self, source: Source) -> Any:
                return cast.load(source)

        self.loader = ScriptedLoader

    def script(self, model: str, version: str) -> Script:
        """Return the script of a version, made on first need."""
        return self.scripts.setdefault(f"{model}/{version}", Script())

    def load(self, source: Source) -> Any:
        """Be the loader."""
        script = self.script(source.model, source.version)
        if script.on_load is not None:
            script.on_load()
        if script.load_error is not None:
            raise script.load_error
        if script.loads is not None:
            return script.loads
        kind = StreamingModel if script.chunks is not None else ScriptedModel
        made = kind(script, source.model, source.version)
        self.made.append(made)
        return made

    def of(self, model: str, version: str) -> list[ScriptedModel]:
        """Return every model that was made for a version, oldest first."""
        return [made for made in self.made if made.name == f"{model}/{version}"]

    def open(self) -> list[str]:
        """Return the versions whose models are not closed."""
        return [made.name for made in self.made if not made.closed]

    def wrongs(self) -> list[str]:
        """Return, in words, everything that must never be done to a model."""
        found: list[str] = []
        for made in self.made:
            if made.used_after_close:
                found.append(f"{made.name} was used {made.used_after_close} times after it was closed")
            if made.closed_in_use:
                found.append(f"{made.name} was closed while it was used")
            if made.closed > 1:
                found.append(f"{made.name} was closed {made.closed} times")
            if made.running_most > 1 and not made.thread_safe:
                found.append(f"{made.name} is not thread-safe and ran {made.running_most} requests at once")
        return found


def first_column(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Answer a `BATCHED` request: the first number of each row."""
    return {"y": inputs["x"][:, 0]}
