"""Workloads: what clients ask and operators order, when, and how long everything takes; drawn by Hypothesis.

`run` plays one in a world of virtual time and returns a `Record` of all that happened; it owns the engine it opens.
Times are multiples of a quarter of a second, so that things often happen at the very same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import attrs
import numpy as np
import trio
from hypothesis import strategies as st

from changeover import Audit, Batching, Drain, Engine, Statistics, SwapOperation
from changeover.errors import ChangeoverError, SwapNotDone
from changeover.plugin import Signature
from changeover_sim import open_world
from tests.support.models import BATCHED, UNCHECKED, Broken, Cast, ScriptedModel
from tests.support.rig import Rig, open_rig, run_virtual, settle
from tests.support.witness import Witness

GOOD, BAD, POISON = 0.0, 1.0, 2.0
"""What a request does to its model: nothing, make it raise, kill it."""

# --- plans ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class VersionPlan:
    """How one version behaves."""

    load_s: float = 0.0
    warm_s: float | None = None
    """None: no warm-up data."""
    predict_s: float = 0.0
    close_s: float = 0.0
    workers: int = 1
    load_fails: int = 0
    """So many loads raise before one does not."""
    warm_fails: bool = False


@attrs.frozen
class ModelPlan:
    """One model and its versions; the first one serves from the beginning."""

    name: str
    versions: tuple[VersionPlan, ...]
    execution: Literal["inline", "worker"] = "inline"
    batched: bool = False
    queue_limit: int = 1024

    def keys(self) -> list[str]:
        """Return the names of the versions."""
        return [str(number + 1) for number in range(len(self.versions))]


@attrs.frozen
class Ask:
    """One request."""

    at_s: float
    model: str
    kind: Literal["infer", "lease", "async lease", "hold"] = "infer"
    does: float = GOOD
    patience_s: float | None = None
    """Cancelled after so long; None: never."""
    timeout_s: float | None = None
    """The request's own time limit."""
    hold_s: float = 0.0
    """How long a lease is kept."""


@attrs.frozen
class Order:
    """What an operator wants."""

    at_s: float
    model: str
    kind: Literal["load", "ensure", "unload", "warm", "swap", "rollback"]
    version: str = "1"
    deadline_s: float = 30.0
    patience_s: float | None = None
    """Cancelled after so long; None: never."""


@attrs.frozen
class Plan:
    """Everything that happens in one run."""

    models: tuple[ModelPlan, ...]
    asks: tuple[Ask, ...]
    orders: tuple[Order, ...]
    ends_s: float | None = None
    """When the engine is closed, whatever still runs; None: when all clients and operators are done."""
    seed: int = 0


def moments(most: float) -> st.SearchStrategy[float]:
    """Draw a time, a multiple of a quarter of a second."""
    return st.integers(0, int(most * 4)).map(lambda n: n / 4)


def version_plans(*, faults: bool) -> st.SearchStrategy[VersionPlan]:
    """Draw how a version behaves."""
    return st.builds(
        VersionPlan,
        load_s=moments(2) | st.just(6.0) if faults else moments(2),
        warm_s=st.none() | moments(1.5),
        predict_s=moments(1),
        close_s=moments(2),
        workers=st.integers(1, 2),
        load_fails=st.sampled_from([0, 0, 0, 1, 9]) if faults else st.just(0),
        warm_fails=st.sampled_from([False, False, False, True]) if faults else st.just(False),
    )


@st.composite
def model_plans(draw: st.DrawFn, name: str, *, faults: bool, execution: str | None = None) -> ModelPlan:
    """Draw a model whose first version comes up."""
    first = draw(version_plans(faults=False))
    others = draw(st.lists(version_plans(faults=faults), min_size=1, max_size=3))
    execution = execution or draw(st.sampled_from(["inline", "worker"]))
    return ModelPlan(
        name,
        (first, *others),
        execution=execution,  # type: ignore[arg-type]
        batched=execution == "worker" and draw(st.booleans()),
        queue_limit=draw(st.sampled_from([1, 2, 1024])) if faults else 1024,
    )


def asks(models: list[str], *, faults: bool, most_s: float) -> st.SearchStrategy[Ask]:
    """Draw a request."""
    patience = st.sampled_from([None, None, 0.0, 0.25, 0.5, 1.0]) if faults else st.none()
    return st.builds(
        Ask,
        at_s=moments(most_s),
        model=st.sampled_from(models),
        kind=st.sampled_from(["infer", "infer", "lease", "async lease", "hold"]),
        does=st.sampled_from([GOOD, GOOD, GOOD, GOOD, BAD, POISON]) if faults else st.just(GOOD),
        patience_s=patience,
        timeout_s=st.sampled_from([None, None, 0.0, 0.25, 1.0]) if faults else st.none(),
        hold_s=moments(4),
    )


