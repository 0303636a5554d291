"""Leases of several models at once: one moment of the traffic for all of them, all held or none."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.lowlevel

from changeover import Drain
from changeover.core.routes import Trial
from changeover.errors import (
    AlreadyHeld,
    EngineClosed,
    Evicted,
    InvalidValue,
    LeaseRevoked,
    ModelNotRegistered,
    NotReady,
    ReferenceNotHeld,
    VersionNotLoaded,
    WrongLoop,
)
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import Crowd

SETS = 10_000
OLD, NEW = {"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "2", "c": "2"}
MODELS = tuple(OLD)
CANCEL = Drain(0.0, "cancel", 5.0)


async def three(rig: Rig, versions: str = "12") -> None:
    """Load versions of three models; the first of each has the traffic."""
    for version in versions:
        for model in MODELS:
            await rig.ready(model, version)


def shift(rig: Rig, to: dict[str, str]) -> None:
    """Move the traffic of several models in one step, as a swap of a group does."""
    rig.engine._router.shift(to)


def try_out(rig: Rig, share: float, salt: str = "swap", models: tuple[str, ...] = MODELS) -> None:
    """Put version 2 of several models on trial in one step, as a canary of a group does."""
    rig.engine._router.try_out({model: Trial("2", "1", salt) for model in models}, share)


def seen(rig: Rig, **options: Any) -> str:
    """Take a set, and return its versions side by side."""
    with rig.engine.lease_many(MODELS, **options) as leases:
        return "".join(lease.version for lease in leases.values())


def assert_none_held(rig: Rig) -> None:
    """Every reference was given back, each once."""
    audit = rig.engine.audit()
    assert (audit.clean, audit.total.over_releases) == (True, 0), audit
    assert not any(loaded.account._revokers for loaded in rig.engine._host.living())


# --- a set ----------------------------------------------------------------------------------------------------------


async def test_a_set_maps_each_model_to_its_lease(rig: Rig, autojump_clock: Any) -> None:
    """In the order asked for, each as `engine.lease` gives it; behind the block nothing is held."""
    await three(rig)
    with rig.engine.lease_many(["c", "a"]) as leases:
        assert (list(leases), len(leases), "b" in leases) == (["c", "a"], 2, False)
        assert leases["c"].infer({"n": 1}) == {"version": "1", "n": 1}
        assert leases["a"].model is rig.cast.of("a", "1")[0]
        kinds = {str(key): [holder.kind for holder in held] for key, held in rig.engine.audit().holders.items()}
        assert kinds == {"a/1": ["lease"], "c/1": ["lease"]}
    assert_none_held(rig)


async def test_the_async_form_is_the_same(rig: Rig, autojump_clock: Any) -> None:
    """`async with` holds what `with` holds, where nothing has to be waited for."""
    await three(rig)
    async with rig.engine.lease_many(MODELS) as leases:
        assert [lease.version for lease in leases.values()] == ["1", "1", "1"]
        assert rig.engine.audit().total.held == 3
    assert_none_held(rig)


@pytest.mark.parametrize("models", [[], ["a", "a"], "abc", ["a", ""], ["a", 1]])
async def test_a_set_that_makes_no_sense_is_refused(rig: Rig, models: Any) -> None:
    """No models, one of them twice, one text in place of several, or what is no name: `InvalidValue`."""
    with pytest.raises(InvalidValue, match="models"):
        rig.engine.lease_many(models)


@pytest.mark.parametrize("options", [{"wait_s": -1.0}, {"wait_s": "soon"}, {"request_id": ""}])
async def test_an_option_that_makes_no_sense_is_refused_by_name(rig: Rig, options: Any) -> None:
    """As `lease` does."""
    with pytest.raises(InvalidValue, match=next(iter(options))):
        rig.engine.lease_many(["a"], **options)


# --- one moment -----------------------------------------------------------------------------------------------------


async def test_no_set_is_a_mix_while_another_task_flips(rig: Rig, autojump_clock: Any) -> None:
    """10,000 sets under a stream of flips of the group: each is all of the old versions or all of the new ones."""
    await three(rig)
    found: list[str] = []

    async def flip() -> None:
        while True:
            for to in (NEW, OLD):
                await trio.lowlevel.checkpoint()
                shift(rig, to)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flip)
        for number in range(SETS):
            found.append(seen(rig))
            if number % 5 == 0:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert (set(found), len(found)) == ({"111", "222"}, SETS)
    assert_none_held(rig)


async def test_no_set_is_a_mix_for_real_threads() -> None:
    """10,000 sets of four threads, while the group is flipped all the time: never a mix, and the books balance."""
    async with open_rig(real=True) as rig:
        await three(rig)
        crowd, found = Crowd(), list[set[str]]()

        def ask() -> None:
            found.append({seen(rig) for _ in range(SETS // 4)})

        for _ in range(4):
            crowd.add(ask)
        crowd.start()
        while len(found) < 4:
            for to in (NEW, OLD):
                shift(rig, to)
            await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(crowd.join)
        assert set().union(*found) == {"111", "222"}
        assert_none_held(rig)


class Interrupting(dict[Any, Any]):
    """The router's own book, in which something happens in the middle of a look."""

    def __init__(self, book: dict[Any, Any], events: list[Callable[[], object]]) -> None:
        super().__init__(book)
        self._events = events

    def get(self, key: Any, default: Any = None) -> Any:
        """Look, then let the next thing happen."""
        found = super().get(key, default)
        if self._events:
            self._events.pop(0)()
        return found


