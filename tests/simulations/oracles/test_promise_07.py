"""The oracles of promise 7 find bystanders that are disturbed, crashes that nobody notices, and swaps that wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from changeover import Drain
from changeover.runtime.calls import Engine
from changeover.runtime.host import Host
from changeover.runtime.mailbox import RequestLane
from changeover.runtime.orders import DrainOrder
from changeover.runtime.router import Router
from changeover.runtime.slots import Slots
from changeover.runtime.supervisor import Restart, Supervisor
from changeover.runtime.version import Version
from changeover_sim.oracles.apart import Apart
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.promise_07_bystander import Promise07Bystander
from changeover_sim.oracles.restarts import Restarts
from changeover_sim.oracles.supervision import Supervision
from changeover_sim.scenarios.drawing import BYSTANDER
from changeover_sim.simulate.cast import Part
from changeover_sim.simulate.shape import Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

SLOW = parts("1", "2", execution="worker", predict_s=(0.5,), load_s=(0.5,), load_timeout_s=1.0)
BESIDE = shape(
    (("bystander", 2), ("asker", 3), ("swapper", 2), ("loader", 1), ("unloader", 1)), (*SLOW, BYSTANDER), force=0.5,
    faults=["load-hangs", "predict-hangs", "load-raises", "cancel"],
)  # fmt: skip
"""A model that works, beside one with which all is wrong."""
CRASHING = shape(
    (("asker", 6), ("leaser", 1), ("loader", 1)), parts("1", "2", "3", warm_ups=1), horizon_s=6.0, hurry=0.2,
    faults=["model-beyond-use", "warm-up-raises"],
)  # fmt: skip
SWAPPED = shape(
    (("swapper", 4), ("asker", 1)), (*SLOW, *parts("1", "2", model="b", load_s=(1.0,))), on_busy=("queue",),
)  # fmt: skip


@pytest.mark.parametrize(
    ("oracle", "small"),
    [(Promise07Bystander, BESIDE), (Supervision, CRASHING), (Apart, SWAPPED), (Apart, BESIDE)],
)
def test_silent(oracle: type[Oracle], small: Shape) -> None:
    """Nothing is wrong with the engine as it is."""
    assert_silent(oracle, small)


# --- bystanders -----------------------------------------------------------------------------------------------------


def test_a_request_that_waits_for_another_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request takes as long as its own model takes."""
    infer = Engine.infer

    async def wait_for_loads(engine: Engine, *what: Any, **options: Any) -> Any:
        await trio.sleep(0.25 if engine._host.jobs else 0.0)
        return await infer(engine, *what, **options)

    monkeypatch.setattr(Engine, "infer", wait_for_loads)
    assert_found(Promise07Bystander, BESIDE, "and was to be answered by")


def test_a_load_that_waits_for_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load takes as long as it takes."""
    start: Callable[..., None] = Host._start_load

    def behind(host: Host, loader: Any, job: Any) -> None:
        host._ports.offload.start(f"load {job.spec.key}", lambda: None, lambda _v, _e: start(host, loader, job))

    monkeypatch.setattr(Host, "_start_load", behind)
    part = Part("calm", "1", load_s=(0.5,), bystander=True)
    assert_found(Promise07Bystander, shape((("bystander", 1),), (part,)), "was ready after 1 s")


def test_a_request_that_fails_with_another_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is not told to those who asked another model."""
    failed, infer = list[None](), Engine.infer

    async def fail_along(engine: Engine, model: str, *what: Any, **options: Any) -> Any:
        if failed and model == BYSTANDER.model:
            engine._check_open()
            raise engine._explain(model, "7")
        failed.append(None)
        return await infer(engine, model, *what, **options)

    monkeypatch.setattr(Engine, "infer", fail_along)
    assert_found(Promise07Bystander, BESIDE, "though nothing was wrong with its model")


