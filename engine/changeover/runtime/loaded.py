"""One loaded model: the loader's object, its account, its request lane and its counts.

Made by a load and ended by `close`, once. Safe from any thread; spawns nothing, and closes only itself.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol, cast

from changeover.core.checks import describe
from changeover.core.inputs import check_inputs
from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.meter import Meter
from changeover.core.occupancy import Returned, Size
from changeover.core.snapshots import Reply
from changeover.core.tally import peek
from changeover.core.values import VersionKey, VersionSpec
from changeover.errors import InvalidInput, PredictFailed, Ran, VersionCrashed, VersionNotLoaded
from changeover.plugin import FatalModelError, Model, Signature
from changeover.runtime.loaders import Brought
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


class Progress:
    """How far a warm-up is; only its own thread changes it."""

    __slots__ = ("at",)

    def __init__(self, at: tuple[int, int | None]) -> None:
        """Keep how many requests are done, and of how many; None: not known yet. One value: they fit each other."""
        self.at = at


class _Turn:
    """The turn with a model that one thread at a time may use; a thread that would wait for itself is refused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None

    def acquire(self, *, blocking: bool = True, named: bool = True) -> bool:
        me = threading.get_ident()
        if blocking and self._thread == me:
            raise RuntimeError(
                "it was asked by the very thread that it answers just now, which would wait for itself: "
                "a model must not ask its own version, unless it is thread-safe"
            )
        taken = self._lock.acquire(blocking=blocking)
        if taken:
            self._thread = me if named else None
        return taken

    def release(self) -> None:
        self._thread = None
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_raised: object) -> None:
        self.release()

    @contextmanager
    def of_a_stream(self) -> Generator[None, None, None]:
        """Take the turn for chunks, each of which may be made in another thread."""
        self.acquire(named=False)
        try:
            yield
        finally:
            self.release()