@st.composite
def orders(draw: st.DrawFn, models: tuple[ModelPlan, ...], *, faults: bool, most_s: float) -> Order:
    """Draw an order."""
    model = draw(st.sampled_from(models))
    return Order(
        at_s=draw(moments(most_s)),
        model=model.name,
        kind=draw(
            st.sampled_from(["swap", "swap", "swap", "rollback", "rollback", "load", "ensure", "unload", "warm"])
        ),
        version=draw(st.sampled_from([*model.keys(), *model.keys()[1:]])),
        deadline_s=draw(st.sampled_from([30.0, 30.0, 1.0, 0.0])),
        patience_s=draw(st.sampled_from([None, None, 0.0, 0.25, 1.0])) if faults else None,
    )


@st.composite
def plans(draw: st.DrawFn, *, faults: bool, models_most: int = 2, most_s: float = 8.0) -> Plan:
    """Draw a whole run; without faults nothing fails and nobody leaves, so every request must be answered."""
    names = [f"m{n}" for n in range(draw(st.integers(1, models_most)))]
    models = tuple(draw(model_plans(name, faults=faults)) for name in names)
    return Plan(
        models,
        tuple(draw(st.lists(asks(names, faults=faults, most_s=most_s), min_size=20, max_size=50))),
        tuple(draw(st.lists(orders(models, faults=faults, most_s=most_s), min_size=4, max_size=12))),
        ends_s=draw(st.none() | moments(most_s)) if faults else None,
        seed=draw(st.integers(0, 3)),
    )


# --- records --------------------------------------------------------------------------------------------------------


@attrs.define
class Asked:
    """One request and what came of it."""

    number: int
    ask: Ask
    outcomes: list[str] = attrs.field(factory=list)
    """`answered`, `cancelled`, or the name of the error; there must be exactly one."""
    version: str | None = None
    error: BaseException | None = None
    began_s: float = 0.0
    ended_s: float = 0.0
    right: bool = True
    """False where the answer was somebody else's."""


@attrs.define
class Record:
    """What happened in a run."""

    plan: Plan
    asked: list[Asked]
    cast: Cast
    engine: Engine
    witness: Witness
    ordered: list[tuple[Order, str]]
    """Each order, and `done`, `cancelled` or the name of the error."""
    swaps: tuple[SwapOperation, ...] = ()
    loaded: dict[str, tuple[str | None, tuple[str, ...]]] = attrs.field(factory=dict)
    """By model: the active version and those that are loaded, long after the last client and before the end."""
    audit: Audit | None = None
    """Taken when everything had come to rest."""
    statistics: Statistics | None = None
    strangers: list[BaseException] = attrs.field(factory=list)
    """Errors that are none of ours."""

    def seen_by_models(self, number: int) -> int:
        """Return how often a model was asked a request."""
        return sum(number in numbers_of(made) for made in self.cast.made)


def numbers_of(made: ScriptedModel) -> list[int]:
    """Return the numbers of the requests that a model was asked, in order; warm-up data has none."""
    return [int(number) for call in made.calls for number in call["x"][:, 0] if number >= 0]


# --- playing --------------------------------------------------------------------------------------------------------


def play(
    plan: Plan, look: Callable[[Witness], None] | None = None, prepare: Callable[[Rig], object] | None = None
) -> Record:
    """Play a plan in a Trio run of its own; `prepare` is handed the rig before anything happens in it."""
    return run_virtual(run, plan, look, prepare)


async def run(
    plan: Plan, look: Callable[[Witness], None] | None = None, prepare: Callable[[Rig], object] | None = None
) -> Record:
    """Play a plan to its end; `look` is called after each step of each task."""
    cast = Cast()
    async with open_world(plan.seed) as world, trio.open_nursery() as nursery:
        async with open_rig(world=world, cast=cast, close_timeout_s=10.0, debug_references=True) as rig:
            witness = Witness(rig.engine, look)
            record = Record(plan, [], cast, rig.engine, witness, [])
            if prepare is not None:
                prepare(rig)
            with witness.watching():
                await _open_models(rig, plan)
                async with trio.open_nursery() as clients:
                    # Clients belong to the world: they go on where the engine is closed under them.
                    over = partial(_play, record, rig, nursery)
                    clients.start_soon(over)
                    if plan.ends_s is not None:
                        await trio.sleep(plan.ends_s)
                        clients.cancel_scope.cancel()
                if plan.ends_s is None:
                    await trio.sleep(50.0)
                    engine = rig.engine
                    record.loaded = {
                        model.name: (engine._router.active(model.name), engine.loaded_versions(model.name))
                        for model in plan.models
                    }
        with witness.watching():
            await trio.sleep(200.0)
            await settle()
        record.audit, record.statistics = rig.engine.audit(), rig.engine.statistics()
        nursery.cancel_scope.cancel()
    record.swaps = rig.engine.swaps(limit=1_000)
    return record


async def _play(record: Record, rig: Rig, nursery: trio.Nursery) -> None:
    """Start every client and every operator, and wait for their ends."""
    parties: list[trio.Event] = []
    jobs: list[Any] = [partial(_ask, record, rig, number, ask) for number, ask in enumerate(record.plan.asks)]
    jobs += [partial(_order, record, rig, order) for order in record.plan.orders]
    for job in jobs:
        over = trio.Event()
        parties.append(over)
        nursery.start_soon(_then, job, over)
    for over in parties:
        await over.wait()


