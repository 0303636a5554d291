"""The matrix sees what it is for: with a reference lost, or somebody remembered, its row is red."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from changeover.core.ledger import Account
from changeover.runtime.inference import Asking, Inference
from changeover.runtime.lease import Lease
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.references import RequestTracker
from tests.engine.uses.stage import WORKER, Seen, Stage, Way, play
from tests.engine.uses.test_ends import WAYS
from tests.engine.uses.worlds import WORLDS, OnAsyncio, World


def _leave(self: Inference, request: Any) -> None:
    """Go away, and forget the reference of what was queued."""
    self._left = request
    self._home.forget(request)
    request.withdrawn = request.account.owner.lane.withdraw(request)


def _nothing(*_what: object) -> None:
    """Do nothing."""


BROKEN: dict[str, tuple[str, type, str, Callable[..., Any]]] = {
    "what is cancelled in the queue is kept": (
        "a request is cancelled in the queue (worker)", Inference, "leave", _leave,
    ),
    "who stands by is kept": ("a request on trial is answered (worker)", Asking, "_dismiss", _nothing),
    "a revoker is kept": ("an async lease is returned", Account, "irrevocable", _nothing),
    "a waiter is kept": ("a wait for zero is cancelled (worker)", Account, "unwatch", _nothing),
    "a thread is not named": ("a request is answered by a worker (worker)", LoadedModel, "_threads", lambda _self: {}),
    "a lease that is dropped is kept": ("a lease is forgotten", Lease, "__del__", _nothing),
    "a tracker that is dropped is kept": ("a tracker is forgotten", RequestTracker, "__del__", _nothing),
}  # fmt: skip
"""By what is broken: the row that sees it, and which method is replaced by what."""


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_engine_is_seen(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these bugs makes its row fail."""
    row, owner, name, instead = BROKEN[broken]
    (way,) = (way for way in WAYS if way.name == row)
    monkeypatch.setattr(owner, name, instead)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        play(way, OnAsyncio(), debug=False, monkeypatch=monkeypatch)


@pytest.mark.parametrize("wrong", [(), (Seen("lease"),), (Seen("request"),), (Seen("request", 1.0, WORKER),)], ids=str)
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_holders_are_compared(world: type[World], wrong: tuple[Seen, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is missing, of another kind or age, or not named with its thread, is told apart."""

    async def act(stage: Stage) -> None:
        gate = stage.hang()
        use = stage.world.spawn(stage.infer())
        await stage.world.until(gate.began.is_set)
        with pytest.raises(AssertionError):
            stage.sees(*wrong)
        stage.sees(Seen("request", 0.0, WORKER))
        gate.go.set()
        await stage.world.end(use)

    play(Way(act, WORLDS, {}, {"execution": "worker"}), world(), debug=False, monkeypatch=monkeypatch)


def test_every_row_says_what_it_shows() -> None:
    """Each row has a docstring and a name of its own."""
    assert all(way.act.__doc__ for way in WAYS)
    assert len({way.name for way in WAYS}) == len(WAYS)
