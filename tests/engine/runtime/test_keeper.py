"""Models are kept as their policies say: by file or by hand, nobody waits, and nobody else's are touched."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover import Drain, Engine, ModelPolicy, Shift
from changeover.core.lifecycle import LOADED
from changeover.core.values import VersionKey
from changeover.errors import ChangeoverError, InvalidValue, ModelNotRegistered
from changeover.runtime import keeper as module
from tests.support.faces import ALL, Face, done
from tests.support.models import Broken
from tests.support.repositories import publish, rule
from tests.support.rig import Rig, Watch, open_rig, run_virtual, settle, until

LATEST = ModelPolicy("latest", plan=Shift.at_once())
PAIR = ModelPolicy("latest", 2, plan=Shift.at_once())
SLOW = Shift.canary(((0.5, 100.0),), confirm_s=0.0)


def loaded(engine: Engine, model: str = "m") -> set[str]:
    """Return the versions that are loaded."""
    return set(engine.loaded_versions(model))


def swaps(engine: Engine, model: str = "m") -> list[str]:
    """Return the model's swaps in short: `1>2 completed`."""
    return [f"{swap.from_version}>{swap.to_version} {swap.state.value}" for swap in engine.swaps(model)]


# --- by hand --------------------------------------------------------------------------------------------------------


async def test_a_policy_orders_and_nobody_waits(rig: Rig, autojump_clock: Any) -> None:
    """`set_policy` returns at once; the version is loaded beside it, and its model has traffic then."""
    rig.takes("load m/1", 5.0)
    rig.add()
    rig.engine.set_policy("m", LATEST)
    await trio.sleep(4.9)
    assert loaded(rig.engine) == set()
    await trio.sleep(0.2)
    assert rig.engine.is_active("m", "1")


async def test_a_newer_version_takes_over(rig: Rig, autojump_clock: Any) -> None:
    """A version that is registered later is swapped to, by the policy's plan, and the one before it unloaded."""
    rig.engine.set_policy("m", LATEST)
    for version in ("1.9", "1.10", "1.10-rc.1"):
        rig.add(version=version)
        await trio.sleep(1.0)
    assert rig.engine.is_active("m", "1.10")
    assert loaded(rig.engine) == {"1.10"}
    assert swaps(rig.engine) == ["1.9>1.10 completed"]


async def test_without_a_plan_it_stands_by(rig: Rig, autojump_clock: Any) -> None:
    """Traffic moves only where the policy has a plan."""
    rig.engine.set_policy("m", ModelPolicy("latest"))
    for version in ("1", "2"):
        rig.add(version=version)
        await trio.sleep(1.0)
    assert rig.engine.is_active("m", "1")
    assert loaded(rig.engine) == {"1", "2"}
    assert swaps(rig.engine) == []


async def test_a_bad_version_is_tried_once(rig: Rig, caplog: pytest.LogCaptureFixture, autojump_clock: Any) -> None:
    """Failing v2, then good v3: v1 serves throughout, v2 is tried once and told, v3 is swapped to."""
    rig.engine.set_policy("m", LATEST)
    rig.add()
    await trio.sleep(1.0)
    async with Watch(rig.engine) as watch:
        rig.add(version="2", load_error=Broken("not today"))
        for _ in range(100):
            await trio.sleep(1.0)
            assert (await rig.engine.infer("m", {})).version == "1"
        assert await watch.states("2") == ["loading", "failed"]
        assert "the policy of m could not swap it to 2" in caplog.text
        rig.add(version="3")
        await trio.sleep(1.0)
        assert rig.engine.is_active("m", "3")
        await trio.sleep(100.0)
        assert swaps(rig.engine) == ["1>2 failed", "1>3 completed"]


