"""Pick and pin are one step: the router and the accounts together, under every interleaving of their byte code.

See test_ledger_interleavings.py for the model. Traced are `Router` and `Account`; what `decide` does with its frozen
arguments is nobody else's to see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

import pytest

from changeover.core.ledger import Account, Use
from changeover.core.messages import RefId
from changeover.core.routes import Shifted, Trial, VersionGone
from changeover.core.values import VersionKey
from changeover.errors import NotReady
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.router import Pinned, Router
from tests.engine.core.broken_accounts import LooksBeforeItAnnounces
from tests.engine.core.drain_model import Silence
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation

USE: Use = ("request", 0.0, None, None)


class Loaded:
    """As much of a loaded model as a router asks for."""

    def __init__(self, version: str, account: type[Account]) -> None:
        self.key = VersionKey("m", version)
        self.account = account(self)
        self.users = 0
        self.closed = 0


class World:
    """A router with version 1 in use and version 2 ready."""

    def __init__(self, pause: Pause, router: type[Router], account: type[Account]) -> None:
        self.pause = pause
        silence = cast("Any", Silence())
        self.router = router(silence, silence, lambda model, version: NotReady(f"{model}/{version}"))
        self.loaded = {version: Loaded(version, account) for version in ("1", "2")}
        self.swapped = False
        self.leaving = False
        self.wrong: list[str] = []
        for loaded in self.loaded.values():
            self.router.opened(cast("Any", loaded))

    def request(self, version: str | None = None) -> None:
        """Pin, use, release."""
        self.use(self.router.pin, version)

    def request_slowly(self) -> None:
        """Pin on the way that a request takes where the traffic is split."""
        self.use(lambda use, model, version: self.router._pin_slowly(use, model, version, None)[:2], None)

    def request_on_trial(self) -> None:
        """Pin as a request does while version 2 is on trial, with version 1 standing by where that takes requests."""
        pinned = self.router.pin_request(USE, "m", None)
        held = [(pinned.account, pinned.ref)]
        if pinned.standby is not None:
            held.append((pinned.standby, pinned.standby_ref))
        elif pinned.account.owner.key.version == "2" and self.loaded["1"].account.open and not self.leaving:
            self.wrong.append("version 1 takes requests, and does not stand by")
        for account, _ in held:
            if account.owner.closed:
                self.wrong.append(f"{account.owner.key} was pinned after its close")
            account.owner.users += 1
        self.pause()
        for account, ref in held:
            account.owner.users -= 1
            account.release(ref)

    def use(self, pin: Callable[[Use, str, str | None], tuple[Account, RefId]], version: str | None) -> None:
        """Pin, use, release, and look at what was pinned."""
        swapped = self.swapped
        account, ref = pin(USE, "m", version)
        loaded: Loaded = account.owner
        if loaded.closed:
            self.wrong.append(f"{loaded.key} was pinned after its close")
        if swapped and version is None and loaded.key.version == "1":
            self.wrong.append("a request that came after the swap reached the old version")
        loaded.users += 1
        self.pause()
        loaded.users -= 1
        account.release(ref)

    def request_old(self) -> None:
        """Ask for version 1 by name, which may be gone."""
        with suppress(NotReady):
            self.request("1")

    def pass_the_pivot(self) -> None:
        """End the trial of version 2 with all of the traffic, then drain version 1."""
        self.leaving = True
        self.swap()

    def lose_the_new(self) -> None:
        """Lose version 2 in the middle of its trial."""
        self.drain("2")

    def swap(self) -> None:
        """Shift to version 2 and drain version 1."""
        self.router.shift({"m": "2"})
        self.swapped = True
        self.drain("1")

    def drain(self, version: str) -> None:
        """Do as a version does on its way out, in this order."""
        loaded = self.loaded[version]
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
        for version, loaded in self.loaded.items():
            balance = loaded.account.balance()
            if not balance.conserved or balance.held:
                yield f"at rest {loaded.key} has {balance}"
            if loaded.closed != closed.get(version, 0):
                yield f"{loaded.key} was closed {loaded.closed} times"


def world(
    *programs: Callable[[World], None],
    closed: Mapping[str, int],
    router: type[Router] = Router,
    account: type[Account] = Account,
    on_trial: bool = False,
) -> Make:
    """Make cases; `closed` says how often each version must be closed in the end."""

    def make(pause: Pause) -> Case:
        it = World(pause, router, account)
        if on_trial:
            it.router.try_out({"m": Trial("2", "1")}, 0.9)
        return Case([partial(program, it) for program in programs], lambda: it.check(closed))

    return make


def drain_active(it: World) -> None:
    """Take the version out that has the traffic; the other one takes requests all the time."""
    it.drain("1")


def drain_both(it: World) -> None:
    """Take the idle version out, then the active one."""
    it.drain("2")
    it.drain("1")


def request_if_any(it: World) -> None:
    """Ask for any version, and be content with none."""
    with suppress(NotReady):
        it.request()


DEEP = pytest.mark.parametrize("preemptions", [1, pytest.param(2, marks=pytest.mark.slow)])
"""One preemption finds every mistake that is planted below; two take minutes."""

LEAST = {1: 100, 2: 1_000}
"""By preemptions, how many interleavings a search has at least that has seen the router and the account."""


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Threads that switch inside the router and the account."""
    with Explorer(Router, Account) as explorer:
        yield explorer


@DEEP
def test_a_request_during_a_swap_always_finds_a_version(explorer: Explorer, preemptions: int) -> None:
    """A pin that races a swap succeeds, on a version that is not closed meanwhile; after it, on the new one."""
    assert (
        explorer.explore(world(World.request, World.swap, closed={"1": 1}), preemptions=preemptions)
        > LEAST[preemptions]
    )


