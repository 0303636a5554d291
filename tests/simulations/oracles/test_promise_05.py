"""The oracle of promise 5 finds traffic that moves by itself, sessions that go back, and sets that are torn."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from changeover.core import routes
from changeover.core.routes import Route, Trial
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.router import Pinned, Router
from changeover.runtime.shifting import Shifting
from changeover.runtime.steps import Steps
from changeover_sim.oracles.promise_05_traffic import Promise05Traffic
from changeover_sim.oracles.sessions import Seen, Sessions
from changeover_sim.simulate.shape import Ending, Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

ONES = parts("1", "2", "3", bad=0.2)
TWOS = parts("1", "2", model="b")
CLIENTS = (("asker", 2), ("keyed asker", 4), ("leaser", 2))
SWAPPED = shape((("swapper", 2), *CLIENTS), ONES)
RAMPED = shape(
    (("swapper", 2), ("steerer", 1), *CLIENTS), ONES, plans=("canary", "shadow"), faults=["predict-raises"],
    horizon_s=5.0, hurry=0.5,
)  # fmt: skip
GROUPED = shape(
    (("group swapper", 2), ("set asker", 4), ("set leaser", 3)), (*ONES, *TWOS), plans=("canary", "at once"),
    horizon_s=4.0, hurry=0.6,
)  # fmt: skip
CRASHED = shape(
    (("swapper", 2), ("group swapper", 1), ("set asker", 2), *CLIENTS), (*ONES, *TWOS), plans=("canary", "confirmed"),
    faults=["model-beyond-use"], horizon_s=6.0, poison=0.1,
)  # fmt: skip
UNLOADED = shape((("unloader", 2), ("loader", 2), ("asker", 2)), ONES, force=1.0)
KILLED = shape((("group swapper", 2), *CLIENTS), (*ONES, *TWOS), lives=(Ending("kill", 1.5, 3), Ending()))


@pytest.mark.parametrize("small", [SWAPPED, RAMPED, GROUPED, CRASHED, UNLOADED, KILLED])
def test_silent(small: Shape) -> None:
    """Nothing is wrong with the engine as it is."""
    assert_silent(Promise05Traffic, small)


def test_traffic_that_a_load_moves_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only swaps move traffic."""
    opened = Router.opened

    def takes_all(router: Router, loaded: LoadedModel) -> None:
        opened(router, loaded)
        router.shift({loaded.key.model: loaded.key.version})

    monkeypatch.setattr(Router, "opened", takes_all)
    assert_found(Promise05Traffic, UNLOADED, "got traffic, and no swap gave it")


def test_a_success_without_the_traffic_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told as completed has the traffic."""

    async def moves_nothing(_shifting: Shifting) -> None:
        pass

    async def drains_nothing(_steps: Steps) -> bool:
        return True

    monkeypatch.setattr(Shifting, "run", moves_nothing)
    monkeypatch.setattr(Steps, "_drain_old", drains_nothing)
    assert_found(Promise05Traffic, SWAPPED, "is told as completed, and the traffic is")


def test_a_request_that_goes_the_old_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins behind a swap meets the new version."""
    monkeypatch.setattr(Router, "_whole_routes", lambda _router, direct, _models: direct or _firsts(_router))
    assert_found(Promise05Traffic, SWAPPED, "which had no traffic since it began")


def _firsts(router: Router) -> dict[str, Any]:
    return {key.model: account for key, account in router._open.items()}


def test_traffic_that_stays_with_what_has_gone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is unloaded has no traffic."""

    def shut(router: Router, loaded: LoadedModel) -> None:
        router._open.pop(loaded.key, None)
        router.named.pop(loaded.key, None)

    monkeypatch.setattr(Router, "shut", shut)
    assert_found(Promise05Traffic, UNLOADED, "has traffic, and is unloaded")


def test_a_key_that_means_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that has met the new version does not go back to the old one."""
    monkeypatch.setattr(Route, "point", lambda _route, _key, draw: draw())
    assert_found(Promise05Traffic, RAMPED, "session ")


def test_a_share_that_falls_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ramp goes up, or stands still."""
    try_out, chance = Router.try_out, Random(1)

    def trembles(router: Router, trials: Mapping[str, Trial], share: float) -> None:
        try_out(router, trials, share * chance.random())

    monkeypatch.setattr(Router, "try_out", trembles)
    assert_found(Promise05Traffic, RAMPED, "on trial has fallen")


def test_a_group_that_moves_model_by_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group moves in one step."""
    shift = Router.shift

    def one_by_one(router: Router, to: Mapping[str, str]) -> None:
        for model, version in to.items():
            shift(router, {model: version})

    monkeypatch.setattr(Router, "shift", one_by_one)
    assert_found(Promise05Traffic, GROUPED, "is torn")


def test_a_crash_that_tears_a_group_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a version of it goes, all of a group are on one side."""
    monkeypatch.setattr(routes, "_others", lambda _routes, _model, _version: {})
    assert_found(Promise05Traffic, CRASHED, "is torn")


def test_a_set_that_is_drawn_model_by_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set is met at one moment, and on one side of a trial."""

    def apart(
        router: Router, use: Any, models: tuple[str, ...], key: str | None, *, attend: bool
    ) -> list[tuple[Pinned, str | None]]:
        return [(Pinned(*router.pin(use, model, key=key)), None) for model in models]

    monkeypatch.setattr(Router, "_pin_at_once", apart)
    assert_found(Promise05Traffic, GROUPED, "which was at no moment one set")


def test_a_session_may_go_back_only_where_something_says_so() -> None:
    """Each excuse by itself: the swap's own way, a newer swap, a version that went, keys that mean nothing."""
    sessions = Sessions()
    sessions.shifts("a", "1", "2", 1)
    assert sessions.take("a", "ann", Seen(0, "1", 2, 3)) is None
    assert sessions.take("a", "ann", Seen(1, "2", 4, 6)) is None
    assert sessions.take("a", "bob", Seen(2, "1", 5, 7)) is None, "another session"
    assert sessions.take("a", "ann", Seen(3, "1", 5, 8)) is None, "asked before the other one was answered"
    wrong = sessions.take("a", "ann", Seen(4, "1", 9, 10))
    assert wrong is None, "the last one that was asked before has seen it, too"
    assert sessions.take("a", "ann", Seen(5, "2", 11, 12)) is None
    wrong = sessions.take("a", "ann", Seen(6, "1", 13, 14))
    assert wrong is not None
    assert "saw 2 in call 5 and then 1 in call 6, in a swap from 1 to 2" in wrong
    sessions.upset("a", 15)
    assert sessions.take("a", "ann", Seen(7, "2", 16, 17)) is None
    sessions.is_loose("a", 18)
    assert sessions.take("a", "ann", Seen(8, "1", 19, 20)) is None
