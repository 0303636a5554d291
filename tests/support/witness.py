"""A witness: looks at an engine after every step of every task, and writes down what must never be.

It owns an instrument of the Trio run for as long as it watches, and two wrappers that note admissions and closings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from changeover import Engine
from changeover.core.ledger import RecordingAccount
from changeover.core.messages import fold
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import RequestLane


class Witness(trio.abc.Instrument):
    """What was seen; `wrongs` stays empty where the promises are kept."""

    def __init__(self, engine: Engine, look: Callable[[Witness], None] | None = None) -> None:
        self.engine = engine
        self.wrongs: list[str] = []
        self.steps = 0
        self.queued_most: dict[Any, int] = {}
        self.admitted: dict[LoadedModel, list[int]] = {}
        """By model: the numbers of the requests in its lane, in the order of their admission."""
        self.models: dict[LoadedModel, Any] = {}
        """The object behind each of them."""
        self._look = look
        self._busy = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the block."""
        trio.lowlevel.add_instrument(self)
        offer, close = RequestLane.offer, LoadedModel.close
        witness = self

        def watched_offer(lane: Any, request: Any) -> bool:
            admitted = offer(lane, request)
            if admitted:
                loaded = request.account.owner
                witness.admitted.setdefault(loaded, []).append(int(request.inputs["x"][0, 0]))
                witness.models.setdefault(loaded, loaded._model)
            return admitted

        def watched_close(loaded: LoadedModel) -> None:
            if loaded.account.held:
                witness.wrong(f"{loaded.key} was closed while {loaded.account.holders(0.0)} held it")
            if witness.engine._router._open.get(loaded.key) is loaded.account:
                witness.wrong(f"{loaded.key} was closed while it could be pinned")
            close(loaded)

        RequestLane.offer, LoadedModel.close = watched_offer, watched_close  # type: ignore[method-assign]
        try:
            yield
        finally:
            RequestLane.offer, LoadedModel.close = offer, close  # type: ignore[method-assign]
            trio.lowlevel.remove_instrument(self)

    def wrong(self, what: str) -> None:
        """Note what must never be, once."""
        if what not in self.wrongs:
            self.wrongs.append(what)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Look at everything; an instrument must not raise."""
        if self._busy:
            return
        self._busy = True
        try:
            self.steps += 1
            self._look_at_queues()
            if self._look is not None:
                self._look(self)
        except Exception as error:  # noqa: BLE001 - Trio would only log it and stop to call us
            self.wrong(f"the witness stumbled: {error!r}")
        finally:
            self._busy = False

    def _look_at_queues(self) -> None:
        for loaded in self.engine._host.living():
            self.queued_most[loaded.key] = max(self.queued_most.get(loaded.key, 0), len(loaded.lane))


# --- what to look at after each step --------------------------------------------------------------------------------


def conservation(witness: Witness) -> None:
    """Acquired = released + held, in every account, and in the fold over its messages."""
    engine = witness.engine
    for key, balance in engine.audit().balances.items():
        if not balance.conserved:
            witness.wrong(f"{key}: {balance} is not conserved")
    for loaded in engine._host.living():
        account = loaded.account
        assert isinstance(account, RecordingAccount)
        folded, held = fold(account.log)
        if (folded, set(held)) != (account.balance(), set(account.held)):
            witness.wrong(f"{loaded.key}: the fold {folded} is not the balance {account.balance()}")


def one_saga(witness: Witness) -> None:
    """At most one swap of each model stands before its pivot, and then no other is turned round."""
    engine = witness.engine
    before: dict[str, int] = {}
    for operation in engine.swaps(limit=1_000):
        shifted = any(step.step == "shift" and step.outcome == "done" for step in operation.steps)
        if not operation.state.ended and (not shifted or operation.state.value == "rolling_back"):
            before[operation.model] = before.get(operation.model, 0) + 1
    for model, count in before.items():
        if count > 1:
            witness.wrong(f"{count} swaps of {model} stand before their pivot")


def budget(witness: Witness) -> None:
    """The sum of the reservations never exceeds the budget."""
    counts = witness.engine.statistics()
    if counts.budget_bytes is not None and counts.reserved_bytes > counts.budget_bytes:
        witness.wrong(f"{counts.reserved_bytes} bytes of {counts.budget_bytes} are reserved")


def bounded(witness: Witness) -> None:
    """No queue is longer than its limit."""
    for loaded in witness.engine._host.living():
        if len(loaded.lane) > loaded.spec.queue_limit:
            witness.wrong(f"{len(loaded.lane)} requests wait for {loaded.key}")
