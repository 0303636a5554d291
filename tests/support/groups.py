"""A group swap on a stage: several models with two versions each, what each snapshot of the routes says, and its end.

Owns nothing but the list of snapshots; spawns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from changeover import SwapOperation
from changeover.errors import VersionCrashed
from tests.support.rig import Outcome, Rig, settle

PAIR = ("a", "b")
TRIO = ("a", "b", "c")

Shares = dict[str, dict[str, float]]
"""By model and version."""


async def two_of_each(rig: Rig, models: Sequence[str] = PAIR, **fields: Any) -> None:
    """Make version 1 of each model serve and register version 2 with `fields`; a request with `poison` ends a version.

    A field that is a mapping of models has a value for each of them.
    """
    for model in models:
        await rig.ready(model, "1", fatal_on=lambda inputs: inputs.get("poison") == "1")
        mine = {name: value[model] if isinstance(value, dict) else value for name, value in fields.items()}
        rig.add(model, "2", **{"fatal_on": lambda inputs: inputs.get("poison") == "2", **mine})


def to(version: str, models: Sequence[str] = PAIR) -> dict[str, str]:
    """Return the order that moves each model to a version."""
    return dict.fromkeys(models, version)


def swapping(rig: Rig, models: Sequence[str] = PAIR, version: str = "2", **options: Any) -> Outcome:
    """Return a group swap, to be run beside the test."""
    return Outcome(rig.engine.swap_group, to(version, models), **options)


async def versions(rig: Rig, models: Sequence[str] = PAIR, key: str | None = None) -> str:
    """Ask a set, and return the versions that answered, in order of the models."""
    replies = await rig.engine.infer_many({model: {} for model in models}, key=key)
    return "".join(replies[model].version for model in models)


def leased(rig: Rig, models: Sequence[str] = PAIR, key: str | None = None) -> str:
    """Lease a set for a moment, and return its versions."""
    with rig.engine.lease_many(models, key=key) as leases:
        return "".join(leases[model].version for model in models)


async def crash(rig: Rig, model: str, version: str) -> None:
    """End a version by a request that names it."""
    try:
        await rig.engine.infer(model, {"poison": version}, version=version)
    except VersionCrashed:
        await settle()
    else:
        raise AssertionError(f"{model}/{version} did not crash")


def snapshots(rig: Rig) -> list[Shares]:
    """Return a list that every snapshot from now on is added to, in short."""
    router, seen = rig.engine._router, list[Shares]()
    apply = router._apply

    def and_note(event: Any) -> None:
        before = router.snapshot.serial
        apply(event)
        if router.snapshot.serial != before:
            assert router.snapshot.serial == before + 1, "two snapshots in one step"
            seen.append(shares(rig))

    router._apply = and_note
    return seen


def shares(rig: Rig) -> Shares:
    """Return who has how much of the traffic."""
    routes = rig.engine._router.snapshot.routes
    return {model: {share.version: share.weight for share in route.shares} for model, route in routes.items()}


def mixes(seen: Sequence[Shares]) -> list[Shares]:
    """Return the snapshots in which the models of a group do not stand alike."""
    return [one for one in seen if len({tuple(sorted(part.items())) for part in one.values()}) > 1]


async def check_group_undone(rig: Rig, operation: SwapOperation, models: Sequence[str] = PAIR) -> None:
    """Check that nothing is left of a swap from 1 to 2, of any of its models."""
    assert operation.state.ended
    assert (operation.share, operation.paused) == (0.0, False)
    assert await versions(rig, models) == "1" * len(models)
    check_one_side(rig, "1", models)


def check_one_side(rig: Rig, version: str, models: Sequence[str] = PAIR) -> None:
    """Check that one version of each model is loaded and has all of the traffic, and that nothing else is left."""
    engine = rig.engine
    assert sorted(rig.cast.open()) == [f"{model}/{version}" for model in models]
    assert {model: engine.loaded_versions(model) for model in models} == dict.fromkeys(models, (version,))
    assert shares(rig) == {model: {version: 1.0} for model in models}
    assert engine.audit().clean
    assert engine._slots.everybody() == ()
    assert engine._router.listeners == {}
    assert all(route.trial is None for route in engine._router.snapshot.routes.values())
    living = engine._host.living()
    assert [(loaded.meter, loaded.shadow) for loaded in living] == [(None, None)] * len(living)
    assert engine.statistics().swaps_open == 0