def interrupt(rig: Rig, *events: Callable[[], object]) -> None:
    """Let one thing happen after each look of the router for a version."""
    rig.engine._router._open = Interrupting(rig.engine._router._open, list(events))


async def test_a_flip_in_the_middle_of_a_pick_is_not_seen(rig: Rig, autojump_clock: Any) -> None:
    """What was picked for the first model decides about the others, whatever happens meanwhile."""
    await three(rig)
    interrupt(rig, lambda: shift(rig, NEW))
    assert (seen(rig), seen(rig)) == ("111", "222")
    interrupt(rig, lambda: None, lambda: shift(rig, OLD))
    assert (seen(rig), seen(rig)) == ("222", "111")


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_version_that_is_shut_in_the_middle_has_the_set_begin_anew(
    rig: Rig, at: int, autojump_clock: Any
) -> None:
    """Flipped and shut between two pins: all is given back, and the set is taken from the new moment."""
    await three(rig)

    def leave() -> None:
        shift(rig, NEW)
        for loaded in rig.engine._host.living():
            if loaded.key.version == "1":
                rig.engine._router.shut(loaded)
                loaded.account.shut()

    interrupt(rig, *[lambda: None] * at, leave)
    assert seen(rig) == "222"
    assert_none_held(rig)


async def test_versions_that_are_shut_faster_than_a_set_is_placed_are_given_up(rig: Rig, autojump_clock: Any) -> None:
    """After so many tries it is `NotReady`, and nothing is held: no endless loop."""
    await three(rig)
    for loaded in rig.engine._host.living():
        if loaded.key.model == "b":
            loaded.account.shut()
    with pytest.raises(NotReady, match="a, b, c: their versions change faster"):
        seen(rig)
    assert rig.engine.references.count("a", "1") == 0


# --- a trial --------------------------------------------------------------------------------------------------------


async def test_one_draw_decides_for_all_in_a_trial(rig: Rig, autojump_clock: Any) -> None:
    """Without a key, a set has all of the old versions or all of the new ones, by about the share of the trial."""
    await three(rig)
    try_out(rig, 0.25)
    found = [seen(rig) for _ in range(1_000)]
    assert set(found) == {"111", "222"}
    assert 200 <= found.count("222") <= 300
    try_out(rig, 0.0)
    assert seen(rig) == "111"
    try_out(rig, 1.0)
    assert seen(rig) == "222"
    assert_none_held(rig)


async def test_a_key_is_on_one_side_of_a_trial_with_all_models(rig: Rig, autojump_clock: Any) -> None:
    """The same key finds the same side each time, for every member, and where it asks for one model alone."""
    await three(rig)
    try_out(rig, 0.5)
    sides = {key: {seen(rig, key=key) for _ in range(5)} for key in map(str, range(100))}
    assert {side for found in sides.values() for side in found} == {"111", "222"}
    for key, found in sides.items():
        (side,) = found
        with rig.engine.lease("b", key=key) as lease:
            assert lease.version * 3 == side


async def test_models_of_two_trials_go_each_by_their_own_salt(rig: Rig, autojump_clock: Any) -> None:
    """With a key, every model of a set is on the side on which that key finds it alone."""
    await three(rig)
    try_out(rig, 0.5, "one", ("a",))
    try_out(rig, 0.5, "another", ("b",))
    found = set[str]()
    for key in map(str, range(100)):
        alone = ""
        for model in MODELS:
            with rig.engine.lease(model, key=key) as lease:
                alone += lease.version
        assert seen(rig, key=key) == alone
        found.add(alone)
    assert found == {"111", "121", "211", "221"}