class LoadedModel:
    """One incarnation of a version: the model, its account, its request lane. Made by a load, ended by `close`."""

    def __init__(
        self, spec: VersionSpec, brought: Brought, account: Account, *, number: int, loaded_at: float, load_s: float
    ) -> None:
        """Take what a loader brought, and its account; `number` is unique in the engine."""
        self.key = spec.key
        self.number = number
        self.spec = spec
        self.signature: Signature = brought.signature
        self.thread_safe = brought.thread_safe
        self.account = account
        account.owner = self
        account.running = self._threads
        self.inline = spec.execution == "inline"
        self.lane: RequestLane[Any] = RequestLane(spec.queue_limit, spec.batching)
        self.loaded_at = loaded_at
        self.load_s = load_s
        self.memory: Size = (None, "unknown")
        self.grown_bytes: int | None = None
        """By how much the process grew with the load, below 0 where it shrank; None where that cannot be told."""
        self.returned: Returned | None = None
        """What came back when it was closed."""
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
        self.progress = Progress((0, None))
        """How far the warm-up is that began last."""
        self.on_fatal: Callable[[FatalModelError], None] | None = None
        most = spec.errors_in_a_row_max
        self._row: deque[int] | None = None if most is None else deque(maxlen=most)
        """How many calls had returned by the time of each of the last errors."""
        self.on_evict: Callable[[], None] | None = None
        """Orders that it goes, to make room; None: it never does."""
        self.is_leaving = False
        """True while it is drained or closed: its bytes are on their way back."""
        self._model: Model | None = brought.model
        self._turn = None if brought.thread_safe else _Turn()

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

    def beyond_use(self, ran: Ran) -> VersionCrashed:
        """Return the error for a request that must not be given to the model any more."""
        text = f"{self.key} is beyond use since an earlier request"
        return VersionCrashed(text, model=self.key.model, version=self.key.version, ran=ran)

    def check(self, inputs: Mapping[str, Any]) -> int:
        """Return how many rows the inputs fill; raises `InvalidInput`."""
        return check_inputs(self.signature, inputs, self.key)

    def predict(
        self, inputs: Mapping[str, Any], *, has_turn: bool = False, is_retried: bool = False
    ) -> Mapping[str, Any]:
        """Call the model in this thread; where one thread at a time may, wait for the turn, or have it already.

        An error of what `is_retried` is left out of a row: it counts when it is made again. Raises `PredictFailed`, or
        `VersionCrashed` where the model declares itself beyond use.
        """
        model = self.model if self._model is None else self._model
        try:
            if self._turn is None or has_turn:
                outputs = model.predict(inputs)
            else:
                with self._turn:
                    outputs = model.predict(inputs)
        except Exception as error:
            raise self._failed(error, is_retried=is_retried) from error
        next(self.predictions)
        if outputs.__class__ is not dict and not isinstance(outputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - a plugin may return anything
            raise _no_mapping(self.key, outputs)
        return outputs

    def predict_unless_halted(self, inputs: Mapping[str, Any], *, is_retried: bool = False) -> Mapping[str, Any]:
        """Do as `predict`, for what waited; raises `VersionCrashed` where the model is beyond use before it begins."""
        with self._turn or nullcontext():
            if self.lane.halted:
                raise self.beyond_use("no")
            return self.predict(inputs, has_turn=True, is_retried=is_retried)

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

        Raises as `predict_unless_halted` does. It may be resumed in any thread, by one at a time.
        """
        produce = getattr(self.model, "predict_stream", None)
        if produce is None:
            yield self.predict_unless_halted(inputs)
            return
        with self._turn.of_a_stream() if self._turn is not None else nullcontext():
            if self.lane.halted:
                raise self.beyond_use("no")
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
        if model is None:
            return
        close: Callable[[], object] = model.close
        closing = close()
        if _was_coroutine(closing):
            raise TypeError("close() is a coroutine function, which is never awaited; make it a plain one")

    def _threads(self) -> dict[RefId, str]:
        """Name the threads that run its references, those of the system's threads that have a name."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        running = self.running.copy().items()
        return {it.ref: names.get(number, str(number)) for number, held in running for it in held}

    def _failed(self, error: Exception, *, is_retried: bool = False) -> PredictFailed | VersionCrashed:
        """Count what the model raised, let the version crash where that was fatal, and return what the caller sees."""
        next(self.errors)
        kind: type[PredictFailed | VersionCrashed] = PredictFailed
        if isinstance(error, FatalModelError):
            kind = VersionCrashed
            self._crash(error)
        elif self._row is not None and not is_retried and not isinstance(error, InvalidInput):
            self._lengthen(self._row, error)
        text = f"{self.key} raised {describe(error)}"
        return kind(text, model=self.key.model, version=self.key.version, ran="yes")

    def _lengthen(self, row: deque[int], error: Exception) -> None:
        """Note one more error of a row, and let the version crash where that is full."""
        returned = peek(self.predictions)
        row.append(returned)
        # All of them saw the same number of calls return, so none returned in between. Threads that overtake each other
        # here may break a row that was none (one too few), and never make one: nothing is ever set back.
        if row.count(returned) == row.maxlen and not self.lane.halted:
            errors = "1 error" if row.maxlen == 1 else f"{row.maxlen} errors"
            self._crash(FatalModelError(f"{errors} in a row, the last: {describe(error)}"))

    def _crash(self, error: FatalModelError) -> None:
        """Let the workers end, and the version be started again."""
        self.lane.halt()
        if self.on_fatal is not None:
            self.on_fatal(error)


def _no_mapping(key: VersionKey, outputs: object) -> PredictFailed:
    """Return the error for an answer that is none."""
    _was_coroutine(outputs)
    text = f"{key} returned {type(outputs).__name__}; predict must return a mapping of names to arrays"
    return PredictFailed(text, model=key.model, version=key.version, ran="yes")


def _was_coroutine(value: object) -> bool:
    """Return whether a model has returned a coroutine, and let go of that: else Python warns that nobody awaited it."""
    if inspect.iscoroutine(value):
        value.close()
        return True
    return False


def _checked(chunks: Iterator[Any]) -> Generator[Mapping[str, Any], None, None]:
    """Yield chunks that are mappings; close what makes them, also where it is left in the middle."""
    if _was_coroutine(chunks):
        raise TypeError("predict_stream is a coroutine function; it must return an iterator of chunks")
    try:
        for chunk in chunks:
            if not isinstance(chunk, Mapping):
                raise TypeError(f"a chunk of type {type(chunk).__name__}; each must map names to arrays")
            yield cast("Mapping[str, Any]", chunk)
    finally:
        if isinstance(chunks, Generator):
            chunks.close()  # at once, and not when somebody lets go of it