def test_a_version_that_goes_by_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done to a version that nobody has ordered."""
    unload = Engine.unload

    async def with_all(engine: Engine, model: str, version: str, **options: Any) -> Any:
        for key, known in engine._versions.items():
            if key.model == BYSTANDER.model and known.loaded is not None:
                known.post(DrainOrder(Drain()))
        return await unload(engine, model, version, **options)

    monkeypatch.setattr(Engine, "unload", with_all)
    assert_found(Promise07Bystander, BESIDE, "and nobody has ordered that")


def test_a_worker_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is gone leaves no thread behind."""
    monkeypatch.setattr(RequestLane, "close", lambda _lane: [])
    assert_found(Promise07Bystander, BESIDE, "workers")


# --- crashes --------------------------------------------------------------------------------------------------------


def test_a_crash_that_nobody_notices_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says that it is beyond use is taken out of service."""
    monkeypatch.setattr(Version, "_post_crash", lambda _version, _loaded, _error: None)
    assert_found(Supervision, CRASHING, "and nothing has happened until")


@pytest.mark.parametrize(
    ("delay_s", "says"),
    [
        (lambda _policy, _crashes, _draw: 0.1, "it is started again"),
        (lambda _policy, _crashes, _draw: None, "it was given up after 1 crashes"),
        (lambda _policy, _crashes, _draw: 3.0, "it is started again in 3 s"),
    ],
    ids=["always", "never", "late"],
)  # fmt: skip
def test_a_restart_that_is_not_due_is_found(
    monkeypatch: pytest.MonkeyPatch, delay_s: Callable[..., float | None], says: str
) -> None:
    """A version is started again so often, and in so long, as its supervision promises."""
    monkeypatch.setattr(Restart, "delay_s", delay_s)
    assert_found(Supervision, CRASHING, says)


def test_a_restart_that_does_not_come_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is to be started again is."""
    monkeypatch.setattr(Version, "_starting", lambda _version: None)
    assert_found(Supervision, CRASHING, "was to be started again at")


def test_a_crash_that_leaves_its_traffic_to_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version that is ready has the traffic of one that has crashed."""
    monkeypatch.setattr(Router, "_heir", lambda _router, _key: None)
    assert_found(Supervision, CRASHING, "and nobody has its traffic")


def test_a_crash_that_keeps_its_traffic_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that has crashed has no traffic."""
    monkeypatch.setattr(Router, "shut", lambda _router, _loaded: None)
    assert_found(Supervision, CRASHING, "and has traffic")


def test_traffic_that_goes_to_an_older_version_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest version that works has the traffic of one that has crashed."""

    def oldest(router: Router, key: Any) -> str | None:
        others = [other.version for other in router._open if other.model == key.model and other != key]
        return min(others, default=None)

    monkeypatch.setattr(Router, "_heir", oldest)
    assert_found(Supervision, CRASHING, "has its traffic, not")


def test_crashes_that_are_counted_together_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version has its own crashes."""
    after: Callable[..., float | None] = Supervisor._after_crash
    together: list[float] = []
    monkeypatch.setattr(Supervisor, "_after_crash", lambda sup, child, _crashes: after(sup, child, together))
    assert_found(Supervision, CRASHING, "it is started again in")


def test_the_pauses_of_a_row() -> None:
    """Pauses double from a tenth of a second on; behind the sixth crash of a minute there is none."""
    restarts = Restarts()
    for number, pause_s in enumerate((0.1, 0.2, 0.4, 0.8, 1.6)):
        restarts.crash(10.0 + number)
        assert restarts.wrong(pause_s, may_hurry=False) == ""
        assert restarts.wrong(pause_s * 1.3, may_hurry=False) != ""
        assert restarts.wrong(None, may_hurry=False) != ""
    restarts.crash(15.0)
    assert restarts.wrong(None, may_hurry=True) == ""
    assert restarts.wrong(3.2, may_hurry=True) != ""


# --- swaps ----------------------------------------------------------------------------------------------------------


def test_a_swap_that_waits_for_another_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap waits for those of its own models, and for no other."""
    monkeypatch.setattr(Slots, "is_busy", lambda slots, _model: bool(slots._holders))
    assert_found(Apart, SWAPPED, "waits at")
