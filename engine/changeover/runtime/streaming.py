"""One `infer_stream` on its way: pinned for as long as it lasts, pulled chunk by chunk, fallen back before the first.

A state machine without I/O, the same for Trio, asyncio and plain threads. It owns its references and the model's own
iterator; a pull that its caller has left is closed by the thread that runs it. It spawns nothing.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator, Mapping
from typing import Any

from changeover.core.ledger import Account, RefId
from changeover.core.meter import Meter
from changeover.core.snapshots import Reply
from changeover.errors import ChangeoverError, InvalidInput, PredictFailed, ReferenceNotHeld
from changeover.runtime.inference import InferenceWorld, falls_back
from changeover.runtime.loaded import LoadedModel, describe
from changeover.runtime.router import Pinned
from changeover.runtime.worker import Replies, Request

Chunks = Generator[Mapping[str, Any], None, None]


class _Run:
    """The chunks of one version, and the reference that holds it; ended exactly once, by whoever is last at it."""

    def __init__(self, account: Account, ref: RefId, inputs: Mapping[str, Any]) -> None:
        self.account = account
        self.ref = ref
        self.loaded: LoadedModel = account.owner
        self.chunks: Chunks = self.loaded.stream(inputs)
        self._lock = threading.Lock()
        self._pulling = False
        self._left = False

    def begin_pull(self) -> None:
        with self._lock:
            self._pulling = True

    def end_pull(self) -> bool:
        """Return whether somebody still waits for what was pulled; where nobody does, end the run."""
        with self._lock:
            self._pulling = False
            left = self._left
        if left:
            self.end()
        return not left

    def leave(self) -> bool:
        """Return whether it is at rest, so that the caller ends it; else its thread will."""
        with self._lock:
            self._left = True
            return not self._pulling

    def end(self) -> None:
        try:
            self.chunks.close()
        finally:
            self.account.release(self.ref)


class Stream:
    """One streamed request of one caller; its methods are called by the thread that the caller waits on."""

    def __init__(
        self,
        world: InferenceWorld,
        home: Replies,
        model: str,
        inputs: Mapping[str, Any],
        version: str | None,
        key: str | None,
    ) -> None:
        """Hold nothing yet."""
        self._run: _Run | None = None  # these two before anything that may raise: `__del__` looks at them
        self._pinned: Pinned | None = None
        self._world = world
        self._home = home
        self._model = model
        self._inputs = dict(inputs)
        self._version = version
        self._key = key
        self._failure: ChangeoverError | None = None
        self._began_s = 0.0
        self._meter: Meter | None = None
        self._delivered = False
        self._is_over = False
        self._waiter: Any = None
        self.chunk: Reply | None = None
        """The last chunk that was pulled; None where the stream has come to its end."""

    def open(self) -> None:
        """Pick and pin; raises what `Router.pin` raises, and `InvalidInput`."""
        world = self._world
        self._began_s = now = world.now()
        use = ("stream", now, None, world.where() if world.where is not None else None)
        if self._version is None:
            self._pinned = world.router.pin_request(use, self._model, self._key)
            self._meter = self._pinned.account.owner.meter
        else:
            self._pinned = Pinned(*world.router.pin(use, self._model, self._version))
        account, ref = self._pinned.account, self._pinned.ref
        try:
            account.owner.check(self._inputs)
        except BaseException:
            account.release(ref)
            self._dismiss()
            raise
        self._run = _Run(account, ref, self._inputs)

    def pull(self, waiter: Any) -> Request | None:
        """Ask for the next chunk; return the request to wait for, or None where `chunk` is there.

        Raises `PredictFailed` or `VersionCrashed`, and `ReferenceNotHeld` outside of the block.
        """
        if self._is_over:
            self.chunk = None
            return None
        if self._run is None:
            raise ReferenceNotHeld(f"a stream of {self._model} is read inside its block: async with ... as chunks")
        run, self._waiter = self._run, waiter
        request = Request(run.account, run.ref, {}, 1, self._world.now(), self._home, waiter)
        run.begin_pull()
        if run.loaded.inline and run.loaded.thread_safe:
            _pull(run, request)
            return self.take(request)
        self._home.expect(request)
        self._world.host.pull(run.loaded, lambda: _serve(run, request), lambda error: _unserved(run, request, error))
        return request

    def take(self, request: Request) -> Request | None:
        """Take what a pull came to; return and raise as `pull` does."""
        if request.error is not None:
            return self._failed(request.error)
        self.chunk = request.reply
        if not self._delivered:
            self._delivered = True
            self._note(failed=False)
            self._dismiss()
        if self.chunk is None:
            self._is_over = True
            self.close()
        else:
            self.chunk.fell_back = self._failure is not None
        return None

    def leave(self, request: Request) -> None:
        """Go away in the middle of a pull: the version stays held until its thread is done."""
        self._home.forget(request)
        self.close()

    def close(self) -> None:
        """End the stream, wherever it is; nothing happens where it has ended. Never waits."""
        run, self._run = self._run, None
        self._is_over = True
        if run is not None and run.leave():
            if run.loaded.inline and run.loaded.thread_safe:
                run.end()
            else:
                self._world.host.pull(run.loaded, run.end, lambda _error: run.end())
        self._dismiss()

    def __del__(self) -> None:
        """Give back what was forgotten, and say so."""
        if self._run is not None or (self._pinned is not None and self._pinned.standby is not None):
            self.close()  # first, because the warning may be made an error
            text = f"a stream of {self._model} was dropped without its block being left; use `with` or `async with`"
            warnings.warn(text, ResourceWarning, 2, self)

    # --- inside ---

    def _failed(self, error: ChangeoverError) -> Request | None:
        """Let the version that stands by begin anew, where nothing was delivered yet; else raise."""
        self._note(failed=True)
        pinned, run = self._pinned, self._run
        if self._failure is not None:
            self._failure.add_note(f"the version before it was asked, too: {type(error).__name__}: {error}")
        standby = pinned.standby if pinned is not None else None
        may = not self._delivered and falls_back(error) and standby is not None and _takes(standby, self._inputs)
        if not may or standby is None or pinned is None or run is None:
            self.close()
            raise self._failure or error
        if self._meter is not None:
            self._meter.note_fallback()
        self._failure, pinned.standby = error, None
        self.close()
        assert pinned.standby_ref is not None
        self._is_over, self._run = False, _Run(standby, pinned.standby_ref, self._inputs)
        return self.pull(self._waiter)

    def _note(self, *, failed: bool) -> None:
        if self._meter is not None and self._failure is None:
            now = self._world.now()
            self._meter.note(now, now - self._began_s, failed=failed)

    def _dismiss(self) -> None:
        """Let go of the version that stands by."""
        pinned = self._pinned
        if pinned is not None and pinned.standby is not None:
            standby, pinned.standby = pinned.standby, None
            standby.release(pinned.standby_ref)


def _takes(account: Account, inputs: Mapping[str, Any]) -> bool:
    """Return whether a version takes these inputs, too."""
    try:
        account.owner.check(inputs)
    except InvalidInput:
        return False
    return True


def _pull(run: _Run, request: Request) -> bool:
    """Get one chunk; return whether somebody waits for it. No reply and no error: the stream has ended."""
    key = run.loaded.key
    try:
        chunk = next(run.chunks, None)
        request.reply = Reply(chunk, key.version) if chunk is not None else None
    except ChangeoverError as error:
        request.error = error
    except BaseException as error:  # noqa: BLE001 - it is the outcome
        request.error = PredictFailed(
            f"{key} raised {describe(error)}", model=key.model, version=key.version, ran="yes"
        )
        request.error.__cause__ = error
    return run.end_pull()


def _serve(run: _Run, request: Request) -> None:
    """Be the thread of one pull."""
    if _pull(run, request):
        request.home.take(request)
        request.home.knock()


def _unserved(run: _Run, request: Request, error: BaseException) -> None:
    """Hear that no thread could be started."""
    key = run.loaded.key
    request.error = PredictFailed(f"{key}: {error}", model=key.model, version=key.version, ran="no")
    if run.end_pull():
        request.home.take(request)
        request.home.knock()
