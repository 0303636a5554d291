"""Leases: taken and given back in one step, from any thread, in both forms."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import numpy as np
import pytest
import trio

from changeover.errors import (
    AlreadyHeld,
    InvalidInput,
    InvalidValue,
    ModelNotRegistered,
    NotReady,
    NotThreadSafe,
    PredictFailed,
    ReferenceNotHeld,
    VersionCrashed,
    VersionNotLoaded,
)
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import Crowd


def held(rig: Rig, version: str = "1") -> int:
    """Return how many references m/version has."""
    return rig.engine.references.count("m", version)


async def test_a_lease_holds_the_active_version_for_its_block(rig: Rig, autojump_clock: Any) -> None:
    """Within the block the version is held once, by a lease; behind it, not at all."""
    await rig.ready()
    with rig.engine.lease("m") as lease:
        assert (lease.version, held(rig)) == ("1", 1)
        assert [holder.kind for holder in rig.engine.who_holds("m", "1")] == ["lease"]
        assert lease.infer({"n": 1}) == {"version": "1", "n": 1}
        assert lease.model is rig.cast.made[0]
    assert (held(rig), rig.engine.audit().clean) == (0, True)


async def test_the_async_form_is_the_same(rig: Rig, autojump_clock: Any) -> None:
    """`async with` holds what `with` holds, where nothing has to be waited for."""
    await rig.ready()
    async with rig.engine.lease("m") as lease:
        assert (lease.version, held(rig)) == ("1", 1)
    assert held(rig) == 0


@pytest.mark.parametrize("form", ["sync", "async"])
async def test_an_exception_ends_a_lease_and_comes_through(rig: Rig, form: str, autojump_clock: Any) -> None:
    """The reference is given back, and the block's own exception is the one that is raised."""
    await rig.ready()

    async def block() -> None:
        if form == "sync":
            with rig.engine.lease("m"):
                raise Broken("mine")
        async with rig.engine.lease("m"):
            raise Broken("mine")

    with pytest.raises(Broken):
        await block()
    assert held(rig) == 0


async def test_a_cancellation_ends_a_lease(rig: Rig, autojump_clock: Any) -> None:
    """A cancelled block gives its reference back."""
    await rig.ready()
    with trio.move_on_after(1):
        async with rig.engine.lease("m"):
            await trio.sleep_forever()
    assert held(rig) == 0


async def test_a_version_can_be_named(rig: Rig, autojump_clock: Any) -> None:
    """A named version is leased whether or not it has the traffic."""
    await rig.ready("m", "1")
    await rig.ready("m", "2")
    with rig.engine.lease("m", version="2") as lease:
        assert (lease.version, held(rig, "1"), held(rig, "2")) == ("2", 0, 1)


async def test_a_lease_stays_on_its_version_through_a_swap(rig: Rig, autojump_clock: Any) -> None:
    """What began on the old version ends on it."""
    await rig.ready("m", "1")
    rig.add("m", "2")
    swap = Outcome(rig.engine.swap, "m", "2")
    with rig.engine.lease("m") as old:
        async with running(swap):
            with rig.engine.lease("m") as new:
                assert (old.version, new.version) == ("1", "2")
                assert old.infer({})["version"] == "1"
            old.release()
        with pytest.raises(ReferenceNotHeld):
            old.release()
        old.__enter__()
        assert old.version == "2"


async def test_a_request_id_names_a_lease_and_is_held_once(rig: Rig, autojump_clock: Any) -> None:
    """The caller's own id is in the audit; the same one again is refused while it is held, and free afterwards."""
    await rig.ready()
    with rig.engine.lease("m", request_id="order-7"):
        assert [holder.holder for holder in rig.engine.who_holds("m", "1")] == ["order-7"]
        with pytest.raises(AlreadyHeld, match="order-7"), rig.engine.lease("m", request_id="order-7"):
            pass
        assert held(rig) == 1
    with rig.engine.lease("m", request_id="order-7"):
        assert held(rig) == 1


