"""What a worker does with a batch: join the inputs, call the model once, split the outputs, answer each request.

Runs in a worker thread; owns no state but the way back onto the loop. It never raises: what goes wrong is an outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from changeover.core.ledger import Account, RefId
from changeover.core.snapshots import Reply
from changeover.errors import ChangeoverError, LoaderNotInstalled, PredictFailed
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import twin
from changeover.runtime.ports import Wake


class Request:
    """One request on its way through a lane; its reference is given back by whoever takes it out."""

    __slots__ = ("account", "error", "inputs", "queued_at_s", "ref", "reply", "rows", "task", "withdrawn")

    def __init__(
        self, account: Account, ref: RefId, inputs: Mapping[str, Any], rows: int, queued_at_s: float, task: Any
    ) -> None:
        """Hold reference `ref` of `account` for `task`, which waits to be rescheduled."""
        self.account = account
        self.ref = ref
        self.inputs = inputs
        self.rows = rows
        self.queued_at_s = queued_at_s
        self.task: trio.lowlevel.Task | None = task
        self.reply: Reply | None = None
        self.error: ChangeoverError | None = None
        self.withdrawn = False


class Replies:
    """The way from worker threads back to waiting tasks: one wake-up for however many answers there are."""

    def __init__(self, wake: Wake) -> None:
        """Wake the loop through `wake`."""
        self._wake = wake
        self._done: deque[Request] = deque()

    def send(self, requests: Sequence[Request]) -> None:
        """Give back each request's reference, then hand its outcome to who waits; any thread."""
        for request in requests:
            request.account.release(request.ref)
            request.inputs = {}
        self._done.extend(requests)
        self._wake.soon(self._flush, idempotent=True)

    def _flush(self) -> None:
        """Reschedule every task that still waits; on the loop."""
        while self._done:
            request = self._done.popleft()
            task, request.task = request.task, None
            if task is not None:
                trio.lowlevel.reschedule(task)


def handle(loaded: LoadedModel, replies: Replies, batch: Sequence[Request]) -> None:
    """Run a batch and answer it; a batch that raises is run again request by request, so that a bad one fails alone."""
    if len(batch) == 1:
        _run_one(loaded, batch[0])
    else:
        for group in _by_shape(batch):
            try:
                _run_together(loaded, group)
            except PredictFailed:
                for request in group:
                    _run_one(loaded, request)
            except BaseException as error:  # noqa: BLE001 - it is these requests' outcome
                for request in group:
                    request.error = _outcome(loaded, error)
    replies.send(batch)


def _run_one(loaded: LoadedModel, request: Request) -> None:
    try:
        request.reply = Reply(loaded.predict(request.inputs), loaded.key.version)
    except BaseException as error:  # noqa: BLE001 - it is the request's outcome
        request.error = _outcome(loaded, error)


def _outcome(loaded: LoadedModel, error: BaseException) -> ChangeoverError:
    """Return what the caller is to see: an error of ours, and one of its own for each request."""
    if isinstance(error, ChangeoverError):
        return twin(error)
    text = f"{loaded.key} raised {type(error).__name__}: {error}"
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
    np = _numpy()
    joined = {name: np.concatenate([r.inputs[name] for r in group]) for name in group[0].inputs}
    outputs = loaded.predict(joined)
    rows = sum(r.rows for r in group)
    for name, array in outputs.items():
        if len(array) != rows:
            raise PredictFailed(
                f"{loaded.key}: output {name!r} has {len(array)} rows for a batch of {rows}",
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
