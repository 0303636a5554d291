"""The oracle of promise 2 finds models that are used or held when they are closed, closed twice, or never."""

from __future__ import annotations

from typing import Any

import pytest

from changeover.core.ledger import Account
from changeover.core.lifecycle import Event
from changeover.runtime.host import Host
from changeover.runtime.lease import Lease
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.version_drains import Drains
from changeover_sim.oracles.promise_02_closed import Promise02Closed
from changeover_sim.simulate.shape import Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

HELD = shape(
    (("leaser", 3), ("tracker", 2), ("unloader", 2), ("loader", 2)), parts("1", "2"), drains=("none",), force=1.0
)
"""Some who hold versions, others who cannot wait for them."""
STREAMED = shape(
    (("streamer", 3), ("unloader", 2), ("loader", 2)), parts("1", execution="worker", predict_s=(0.5,)),
    drains=("none",), force=1.0,
)  # fmt: skip
ASKED = shape(
    (("asker", 4), ("unloader", 1), ("loader", 2)), parts("1", execution="worker", predict_s=(0.5,)),
    drains=("none",), force=1.0,
)  # fmt: skip
SWAPPED = shape((("swapper", 2), ("asker", 1)), parts("1", "2"))
SLOW = shape((("loader", 3), ("unloader", 1)), parts("1", "2", load_s=(1.0,)), faults=["cancel"], force=1.0)


@pytest.mark.parametrize("small", [HELD, STREAMED, ASKED, SWAPPED, SLOW])
def test_silent(small: Shape) -> None:
    """Nothing is wrong with the engine as it is."""
    assert_silent(Promise02Closed, small)


def _close_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def close(version: Any) -> None:
        version._settle_drain("drained")
        version._step(Event.ZERO)

    monkeypatch.setattr(Drains, "_on_deadline", close)


@pytest.mark.parametrize(
    ("small", "says"),
    [(HELD, "was closed while it was held by"), (STREAMED, "was closed"), (ASKED, "was closed under")],
)
def test_a_close_of_what_is_held_is_found(monkeypatch: pytest.MonkeyPatch, small: Shape, says: str) -> None:
    """A drain that closes what is still held when its time is up closes it under a lease, a stream or a worker."""
    _close_at_the_deadline(monkeypatch)
    assert_found(Promise02Closed, small, says)


def test_a_close_in_the_middle_of_a_stream_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is streaming is in use, also where nobody says that he reads."""
    _close_at_the_deadline(monkeypatch)
    monkeypatch.setattr(Promise02Closed, "took", lambda _oracle, _call, _name: None)
    monkeypatch.setattr("changeover_sim.oracles.promise_02_closed._ASKING", ())
    assert_found(Promise02Closed, STREAMED, "in the middle of")


def test_a_use_after_the_close_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that still leads to a model which was closed uses it, where nobody has found that close before."""

    def predict(loaded: LoadedModel, inputs: Any, **_options: Any) -> Any:
        model: Any = kept.setdefault(loaded.number, loaded._model)
        return model.predict(inputs)

    kept: dict[int, Any] = {}
    monkeypatch.setattr(LoadedModel, "predict", predict)
    _close_at_the_deadline(monkeypatch)
    monkeypatch.setattr(Promise02Closed, "closed", lambda _oracle, _made: None)
    monkeypatch.setattr(Promise02Closed, "gave_back", lambda _oracle, _call, _name: None)
    assert_found(Promise02Closed, HELD, "after it was closed")


@pytest.mark.parametrize("counts", [True, False])
def test_a_use_of_another_model_than_is_held_is_found(monkeypatch: pytest.MonkeyPatch, *, counts: bool) -> None:
    """A lease that leads to whichever version was opened last uses one that it does not hold, or nobody at all."""
    if not counts:
        monkeypatch.setattr(Promise02Closed, "_references", lambda _oracle, _made: None)
    real: Any = Lease._loaded
    newest: dict[str, LoadedModel] = {}
    reopen, bury = Account.reopen, Host._bury

    def note(account: Account) -> None:
        newest[account.owner.key.model] = account.owner
        reopen(account)

    def forget(host: Host, loaded: LoadedModel) -> None:
        newest.pop(loaded.key.model, None)
        bury(host, loaded)

    def lead(lease: Lease) -> LoadedModel:
        loaded: LoadedModel = real.fget(lease)
        return newest.get(loaded.key.model, loaded)

    monkeypatch.setattr(Account, "reopen", note)
    monkeypatch.setattr(Host, "_bury", forget)
    monkeypatch.setattr(Lease, "_loaded", property(lead))
    assert_found(Promise02Closed, HELD, "and 0 references are held" if counts else "was asked by lease")


def test_a_second_close_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is closed twice was closed once too often."""
    close = LoadedModel.close

    def twice(loaded: LoadedModel) -> None:
        model = loaded._model
        close(loaded)
        if model is not None:
            model.close()

    monkeypatch.setattr(LoadedModel, "close", twice)
    assert_found(Promise02Closed, SWAPPED, "was closed 2 times")


def test_a_model_that_nobody_closes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was loaded is closed in the end; one that is only forgotten is still open."""

    def forget(loaded: LoadedModel) -> None:
        loaded._model = None

    monkeypatch.setattr(LoadedModel, "close", forget)
    assert_found(Promise02Closed, SWAPPED, "loaded and never closed")


def test_a_load_that_nobody_waits_for_and_nobody_closes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a load brings that was called off is closed on arrival."""
    hand_over = Host._hand_over

    def keep(host: Host, job: Any, loaded: Any, error: Any) -> None:
        if loaded is not None and job.listener is None:
            del host.jobs[job.spec.key]
        else:
            hand_over(host, job, loaded, error)

    monkeypatch.setattr(Host, "_hand_over", keep)
    assert_found(Promise02Closed, SLOW, "loaded and never closed")