async def test_an_entered_lease_is_not_entered_again(rig: Rig, autojump_clock: Any) -> None:
    """The same object twice at once is a mistake, and changes nothing; one after the other is fine."""
    await rig.ready()
    lease = rig.engine.lease("m")
    with lease:
        with pytest.raises(AlreadyHeld):
            lease.__enter__()
        assert held(rig) == 1
    with lease:
        assert held(rig) == 1
    assert held(rig) == 0


async def test_a_lease_is_released_exactly_once(rig: Rig, autojump_clock: Any) -> None:
    """A second release raises, changes nothing, and is counted; so does one that was never entered."""
    await rig.ready()
    other = rig.lease()
    lease = rig.lease()
    lease.release()
    for _ in range(2):
        with pytest.raises(ReferenceNotHeld):
            lease.release()
    assert (held(rig), rig.engine.audit().total.over_releases) == (1, 2)
    with pytest.raises(ReferenceNotHeld, match="never entered"):
        rig.engine.lease("m").release()
    other.release()


@pytest.mark.parametrize("debug", [False, True])
async def test_a_lease_is_of_no_use_after_its_end(debug: bool, autojump_clock: Any) -> None:
    """Version, model and infer raise `ReferenceNotHeld` before the block and after it."""
    async with open_rig(debug_references=debug) as rig:
        await rig.ready()
        lease = rig.engine.lease("m")
        for _ in range(2):
            for use in (lambda: lease.version, lambda: lease.model, lambda: lease.infer({})):
                with pytest.raises(ReferenceNotHeld, match="m"):
                    use()
            with lease:
                assert lease.version == "1"
        assert rig.cast.made[0].calls == []


async def test_a_lease_may_end_on_another_thread_than_it_began() -> None:
    """Taken here and given back there, or the other way round."""
    async with open_rig(real=True) as rig:
        await rig.ready()
        lease = rig.lease()
        await trio.to_thread.run_sync(lease.release)
        assert held(rig) == 0
        lease = await trio.to_thread.run_sync(rig.lease)
        assert held(rig) == 1
        lease.release()
        assert held(rig) == 0


async def test_many_threads_lease_and_release_while_versions_change() -> None:
    """Eight threads at once, through swaps: no refusal, no misuse, and the books balance."""
    async with open_rig(real=True) as rig:
        await rig.ready("m", "1")
        rig.add("m", "2")
        crowd = Crowd()
        answers: list[str] = []

        def ask() -> None:
            for _ in range(100):
                with rig.engine.lease("m") as lease:
                    assert lease.infer({})["version"] == lease.version
                    answers.append(lease.version)

        for _ in range(8):
            crowd.add(ask)
        crowd.start()
        for turn in range(10):
            await rig.engine.swap("m", "12"[(turn + 1) % 2])
        await trio.to_thread.run_sync(crowd.join)
        assert len(answers) == 800
        assert rig.engine.audit().clean


# --- the object and its use -----------------------------------------------------------------------------------------


async def test_a_model_for_one_thread_is_not_handed_out(rig: Rig, autojump_clock: Any) -> None:
    """`lease.model` says why not, and `lease.infer` takes turns instead."""
    await rig.ready(thread_safe=False)
    with rig.engine.lease("m") as lease:
        with pytest.raises(NotThreadSafe, match=r"m/1.*lease\.infer"):
            _ = lease.model
        assert lease.infer({})["version"] == "1"


async def test_a_model_for_one_thread_is_used_by_one_at_a_time() -> None:
    """Leases of eight threads call it one after the other (the rig checks that no two ran at once)."""
    async with open_rig(real=True) as rig:
        await rig.ready(thread_safe=False)
        crowd = Crowd()

        def ask() -> None:
            for n in range(50):
                with rig.engine.lease("m") as lease:
                    lease.infer({"n": n})

        for _ in range(8):
            crowd.add(ask)
        crowd.start()
        await trio.to_thread.run_sync(crowd.join)
        assert (len(rig.cast.made[0].calls), rig.cast.made[0].running_most) == (400, 1)


