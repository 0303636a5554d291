"""A set is of one moment, and held whole: `pin_many` and the accounts, under every interleaving of their byte code.

See test_pin_interleavings.py, which does the same for one model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import pytest

from changeover.core.ledger import Account, Use
from changeover.core.routes import Trial
from changeover.core.values import VersionKey
from changeover.errors import NotReady
from changeover.runtime.router import Pinned, Router
from tests.engine.core.drain_model import Silence
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation

USE: Use = ("request", 0.0, None, None)
MODELS = ("a", "b")


class Loaded:
    """As much of a loaded model as a router asks for."""

    def __init__(self, key: VersionKey) -> None:
        self.key = key
        self.account = Account(self)
        self.users = 0
        self.closed = 0


class World:
    """A router with version 1 of two models in use, and their versions 2 ready."""

    def __init__(self, pause: Pause, router: type[Router], share: float | None) -> None:
        self.pause = pause
        silence = cast("Any", Silence())
        self.router = router(silence, silence, lambda model, version: NotReady(f"{model}/{version}"))
        keys = [VersionKey(model, version) for version in "12" for model in MODELS]
        self.loaded = {key: Loaded(key) for key in keys}
        self.swapped = False
        self.wrong: list[str] = []
        for loaded in self.loaded.values():
            self.router.opened(cast("Any", loaded))
        if share is not None:
            self.router.try_out(dict.fromkeys(MODELS, Trial("2", "1", "swap")), share)

    def ask(self) -> None:
        """Pin a set, use it, release it, and look at what was pinned."""
        swapped = self.swapped
        pins = self.router.pin_many(USE, MODELS, None, attend=True)
        versions = {pinned.account.owner.key.version for pinned, _salt in pins}
        if len(versions) > 1:
            self.wrong.append("a set is a mix")
        if swapped and versions == {"1"}:
            self.wrong.append("a set that came after the swap reached the old versions")
        held = [(pinned.account, pinned.ref) for pinned, _salt in pins]
        held += [(it.standby, cast("Any", it.standby_ref)) for it, _salt in pins if it.standby is not None]
        for account, _ in held:
            if account.owner.closed:
                self.wrong.append(f"{account.owner.key} was pinned after its close")
            account.owner.users += 1
        self.pause()
        for account, ref in held:
            account.owner.users -= 1
            account.release(ref)

    def swap(self) -> None:
        """Shift both models in one step, then drain their old versions."""
        self.router.shift(dict.fromkeys(MODELS, "2"))
        self.swapped = True
        for model in MODELS:
            self.drain(VersionKey(model, "1"))

    def flip(self) -> None:
        """Shift both models in one step."""
        self.router.shift(dict.fromkeys(MODELS, "2"))

    def drain(self, key: VersionKey) -> None:
        """Do as a version does on its way out, in this order."""
        loaded = self.loaded[key]
        self.router.shut(cast("Any", loaded))
        loaded.account.shut()
        loaded.account.watch(partial(self.close, loaded))

    def close(self, loaded: Loaded) -> None:
        """Be the watcher."""
        loaded.closed += 1
        if loaded.users:
            self.wrong.append(f"{loaded.key} was closed in use")

    def check(self, closed: Mapping[str, int]) -> Iterator[str]:
        """Yield what is wrong at rest."""
        yield from self.wrong
        for key, loaded in self.loaded.items():
            balance = loaded.account.balance()
            if not balance.conserved or balance.held:
                yield f"at rest {key} has {balance}"
            if loaded.closed != closed.get(key.version, 0):
                yield f"{key} was closed {loaded.closed} times"


def world(
    *programs: Callable[[World], None],
    closed: Mapping[str, int],
    router: type[Router] = Router,
    share: float | None = None,
) -> Make:
    """Make cases; `closed` says how often each version of either model must be closed in the end."""

    def make(pause: Pause) -> Case:
        it = World(pause, router, share)
        return Case([partial(program, it) for program in programs], lambda: it.check(closed))

    return make


LEAST = 100
"""How many interleavings a search has at least that has seen the router and the account."""


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Threads that switch inside the router and the account."""
    with Explorer(Router, Account) as explorer:
        yield explorer


def test_a_set_during_a_swap_of_its_models_is_of_one_moment(explorer: Explorer) -> None:
    """It is all old or all new, of versions that are not closed meanwhile; after the swap, all new."""
    assert explorer.explore(world(World.ask, World.swap, closed={"1": 1}), preemptions=1) > LEAST


def test_a_set_while_its_models_are_flipped_is_of_one_moment(explorer: Explorer) -> None:
    """All old or all new, wherever in the pick of the set the flip comes."""
    assert explorer.explore(world(World.ask, World.flip, closed={}), preemptions=1) > LEAST


@pytest.mark.parametrize("share", [0.4, 0.9], ids=["old side", "new side"])
def test_a_set_on_trial_is_on_one_side_of_it(explorer: Explorer, share: float) -> None:
    """While the trial ends with all of the traffic on the new versions and the old ones are drained."""
    assert explorer.explore(world(World.ask, World.swap, closed={"1": 1}, share=share), preemptions=1) > LEAST


# --- planted mistakes -----------------------------------------------------------------------------------------------


class PinsOneByOne(Router):
    """A set is one pin after the other."""

    def pin_many(
        self, use: Use, models: Sequence[str], key: str | None, *, attend: bool = False
    ) -> list[tuple[Pinned, str | None]]:
        return [(self.pin_request(use, model, key), None) for model in models]


@pytest.mark.parametrize("meanwhile", [World.flip, World.swap])
def test_a_router_that_pins_one_by_one_is_found(meanwhile: Callable[[World], None]) -> None:
    """The check fails where the models of a set are picked at different moments."""
    make = world(World.ask, meanwhile, closed={"1": 1} if meanwhile is World.swap else {}, router=PinsOneByOne)
    with Explorer(Router, Account, PinsOneByOne) as explorer, pytest.raises(Violation, match="a mix"):
        explorer.explore(make, preemptions=1)


class KeepsTheFirst(Router):
    """A set that begins anew leaves behind what it has pinned."""

    def _pin_at_once(
        self, use: Use, models: Sequence[str], key: str | None, *, attend: bool
    ) -> list[tuple[Pinned, str | None]] | None:
        pins = super()._pin_at_once(use, models, key, attend=attend)
        if pins is None:
            super()._pin_at_once(use, models[:1], key, attend=attend)
        return pins


def test_a_router_that_keeps_what_it_pinned_is_found() -> None:
    """The check fails where a member is not given back when another one was shut."""
    make = world(World.ask, World.swap, closed={"1": 1}, router=KeepsTheFirst)
    with Explorer(Router, Account, KeepsTheFirst) as explorer, pytest.raises(Violation, match="at rest"):
        explorer.explore(make, preemptions=1)
