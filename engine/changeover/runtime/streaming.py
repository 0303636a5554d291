"""One `infer_stream` on its way: pinned for as long as it lasts, pulled chunk by chunk, fallen back before the first.

A state machine without I/O, the same for Trio, asyncio and plain threads. It owns its references and the model's own
iterator; a pull that its caller has left is closed by the thread that runs it. It spawns nothing.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Generator, Mapping
from typing import Any

from changeover.core.checks import describe
from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.snapshots import Reply
from changeover.errors import ChangeoverError, LeaseRevoked, PredictFailed, Ran, ReferenceNotHeld
from changeover.runtime import sites
from changeover.runtime.inference import Asking, not_admitted
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.worker import Request

Chunks = Generator[Mapping[str, Any], None, None]


class _Run:
    """The chunks of one version, and the reference that holds it; ended exactly once, by whoever is last at it."""

    def __init__(self, account: Account, ref: RefId, inputs: Mapping[str, Any]) -> None:
        self.account = account
        self.ref = ref
        self.loaded: LoadedModel = account.owner
        self.chunks: Chunks = self.loaded.stream(inputs)
        self._is_revoked = False
        self._lock = threading.RLock()  # the collector may come by inside it, and end a stream that was forgotten
        self._pulling = False
        self._left = False

    def revoke(self) -> None:
        self._is_revoked = True

    def was_revoked(self) -> bool:
        return self._is_revoked

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
            with self.loaded.in_thread(self.ref):
                self.chunks.close()
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - what a model does when it is let go is no business of who leaves it
            next(self.loaded.errors)
        finally:
            self.account.irrevocable(self.ref)
            self.account.release(self.ref)


class Stream(Asking):
    """One streamed request of one caller; its methods are called by the thread that the caller waits on."""

    _run: _Run | None = None
    _first_s: float | None = None
    """How long the first chunk took, in seconds; None: there was none yet."""
    _is_over = False
    _pulled: Request | None = None
    """The pull that is waited for."""
    _queued: Request | None = None
    """What waits, in place of a pull, for the end of a version that is beyond use."""
    chunk: Reply | None = None
    """The last chunk that was pulled; None where the stream has come to its end."""

    def open(self) -> None:
        """Pick and pin; raises what `Router.pin` raises, and `InvalidInput`."""
        self._start(*self._pin("stream"))

    def _start(self, account: Account, ref: RefId) -> None:
        self._check(account, ref)
        self._inputs = dict(self._inputs)  # what was checked is what is run, whatever the caller does next
        self._run = run = _Run(account, ref, self._inputs)
        me = weakref.ref(self)  # else the account would keep a stream alive that everybody else has dropped

        def revoke() -> None:
            stream = me()
            if stream is not None:
                stream.revoke(run)

        account.revocable(ref, revoke)

    def pull(self, waiter: Any) -> Request | None:
        """Ask for the next chunk; return the request to wait for, or None where `chunk` is there.

        Raises `PredictFailed`, `VersionCrashed` or `LeaseRevoked`, and `ReferenceNotHeld` outside of the block.
        """
        if self._is_over:
            self.chunk = None
            return None
        if self._run is None:
            raise ReferenceNotHeld(f"a stream of {self._model} is read inside its block: async with ... as chunks")
        run, self._waiter = self._run, waiter
        request = Request(run.account, run.ref, {}, 1, self._world.now(), self._home, waiter)
        if run.was_revoked():
            request.error = self._revoked(run)
            return self.take(request)
        if self._first_s is None and run.loaded.lane.halted:
            return self._outwait(run, request)
        run.begin_pull()
        if run.loaded.inline and run.loaded.thread_safe:
            _pull(run, request)
            return self.take(request)
        self._home.expect(request)
        self._pulled = request
        if run.was_revoked():  # announced, then looked: one of the two sees the other
            self.revoke(run)
        self._world.host.pull(run.loaded, lambda: _serve(run, request), lambda error: _unserved(run, request, error))
        return request

    def take(self, request: Request) -> Request | None:
        """Take what a pull came to; return and raise as `pull` does."""
        self._pulled = self._queued = None
        error, request.error = request.error, None
        if error is not None:
            try:
                return self._failed(error)
            finally:
                del error
        self.chunk = request.reply
        if self._first_s is None:
            self._first_s = self._world.now() - self._began_s
            self._dismiss()
        if self.chunk is None:
            self.close()
        else:
            self.chunk.fell_back = self._failure is not None
        return None

    def leave(self, request: Request) -> None:
        """Go away in the middle of a pull: the version stays held until its thread is done."""
        self._home.forget(request)
        if request is self._queued and request.account.owner.lane.withdraw(request):
            request.account.release(request.ref)
        self.close()

    def close(self) -> None:
        """End the stream, wherever it is; nothing happens where it has ended. Never waits."""
        if self._run is not None and self._first_s is not None:
            self._note(failed=False)  # also where its caller has enough of it
        self._end()

    def _end(self) -> None:
        run, self._run = self._run, None
        self._is_over = True
        self._dismiss()
        if run is not None and run.leave():
            if run.loaded.inline and run.loaded.thread_safe:
                run.end()
            else:
                self._world.host.pull(run.loaded, run.end, lambda _error: run.end())

    def revoke(self, run: _Run) -> None:
        """Have the next pull say that the drain was out of time, and one that is waited for at once; any thread."""
        if self._run is not run:
            return  # it has gone on to another version, or come to its end
        if sites.ON:
            sites.sometimes("stream-revoked")
        run.revoke()
        request = self._pulled
        if request is not None:
            request.error = self._revoked(run)
            request.home.take(request)
            request.home.knock()

    def __del__(self) -> None:
        """Give back what was forgotten, and say so."""
        if self._run is not None:
            self.close()  # first, because the warning may be made an error
            text = f"a stream of {self._model} was dropped without its block being left; use `with` or `async with`"
            warnings.warn(text, ResourceWarning, 2, self)

    # --- inside ---

    def _revoked(self, run: _Run) -> LeaseRevoked:
        key = run.loaded.key
        text = f"the stream of {key} was revoked: the drain of that version was out of time; ask for another"
        waits: Ran = "no" if self._pulled is None else "unknown"  # its thread may not have begun, and then never will
        ran: Ran = waits if self._first_s is None else "yes"
        return LeaseRevoked(text, model=key.model, version=key.version, ran=ran)

    def _failed(self, error: ChangeoverError) -> Request | None:
        """Let another version begin anew, where nothing was delivered yet and one may; else raise."""
        if not isinstance(error, LeaseRevoked):
            self._note(failed=True)
        standby, self._pinned = self._pinned, None  # not dismissed with the run that has failed
        self._end()
        self._pinned = standby
        other = self._elsewhere(error, "stream", too_late=self._first_s is not None)
        del error
        if other is None:
            raise self._told()
        self._start(*other)
        self._is_over = False
        return self.pull(self._waiter)

    def _outwait(self, run: _Run, request: Request) -> Request | None:
        """Wait for the end of a version that is beyond use, so that its traffic has gone elsewhere; nothing has run."""
        self._run = None
        run.account.irrevocable(run.ref)  # and is the request's from now on
        self._home.expect(request)
        self._queued = request
        if run.loaded.lane.offer(request):
            return request
        self._home.forget(request)
        run.account.release(run.ref)
        request.error = not_admitted(run.loaded)
        return self.take(request)

    def _note(self, *, failed: bool) -> None:
        """Write the end down, with the time that the first chunk took."""
        if self._meter is not None and self._failure is None:
            now = self._world.now()
            self._meter.note(now, now - self._began_s if self._first_s is None else self._first_s, failed=failed)


def _pull(run: _Run, request: Request) -> bool:
    """Get one chunk; return whether somebody waits for it. No reply and no error: the stream has ended."""
    key = run.loaded.key
    try:
        chunk = next(run.chunks, None)
        request.is_end = chunk is None
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
    with run.loaded.in_thread(run.ref):
        awaited = _pull(run, request)
    if awaited:
        request.home.take(request)
        request.home.knock()


def _unserved(run: _Run, request: Request, error: BaseException) -> None:
    """Hear that no thread could be started."""
    key = run.loaded.key
    request.error = PredictFailed(f"{key}: {error}", model=key.model, version=key.version, ran="no")
    if run.end_pull():
        request.home.take(request)
        request.home.knock()