async def test_inputs_are_checked_before_the_model_sees_them(rig: Rig, autojump_clock: Any) -> None:
    """A lease refuses what does not fit the signature, and the model is not called."""
    await rig.ready(signature=BATCHED, answers=first_column)
    with rig.engine.lease("m") as lease:
        with pytest.raises(InvalidInput, match="'z'"):
            lease.infer({"z": np.zeros((1, 2))})
        assert rig.cast.made[0].calls == []
        assert lease.infer({"x": np.array([[3.0, 4.0]])})["y"].tolist() == [3.0]


async def test_an_error_of_the_model_is_told_as_one(rig: Rig, autojump_clock: Any) -> None:
    """The model's own exception is the cause, and the lease goes on."""
    await rig.ready(fails_on=lambda inputs: "bad" in inputs)
    with rig.engine.lease("m") as lease:
        with pytest.raises(PredictFailed, match=r"m/1 raised Broken") as caught:
            lease.infer({"bad": 1})
        assert isinstance(caught.value.__cause__, Broken)
        assert caught.value.ran == "yes"
        assert lease.infer({})["version"] == "1"


# --- waiting --------------------------------------------------------------------------------------------------------


async def test_a_sync_lease_never_waits(rig: Rig, autojump_clock: Any) -> None:
    """While the version is loading it raises the retryable `NotReady`."""
    rig.add()
    rig.takes("load m/1", 5.0)
    async with running(Outcome(rig.engine.load, "m", "1")):
        with pytest.raises(NotReady, match="loading") as caught:
            rig.lease()
        assert caught.value.retryable


async def test_an_async_lease_waits_for_a_load_that_runs(rig: Rig, autojump_clock: Any) -> None:
    """It joins the load, and holds the version as soon as it is ready."""
    rig.add()
    rig.takes("load m/1", 5.0)
    async with running(Outcome(rig.engine.load, "m", "1")), rig.engine.lease("m") as lease:
        assert (lease.version, trio.current_time()) == ("1", 5.0)
    assert len(rig.cast.made) == 1


async def test_an_async_lease_waits_for_a_restart(rig: Rig, autojump_clock: Any) -> None:
    """A version that is about to come back after a crash is waited for."""
    await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
    with rig.engine.lease("m") as lease, pytest.raises(VersionCrashed):
        lease.infer({"poison": 1})
    await settle()
    async with rig.engine.lease("m") as lease:
        assert lease.infer({})["version"] == "1"


async def test_an_async_lease_waits_no_longer_than_it_was_told(rig: Rig, autojump_clock: Any) -> None:
    """After `wait_s` it raises `NotReady`, holds nothing, and the load goes on for who wants it."""
    rig.add()
    rig.takes("load m/1", 5.0)
    load = Outcome(rig.engine.load, "m", "1")
    async with running(load):
        with pytest.raises(NotReady):
            async with rig.engine.lease("m", wait_s=2.0):
                pytest.fail("there is nothing to hold")
        assert trio.current_time() == 2.0
    assert load.value is None
    assert held(rig) == 0


async def test_an_async_lease_that_need_not_wait_has_no_use_for_a_bound(rig: Rig, autojump_clock: Any) -> None:
    """With `wait_s=0` it takes what is ready."""
    await rig.ready()
    async with rig.engine.lease("m", wait_s=0) as lease:
        assert lease.version == "1"


async def test_an_async_lease_of_what_nobody_loads_does_not_wait(rig: Rig, autojump_clock: Any) -> None:
    """Waiting would not help: the error says what would."""
    rig.add()
    with pytest.raises(NotReady, match=r"engine\.load"):
        await rig.engine.lease("m").__aenter__()
    with pytest.raises(VersionNotLoaded, match="m/1"):
        await rig.engine.lease("m", version="1").__aenter__()
    with pytest.raises(ModelNotRegistered):
        await rig.engine.lease("nobody").__aenter__()
    assert trio.current_time() == 0.0