async def _then(job: Any, over: trio.Event) -> None:
    try:
        await job()
    finally:
        over.set()


async def _open_models(rig: Rig, plan: Plan) -> None:
    """Register everything and load the first version of each model."""
    for model in plan.models:
        for version, behaves in zip(model.keys(), model.versions, strict=True):
            _register(rig, model, version, behaves)
        await rig.engine.load(model.name, "1")


def _register(rig: Rig, model: ModelPlan, version: str, plan: VersionPlan) -> None:
    signature = BATCHED if model.batched else _UNBATCHED
    left = [plan.load_fails]

    def on_load() -> None:
        if left[0]:
            left[0] -= 1
            raise Broken("the load")

    rig.add(
        model.name,
        version,
        on_load=on_load,
        signature=signature,
        answers=lambda inputs: {"y": inputs["x"][:, 0]},
        fails_on=lambda inputs: bool((inputs["x"][:, 1] == BAD).any()) or (plan.warm_fails and inputs["x"][0, 0] < 0),
        fatal_on=lambda inputs: bool((inputs["x"][:, 1] == POISON).any()),
        warmup=[] if plan.warm_s is None and not plan.warm_fails else [_inputs(-1, GOOD)],
        execution=model.execution,
        workers=plan.workers if model.execution == "worker" else 1,
        batching=Batching(4, 0.25) if model.batched else None,
        queue_limit=model.queue_limit,
        load_timeout_s=4.0,
    )
    key = f"{model.name}/{version}"
    rig.takes(f"load {key}", plan.load_s)
    rig.takes(f"warm {key}", plan.warm_s or 0.0)
    rig.takes(f"close {key}", plan.close_s)
    for number in range(plan.workers):
        rig.takes(f"worker {key} {number}", plan.predict_s)


_UNBATCHED: Signature = UNCHECKED


def _inputs(number: int, does: float) -> dict[str, Any]:
    return {"x": np.array([[float(number), does]])}


async def _ask(record: Record, rig: Rig, number: int, ask: Ask) -> None:
    """Be a client with one request."""
    asked = Asked(number, ask)
    record.asked.append(asked)
    await trio.sleep(ask.at_s)
    asked.began_s = trio.current_time()
    outputs: Any = None
    try:
        with trio.CancelScope(deadline=_deadline(ask.patience_s)) as scope:
            outputs = await _use(rig, asked)
        asked.outcomes.append("cancelled" if scope.cancelled_caught else "answered")
    except ChangeoverError as error:
        asked.outcomes.append(type(error).__name__)
        asked.error = error
    except Exception as error:  # noqa: BLE001 - that is what the tests look for
        asked.outcomes.append(f"stranger: {error!r}")
        record.strangers.append(error)
    asked.ended_s = trio.current_time()
    if asked.outcomes == ["answered"]:
        asked.right = outputs["y"].tolist() == [float(number)]


async def _use(rig: Rig, asked: Asked) -> Any:
    ask, engine, inputs = asked.ask, rig.engine, _inputs(asked.number, asked.ask.does)
    if ask.kind == "infer":
        reply = await engine.infer(ask.model, inputs, timeout_s=ask.timeout_s)
        asked.version = reply.version
        return reply.outputs
    if ask.kind == "lease":
        with engine.lease(ask.model) as lease:
            asked.version = lease.version
            return lease.infer(inputs)
    async with engine.lease(ask.model, wait_s=ask.timeout_s) as lease:
        asked.version = lease.version
        if ask.kind == "hold":
            await trio.sleep(ask.hold_s)
        return lease.infer(inputs)


async def _order(record: Record, rig: Rig, order: Order) -> None:
    """Be an operator with one order."""
    await trio.sleep(order.at_s)
    try:
        with trio.CancelScope(deadline=_deadline(order.patience_s)) as scope:
            await _carry_out(rig, order)
        record.ordered.append((order, "cancelled" if scope.cancelled_caught else "done"))
    except ChangeoverError as error:
        record.ordered.append((order, type(error).__name__))
    except Exception as error:  # noqa: BLE001 - that is what the tests look for
        record.ordered.append((order, f"stranger: {error!r}"))
        record.strangers.append(error)


async def _carry_out(rig: Rig, order: Order) -> None:
    engine, name, version = rig.engine, order.model, order.version
    match order.kind:
        case "load":
            await engine.load(name, version)
        case "ensure":
            await engine.ensure_loaded(name, version)
        case "unload":
            await engine.unload(name, version, drain=Drain(order.deadline_s))
        case "warm":
            await engine.warm_up(name, version, _inputs(-1, GOOD))
        case "swap":
            await engine.swap(name, version, drain=Drain(order.deadline_s))
        case "rollback":
            operations = engine.swaps(name)
            if operations:
                with suppress(SwapNotDone):
                    await engine.rollback(operations[-1].id)


def _deadline(patience_s: float | None) -> float:
    return float("inf") if patience_s is None else trio.current_time() + patience_s