# --- all or none ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sync", "async"])
async def test_where_one_is_missing_none_is_held(rig: Rig, form: str, autojump_clock: Any) -> None:
    """The error is what a lease of the missing model raises, and what was pinned before is given back."""
    await three(rig, "1")
    rig.add("d", "1")
    for models, kind in ((["a", "d"], NotReady), (["d", "a"], NotReady), (["a", "nobody"], ModelNotRegistered)):
        leases = rig.engine.lease_many(models)
        with pytest.raises(kind, match=r"d |nobody"):
            leases.__enter__() if form == "sync" else await leases.__aenter__()
        assert_none_held(rig)
        with pytest.raises(ReferenceNotHeld):
            _ = leases["a"].version


async def test_a_version_without_a_way_to_it_is_told_as_by_a_lease(rig: Rig, autojump_clock: Any) -> None:
    """A route that leads to nobody any more: `VersionNotLoaded`, with the model's name."""
    await three(rig, "1")
    await rig.ready("d", "1")
    await rig.engine.unload("d", "1", force=True)
    rig.engine._router.snapshot = rig.engine._router.snapshot.__class__(
        {**rig.engine._router.snapshot.routes, "d": rig.engine._router.snapshot.routes["a"]}
    )
    with pytest.raises(VersionNotLoaded, match="d/1"), rig.engine.lease_many(["a", "d"]):
        pass
    assert_none_held(rig)


async def test_a_request_id_is_held_by_every_member_and_once(rig: Rig, autojump_clock: Any) -> None:
    """It names the set in audits; where one member has it already, none is taken."""
    await three(rig)
    with rig.engine.lease_many(["a", "b"], request_id="r"):
        assert [held[0].holder for held in rig.engine.audit().holders.values()] == ["r", "r"]
        with pytest.raises(AlreadyHeld, match="r"), rig.engine.lease_many(["c", "b"], request_id="r"):
            pass
        assert rig.engine.references.count("c", "1") == 0
    assert_none_held(rig)


async def test_a_set_that_is_entered_is_not_entered_again(rig: Rig, autojump_clock: Any) -> None:
    """Twice at once is a mistake that changes nothing; one after the other is fine, in either form."""
    await three(rig)
    leases = rig.engine.lease_many(MODELS)
    with leases:
        with pytest.raises(AlreadyHeld, match="set"):
            leases.__enter__()
        with pytest.raises(AlreadyHeld, match="set"):
            await leases.__aenter__()
        assert rig.engine.audit().total.held == 3
    async with leases:
        with pytest.raises(AlreadyHeld):
            leases["a"].__enter__()
    shift(rig, NEW)
    with leases:
        assert leases["a"].version == "2"
    assert_none_held(rig)


async def test_a_set_is_released_exactly_once(rig: Rig, autojump_clock: Any) -> None:
    """A second release raises and changes nothing; one that misses a member gives the others back all the same."""
    await three(rig)
    leases = rig.engine.lease_many(MODELS)
    with pytest.raises(ReferenceNotHeld, match="never entered"):
        leases.release()
    leases.__enter__()
    leases.release()
    assert rig.engine.audit().total.held == 0
    with pytest.raises(ReferenceNotHeld):
        leases.release()
    with pytest.raises(ReferenceNotHeld), leases:
        leases["b"].release()
    assert rig.engine.audit().total.held == 0


# --- how it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sync", "async"])
async def test_an_exception_ends_a_set_and_comes_through(rig: Rig, form: str, autojump_clock: Any) -> None:
    """All is given back, and the block's own exception is the one that is raised."""
    await three(rig)
    with pytest.raises(Broken):  # noqa: PT012 - the block is what is tested
        if form == "sync":
            with rig.engine.lease_many(MODELS):
                raise Broken("mine")
        async with rig.engine.lease_many(MODELS):
            raise Broken("mine")
    assert_none_held(rig)


async def test_a_generator_that_is_closed_ends_its_set(rig: Rig, autojump_clock: Any) -> None:
    """A set taken in a generator is given back where that is closed in its middle."""
    await three(rig)

    def work() -> Iterator[str]:
        with rig.engine.lease_many(MODELS) as leases:
            yield from (lease.version for lease in leases.values())

    generator = work()
    next(generator)
    assert rig.engine.audit().total.held == 3
    del generator
    gc.collect()
    assert_none_held(rig)