async def test_an_async_lease_hears_that_the_load_failed(rig: Rig, autojump_clock: Any) -> None:
    """It raises `NotReady` with the reason as its cause."""
    rig.add(load_error=Broken("no weights"))
    rig.takes("load m/1", 5.0)
    async with running(Outcome(rig.engine.load, "m", "1")):
        with pytest.raises(NotReady, match="no weights"):
            await rig.engine.lease("m").__aenter__()


async def test_a_cancelled_wait_for_a_lease_holds_nothing(rig: Rig, autojump_clock: Any) -> None:
    """Whoever stops to wait leaves no reference and does not stop the load."""
    rig.add()
    rig.takes("load m/1", 5.0)
    load = Outcome(rig.engine.load, "m", "1")
    async with running(load):
        with trio.move_on_after(2):
            await rig.engine.lease("m").__aenter__()
    assert (load.value, held(rig), rig.engine.audit().clean) == (None, 0, True)


@pytest.mark.parametrize("wait_s", [-1.0, float("nan"), float("inf"), "soon", True])
async def test_a_wait_that_makes_no_sense_is_refused_by_name(rig: Rig, wait_s: Any, autojump_clock: Any) -> None:
    """`wait_s` is a finite number of seconds, or None."""
    await rig.ready()
    with pytest.raises(InvalidValue, match="wait_s"):
        rig.engine.lease("m", wait_s=wait_s)


# --- mistakes and debugging -----------------------------------------------------------------------------------------


async def test_a_forgotten_lease_is_given_back_with_a_warning(rig: Rig, autojump_clock: Any) -> None:
    """Dropped without a release: a `ResourceWarning`, and the reference is not lost."""
    await rig.ready()
    leases = [rig.lease()]
    with pytest.warns(ResourceWarning, match="a lease of m was dropped"):
        leases.clear()
    assert held(rig) == 0


async def test_a_forgotten_lease_is_given_back_where_warnings_are_errors(
    rig: Rig, recwarn: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """The reference comes back before anybody is told."""
    await rig.ready()
    seen: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", seen.append)
    lease = rig.lease()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del lease
        gc.collect()
    assert held(rig) == 0
    assert len(seen) == 1
    seen.clear()


async def test_a_lease_that_was_never_entered_is_dropped_in_silence(rig: Rig, autojump_clock: Any) -> None:
    """It held nothing."""
    await rig.ready()
    lease = rig.engine.lease("m")
    del lease
    gc.collect()
    assert held(rig) == 0


async def test_debugging_tells_where_a_lease_was_taken(autojump_clock: Any) -> None:
    """With `debug_references` a holder has the file and the line that asked for it."""
    async with open_rig(debug_references=True) as rig:
        await rig.ready()
        with rig.engine.lease("m"):
            (holder,) = rig.engine.who_holds("m", "1")
            assert holder.where is not None
            assert holder.where.startswith(__file__)
            assert f"taken at {__file__}" in str(holder)
        async with rig.engine.lease("m"):
            (holder,) = rig.engine.who_holds("m", "1")
            assert holder.where is not None
            assert holder.where.startswith(__file__)


async def test_debugging_hands_out_an_object_that_refuses_to_work_later(autojump_clock: Any) -> None:
    """The model of a debugged lease passes everything on, and raises once the lease has ended."""
    async with open_rig(debug_references=True) as rig:
        await rig.ready()
        with rig.engine.lease("m") as lease:
            model = lease.model
            assert model.predict({})["version"] == "1"
            assert model.version == "1"
        with pytest.raises(ReferenceNotHeld):
            model.predict({})
        assert len(rig.cast.made[0].calls) == 1


async def test_without_debugging_nobody_pays_for_it(rig: Rig, autojump_clock: Any) -> None:
    """No line is recorded, and the model is the loader's own object."""
    await rig.ready()
    with rig.engine.lease("m") as lease:
        assert rig.engine.who_holds("m", "1")[0].where is None
        assert lease.model is rig.cast.made[0]
