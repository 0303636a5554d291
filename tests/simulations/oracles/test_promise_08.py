"""The oracle of promise 8 finds queues without a bound or an order, and messages that nobody answers."""

from __future__ import annotations

from typing import Any

import pytest

from changeover.core.ledger import Account
from changeover.errors import ChangeoverError
from changeover.runtime.mailbox import RequestLane
from changeover.runtime.orders import Loading
from changeover.runtime.saga import Saga
from changeover.runtime.serving import Serving
from changeover.runtime.shifting import Shifting
from changeover.runtime.version_loads import Loads
from changeover_sim.oracles.promise_08_queues import Promise08Queues
from changeover_sim.simulate.shape import Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

QUEUED = shape(
    (("asker", 6), ("keyed asker", 2)), parts("1", execution="worker", predict_s=(0.5,), queue_limit=3), hurry=0.9,
    faults=["cancel"],
)  # fmt: skip
ASIDE = shape((("asker", 3),), parts("1", queue_limit=1), hurry=0.9)
RAMPED = shape(
    (("swapper", 2), ("asker", 3)), parts("1", "2", execution="worker"), plans=("canary", "shadow"), horizon_s=6.0
)
LOADED = shape((("loader", 3), ("unloader", 1)), parts("1", "2", load_s=(0.5,)), faults=["cancel"], force=1.0)
WAITED = shape((("waiter", 3), ("leaser", 3)), parts("1"), faults=["cancel"])


@pytest.mark.parametrize("small", [QUEUED, ASIDE, RAMPED, LOADED, WAITED])
def test_silent(small: Shape) -> None:
    """Nothing is wrong with the engine as it is."""
    assert_silent(Promise08Queues, small)


def test_a_queue_without_a_bound_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests than a queue has room for are refused."""
    make = RequestLane.__init__
    monkeypatch.setattr(RequestLane, "__init__", lambda lane, limit, batching: make(lane, limit + 1, batching))
    assert_found(Promise08Queues, QUEUED, "requests wait for a/1, which has room for 3")


def test_a_queue_that_serves_the_newest_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who came first is served first."""

    def newest(lane: RequestLane[Any], count: int, **_options: Any) -> list[Any]:
        return [lane._waiting.pop() for _ in range(min(count, len(lane._waiting)))]

    monkeypatch.setattr(RequestLane, "_take", newest)
    assert_found(Promise08Queues, QUEUED, "who came first")


def test_a_queue_that_lets_some_in_at_the_front_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes later stands behind those who wait."""
    offer = RequestLane.offer

    def first(lane: RequestLane[Any], request: Any) -> bool:
        admitted = offer(lane, request)
        if admitted and request in lane._waiting:
            lane._waiting.rotate(1)
        return admitted

    monkeypatch.setattr(RequestLane, "offer", first)
    assert_found(Promise08Queues, QUEUED, "the queue of a/1 was")


def test_threads_of_their_own_without_a_bound_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests have threads of their own as may be queued, and no more."""
    aside = Serving.run_aside

    def crowd(host: Serving, loaded: Any, request: Any) -> bool:
        loaded.aside.update(object() for _ in range(loaded.spec.queue_limit))
        return aside(host, loaded, request)

    monkeypatch.setattr(Serving, "run_aside", crowd)
    monkeypatch.setattr("changeover.runtime.loaded.LoadedModel.take_turn", lambda _loaded: False)
    assert_found(Promise08Queues, ASIDE, "aside, and may 1")


def test_an_order_without_an_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who waits for a load hears what became of it, also those who joined it."""
    end = Loading.end

    def tell_one(loading: Loading, error: ChangeoverError | None) -> None:
        del loading.orders[1:]
        end(loading, error)

    monkeypatch.setattr(Loading, "end", tell_one)
    assert_found(Promise08Queues, LOADED, "without an outcome: ")


def test_an_order_that_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that has ended is nobody's any more."""
    end = Loads._end_loading

    def keep(version: Any, error: Any) -> None:
        loading = version._loading
        end(version, error)
        version._warming.append(loading)

    monkeypatch.setattr(Loads, "_end_loading", keep)
    assert_found(Promise08Queues, LOADED, "orders of a/1")


def test_a_watcher_that_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for zero that is called off, or out of time, leaves nobody behind who waits."""
    monkeypatch.setattr(Account, "unwatch", lambda _account, _watcher: None)
    monkeypatch.setattr(Account, "_call_watchers", _call_none)
    assert_found(Promise08Queues, WAITED, "watchers of a/1")


def _call_none(account: Account) -> None:
    """Wake the waiters, and forget to take them out."""
    for watcher in account._watchers:
        watcher()


def test_a_swap_that_keeps_its_slot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap that has ended has no slot any more, or no other one ever gets it."""
    monkeypatch.setattr(Saga, "_give_up_slot", lambda _saga: None)
    assert_found(Promise08Queues, RAMPED, "without an outcome")


def test_a_trial_without_an_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a swap has ended, nothing is compared, copied or listened to any more."""
    monkeypatch.setattr(Shifting, "end", lambda _shifting: None)
    assert_found(Promise08Queues, RAMPED, "nothing is tried out, and")