@DEEP
def test_a_request_by_name_is_held_or_refused(explorer: Explorer, preemptions: int) -> None:
    """A pin of the old version by name during its swap holds it until its release, or is refused; never in between."""
    assert (
        explorer.explore(world(World.request_old, World.swap, closed={"1": 1}), preemptions=preemptions)
        > LEAST[preemptions]
    )


@DEEP
def test_a_request_while_all_versions_leave_is_held_or_refused(explorer: Explorer, preemptions: int) -> None:
    """A pin that races the end of every version holds one of them, or is refused."""
    make = world(request_if_any, drain_both, closed={"1": 1, "2": 1})
    assert explorer.explore(make, preemptions=preemptions) > LEAST[preemptions]


@DEEP
def test_a_request_is_not_refused_while_another_version_takes_requests(explorer: Explorer, preemptions: int) -> None:
    """A pin that races the end of the active version finds the other one, which takes requests all the time."""
    assert (
        explorer.explore(world(World.request, drain_active, closed={"1": 1}), preemptions=preemptions)
        > LEAST[preemptions]
    )


@DEEP
@pytest.mark.parametrize("leave", [World.swap, drain_active])
def test_the_slow_way_always_finds_a_version_too(
    explorer: Explorer, leave: Callable[[World], None], preemptions: int
) -> None:
    """A pin that draws its version finds one as well, while another one takes over by a swap or by itself."""
    assert (
        explorer.explore(world(World.request_slowly, leave, closed={"1": 1}), preemptions=preemptions)
        > LEAST[preemptions]
    )


@DEEP
@pytest.mark.parametrize(
    ("meanwhile", "closed"), [(World.pass_the_pivot, {"1": 1}), (World.lose_the_new, {"2": 1})], ids=["pivot", "crash"]
)
def test_a_request_on_trial_holds_both_versions(
    explorer: Explorer, meanwhile: Callable[[World], None], closed: dict[str, int], preemptions: int
) -> None:
    """A request that races the pivot or the end of the new version is held; who stands by is not closed before."""
    make = world(World.request_on_trial, meanwhile, closed=closed, on_trial=True)
    assert explorer.explore(make, preemptions=preemptions) > LEAST[preemptions]


def test_two_requests_during_a_swap(explorer: Explorer) -> None:
    """Two pins that race a swap and each other succeed, on versions that are not closed before their release."""
    make = world(World.request, World.request, World.swap, closed={"1": 1})
    assert explorer.explore(make, preemptions=1) > 1_000


# --- planted mistakes -----------------------------------------------------------------------------------------------


class PicksOnce(Router):
    """A request that meets a version that was just shut is refused."""

    def _pin_slowly(self, use: Use, model: str, version: str | None, key: str | None) -> Any:
        raise NotReady(model)


class ClosesTheWayFirst(Router):
    """While a version goes, its traffic is led to a closed way, then nowhere, and only then to another version."""

    def shut(self, loaded: LoadedModel) -> None:
        del self._open[loaded.key]
        self._apply(VersionGone(loaded.key.model, loaded.key.version))
        self._apply(Shifted({loaded.key.model: "2"}))


def test_a_router_that_picks_once_is_found() -> None:
    """The check fails where a pin does not pick again."""
    with Explorer(Router, Account, PicksOnce) as explorer, pytest.raises(Violation, match="raised NotReady"):
        explorer.explore(world(World.request, World.swap, closed={"1": 1}, router=PicksOnce), preemptions=1)


def test_a_router_that_closes_the_way_first_is_found() -> None:
    """The check fails where the traffic of a version that goes is moved in more than one step."""
    make = world(World.request, drain_active, closed={"1": 1}, router=ClosesTheWayFirst)
    with Explorer(Router, Account, ClosesTheWayFirst) as explorer, pytest.raises(Violation, match="raised NotReady"):
        explorer.explore(make, preemptions=1)


def test_an_account_that_looks_too_early_is_found() -> None:
    """The check fails where a pin looks at the gate before it announces itself."""
    make = world(World.request, World.swap, closed={"1": 1}, account=LooksBeforeItAnnounces)
    with Explorer(Router, LooksBeforeItAnnounces) as explorer, pytest.raises(Violation, match="after its close"):
        explorer.explore(make, preemptions=1)


def test_a_drain_that_does_not_shut_the_account_is_found(explorer: Explorer) -> None:
    """The check fails where a version is only taken out of the router before it is watched."""

    def swap(it: World) -> None:
        it.router.shift({"m": "2"})
        it.router.shut(cast("Any", it.loaded["1"]))
        it.loaded["1"].account.watch(partial(it.close, it.loaded["1"]))

    with pytest.raises(Violation, match="after its close"):
        explorer.explore(world(World.request, swap, closed={"1": 1}), preemptions=2)


class HoldsOneAfterTheOther(Router):
    """Who stands by is looked at when it is needed, and not pinned with the request."""

    def pin_request(self, use: Use, model: str, key: str | None) -> Pinned:
        pinned = super().pin_request(use, model, key)
        if pinned.standby is not None:
            pinned.standby.release(pinned.standby_ref)
            pinned.standby_ref = cast("Any", pinned.standby.acquire(use))
        return pinned


def test_a_standby_that_is_pinned_late_is_found() -> None:
    """The check fails where the old version can go between the pick and the failure that it stands by for."""
    make = world(
        World.request_on_trial, World.pass_the_pivot, closed={"1": 1}, router=HoldsOneAfterTheOther, on_trial=True
    )
    with Explorer(Router, Account, HoldsOneAfterTheOther) as explorer, pytest.raises(Violation):
        explorer.explore(make, preemptions=1)