async def test_a_bad_version_without_a_plan_is_tried_once_and_told(
    rig: Rig, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """A load that fails, hangs or is over the budget is logged, and the policy leaves it at that."""
    rig.engine.set_policy("m", ModelPolicy("latest"))
    rig.takes("load m/1", trio.Event())
    rig.add(load_timeout_s=5.0)
    await trio.sleep(1_000.0)
    assert "the policy of m could not keep m/1" in caplog.text
    assert rig.engine.load_info("m", "1").status.value == "failed"
    rig.takes("load m/1", 0.0)
    await trio.sleep(1_000.0)
    assert loaded(rig.engine) == set()


@pytest.mark.parametrize("forgiven", ["policy", "load"])
async def test_a_failure_is_forgiven(rig: Rig, forgiven: str, autojump_clock: Any) -> None:
    """Set anew, or where somebody else has loaded it, the policy tries a failed version once more."""
    rig.engine.set_policy("m", LATEST)
    rig.add()
    await trio.sleep(1.0)
    rig.add(version="2", load_error=Broken("not today"))
    await trio.sleep(1.0)
    rig.script(version="2").load_error = None
    if forgiven == "policy":
        rig.engine.set_policy("m", LATEST)
    else:
        await rig.engine.load("m", "2")
    await trio.sleep(1.0)
    assert rig.engine.is_active("m", "2")


async def test_a_version_that_its_guard_sends_back_is_left_alone(
    rig: Rig, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """A canary that rolls back by itself is not tried again; the next version is."""
    rig.engine.set_policy("m", ModelPolicy("latest", plan=SLOW))
    rig.add()
    await trio.sleep(1.0)
    rig.add(version="2", raises=Broken("no"))
    await settle()
    for _ in range(200):
        await rig.engine.infer("m", {})
    await trio.sleep(200.0)
    assert swaps(rig.engine) == ["1>2 rolled_back"]
    assert "could not swap it to 2: rolled_back" in caplog.text
    rig.add(version="3")
    await trio.sleep(200.0)
    assert rig.engine.is_active("m", "3")


async def test_a_newer_version_overtakes_a_canary(rig: Rig, autojump_clock: Any) -> None:
    """A version that comes while the one before it is tried out supersedes that swap."""
    rig.engine.set_policy("m", ModelPolicy("latest", plan=SLOW))
    for version in ("1", "2", "3"):
        rig.add(version=version)
        await trio.sleep(10.0)
    assert swaps(rig.engine) == ["1>2 superseded", "1>3 transitioning"]
    await trio.sleep(100.0)
    assert swaps(rig.engine)[1] == "1>3 completed"
    assert loaded(rig.engine) == {"3"}


async def test_traffic_that_somebody_moved_down_stays_there(rig: Rig, autojump_clock: Any) -> None:
    """A rollback by hand is not fought with; the next newer version is swapped to again."""
    rig.engine.set_policy("m", LATEST)
    for version in ("1", "2"):
        rig.add(version=version)
        await trio.sleep(1.0)
    await rig.engine.rollback(rig.engine.swaps("m")[0].id)
    await trio.sleep(100.0)
    assert rig.engine.is_active("m", "1")
    rig.add(version="3")
    await trio.sleep(1.0)
    assert rig.engine.is_active("m", "3")


async def test_the_first_version_may_be_moved_down_from(rig: Rig, autojump_clock: Any) -> None:
    """So may traffic that came by the first load, and not by a swap."""
    rig.engine.set_policy("m", PAIR)
    for version in ("1", "2"):
        rig.add(version=version)
    await trio.sleep(1.0)
    assert rig.engine.is_active("m", "2")
    await rig.engine.swap("m", "1")
    await trio.sleep(100.0)
    assert rig.engine.is_active("m", "1")
    assert loaded(rig.engine) == {"1", "2"}


async def test_a_trial_is_no_reason(rig: Rig, autojump_clock: Any) -> None:
    """A version that had most of the traffic on trial and was sent back does not keep the one before it out."""
    rig.engine.set_policy("m", ModelPolicy("latest", 2, plan=Shift.canary(((0.9, 10.0),))))
    rig.add()
    await trio.sleep(1.0)
    rig.add(version="2")
    rig.add(version="3", raises=Broken("no"))
    await settle()
    for _ in range(200):
        await rig.engine.infer("m", {})
    await trio.sleep(100.0)
    assert swaps(rig.engine) == ["1>3 rolled_back", "1>2 completed"]


async def test_the_old_version_stands_by_again(rig: Rig, autojump_clock: Any) -> None:
    """With `count=2` the version before is loaded again after the swap that unloaded it, and the third is let go."""
    rig.engine.set_policy("m", PAIR)
    for version in ("1", "2", "3"):
        rig.add(version=version)
        await trio.sleep(1.0)
    assert rig.engine.is_active("m", "3")
    assert loaded(rig.engine) == {"2", "3"}
    assert swaps(rig.engine) == ["1>2 completed", "2>3 completed"]


async def test_a_held_old_version_stands_by_once_it_is_let_go(rig: Rig, autojump_clock: Any) -> None:
    """Nothing is loaded beside a quarantined one; when its last holder leaves, it is closed and loaded anew."""
    rig.engine.set_policy("m", PAIR)
    rig.add()
    await trio.sleep(1.0)
    lease = rig.lease()
    rig.add(version="2")
    await trio.sleep(100.0)
    assert rig.engine.load_info("m", "1").status.value == "quarantined"
    lease.release()
    await trio.sleep(1.0)
    assert [model.closed for model in rig.cast.of("m", "1")] == [1, 0]


async def test_only_its_own_are_unloaded(rig: Rig, autojump_clock: Any) -> None:
    """A policy that wants less unloads what it had loaded and nobody uses: not what somebody else loaded."""
    rig.engine.set_policy("m", ModelPolicy("all"))
    await rig.ready("m", "1")
    for version in ("2", "3", "4"):
        rig.add(version=version)
    await trio.sleep(1.0)
    assert loaded(rig.engine) == {"1", "2", "3", "4"}
    await rig.engine.unload("m", "3", force=True)
    await trio.sleep(1.0)
    rig.engine.start_swap("m", "4", plan=SLOW)
    lease = rig.lease(version="2")
    rig.engine.set_policy("m", ModelPolicy("specific", versions=["3"]))
    await trio.sleep(20.0)
    assert loaded(rig.engine) == {"1", "2", "3", "4"}
    assert rig.engine.load_info("m", "2").status.value == "draining"
    lease.release()
    await settle()
    assert loaded(rig.engine) == {"1", "3", "4"}


async def test_none_takes_it_back(rig: Rig, autojump_clock: Any) -> None:
    """Without a policy nothing is loaded or unloaded, and what there is stays."""
    rig.engine.set_policy("m", PAIR)
    for version in ("1", "2"):
        rig.add(version=version)
    await trio.sleep(1.0)
    rig.engine.set_policy("m", None)
    rig.add(version="3")
    await trio.sleep(100.0)
    assert loaded(rig.engine) == {"1", "2"}
    assert rig.engine.policy("m") == ModelPolicy()
    rig.engine.set_policy("m", ModelPolicy("latest"))
    await trio.sleep(100.0)
    assert loaded(rig.engine) == {"1", "2", "3"}, "what an earlier policy loaded is nobody's now"


async def test_what_a_swap_by_hand_needs_is_not_unloaded(rig: Rig, autojump_clock: Any) -> None:
    """A version that gets copies of the requests has no traffic, and is kept until its swap has ended."""
    rig.engine.set_policy("m", ModelPolicy("all"))
    await rig.ready("m", "1")
    rig.add(version="2")
    await trio.sleep(1.0)
    swap = rig.engine.start_swap("m", "2", plan=Shift.canary(((0.5, 100.0),), shadow=True))
    await trio.sleep(1.0)
    rig.engine.set_policy("m", ModelPolicy("specific", versions=["1"]))
    await trio.sleep(50.0)
    assert loaded(rig.engine) == {"1", "2"}
    rig.engine.abort(swap)
    await trio.sleep(1.0)
    assert loaded(rig.engine) == {"1"}


async def test_a_load_by_hand_is_not_taken_over(rig: Rig, autojump_clock: Any) -> None:
    """A version that somebody is just loading is swapped to when it is there."""
    rig.engine.set_policy("m", LATEST)
    rig.add()
    await trio.sleep(1.0)
    rig.takes("load m/2", 5.0)
    async with trio.open_nursery() as nursery:
        rig.engine.set_policy("m", None)
        rig.add(version="2")
        nursery.start_soon(rig.engine.load, "m", "2")
        await trio.sleep(1.0)
        rig.engine.set_policy("m", LATEST)
        await trio.sleep(3.0)
        assert swaps(rig.engine) == []
        await trio.sleep(2.0)
    assert swaps(rig.engine) == ["1>2 completed"]


async def test_there_is_no_task_where_there_is_nothing_to_do(rig: Rig, autojump_clock: Any) -> None:
    """Without a policy the keeper never runs; with one it runs when something has happened, and ends."""
    await rig.ready()
    await settle()
    assert "keeper" not in rig.engine._version_supervisor
    rig.engine.set_policy("m", LATEST)
    assert "keeper" in rig.engine._version_supervisor
    await settle()
    assert "keeper" not in rig.engine._version_supervisor


async def test_one_bad_model_does_not_stop_the_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """A policy that cannot be kept, for whatever reason, is logged; the others are kept, and nothing crashes."""
    real = module.decide

    def decide(policy: ModelPolicy, standing: Any, record: Any) -> Any:
        if standing.versions == ("bad",):
            raise ZeroDivisionError
        return real(policy, standing, record)

    monkeypatch.setattr(module, "decide", decide)
    for model, version in (("a", "1"), ("b", "bad"), ("c", "1")):
        rig.engine.set_policy(model, LATEST)
        rig.add(model, version)
    await settle()
    assert rig.engine.is_loaded("a", "1")
    assert rig.engine.is_loaded("c", "1")
    assert "the policy of b could not be kept" in caplog.text
    assert rig.engine.statistics().children_restarted == 0


async def test_a_load_that_hangs_holds_up_no_other_model(rig: Rig, autojump_clock: Any) -> None:
    """The keeper waits for no load and no swap."""
    rig.takes("load m/1", trio.Event())
    for model in ("m", "n"):
        rig.engine.set_policy(model, LATEST)
        rig.add(model)
    await settle()
    assert rig.engine.is_loaded("n", "1")
    rig.add("n", "2")
    await settle()
    assert rig.engine.is_active("n", "2")


async def test_very_many_models_are_kept_in_turns(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """After some models everybody else has a turn, and all are kept in the end."""
    monkeypatch.setattr(module, "MODELS_AT_ONCE", 3)
    models = [f"m{number}" for number in range(10)]
    for model in models:
        rig.engine.set_policy(model, LATEST)
        rig.add(model)
    await settle()
    assert all(rig.engine.is_loaded(model, "1") for model in models)


async def test_a_crashed_version_is_its_supervisors(rig: Rig, autojump_clock: Any) -> None:
    """While it is restarted the policy keeps out; once it is given up it is loaded when the policy is set anew."""
    rig.engine.set_policy("m", LATEST)
    rig.add(fatal_on=lambda inputs: "fatal" in inputs)
    await settle()
    with pytest.raises(Exception, match="beyond use"):
        await rig.engine.infer("m", {"fatal": 1})
    await trio.sleep(1.0)
    assert rig.engine.is_active("m", "1")
    assert len(rig.cast.of("m", "1")) == 2
    rig.script().load_error = Broken("for good")
    with pytest.raises(Exception, match="beyond use"):
        await rig.engine.infer("m", {"fatal": 1})
    await trio.sleep(1_000.0)
    assert rig.engine.load_info("m", "1").status.value == "failed"
    rig.script().load_error = None
    rig.engine.set_policy("m", LATEST)
    await settle()
    assert rig.engine.is_active("m", "1")


async def test_closing_is_not_fought_with(autojump_clock: Any) -> None:
    """Once the engine closes, nothing is loaded or swapped that only a policy wants."""
    async with open_rig() as rig:
        rig.engine.set_policy("m", PAIR)
        rig.takes("close m/1", 5.0)
        for version in ("1", "2"):
            rig.add(version=version)
        await trio.sleep(1.0)
        rig.add(version="3")
    assert len(rig.cast.of("m", "3")) == 0
    assert [len(rig.cast.of("m", version)) for version in ("1", "2")] == [1, 1]


async def test_a_policy_must_make_sense(rig: Rig, autojump_clock: Any) -> None:
    """A wrong name or value is refused, an unknown model may get one for later, and has none to be asked for."""
    with pytest.raises(InvalidValue, match="model"):
        rig.engine.set_policy("no word", LATEST)
    with pytest.raises(InvalidValue, match="ModelPolicy"):
        rig.engine.set_policy("m", "latest")  # type: ignore[arg-type]
    with pytest.raises(ModelNotRegistered, match="'m'"):
        rig.engine.policy("m")
    rig.engine.set_policy("m", LATEST)
    assert rig.engine.policy("m") == LATEST
    rig.add("n")
    assert rig.engine.policy("n") == ModelPolicy()


@pytest.mark.parametrize("face", ALL, ids=lambda face: face.name)
def test_on_every_face(face: Face) -> None:
    """A policy is set, told and taken back the same way everywhere."""

    async def scenario(face: Face) -> None:
        async with face.opened() as engine:
            engine.set_policy("m", LATEST)
            engine.register("m", "1", "s", loader="scripted")
            await done(engine.ensure_loaded("m", "1"))
            assert engine.policy("m") == LATEST
            engine.set_policy("m", None)
            assert engine.policy("m") == ModelPolicy()

    face.play(scenario)


# --- by file --------------------------------------------------------------------------------------------------------


async def test_a_policy_comes_from_the_repository(tmp_path: Path, autojump_clock: Any) -> None:
    """`NAME/policy.toml` is in force when the watch has taken it; versions that appear then take over by themselves."""
    async with open_rig(repository=tmp_path) as rig, Watch(rig.engine) as watch:
        rule(tmp_path, 'load = "latest"\ncount = 2\n[plan]\nstages = [[0.5, 1.0]]\nconfirm_s = 0.5')
        for version in ("1", "2"):
            publish(tmp_path, version)
            await trio.sleep(8.0)
        assert rig.engine.policy("m").plan == Shift.canary(((0.5, 1.0),), confirm_s=0.5)
        assert swaps(rig.engine) == ["1>2 completed"]
        assert loaded(rig.engine) == {"1", "2"}
        assert await watch.kinds("policy_set", "by") == ["file"]


async def test_several_versions_at_once_are_one_choice(tmp_path: Path, autojump_clock: Any) -> None:
    """Of versions that are found together the newest gets the traffic at once, and the others are never loaded."""
    async with open_rig(repository=tmp_path) as rig, Watch(rig.engine) as watch:
        for version in ("1", "2", "10"):
            publish(tmp_path, version)
        rule(tmp_path, 'load = "latest"\nplan = "at_once"')
        await trio.sleep(10.0)
        assert [event.version for event in await watch.kinds("version_state")] == ["10"] * 3


async def test_by_hand_beats_the_file(tmp_path: Path, autojump_clock: Any) -> None:
    """Whatever the file says, also when it changes; taken back, the file is in force again."""
    async with open_rig(repository=tmp_path) as rig, Watch(rig.engine) as watch:
        rig.engine.set_policy("m", ModelPolicy())
        file = rule(tmp_path, 'load = "all"')
        publish(tmp_path, "1")
        await trio.sleep(5.0)
        file.write_text('load = "latest"')
        await trio.sleep(5.0)
        assert loaded(rig.engine) == set()
        rig.engine.set_policy("m", None)
        await settle()
        assert rig.engine.policy("m") == ModelPolicy("latest")
        assert loaded(rig.engine) == {"1"}
        assert await watch.kinds("policy_set", "by") == ["hand", "hand"]


async def test_a_policy_that_is_broken_leaves_the_one_before(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, by file and key; mended, it is in force."""
    async with open_rig(repository=tmp_path) as rig:
        file = rule(tmp_path, 'load = "latest"')
        publish(tmp_path, "1")
        await trio.sleep(5.0)
        file.write_text('load = "latest"\ncont = 2')
        await trio.sleep(60.0)
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert str(file) in record.message
        assert "cont; it may have count" in record.message
        assert rig.engine.policy("m") == ModelPolicy("latest")
        file.write_text('load = "latest"\ncount = 2')
        await trio.sleep(5.0)
        assert rig.engine.policy("m") == ModelPolicy("latest", 2)


# --- whatever happens -----------------------------------------------------------------------------------------------

STEPS = st.tuples(
    st.sampled_from(["register", "load", "unload", "swap", "fatal", "policy", "wait"]),
    st.sampled_from(["1", "2", "3"]),
    st.sampled_from([None, LATEST, PAIR, ModelPolicy("all"), ModelPolicy("latest"), ModelPolicy("none", plan=SLOW)]),
)


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(STEPS, min_size=1, max_size=12), bad=st.frozensets(st.sampled_from(["1", "2", "3"]), max_size=2))
def test_policies_and_people_together(steps: list[tuple[str, str, ModelPolicy | None]], bad: frozenset[str]) -> None:
    """Whatever is ordered between, it comes to rest with what is wanted; a model with a good version keeps serving."""

    async def scenario() -> None:
        async with open_rig() as rig:
            for version in bad:
                rig.script(version=version).load_error = Broken("never")
            rig.engine.set_policy("m", PAIR)
            for order, version, policy in steps:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(act, rig, order, version, policy)
            await trio.sleep(1_000.0)
            check(rig)

    run_virtual(scenario)


async def act(rig: Rig, order: str, version: str, policy: ModelPolicy | None) -> None:
    """Do what somebody orders; what cannot be done is not."""
    engine = rig.engine
    rig.script(version=version).fatal_on = lambda inputs: "fatal" in inputs
    try:
        match order:
            case "register":
                rig.add(version=version)
            case "load":
                await engine.load("m", version)
            case "unload":
                await engine.unload("m", version, drain=Drain(1.0))
            case "swap":
                await engine.swap("m", version)
            case "fatal":
                await engine.infer("m", {"fatal": 1}, version=version)
            case "policy":
                engine.set_policy("m", policy)
            case _:
                await trio.sleep(5.0)
    except ChangeoverError:
        return


def check(rig: Rig) -> None:
    """Look whether all that is wanted is there, but for what has failed; and nothing is left half-way."""
    engine = rig.engine
    policy = engine._registry.policy("m")
    assert all(swap.state.ended for swap in engine.swaps())
    record = engine._keeper._records.get("m")
    known = engine._registry.versions_newest_first("m")
    if policy is None or record is None or not known:
        return
    for version in policy.wanted(known):
        state = engine._state(VersionKey("m", version))
        assert state in LOADED or version in record.failed, (version, state)
    assert record.ordered == set()


async def test_orders_are_not_repeated(rig: Rig, autojump_clock: Any) -> None:
    """A policy at rest orders nothing, whatever else happens to its model."""
    rig.engine.set_policy("m", PAIR)
    for version in ("1", "2", "3"):
        rig.add(version=version)
    await until(lambda: loaded(rig.engine) == {"2", "3"})
    async with Watch(rig.engine) as watch:
        for _ in range(10):
            rig.engine._bus.emit("version_registered", VersionKey("m", "3"))
            await trio.sleep(1.0)
        assert {event.kind for event in await watch.read()} == {"version_registered"}