async def test_a_cancellation_ends_a_set(rig: Rig, autojump_clock: Any) -> None:
    """A cancelled block gives everything back."""
    await three(rig)
    with trio.move_on_after(1):
        async with rig.engine.lease_many(MODELS):
            await trio.sleep_forever()
    assert_none_held(rig)


@pytest.mark.parametrize("drained", ["a", "b", "ab"])
async def test_a_drain_of_any_member_ends_the_block_once(rig: Rig, drained: str, autojump_clock: Any) -> None:
    """`LeaseRevoked` names a version that was drained, once, also where two are drained at the same time."""
    await three(rig)
    ends: list[LeaseRevoked] = []
    drains = [Outcome(rig.engine.unload, model, "1", drain=CANCEL, force=True) for model in drained]

    async def hold() -> None:
        try:
            async with rig.engine.lease_many(MODELS):
                await trio.sleep_forever()
        except LeaseRevoked as error:
            ends.append(error)
        await trio.lowlevel.checkpoint()  # nothing of the revocation is left behind the block

    async with running(Outcome(hold), *drains):
        pass
    assert [(error.model in drained, error.version, error.retryable) for error in ends] == [(True, "1", True)]
    assert [drain.value.result for drain in drains] == ["drained"] * len(drained)
    assert_none_held(rig)


async def test_a_set_without_await_is_not_revoked(rig: Rig, autojump_clock: Any) -> None:
    """`with` cannot be ended from outside: the drain ends in quarantine, and names who holds."""
    await three(rig)
    with rig.engine.lease_many(MODELS):
        outcome = await rig.engine.unload("b", "1", drain=Drain(0.0, "cancel", 0.0))
        assert (outcome.result, [holder.kind for holder in outcome.holders]) == ("quarantined", ["lease"])
    await settle()
    assert_none_held(rig)


async def test_a_set_that_is_left_in_another_task_is_given_back(rig: Rig, autojump_clock: Any) -> None:
    """`WrongLoop` says so, and nothing stays held."""
    await three(rig)
    leases = rig.engine.lease_many(MODELS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leases.__aenter__)
    with pytest.raises(WrongLoop):
        await leases.__aexit__(None, None, None)
    assert_none_held(rig)


async def test_a_closed_engine_gives_no_sets(autojump_clock: Any) -> None:
    """`EngineClosed`, as for a lease; one that is held outlives the engine, and is given back."""
    async with open_rig(close_timeout_s=1.0) as rig:
        await three(rig)
        leases = rig.engine.lease_many(MODELS).__enter__()
        assert leases["a"].version == "1"
    with pytest.raises(EngineClosed):
        rig.engine.lease_many(MODELS).__enter__()
    assert leases["b"].infer({})["version"] == "1"
    leases.release()
    assert_none_held(rig)


# --- mistakes and debugging -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sync", "async"])
async def test_a_forgotten_set_is_given_back_with_a_warning(rig: Rig, form: str, autojump_clock: Any) -> None:
    """Dropped without a release: a `ResourceWarning` for each, and no reference is lost."""
    await three(rig)
    leases = rig.engine.lease_many(["a", "b"])
    if form == "sync":
        leases.__enter__()
    else:
        await leases.__aenter__()
        leases._stay.leave(None, None, None)
    with (
        pytest.warns(ResourceWarning, match="a lease of a was"),
        pytest.warns(ResourceWarning, match="a lease of b was"),
    ):
        del leases
    assert_none_held(rig)


async def test_a_lease_that_outlives_its_set_holds_on(rig: Rig, autojump_clock: Any) -> None:
    """Who keeps one lease and forgets the set keeps what he uses, and only that."""
    await three(rig)
    with pytest.warns(ResourceWarning, match="a lease of b was dropped"):
        lease = rig.engine.lease_many(["a", "b"]).__enter__()["a"]
    assert lease.infer({})["version"] == "1"
    assert rig.engine.audit().total.held == 1
    lease.release()
    assert_none_held(rig)


@pytest.mark.parametrize("form", ["sync", "async"])
async def test_debugging_tells_where_a_set_was_taken(form: str, autojump_clock: Any) -> None:
    """With `debug_references` each holder has the line that asked, and a model is of no use after the block."""
    async with open_rig(debug_references=True) as rig:
        await three(rig)
        leases = rig.engine.lease_many(MODELS)
        await leases.__aenter__() if form == "async" else leases.__enter__()
        places = [held[0].where or "" for held in rig.engine.audit().holders.values()]
        assert len(places) == 3
        assert all(where.startswith(__file__) for where in places)
        model = leases["b"].model
        assert model.predict({})["version"] == "1"
        await leases.__aexit__(None, None, None) if form == "async" else leases.release()
        with pytest.raises(ReferenceNotHeld):
            model.predict({})
        assert_none_held(rig)


