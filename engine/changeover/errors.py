"""Every error that Changeover raises, in branches by who can act on it.

Each says whether trying again may help (`retryable`) and, for a request, whether the model ran (`ran`).
It owns no state and imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

Ran = Literal["no", "yes", "unknown"]
Actor = Literal["caller", "model", "operator", "nobody"]


class ChangeoverError(Exception):
    """The base of every error of this project."""

    retryable: ClassVar[bool] = False
    """True where the same call may succeed later without anybody changing anything."""
    acts: ClassVar[Actor] = "caller"
    """Who can do something about it."""

    def __init__(self, message: str, *, model: str | None = None, version: str | None = None, ran: Ran = "no") -> None:
        """Keep the culprit by name beside the sentence that a person reads."""
        super().__init__(message)
        self.model = model
        self.version = version
        self.ran: Ran = ran


# --- the caller can act: the call itself is wrong -------------------------------------------------------------------


class CallerError(ChangeoverError):
    """The call cannot be carried out as it was made; it changed nothing."""


class InvalidValue(CallerError, ValueError):
    """An argument has a value that makes no sense: a negative or NaN duration, an empty name, no workers."""


class InvalidInput(CallerError, ValueError):
    """The inputs of a request do not fit the model's signature; the model was not called."""


class ModelNotRegistered(CallerError):
    """No version of this model, or not this version of it, was ever registered."""


class AlreadyRegistered(CallerError):
    """This version of this model is registered already; a version never changes its meaning."""


class AlreadyLoaded(CallerError):
    """The version is loaded; `ensure_loaded` is the call that is happy with that."""


class VersionNotLoaded(CallerError):
    """The version is registered and not loaded (or on its way out)."""


class LastVersion(CallerError):
    """The last ready version of a model is unloaded only with `force=True`."""


class CodeNotAllowed(CallerError):
    """The loader runs code of the source's author, and the version was not registered with `allow_code=True`."""


class LoaderNotInstalled(CallerError):
    """No loader of this name is installed, or what it needs is missing."""


class CommandNotAvailable(CallerError):
    """There is no such command, or it cannot be imported."""


class VersionInUse(CallerError):
    """The version cannot be taken out of the registry: it is loaded, being loaded, or has traffic."""


class SwapNotAllowed(CallerError):
    """A swap or rollback that makes no sense: to itself, from what is not active, of what did not happen."""


class SwapNotFound(CallerError):
    """No swap has this id."""


class NotInline(CallerError):
    """The raw object of this version cannot be handed out: it does not live in this process."""


class NotThreadSafe(CallerError):
    """The raw object of this version cannot be handed out: its loader says that one thread at a time may use it."""


class ReferenceNotHeld(CallerError):
    """A release of what was never acquired, or was released before; nothing was changed, and it is counted."""


class AlreadyHeld(CallerError):
    """A reference with this request id is held already."""


class EngineClosed(CallerError):
    """The engine was closed, or was never opened."""


class WrongLoop(CallerError, RuntimeError):
    """The call was made outside of the event loop, or the task, that it belongs to; the message says where it works."""


# --- the model or its plugin can act --------------------------------------------------------------------------------


class ModelError(ChangeoverError):
    """The model or its loader did something wrong."""

    acts: ClassVar[Actor] = "model"


class LoadFailed(ModelError):
    """The loader raised, or returned something that is not a model."""


class SourceUnavailable(LoadFailed):
    """The source could not be read just now, also not when it was tried again: a network or a disk was away."""

    retryable: ClassVar[bool] = True


class LoadTimeout(LoadFailed):
    """The load ran into its time limit; its thread is left behind as a named zombie."""


class LoadCancelled(LoadFailed):
    """Everybody who waited for the load went away, or its swap was undone."""

    retryable: ClassVar[bool] = True


class WarmUpFailed(LoadFailed):
    """The warm-up data could not be had, did not fit, or the model raised on it."""


class PredictFailed(ModelError):
    """The model raised on a request; the model's own exception is the cause of this one."""


class VersionCrashed(ModelError):
    """The version's actor failed or its model declared a fatal error; `ran` says whether the request had started."""

    retryable: ClassVar[bool] = True


# --- nobody has to act: try again, here or elsewhere ----------------------------------------------------------------


class TryAgain(ChangeoverError):
    """The same call may succeed in a moment."""

    retryable: ClassVar[bool] = True
    acts: ClassVar[Actor] = "nobody"


class NotReady(TryAgain):
    """The model has no version that takes requests just now."""


class Evicted(NotReady):
    """The version was unloaded to make room for another; this call has ordered its reload, which may take a while.

    `infer`, streams and leases taken with `async with` wait for it; a lease taken with `with` raises this.
    """


class Overloaded(TryAgain):
    """The queue of the version is full; the request was not admitted."""


class RequestTimeout(TryAgain):
    """The request was not answered within its `timeout_s`; `ran` says what is known about it."""


class DrainTimeout(TryAgain):
    """References were still held when the time was up; the message names the holders."""

    def __init__(self, message: str, *, holders: Sequence[Any] = (), **culprit: Any) -> None:
        """Keep the holders, each a `Holder`."""
        super().__init__(message, **culprit)
        self.holders = tuple(holders)


class LeaseRevoked(TryAgain):
    """A drain with `then="cancel"` was out of time and ended this lease or stream, or this request in its queue.

    The reference is given back.
    """


class SwapTimeout(TryAgain):
    """A step of a swap, or all of it up to its pivot, took longer than its `Timeouts` allow."""


class SwapInProgress(TryAgain):
    """Another swap of the same model has not reached its pivot."""


# --- an operator has to act -----------------------------------------------------------------------------------------


class ResourceError(ChangeoverError):
    """Something is used up that only an operator can free or enlarge."""

    acts: ClassVar[Actor] = "operator"


class OverBudget(ResourceError):
    """The memory budget has no room for this version."""


class TooManyStuckLoads(ResourceError):
    """So many load threads hang that no further one is started."""


class JournalFailed(ResourceError):
    """The journal could not be opened, read or written: the disk is full, read-only or broken, or it is no journal."""


class JournalInUse(JournalFailed):
    """Another engine has this journal open; each needs a file of its own."""


class EngineFailed(ResourceError):
    """The engine itself crashed; the cause is attached, and every later call raises this too."""


class ReferenceLeakError(ResourceError):
    """References were still held where none may be; the message names each holder."""


# --- a swap that did not happen -------------------------------------------------------------------------------------


class SwapNotDone(ChangeoverError):
    """The swap did not happen; `operation` tells how far it came and what was undone."""

    def __init__(self, message: str, *, operation: Any, **culprit: Any) -> None:
        """Keep the `SwapOperation` as it stood when the error was raised."""
        super().__init__(message, **culprit)
        self.operation = operation


class SwapFailed(SwapNotDone):
    """A step failed and was compensated, or could not be; the cause is attached."""

    acts: ClassVar[Actor] = "model"


class SwapRolledBack(SwapNotDone):
    """Somebody ordered the swap back before its pivot."""


class Superseded(SwapNotDone):
    """A newer order for the same model took this one's place."""
