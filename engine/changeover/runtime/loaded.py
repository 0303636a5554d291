"""One loaded model: the loader's object, its account, its request lane and its counts.

Made by a load and ended by `close`, once. Safe from any thread; spawns nothing, and closes only itself.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, Protocol, cast

from changeover.core.inputs import check_inputs
from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.meter import Meter
from changeover.core.snapshots import Reply
from changeover.core.values import VersionSpec
from changeover.errors import PredictFailed, VersionCrashed, VersionNotLoaded
from changeover.plugin import FatalModelError, Model, Signature
from changeover.runtime.mailbox import RequestLane


class Held(Protocol):
    """A use that a thread runs."""

    @property
    def ref(self) -> RefId:
        """Its reference."""
        ...


class _Use(NamedTuple):
    ref: RefId


class Shadow(Protocol):
    """Who sends a model copies of requests that another version answered."""

    def send(self, account: Account, inputs: Mapping[str, Any], reply: Reply) -> None:
        """Send a copy, or count that it was not sent; never waits, never raises; any thread."""
        ...


MemoryMethod = Literal["model", "hint", "source_size", "unknown"]


def describe(error: BaseException) -> str:
    """Return an error's type and text, also where the text itself cannot be had."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - whatever an error's own __str__ does, the request gets its outcome
        return type(error).__name__


class LoadedModel:
    """One incarnation of a version: the model, its account, its request lane. Made by a load, ended by `close`."""

    def __init__(
        self, spec: VersionSpec, model: Model, account: Account, *, number: int, loaded_at: float, load_s: float
    ) -> None:
        """Take a model that a loader returned, and its account; `number` is unique in the engine."""
        self.key = spec.key
        self.number = number
        self.spec = spec
        self.signature: Signature = model.signature
        self.thread_safe = model.thread_safe
        self.account = account
        account.owner = self
        account.running = self._threads
        self.inline = spec.execution == "inline"
        self.lane: RequestLane[Any] = RequestLane(spec.queue_limit, spec.batching)
        self.loaded_at = loaded_at
        self.load_s = load_s
        self.memory: tuple[int | None, MemoryMethod] = (None, "unknown")
        self.predictions = itertools.count()
        self.errors = itertools.count()
        self.warming = 0
        self.aside: set[Any] = set()
        """Requests that have a thread of their own; only one step of the interpreter changes it."""
        self.running: dict[int, Sequence[Held]] = {}
        """What each thread that cannot be interrupted runs just now, by the thread's number in the system."""
        self.meter: Meter | None = None
        """Where ends of requests are written down while the version is being compared with another."""
        self.shadow: Shadow | None = None
        """Who sends it copies of other versions' requests."""
        self.warmed_at: float | None = None
        self.on_fatal: Callable[[FatalModelError], None] | None = None
        self._model: Model | None = model
        self._turn = None if model.thread_safe else threading.Lock()

    @property
    def model(self) -> Model:
        """The loader's own object; raises `VersionNotLoaded` once it was closed."""
        if self._model is None:
            raise VersionNotLoaded(
                f"{self.key} was closed; its object must not be used after its lease has ended",
                model=self.key.model,
                version=self.key.version,
            )
        return self._model

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called yet."""
        return self._model is not None

    def take_turn(self) -> bool:
        """Take the turn with a model that one thread at a time may use, without waiting; False where another has it."""
        return self._turn is None or self._turn.acquire(blocking=False)

    def end_turn(self) -> None:
        """Give the turn back."""
        if self._turn is not None:
            self._turn.release()

    def check(self, inputs: Mapping[str, Any]) -> int:
        """Return how many rows the inputs fill; raises `InvalidInput`."""
        return check_inputs(self.signature, inputs, self.key)

    def predict(self, inputs: Mapping[str, Any], *, has_turn: bool = False) -> Mapping[str, Any]:
        """Call the model in this thread; where one thread at a time may, wait for the turn, or have it already.

        Raises `PredictFailed`, or `VersionCrashed` where the model declares itself beyond use.
        """
        model = self._model or self.model
        try:
            if self._turn is None or has_turn:
                outputs = model.predict(inputs)
            else:
                with self._turn:
                    outputs = model.predict(inputs)
        except Exception as error:
            raise self._failed(error) from error
        next(self.predictions)
        if outputs.__class__ is not dict and not isinstance(outputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - a plugin may return anything
            raise PredictFailed(
                f"{self.key} returned {type(outputs).__name__}; predict must return a mapping of names to arrays",
                model=self.key.model, version=self.key.version, ran="yes",
            )  # fmt: skip
        return outputs

    def answer(self, inputs: Mapping[str, Any], now: Callable[[], float], *, counted: bool) -> Mapping[str, Any]:
        """Check and call the model in this thread; write the end down where it counts and the version is compared."""
        self.check(inputs)
        meter = self.meter
        if meter is None or not counted:
            return self.predict(inputs)
        began_s, failed = now(), True
        try:
            outputs = self.predict(inputs)
            failed = False
        finally:
            ended_s = now()
            meter.note(ended_s, ended_s - began_s, failed=failed)
        return outputs

    def stream(self, inputs: Mapping[str, Any]) -> Generator[Mapping[str, Any], None, None]:
        """Yield the model's answer chunk by chunk, its turn taken throughout; without `predict_stream`, as one chunk.

        Raises as `predict` does. It may be resumed in any thread, by one at a time.
        """
        produce = getattr(self.model, "predict_stream", None)
        if produce is None:
            yield self.predict(inputs)
            return
        with self._turn or nullcontext():
            try:
                yield from _checked(produce(inputs))
            except Exception as error:
                raise self._failed(error) from error
        next(self.predictions)

    @contextmanager
    def in_thread(self, ref: RefId) -> Generator[None, None, None]:
        """Have the present thread named as the one that runs a use, for the block."""
        thread = threading.get_ident()
        before = self.running.get(thread, ())
        self.running[thread] = (*before, _Use(ref))
        try:
            yield
        finally:
            self.running[thread] = before
            if not before:
                del self.running[thread]

    def close(self) -> None:
        """Let the model go; only the first call does anything."""
        model, self._model = self._model, None
        if model is not None:
            model.close()

    def _threads(self) -> dict[RefId, str]:
        """Name the threads that run its references, those of the system's threads that have a name."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        running = self.running.copy().items()
        return {it.ref: names.get(number, str(number)) for number, held in running for it in held}

    def _failed(self, error: Exception) -> PredictFailed | VersionCrashed:
        """Count what the model raised, let the version crash where that was fatal, and return what the caller sees."""
        next(self.errors)
        kind: type[PredictFailed | VersionCrashed] = PredictFailed
        if isinstance(error, FatalModelError):
            kind = VersionCrashed
            self.lane.halt()
            if self.on_fatal is not None:
                self.on_fatal(error)
        text = f"{self.key} raised {describe(error)}"
        return kind(text, model=self.key.model, version=self.key.version, ran="yes")


def _checked(chunks: Iterator[Any]) -> Generator[Mapping[str, Any], None, None]:
    """Yield chunks that are mappings; close what makes them, also where it is left in the middle."""
    try:
        for chunk in chunks:
            if not isinstance(chunk, Mapping):
                raise TypeError(f"a chunk of type {type(chunk).__name__}; each must map names to arrays")
            yield cast("Mapping[str, Any]", chunk)
    finally:
        if isinstance(chunks, Generator):
            chunks.close()  # at once, and not when somebody lets go of it