# --- waiting --------------------------------------------------------------------------------------------------------


async def test_a_set_waits_for_all_that_are_coming(rig: Rig, autojump_clock: Any) -> None:
    """`async with` waits until every member is there, and takes the set of that moment; `with` raises `NotReady`."""
    await three(rig, "12")
    for model, load_s in (("d", 2.0), ("e", 5.0)):
        rig.add(model)
        rig.takes(f"load {model}/1", load_s)
    loads = [Outcome(rig.engine.load, model, "1") for model in "de"]
    async with running(*loads):
        with pytest.raises(NotReady, match="loading"):
            rig.engine.lease_many(["a", "e"]).__enter__()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_shift_at, rig, 3.0)
            async with rig.engine.lease_many(["a", "e", "b", "d"]) as leases:
                assert trio.current_time() == 5.0
                assert [lease.version for lease in leases.values()] == ["2", "1", "2", "1"]
    assert_none_held(rig)


async def _shift_at(rig: Rig, at_s: float) -> None:
    await trio.sleep_until(at_s)
    shift(rig, NEW)


async def test_a_set_waits_no_longer_than_it_was_told(rig: Rig, autojump_clock: Any) -> None:
    """After `wait_s` it raises what is missing, holds nothing, and the load goes on; cancelled it is the same."""
    await three(rig, "1")
    rig.add("d")
    rig.takes("load d/1", 5.0)
    load = Outcome(rig.engine.load, "d", "1")
    async with running(load):
        with pytest.raises(NotReady, match="d has no version"):
            await rig.engine.lease_many(["a", "d"], wait_s=2.0).__aenter__()
        assert trio.current_time() == 2.0
        with trio.move_on_after(1.0) as scope:
            await rig.engine.lease_many(["a", "d"]).__aenter__()
        assert scope.cancelled_caught
        assert_none_held(rig)
    assert load.value is None


async def test_an_evicted_member_is_waited_for(autojump_clock: Any) -> None:
    """`with` raises `Evicted` and orders the reload; `async with` takes the set when that is done."""
    async with open_rig(memory_budget_bytes=25) as rig:
        for model in "abc":  # the third does not fit beside the others
            await rig.ready(model, memory_hint_bytes=10)
            await trio.sleep(1.0)
        rig.takes("load a/1", 2.0)
        began_s = trio.current_time()
        leases = rig.engine.lease_many(["c", "a"])
        with pytest.raises(Evicted, match="a/1"):
            leases.__enter__()
        assert_none_held(rig)
        async with leases:
            assert [lease.version for lease in leases.values()] == ["1", "1"]
            assert trio.current_time() == began_s + 2.0
        assert_none_held(rig)


async def test_the_evicted_version_is_waited_for_and_no_other(autojump_clock: Any) -> None:
    """Where another version of its model is being loaded, too, the set waits for the one that has the traffic."""
    async with open_rig(memory_budget_bytes=35) as rig:
        await rig.ready("a", "0", memory_hint_bytes=10)
        await rig.engine.unload("a", "0", force=True)
        for model in "abcd":  # the last does not fit beside the others
            await rig.ready(model, memory_hint_bytes=10)
            await trio.sleep(1.0)
        rig.takes("load a/0", 50.0)
        rig.takes("load a/1", 2.0)
        began_s, slow = trio.current_time(), Outcome(rig.engine.load, "a", "0")
        async with running(slow), rig.engine.lease_many(["d", "a"]) as leases:
            assert (leases["a"].version, trio.current_time()) == ("1", began_s + 2.0)


async def test_a_set_that_never_fits_is_given_up(autojump_clock: Any) -> None:
    """Where each reload makes another member go, it ends with `NotReady` after some rounds, and not never."""
    async with open_rig(memory_budget_bytes=15) as rig:
        for model in "ab":
            await rig.ready(model, memory_hint_bytes=10)
        with pytest.raises(NotReady, match="evicted"):
            await rig.engine.lease_many(["a", "b"]).__aenter__()
        assert len(rig.cast.made) <= 2 + 2 * 2 + 1
        assert_none_held(rig)
