"""A set of leases: one of each model, pinned in one step, so that a swap of several of them is seen whole or not.

Each lease owns its own reference, in one block for all of them; a drain that revokes one of them ends the block. What
is forgotten is given back, with a warning, by each lease for itself. It spawns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Self

import trio

from changeover.core.checks import text
from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.values import VersionKey
from changeover.errors import AlreadyHeld, Evicted, InvalidValue, LeaseRevoked, NotReady, ReferenceNotHeld
from changeover.runtime.lease import DebugLease, Lease, LeaseWorld, Wish, caller
from changeover.runtime.stay import Stay

RELOADS_MAX = 2
"""So often a set waits for each of its models that is not there: more often, and one of them makes the other go."""


class _Member(Lease):
    """A lease that its set pins."""

    __slots__ = ()

    @property
    def is_held(self) -> bool:
        """Whether it holds a reference."""
        return self._ref is not None

    def hold(self, account: Account, ref: RefId) -> None:
        """Own a reference."""
        self._account, self._ref = account, ref

    def attend(self, stay: Stay, revoke: Callable[[VersionKey], None]) -> None:
        """Have `revoke` called with the version when its drain is out of time."""
        assert self._ref is not None, "it is pinned"
        self._stay = stay
        self._account.revocable(self._ref, partial(revoke, self._account.owner.key))


class _DebugMember(DebugLease, _Member):
    """The same, which knows where it was taken."""

    __slots__ = ()


class Leases(Mapping[str, Lease]):
    """`with engine.lease_many(...) as leases:` or `async with`; maps each model to its lease, in order."""

    __slots__ = ("_leases", "_revoked", "_stay", "_where", "_wish", "_world")

    _stay: Stay
    """Set with `async with`."""

    def __init__(self, world: LeaseWorld, models: Iterable[str], wish: Wish, *, debug: bool) -> None:
        """Remember what to pin; nothing is held before the block is entered. Raises `InvalidValue`."""
        kind = _DebugMember if debug else _Member
        self._leases: dict[str, _Member] = {model: kind(world, model, wish) for model in names("models", models)}
        self._world = world
        self._wish = wish
        self._where = caller() if debug else None
        self._revoked: list[VersionKey] = []

    def __getitem__(self, model: str) -> Lease:
        """Return the lease of a model."""
        return self._leases[model]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the models."""
        return iter(self._leases)

    def __len__(self) -> int:
        """Return how many models there are."""
        return len(self._leases)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C between the pins and their notes would lose the references
    def __enter__(self) -> Self:
        """Pin a version of each model, all of one moment, without waiting; raises as `Lease` does."""
        if any(lease.is_held for lease in self._leases.values()):
            raise AlreadyHeld("this set of leases is entered already; ask the engine for another one")
        world, (_, key, request_id, _) = self._world, self._wish
        pins = world.router.pin_many(("lease", world.now(), request_id, self._where), tuple(self._leases), key)
        for lease, (pinned, _group) in zip(self._leases.values(), pins, strict=True):
            lease.hold(pinned.account, pinned.ref)
        return self

    @trio.lowlevel.enable_ki_protection
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give every reference back, as `release` does."""
        self.release()

    @trio.lowlevel.enable_ki_protection
    def release(self) -> None:
        """Give every reference back; raises `ReferenceNotHeld` where one was given back before, and keeps none."""
        missed: ReferenceNotHeld | None = None
        for lease in self._leases.values():
            try:
                lease.release()
            except ReferenceNotHeld as error:
                missed = missed or error
        try:
            if missed is not None:
                raise missed
        finally:
            del missed  # or it would keep itself, and with it the models

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Pin the set; wait for what is being loaded, also anew, `wait_s` at most. Cancelled, it holds nothing.

        What is there is not held while another one is waited for. Raises what `__enter__` raises, and `WrongLoop`
        where the engine belongs to another kind of loop.
        """
        blocks = self._world.blocks
        await blocks.within(self._wish[3], self._pin_in_time)
        if not any(lease.is_held for lease in self._leases.values()):
            self.__enter__()  # out of time: one last look, which says what is missing
        try:
            stay = self._stay = blocks.stay()
        except BaseException:
            self.release()
            raise
        revoked = self._revoked = []

        def revoke(key: VersionKey) -> None:  # knows nothing of the set: its account would keep that from being dropped
            revoked.append(key)
            stay.revoke()

        for lease in self._leases.values():
            lease.attend(stay, revoke)
        return self

    async def _pin_in_time(self) -> None:
        for _ in range(RELOADS_MAX * len(self._leases)):
            try:
                self.__enter__()
            except NotReady as error:
                missing, version = error.model or "", error.version if isinstance(error, Evicted) else None
            else:
                return
            await self._world.until_ready(missing, version)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give every reference back, as `release` does.

        Raises `LeaseRevoked`, once, where the drain of any member ended the block; a cancellation from elsewhere, or
        the block's own exception, stays what it is. Raises `WrongLoop` where another task entered it.
        """
        try:
            was_revoked = self._stay.leave(kind, error, trace)
        finally:
            self.release()
        if was_revoked:
            key = self._revoked[0]
            why = f"the leases with {key} were revoked: the drain of that version was out of time; ask for others"
            raise LeaseRevoked(why, model=key.model, version=key.version) from error


def names(field: str, models: Iterable[str]) -> tuple[str, ...]:
    """Return the models of a set; raises `InvalidValue` where there are none, or one of them comes twice."""
    if isinstance(models, str):
        raise InvalidValue(f"{field} must be several names, not the one text {models!r}")
    if not isinstance(models, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidValue(f"{field} must be several names, not {models!r}")
    found = tuple(text(field, model) for model in models)
    if not found or len(set(found)) < len(found):
        raise InvalidValue(f"{field} must name at least one model, and each once, not {list(found)}")
    return found
