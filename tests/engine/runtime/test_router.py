"""The router: picking and pinning is one step; readers see one snapshot or the next, never half of one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from changeover import VersionKey, VersionSpec
from changeover.core.ledger import Account
from changeover.core.routes import Route, Share, Snapshot, Trial
from changeover.errors import AlreadyHeld, EngineClosed, ModelNotRegistered, NotReady
from changeover.runtime.events import Bus, Events
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.loaders import Brought
from changeover.runtime.router import Router
from changeover_sim.ports import VirtualClock
from tests.support.models import Script, ScriptedModel
from tests.support.rig import LOADER, Rig
from tests.support.threads import Crowd

USE = ("lease", 0.0, None, None)


@pytest.fixture
def bus(autojump_clock: Any) -> Bus:
    """Return a bus that nobody listens to yet."""
    return Bus(VirtualClock())


@pytest.fixture
def router(bus: Bus) -> Router:
    """Return a router without routes."""
    return Router(random.Random(0), bus, lambda model, version: NotReady(f"{model}/{version}", model=model))


def loaded(version: str = "1", model: str = "m") -> LoadedModel:
    """Return a loaded model, as a host would make it."""
    made = ScriptedModel(Script(), model, version)
    spec = VersionSpec(model, version, "script", loader=LOADER)
    brought = Brought(made, made.signature, made.thread_safe, None)
    return LoadedModel(spec, brought, Account(), number=1, loaded_at=0.0, load_s=0.0)


def picked(router: Router, model: str = "m", version: str | None = None) -> str:
    """Pin a version, let it go again, and return which one it was."""
    account, ref = router.pin(USE, model, version)
    account.release(ref)
    return account.owner.key.version


async def test_the_first_ready_version_gets_the_traffic_and_the_second_does_not(router: Router) -> None:
    """Only a model without traffic gives it to whoever becomes ready."""
    router.opened(loaded("1"))
    router.opened(loaded("2"))
    assert (router.active("m"), picked(router), picked(router, version="2")) == ("1", "1", "2")
    assert (router.share(VersionKey("m", "1")), router.share(VersionKey("m", "2"))) == (1.0, 0.0)


async def test_pinning_takes_a_reference_on_the_picked_version(router: Router) -> None:
    """What is picked is held from that moment on."""
    one = loaded("1")
    router.opened(one)
    account, ref = router.pin(("lease", 5.0, "mine", "file:1"), "m")
    assert (account, ref) == (one.account, "mine")
    assert [(h.kind, h.holder, h.where) for h in one.account.holders(7.0)] == [("lease", "mine", "file:1")]


async def test_a_request_id_is_held_once(router: Router) -> None:
    """The same id twice on one version is refused and changes nothing."""
    one = loaded("1")
    router.opened(one)
    router.pin(("lease", 0.0, "mine", None), "m")
    with pytest.raises(AlreadyHeld, match="mine"):
        router.pin(("lease", 1.0, "mine", None), "m")
    assert (one.account.balance().held, one.account.balance().conserved) == (1, True)


async def test_what_cannot_be_pinned_is_explained(router: Router) -> None:
    """The error is made by who knows the versions, for the model and the version that were asked for."""
    with pytest.raises(NotReady, match="m/None"):
        router.pin(USE, "m")
    router.opened(loaded("1"))
    with pytest.raises(NotReady, match="m/2"):
        router.pin(USE, "m", "2")


async def test_a_shift_moves_all_models_in_one_step(router: Router, bus: Bus) -> None:
    """One event, one new snapshot: no reader can see one model moved and the other not."""
    for model in ("a", "b"):
        for version in "12":
            router.opened(loaded(version, model))
    serial = router.snapshot.serial
    router.shift({"a": "2", "b": "2"})
    assert (router.active("a"), router.active("b"), router.snapshot.serial) == ("2", "2", serial + 1)


async def test_a_shift_to_what_takes_no_requests_moves_nothing(router: Router) -> None:
    """Where one of several models cannot be moved, none is."""
    for model in ("a", "b"):
        router.opened(loaded("1", model))
    router.opened(loaded("2", "a"))
    before = router.snapshot
    with pytest.raises(NotReady, match="b/2"):
        router.shift({"a": "2", "b": "2"})
    assert router.snapshot is before


async def test_a_version_that_leaves_hands_its_traffic_to_the_youngest_other_one(router: Router) -> None:
    """The model stays served as long as one version takes requests."""
    versions = {version: loaded(version) for version in "123"}
    for one in versions.values():
        router.opened(one)
    router.shut(versions["1"])
    assert router.active("m") == "3"
    router.shut(versions["3"])
    router.shut(versions["2"])
    assert router.active("m") is None
    with pytest.raises(NotReady):
        router.pin(USE, "m")


async def test_only_the_model_that_was_opened_can_be_shut(router: Router) -> None:
    """An old incarnation that ends late does not take the new one out of the routes."""
    old, new = loaded("1"), loaded("1")
    router.opened(old)
    router.shut(old)
    router.opened(new)
    router.shut(old)
    assert picked(router) == "1"
    assert VersionKey("m", "1") in router._open


@pytest.mark.parametrize("way", ["whole route", "split route"])
async def test_a_pick_that_meets_a_shut_account_is_made_again(router: Router, way: str) -> None:
    """Between the choice and the pin the version may leave; the request goes to the one that took over."""
    one, two = loaded("1"), loaded("2")
    router.opened(one)
    router.opened(two)

    def too_late(use: Any) -> None:
        router._open[one.key] = one.account
        router.shut(one)
        one.account.shut()

    if way == "whole route":
        router.direct = {"m": _Stand(one, too_late)}
    else:
        router.direct, router._open[one.key] = {}, _Stand(one, too_late)
    assert picked(router) == "2"
    assert one.account.balance().held == 0


class _Stand:
    """An account whose version leaves in the very moment in which it is asked."""

    def __init__(self, owner: LoadedModel, acquire: Any) -> None:
        self.owner = owner
        self.acquire = acquire


async def test_shares_split_the_traffic_by_their_weights(router: Router) -> None:
    """A route with several shares is drawn from by chance; a version that is named is not."""
    for version in "12":
        router.opened(loaded(version))
    router.snapshot = Snapshot({"m": Route((Share("1", 0.25), Share("2", 0.75)))})
    router.direct = {}
    drawn = [picked(router) for _ in range(4_000)]
    assert 0.2 < drawn.count("1") / 4_000 < 0.3
    assert router.active("m") == "2"
    assert picked(router, version="1") == "1"


async def test_a_router_that_refuses_answers_everything_with_its_refusal(router: Router) -> None:
    """After `refuse` each pin raises that error, each time a new object, whatever is ready."""
    router.opened(loaded("1"))
    router.refuse(EngineClosed("closed"))
    raised = []
    for version in (None, "1"):
        with pytest.raises(EngineClosed) as caught:
            router.pin(USE, "m", version)
        raised.append(caught.value)
    assert raised[0] is not raised[1]


async def test_a_model_is_never_without_a_route_while_a_version_takes_requests(router: Router, bus: Bus) -> None:
    """When the active version leaves, its traffic is on another one in the same step, as every thread sees it."""
    one = loaded("1")
    router.opened(one)
    router.opened(loaded("2"))
    seen: list[str] = []

    class Nosy(dict[str, Any]):
        """A dict that has a request placed in the moment before each change of the routes is seen."""

        def __delitem__(self, key: Any) -> None:
            super().__delitem__(key)
            seen.append(picked(router))

    emit = bus.emit
    bus.emit = lambda *args, **detail: (seen.append(picked(router)), emit(*args, **detail))
    router._open = Nosy(router._open)
    router.shut(one)
    assert set(seen) <= {"1", "2"}
    assert picked(router) == "2"


async def test_every_change_of_the_traffic_is_told(router: Router, bus: Bus) -> None:
    """One event for each change, with the version that has the most of it now, or None."""
    one, two = loaded("1"), loaded("2")
    async with Events(bus, 100) as events:
        router.opened(one)
        router.opened(two)
        router.shift({"m": "2"})
        router.shift({"m": "2"})
        router.shut(two)
        router.shut(one)
        told = [event.detail["to"] for event in events._unread]
    assert told == ["1", "2", "1", None]


async def test_a_changing_route_loses_no_pin() -> None:
    """While the loop moves the traffic to and fro and versions come and go, threads pin without a single refusal."""
    bus = Bus(VirtualClock())
    router = Router(random.Random(0), bus, lambda model, version: NotReady(f"{model}/{version}", model=model))
    models = [loaded("1"), loaded("2")]
    router.opened(models[0])
    pins: list[Any] = []
    crowd, n = Crowd(), 400

    def pin() -> None:
        pins.extend([router.pin(USE, "m") for _ in range(n)])

    for _ in range(4):
        crowd.add(pin)
    crowd.start()
    for turn in range(200):
        old, new = models[turn % 2], models[(turn + 1) % 2]
        new.account.reopen()
        router.opened(new)
        router.shift({"m": new.key.version})
        router.shut(old)
        old.account.shut()
    crowd.join()
    balances = [one.account.balance() for one in models]
    assert len(pins) == 4 * n
    assert sum(balance.held for balance in balances) == 4 * n
    assert all(balance.conserved for balance in balances)
    for account, ref in pins:
        account.release(ref)


async def test_the_engine_explains_by_model_version_and_state(rig: Rig, autojump_clock: Any) -> None:
    """Unknown, known and not loaded, on its way: each answer says what there is and what to do."""
    with pytest.raises(ModelNotRegistered, match="no model is called 'm'"):
        rig.lease()
    rig.add()
    with pytest.raises(NotReady, match=r"m has no version that takes requests: 1 is registered.*engine.load"):
        rig.lease()
    with pytest.raises(ModelNotRegistered, match="m has no version '2'"):
        rig.lease(version="2")


# --- a version on trial ---------------------------------------------------------------------------------------------

TRIAL = Trial("2", "1", "salt")
REQUEST = ("request", 0.0, None, None)


@pytest.fixture
async def pair(router: Router) -> tuple[LoadedModel, LoadedModel]:
    """Return an active version 1 and an idle version 2."""
    versions = loaded("1"), loaded("2")
    for one in versions:
        router.opened(one)
    return versions


def kinds(one: LoadedModel) -> list[str]:
    """Return who holds a version, by kind."""
    return [holder.kind for holder in one.account.holders(0.0)]


async def test_on_trial_nothing_is_picked_the_fast_way(router: Router, pair: Any) -> None:
    """`direct` has no model on trial, also where one version has it all: the other one must be pinned, too."""
    for share in (0.0, 0.5, 1.0):
        router.try_out({"m": TRIAL}, share)
        assert "m" not in router.direct
    router.end_trial(("m",))
    assert router.direct == {"m": pair[1].account}


async def test_a_request_on_the_new_version_pins_the_old_one_too(router: Router, pair: Any) -> None:
    """Both in one step: the new one is asked, the old one stands by and cannot be drained."""
    router.try_out({"m": TRIAL}, 1.0)
    pinned = router.pin_request(REQUEST, "m", None)
    assert (pinned.account, pinned.standby, pinned.copy) == (pair[1].account, pair[0].account, None)
    assert (kinds(pair[1]), kinds(pair[0])) == (["request"], ["fallback"])


@pytest.mark.parametrize(
    ("trial", "share"), [(TRIAL, 0.0), (Trial("2", "1", fallback=False), 0.0), (Trial("2", "1", fallback=False), 1.0)]
)
async def test_nobody_stands_by_for_the_old_version_or_without_fallback(
    router: Router, pair: Any, trial: Trial, share: float
) -> None:
    """A request holds one version where there is nothing to fall back to."""
    router.try_out({"m": trial}, share)
    pinned = router.pin_request(REQUEST, "m", "key")
    assert (pinned.account, pinned.standby, pinned.standby_ref) == (pair[int(share)].account, None, None)
    assert kinds(pair[0]) + kinds(pair[1]) == ["request"]


async def test_a_lease_on_trial_pins_one_version(router: Router, pair: Any) -> None:
    """Only a request can be answered by somebody else."""
    router.try_out({"m": TRIAL}, 1.0)
    router.pin(USE, "m")
    assert (kinds(pair[0]), kinds(pair[1])) == ([], ["lease"])


async def test_an_old_version_that_is_shut_does_not_stand_by(router: Router, pair: Any) -> None:
    """Its account refuses: the new one answers alone, and nothing is held of the old one."""
    router.try_out({"m": TRIAL}, 1.0)
    pair[0].account.shut()
    pinned = router.pin_request(REQUEST, "m", None)
    assert (pinned.account, pinned.standby, kinds(pair[0])) == (pair[1].account, None, [])


async def test_the_same_key_finds_the_same_version(router: Router, pair: Any) -> None:
    """For requests, pins and leases alike, again and again."""
    router.try_out({"m": TRIAL}, 0.5)
    for key in map(str, range(50)):
        found = {router.pin_request(REQUEST, "m", key).account.owner.key.version for _ in range(5)}
        found |= {router.pin(USE, "m", key=key)[0].owner.key.version for _ in range(5)}
        assert len(found) == 1


async def test_a_copy_is_noted_for_its_share_of_the_requests(router: Router, pair: Any) -> None:
    """In a shadow the old version has all requests; of a tenth the new one is to get a copy, and is not held for it."""
    router.try_out({"m": Trial("2", "1", "salt", copied=0.1)}, 0.0)
    pins = [router.pin_request(REQUEST, "m", str(number)) for number in range(1_000)]
    assert {pin.account for pin in pins} == {pair[0].account}
    copies = [pin.copy for pin in pins if pin.copy is not None]
    assert 50 < len(copies) < 150
    assert set(copies) == {pair[1].account}
    assert kinds(pair[1]) == []


@pytest.mark.parametrize("gone", [0, 1])
async def test_a_version_of_a_trial_leaves_its_traffic_to_the_other_one(router: Router, pair: Any, gone: int) -> None:
    """Not to the youngest version of the model; and with one of the two shut nothing can be tried."""
    router.opened(loaded("3"))
    router.try_out({"m": TRIAL}, float(gone))
    router.shut(pair[gone])
    assert router.active("m") == "21"[gone]
    with pytest.raises(NotReady):
        router.try_out({"m": TRIAL}, 0.5)
    assert router.share(VersionKey("m", "21"[gone])) == 1.0


async def test_who_tries_a_version_out_hears_of_versions_that_come_and_go(router: Router, pair: Any) -> None:
    """After the traffic has moved, and of no other model."""
    heard: list[str | None] = []
    router.listeners["m"] = lambda: heard.append(router.active("m"))
    router.opened(loaded("1", "other"))
    router.shut(pair[0])
    router.opened(pair[0])
    router.shut(pair[1])
    assert heard == ["2", "2", "1"]


async def test_a_trial_is_told_once_for_each_change_of_shares(router: Router, pair: Any, bus: Bus) -> None:
    """With every version's share; the end of a trial moves nothing and is no news."""
    async with Events(bus, 100) as events:
        for share in (0.25, 0.25, 1.0):
            router.try_out({"m": TRIAL}, share)
        router.end_trial(("m",))
        told = [event.detail for event in events._unread]
    assert told == [{"to": "1", "shares": {"2": 0.25, "1": 0.75}}, {"to": "2", "shares": {"2": 1.0}}]
