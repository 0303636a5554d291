"""What a worker does with a batch: join the inputs, call the model once, split the outputs, answer each request.

Runs in a worker thread; owns no state but the ways back to who waits. It never raises: what goes wrong is an outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import get_ident
from typing import Any, Protocol

from changeover.core.checks import describe
from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.snapshots import Reply
from changeover.errors import ChangeoverError, LoaderNotInstalled, PredictFailed, VersionCrashed
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import twin
from changeover.runtime.ports import Wake


class Home(Protocol):
    """Where an answer is taken to: the loop, the thread or the comparison that its request came from."""

    def take(self, request: Request) -> None:
        """Take an answered request in; any thread."""
        ...

    def knock(self) -> None:
        """Say that answers were taken in; any thread."""
        ...


class Request:
    """One request on its way through a lane; its reference is given back by whoever takes it out."""

    __slots__ = (
        "account", "error", "home", "inputs", "is_end", "queued_at_s", "ref", "reply", "rows", "waiter", "withdrawn",
    )  # fmt: skip

    def __init__(
        self,
        account: Account,
        ref: RefId,
        inputs: Mapping[str, Any],
        rows: int,
        queued_at_s: float,
        home: Home,
        waiter: Any = None,
    ) -> None:
        """Hold reference `ref` of `account`; the answer goes `home`, where `waiter` is woken."""
        self.account = account
        self.ref = ref
        self.inputs: Mapping[str, Any] = dict(inputs)  # what was checked is what is run, whatever the caller does next
        self.rows = rows
        self.queued_at_s = queued_at_s
        self.home = home
        self.waiter = waiter
        self.reply: Reply | None = None
        self.error: ChangeoverError | None = None
        self.withdrawn = False
        self.is_end = False
        """True where it asked for a chunk, and there is none any more."""


class Replies:
    """The way from worker threads back to who waits on one loop: one wake-up for however many answers there are."""

    def __init__(self, wake: Wake, resume: Callable[[Any], None]) -> None:
        """Reach the loop through `wake`, and let a waiter go on with `resume`."""
        self._wake = wake
        self._resume = resume
        self._done: deque[Request] = deque()
        self._expected: dict[int, Request] = {}
        self._has_given_up = False

    # --- on the loop ---

    def expect(self, request: Request) -> None:
        """Note a request that is about to be admitted."""
        self._expected[id(request)] = request

    def expect_again(self, request: Request) -> None:
        """Note one whose caller lies down once more; where the engine was closed meanwhile, he is told so at once."""
        self.expect(request)
        if self._has_given_up:
            self._excuse(request)
            self.take(request)
            self.knock()

    def forget(self, request: Request) -> None:
        """Forget a request that was not admitted, or whose caller went away."""
        request.waiter = None
        self._expected.pop(id(request), None)

    def give_up(self) -> None:
        """Answer those whose threads hang, at the end of the engine; the references stay with the threads."""
        self._flush()  # whoever has an outcome gets that
        self._has_given_up = True
        for request in list(self._expected.values()):
            self._excuse(request)
            self._wake_up(request)

    @staticmethod
    def _excuse(request: Request) -> None:
        key = request.account.owner.key
        text = f"{key} had not answered when the engine was closed"
        request.error = VersionCrashed(text, model=key.model, version=key.version, ran="unknown")

    # --- any thread ---

    def give_up_soon(self) -> None:
        """Do as `give_up`, from another thread; a loop that is gone has nobody who waits."""
        self._wake.soon(self.give_up)

    def take(self, request: Request) -> None:
        """Take an answered request in."""
        self._done.append(request)

    def knock(self) -> None:
        """Have the loop look."""
        self._wake.soon(self._flush, idempotent=True)

    def _flush(self) -> None:
        """Let everybody go on whose request is answered."""
        while self._done:
            try:
                request = self._done.popleft()
            except IndexError:  # where the loop is no loop: another thread was quicker
                return
            self._wake_up(request)

    def _wake_up(self, request: Request) -> None:
        waiter = request.waiter
        self.forget(request)
        if waiter is not None:
            self._resume(waiter)


def send(requests: Sequence[Request]) -> None:
    """Give back each request's reference, then take its outcome home; any thread."""
    for request in requests:
        request.account.release(request.ref)
        request.inputs = {}
        request.home.take(request)
    if len(requests) == 1:
        requests[0].home.knock()
        return
    for home in dict.fromkeys([request.home for request in requests]):
        home.knock()


