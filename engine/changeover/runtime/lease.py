"""A lease: direct use of a version, tied to a block, taken and given back in one step from any thread.

It owns one reference while it is entered. `Lease` is on the request path and does nothing that is not needed;
`DebugLease` notes where it was taken and hands out a proxy that refuses to work afterwards.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Awaitable, Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, Self

import attrs
import trio

from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.errors import AlreadyHeld, Evicted, LeaseRevoked, NotReady, NotThreadSafe, ReferenceNotHeld
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.router import Router
from changeover.runtime.stay import OnTrio, Stay
from changeover.runtime.stay import World as AsyncWorld


@attrs.frozen
class LeaseWorld:
    """What a lease needs of the engine."""

    router: Router
    now: Callable[[], float]
    """The engine's clock."""
    until_ready: Callable[[str, str | None], Awaitable[None]]
    """Waits while a version of the model is being loaded; raises `NotReady` where none is."""
    blocks: AsyncWorld = attrs.field(factory=OnTrio)
    """Where `async with` takes place."""


Wish = tuple[str | None, str | None, str | None, float | None]
"""What is asked of a lease besides its model: version (None: the active one), routing key, request id, and for how long
`async with` waits for a load, in seconds (None: no bound).

A bare tuple, because it is made on the request path; a named one costs four times as much.
"""
_ANY: Wish = (None, None, None, None)


class Lease:
    """`with engine.lease(...) as lease:` or `async with`; release may happen on another thread than acquisition."""

    __slots__ = ("_account", "_model", "_ref", "_stay", "_wish", "_world")

    def __init__(self, world: LeaseWorld, model: str, wish: Wish | None) -> None:
        """Remember what to pin; nothing is held before the block is entered. None: the active version, at once."""
        self._world = world
        self._model = model
        self._wish = wish
        self._ref: RefId | None = None
        # `_account` is set when the block is entered, `_stay` with `async with`; two stores less where they count.
        self._account: Account
        self._stay: Stay

    @trio.lowlevel.enable_ki_protection  # Ctrl-C between the pin and its note would lose the reference
    def __enter__(self) -> Self:
        """Pin a version, without waiting.

        Raises `NotReady`, `ModelNotRegistered`, `VersionNotLoaded`, `AlreadyHeld`, `EngineClosed` or `EngineFailed`.
        """
        if self._ref is not None:
            raise AlreadyHeld("this lease is entered already; ask the engine for another one")
        world = self._world
        if self._wish is None:  # the fast way of `Router.pin`, without its call: a tenth of the whole lease
            account = world.router.direct.get(self._model)
            if account is not None:
                self._ref = account.take(("lease", world.now(), None, None))
                if self._ref is not None:
                    self._account = account
                    return self
        self._pin(None)
        return self

    def _pin(self, where: str | None) -> None:
        version, key, request_id, _ = self._wish or _ANY
        use = ("lease", self._world.now(), request_id, where)
        self._account, self._ref = self._world.router.pin(use, self._model, version, key)

    @trio.lowlevel.enable_ki_protection
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the reference back; raises `ReferenceNotHeld`, and changes nothing, where that was done before."""
        ref, self._ref = self._ref, None  # as `release`, without its call
        self._account.release(ref)

    @trio.lowlevel.enable_ki_protection
    def release(self) -> None:
        """Give the reference back; raises `ReferenceNotHeld`, and changes nothing, where that was done before."""
        if not hasattr(self, "_account"):
            raise ReferenceNotHeld(f"a lease of {self._model} was released that was never entered")
        ref, self._ref = self._ref, None
        if hasattr(self, "_stay") and ref is not None:
            self._account.irrevocable(ref)
        self._account.release(ref)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Pin a version; wait for one that is being loaded, also anew, `wait_s` at most. Cancelled, it holds nothing.

        Raises what `__enter__` raises, and `WrongLoop` where the engine belongs to another kind of loop.
        """
        blocks = self._world.blocks
        await blocks.within((self._wish or _ANY)[3], self._pin_in_time)
        if self._ref is None:
            self.__enter__()  # out of time: one last look, which says what is missing
        assert self._ref is not None
        try:
            self._stay = blocks.stay()
        except BaseException:
            self.release()
            raise
        self._account.revocable(self._ref, self._stay.revoke)
        return self

    async def _pin_in_time(self) -> None:
        while True:
            try:
                self.__enter__()
            except NotReady as error:
                picked = error.version if isinstance(error, Evicted) else (self._wish or _ANY)[0]
                await self._world.until_ready(self._model, picked)
            else:
                return

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the reference back, as `release` does.

        Raises `LeaseRevoked` where a drain ended the block; a cancellation from elsewhere, or the block's own
        exception, stays what it is. Raises `WrongLoop` where another task entered it.
        """
        try:
            revoked = self._stay.leave(kind, error, trace)
        finally:
            key = self._account.owner.key
            self.release()
        if revoked:
            text = f"the lease of {key} was revoked: the drain of that version was out of time; ask for another lease"
            raise LeaseRevoked(text, model=key.model, version=key.version) from error

    def __del__(self) -> None:
        """Give back what was forgotten, and say so."""
        if self._ref is not None:
            self.release()  # first, because the warning may be made an error
            text = f"a lease of {self._model} was dropped without being released; use `with`"
            warnings.warn(text, ResourceWarning, 2, self)

    @property
    def version(self) -> str:
        """The version that is held."""
        return self._loaded.key.version

    @property
    def model(self) -> Any:
        """The loader's own object; keeping it after the block is a mistake. Raises `NotThreadSafe`."""
        loaded = self._loaded
        if not loaded.thread_safe:
            raise NotThreadSafe(
                f"{loaded.key} can be used by one thread at a time, so its object is not handed out; "
                "lease.infer(...) takes turns",
                model=loaded.key.model, version=loaded.key.version,
            )  # fmt: skip
        return loaded.model

    def infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call the model in this thread and return its outputs by name; raises `InvalidInput` or `PredictFailed`."""
        counted = self._wish is None or self._wish[0] is None
        return self._loaded.answer(inputs, self._world.now, counted=counted)

    @property
    def _loaded(self) -> LoadedModel:
        if self._ref is None:
            raise ReferenceNotHeld(f"the lease of {self._model} is not held; use it inside its `with` block")
        loaded: LoadedModel = self._account.owner
        return loaded


class DebugLease(Lease):
    """A lease that knows where it was taken."""

    __slots__ = ("_where",)

    def __init__(self, *what: Any) -> None:
        """Note the line that asked for it."""
        super().__init__(*what)
        self._where = caller()

    @trio.lowlevel.enable_ki_protection
    def __enter__(self) -> Self:
        """Pin as `Lease` does, and leave the line in the account."""
        if self._ref is not None:
            raise AlreadyHeld("this lease is entered already; ask the engine for another one")
        self._pin(self._where)
        return self

    @property
    def model(self) -> Any:
        """A proxy of the loader's own object, which raises once the lease has ended."""
        return _Proxy(self, super().model)


class _Proxy:
    """Stands for a model while its lease is held."""

    __slots__ = ("_lease", "_object")

    def __init__(self, lease: DebugLease, held: Any) -> None:
        self._lease = lease
        self._object = held

    def __getattr__(self, name: str) -> Any:
        """Pass on, or raise `ReferenceNotHeld` after the lease."""
        _ = self._lease.version
        return getattr(self._object, name)


def caller() -> str | None:
    """Return `file:line` of the nearest frame outside this package."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("changeover."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else None
