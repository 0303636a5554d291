"""Why a version cannot do what it was asked to, or a swap did not happen, as errors in words. Pure; owns no state."""

from __future__ import annotations

from typing import cast

from changeover.core.checks import describe
from changeover.core.operations import SwapOperation
from changeover.core.values import SwapState, VersionKey, VersionState
from changeover.errors import (
    AlreadyLoaded,
    ChangeoverError,
    EngineClosed,
    LoadCancelled,
    LoadFailed,
    LoadTimeout,
    Superseded,
    SwapFailed,
    SwapNotDone,
    SwapRolledBack,
    VersionCrashed,
    VersionInUse,
    VersionNotLoaded,
    WarmUpFailed,
)
from changeover.runtime.memory import let_go


def told_of(cause: Exception | None) -> str | None:
    """Return what made a swap fail, as its operation tells it."""
    return f"{type(cause).__name__}: {cause}" if cause else None


def cut_off(said: str | None, cause: Exception | None, *, crashed: bool) -> str:
    """Return what is told of a swap whose task has ended before it: what had turned it round, and what ended that."""
    if crashed and cause is not None:
        why, end = said, f"its task crashed: {describe(cause)}"
    else:
        why, end = said or told_of(cause), "the engine was closed before the swap ended"
    return f"{why}; {end}" if why else end


def already_loaded(key: VersionKey) -> AlreadyLoaded:
    """Say that it is ready."""
    return AlreadyLoaded(
        f"{key} is loaded already; ensure_loaded is content with that", model=key.model, version=key.version
    )


def not_loaded(key: VersionKey, state: VersionState) -> VersionNotLoaded:
    """Say that it is not ready."""
    return VersionNotLoaded(f"{key} is not loaded: it is {state.value}", model=key.model, version=key.version)


def still_held(key: VersionKey) -> VersionNotLoaded:
    """Say that it is in quarantine."""
    text = f"{key} is in quarantine, and is closed when its last holder leaves"
    return VersionNotLoaded(text, model=key.model, version=key.version)


def drain_called_off(key: VersionKey) -> VersionNotLoaded:
    """Say that it takes requests again."""
    return VersionNotLoaded(f"the drain of {key} was called off", model=key.model, version=key.version)


def load_called_off(key: VersionKey) -> LoadCancelled:
    """Say that nobody waited for it any more."""
    return LoadCancelled(f"the load of {key} was called off", model=key.model, version=key.version)


def load_ended(key: VersionKey) -> LoadCancelled:
    """Say that somebody ordered the opposite."""
    text = f"the load of {key} was called off: somebody ordered its unload meanwhile"
    return LoadCancelled(text, model=key.model, version=key.version)


def in_use(key: VersionKey, state: VersionState) -> VersionInUse:
    """Say that it cannot be forgotten."""
    text = f"{key} is {state.value}; use await engine.unload(...) first"
    return VersionInUse(text, model=key.model, version=key.version)


def overdue(key: VersionKey, timeout_s: float) -> LoadTimeout:
    """Say that it was not ready in time."""
    text = f"{key} was not ready within {timeout_s:g} s; its thread goes on, and what it brings will be closed"
    return LoadTimeout(text, model=key.model, version=key.version)


def load_failed(key: VersionKey, error: BaseException | None) -> ChangeoverError:
    """Say why a load failed; an error of ours is passed on."""
    let_go(error)
    if isinstance(error, ChangeoverError):
        return error
    failed = LoadFailed(f"{key}: {describe(error)}", model=key.model, version=key.version)
    failed.__cause__ = error
    return failed


def warm_up_failed(key: VersionKey, error: BaseException | None) -> WarmUpFailed:
    """Say why its warm-up data did not go through; where the warm-up itself said so, that is passed on."""
    let_go(error)
    if isinstance(error, WarmUpFailed):
        return error
    said = str(error) if isinstance(error, ChangeoverError) else describe(error)
    failed = WarmUpFailed(f"{key} failed its warm-up: {said}", model=key.model, version=key.version)
    failed.__cause__ = error
    return failed


def crashed(key: VersionKey, error: BaseException | None) -> ChangeoverError:
    """Say why it crashed; an error of ours is passed on, also out of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    if isinstance(error, ChangeoverError):
        return error
    text = f"{key} crashed: {describe(error)}"
    crash = VersionCrashed(text, model=key.model, version=key.version, ran="unknown")
    crash.__cause__ = error
    return crash


def model_beyond_use(key: VersionKey, error: BaseException) -> VersionCrashed:
    """Say that the model declared a fatal error."""
    let_go(error)
    text = f"{key} crashed: {describe(error)}"
    crash = VersionCrashed(text, model=key.model, version=key.version, ran="unknown")
    crash.__cause__ = error
    return crash


def engine_closed(key: VersionKey) -> EngineClosed:
    """Say that the engine was closed under it."""
    return EngineClosed(f"{key}: the engine was closed", model=key.model, version=key.version)


def not_done(operation: SwapOperation, reason: str) -> SwapNotDone:
    """Say that a swap did not happen."""
    kinds: dict[SwapState, type[SwapNotDone]] = {
        SwapState.ROLLED_BACK: SwapRolledBack,
        SwapState.CANCELLED: SwapRolledBack,
        SwapState.SUPERSEDED: Superseded,
    }
    text = f"the swap of {' and '.join(map(str, operation.members))} did not happen: {reason}"
    kind = kinds.get(operation.state, SwapFailed)
    return kind(text, operation=operation, model=operation.model, version=operation.to_version)