def fail(loaded: LoadedModel, request: Request, error: BaseException) -> None:
    """Answer a request that could not be run."""
    request.error = _outcome(loaded, error)
    send([request])


def handle(loaded: LoadedModel, batch: Sequence[Request]) -> None:
    """Run a batch and answer it; whatever is raised on the way, every request gets its outcome."""
    thread = get_ident()
    loaded.running[thread] = batch
    try:
        _run(loaded, batch)
    except BaseException as error:  # noqa: BLE001 - it is the outcome of whoever has none yet
        for request in batch:
            if request.reply is None and request.error is None:
                request.error = _outcome(loaded, error)
    finally:
        del loaded.running[thread]
        send(batch)


def _run(loaded: LoadedModel, batch: Sequence[Request]) -> None:
    """Run a batch; one that raises is run again request by request, so that a bad one fails alone."""
    groups = _by_shape(batch) if len(batch) > 1 else [list(batch)]
    for group in groups:
        if loaded.lane.halted:
            for request in group:
                request.error = loaded.beyond_use("no")
            continue
        try:
            _run_together(loaded, group)
        except PredictFailed as error:
            for request in group:
                if len(group) == 1:
                    request.error = twin(error)
                else:
                    _run_again(loaded, request)
        except BaseException as error:  # noqa: BLE001 - it is these requests' outcome
            for request in group:
                request.error = _outcome(loaded, error)


def _run_again(loaded: LoadedModel, request: Request) -> None:
    """Run one request of a batch that raised; where the model is beyond use by then, it ran all the same."""
    try:
        request.reply = Reply(loaded.predict_unless_halted(request.inputs), loaded.key.version)
    except BaseException as error:  # noqa: BLE001 - it is the request's outcome
        request.error = _outcome(loaded, error)
        if request.error.ran == "no":
            request.error.ran = "yes"


def _outcome(loaded: LoadedModel, error: BaseException) -> ChangeoverError:
    """Return what the caller is to see: an error of ours, and one of its own for each request."""
    if isinstance(error, ChangeoverError):
        return twin(error)
    text = f"{loaded.key} raised {describe(error)}"
    failed = PredictFailed(text, model=loaded.key.model, version=loaded.key.version, ran="yes")
    failed.__cause__ = error
    return failed


def _by_shape(batch: Sequence[Request]) -> list[list[Request]]:
    """Group requests whose arrays differ in the size of their first dimension only, in order of arrival."""
    groups: dict[tuple[Any, ...], list[Request]] = {}
    for request in batch:
        shape = tuple((array.shape[1:], array.dtype) for array in request.inputs.values())
        groups.setdefault((*request.inputs, *shape), []).append(request)
    return list(groups.values())


def _run_together(loaded: LoadedModel, group: list[Request]) -> None:
    """Call the model once for all; raises `PredictFailed` where it raises or its outputs cannot be split."""
    if len(group) == 1:
        predict = loaded.predict if loaded.thread_safe else loaded.predict_unless_halted
        group[0].reply = Reply(predict(group[0].inputs), loaded.key.version)
        return
    np = _numpy()
    joined = {name: np.concatenate([r.inputs[name] for r in group]) for name in group[0].inputs}
    outputs = loaded.predict_unless_halted(joined, is_retried=True)
    rows = sum(r.rows for r in group)
    for name, array in outputs.items():
        has = len(array) if hasattr(array, "__len__") else "no"
        if has != rows:
            raise PredictFailed(
                f"{loaded.key}: output {name!r} has {has} rows for a batch of {rows}",
                model=loaded.key.model, version=loaded.key.version, ran="yes",
            )  # fmt: skip
    start = 0
    for request in group:
        end = start + request.rows
        request.reply = Reply({name: array[start:end] for name, array in outputs.items()}, loaded.key.version)
        start = end


def _numpy() -> Any:
    try:
        import numpy as np  # noqa: PLC0415 - the core does not need NumPy; whoever sends arrays has it
    except ImportError as error:  # pragma: no cover - arrays without NumPy
        raise LoaderNotInstalled("batching joins NumPy arrays: pip install numpy") from error
    return np
