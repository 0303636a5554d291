"""The calls of the engine that order and steer swaps and never wait; the same on every face.

It keeps every swap that was ordered, up to a bound, and spawns nothing: a swap is a task of the saga supervisor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from changeover.core.checks import word
from changeover.core.plain import is_map
from changeover.core.shift import Shift
from changeover.core.values import Drain, SwapState, Timeouts, VersionKey
from changeover.errors import InvalidValue, SwapInProgress, SwapNotAllowed
from changeover.runtime import sites
from changeover.runtime.base import SWAPS_KEPT
from changeover.runtime.looking import Looking
from changeover.runtime.saga import Saga
from changeover.runtime.slots import WAITING_MAX, Contender
from changeover.runtime.swap import Pair, Swap
from changeover.runtime.version import Version

OnBusy = Literal["refuse", "queue", "supersede"]
OnCancel = Literal["abort", "detach"]


class Ordering(Looking):
    """The part of an engine that takes orders for swaps."""

    def start_swap(
        self,
        model: str,
        to: str,
        *,
        from_: str | None = None,
        plan: Shift | None = None,
        drain: Drain | None = None,
        timeouts: Timeouts | None = None,
        on_busy: OnBusy = "refuse",
    ) -> str:
        """Begin a swap and return its id at once; `swap_status` and `events` tell how it goes.

        Where another swap of the model has not reached its pivot, the order is refused, waits for its turn ("queue"),
        or turns that one and all that wait round and comes next ("supersede"): the newest order wins. `wait_for_swap`
        waits for its end. Raises `ModelNotRegistered`, `SwapNotAllowed` and `SwapInProgress`; then nothing has begun.
        """
        self._check_order(plan, on_busy)
        return self._on_loop(lambda: self._order({model: to}, {model: from_}, plan, drain, timeouts, on_busy))

    def start_group_swap(
        self,
        to: Mapping[str, str],
        *,
        from_: Mapping[str, str] | None = None,
        plan: Shift | None = None,
        drain: Drain | None = None,
        timeouts: Timeouts | None = None,
        on_busy: OnBusy = "refuse",
    ) -> str:
        """Begin a swap of several models at once, and return its id; what `start_swap` says holds for all of them.

        All are prepared, then their traffic moves in one step; a failure in one undoes all.
        """
        self._check_order(plan, on_busy)
        if not (is_map(to) and to):
            raise InvalidValue(f"a group swap takes a mapping of models to versions, at least one, not {to!r}")
        strangers = sorted(set(from_ or {}) - set(to))
        if strangers:
            raise InvalidValue(f"from_ names {', '.join(strangers)}, which the group does not swap")
        return self._on_loop(lambda: self._order(to, from_ or {}, plan, drain, timeouts, on_busy))

    def pause(self, swap_id: str) -> None:
        """Let a ramp stand still where it is; its guard goes on looking.

        Raises `SwapNotFound`, and `SwapNotAllowed` where the swap is past its pivot, turned round or ended.
        """
        self._on_loop(lambda: self._saga(swap_id).steer("pause"))

    def resume(self, swap_id: str) -> None:
        """Let a ramp go on; raises as `pause`."""
        self._on_loop(lambda: self._saga(swap_id).steer("resume"))

    def promote(self, swap_id: str) -> None:
        """Give the new version all of the traffic now, and leave out the rest of its ramp; raises as `pause`."""
        self._on_loop(lambda: self._saga(swap_id).steer("promote"))

    def abort(self, swap_id: str) -> None:
        """Turn a swap round before its pivot, without waiting; it ends as CANCELLED.

        Raises `SwapNotFound`, and `SwapNotAllowed` behind the pivot, where `rollback` is the way back.
        """
        self._on_loop(lambda: self._saga(swap_id).abort())

    def give_up_recovery(self, model: str) -> None:
        """Stop waiting for the versions that an earlier process had in use: whatever is loaded gets the traffic.

        Swaps that were open end as FAILED. For a version that will never be registered again. Raises `InvalidValue`
        where the model is not being recovered.
        """
        self._check_open()
        self._on_loop(lambda: self._recovery.give_up(model))

    # --- inside ---

    def _named(self, model: str, version: str) -> Version:
        """Return a version by name; raises `ModelNotRegistered`, `EngineClosed` and `EngineFailed`."""
        self._check_open()
        return self._version(VersionKey(model, version))

    @staticmethod
    def _check_order(plan: Shift | None, on_busy: OnBusy) -> None:
        if on_busy not in ("refuse", "queue", "supersede"):
            raise InvalidValue(f'on_busy must be "refuse", "queue" or "supersede", not {on_busy!r}')
        if plan is not None and not isinstance(plan, Shift):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
            raise InvalidValue(f"plan must be Shift.at_once(...) or Shift.canary(...), not {plan!r}")

    def _order(
        self,
        to: Mapping[str, str],
        from_: Mapping[str, str | None],
        plan: Shift | None,
        drain: Drain | None,
        timeouts: Timeouts | None,
        on_busy: OnBusy,
    ) -> str:
        """Let a swap take its place; nothing has begun where it may not."""
        for model in to:
            word("model", model)
        news = [self._named(model, version).key for model, version in sorted(to.items())]
        pairs = tuple(self._pair(new, from_.get(new.model), on_busy) for new in news)
        saga = self._make_saga(pairs, drain or Drain(), plan or Shift(), timeouts or Timeouts())
        if on_busy == "supersede":
            self._supersede(saga)
        self._slots.enter(saga)
        return saga.swap.id

    def _pair(self, new: VersionKey, expected: str | None, on_busy: OnBusy) -> Pair:
        """Return what a swap to `new` replaces; raises `SwapNotAllowed` or `SwapInProgress`."""
        model = new.model
        active = self._router.active(model)
        busy = self._slots.holder(model) or next(iter(self._slots.waiting(model)), None)
        if busy is not None:
            self._check_line(new, busy, on_busy)
        if active is None and busy is None:
            raise SwapNotAllowed(f"{model} has no active version to swap from; use await engine.load(...)", model=model)
        if expected is not None:
            self._registry.get(VersionKey(model, expected))
        if expected not in (None, active) and busy is None:  # an order that waits looks when its turn has come
            raise SwapNotAllowed(f"{model}/{expected} is not active; the active version is {active}", model=model)
        if active == new.version and busy is None:
            raise SwapNotAllowed(f"{new} is active already; there is nothing to swap", model=model)
        return Pair(VersionKey(model, active or new.version), new, expected)  # an order that waits looks again

    def _check_line(self, new: VersionKey, busy: Contender, on_busy: OnBusy) -> None:
        """Raise `SwapInProgress` where an order may not wait."""
        model = new.model
        if on_busy == "refuse":
            raise SwapInProgress(busy.told(model), model=model)
        if on_busy == "queue" and len(self._slots.waiting(model)) >= WAITING_MAX:
            raise SwapInProgress(f"{WAITING_MAX} swaps of {model} wait already; try again later", model=model)

    def _supersede(self, newer: Saga) -> None:
        """Turn round every swap of its models that a newer order takes the place of, the last one first."""
        for saga in self._slots.everybody():
            if isinstance(saga, Saga) and not set(saga.models).isdisjoint(newer.models) and saga.may_be_superseded:
                saga.turn(SwapState.SUPERSEDED, by=newer.swap.id)

    def _make_saga(
        self, pairs: tuple[Pair, ...], drain: Drain, plan: Shift, timeouts: Timeouts, *, rollback_of: str | None = None
    ) -> Saga:
        swap_id = f"{self._ports.random.getrandbits(48):012x}"
        waits = any(self._slots.is_busy(pair.model) for pair in pairs)
        saga = Saga(
            Swap(swap_id, pairs, drain, plan, timeouts, rollback_of, waits), self._swap_world, self._saga_supervisor
        )
        while len(self._ended_ids) >= SWAPS_KEPT:
            self._forget_swap(next(iter(self._ended_ids)))
        if sites.ON and self._ended_ids and sites.buggify("ended-swap-forgotten-early"):
            self._forget_swap(next(iter(self._ended_ids)))
        self._sagas[swap_id] = saga
        saga.ended.tell(lambda _error: self._ended_ids.update({swap_id: None}))
        return saga

    def _forget_swap(self, swap_id: str) -> None:
        """Keep of a swap that has ended only what the journal has."""
        self._history.put(self._sagas[swap_id].record)  # first: whoever looks meanwhile finds it once or twice
        del self._sagas[swap_id], self._ended_ids[swap_id]
