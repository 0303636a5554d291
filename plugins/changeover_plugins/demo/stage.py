"""The stage that the acts of the demo play on, what an act is, and the expectations that several of them share.

An act returns what there is to say about it, or raises `ActFailed` with the expectation that did not hold. Owns no
state but the stage, and spawns nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from changeover import Engine, SwapOperation, SwapState, VersionState
from changeover_plugins.demo.clients import Traffic, Watch
from changeover_plugins.demo.digits import MODEL
from changeover_plugins.demo.repository import Repository
from changeover_plugins.demo.witness import Ledger

ANSWER_S = 10.0
"""How long the first answer of a new version may take before the act has failed."""


class ActFailed(Exception):
    """An expectation of an act did not hold; the message is the expectation, and what was there instead."""


@attrs.define(eq=False)
class Stage:
    """What the acts play with."""

    engine: Engine
    traffic: Traffic
    ledger: Ledger
    repository: Repository
    first_swap: str = ""
    """The id of act 1's swap, which act 5 takes back."""
    fallbacks: int = 0
    """How many requests were answered by a fallback, as the engine counts them."""


@attrs.frozen
class Act:
    """One act."""

    name: str
    """What the tables call it."""
    title: str
    """What happens in it, in one line."""
    play: Callable[[Stage], Awaitable[str]]


def expect(holds: bool, expectation: str, instead: object) -> None:  # noqa: FBT001 - it is the first thing to read
    """Raise `ActFailed` unless something holds."""
    if not holds:
        raise ActFailed(f"expected: {expectation}; instead: {instead}")


async def appears(stage: Stage, version: str) -> None:
    """Let the engine find a version that was put into its repository."""
    found = [spec.version for spec in await stage.engine.scan()]
    expect(found == [version], f"the scan finds version {version}", found)


async def swap(stage: Stage, old: str, new: str, **how: Any) -> tuple[SwapOperation, str]:
    """Change over, check all that a changeover promises, and say how long it took; `how` goes to `Engine.swap`."""
    watch, began_s = stage.traffic.watch(new), trio.current_time()
    operation = await stage.engine.swap(MODEL, new, from_=old, **how)
    return operation, await changed_over(stage, operation, watch, trio.current_time() - began_s)


async def changed_over(stage: Stage, operation: SwapOperation, watch: Watch, took_s: float) -> str:
    """Check that the traffic is with the new version and that the old one is closed."""
    old, new = operation.from_version, operation.to_version
    expect(operation.state is SwapState.COMPLETED, "the swap is completed", operation.state.value)
    expect(stage.engine.is_active(MODEL, new), f"{new} is active", "it is not")
    expect(operation.old_unloaded, f"{old} is unloaded", operation.error_message)
    status = stage.engine.load_info(MODEL, old).status
    expect(status is VersionState.UNLOADED, f"{old} is unloaded", status.value)
    living = stage.ledger.living(old)
    expect(living == 0, f"every model of {old} was closed", f"{living} was not")
    with trio.move_on_after(ANSWER_S):
        await watch.seen.wait()
    if watch.after_ms is None:
        raise ActFailed(f"expected: {new} answers; instead: no answer in {ANSWER_S:g} s")
    return f"{new} answered after {watch.after_ms:.0f} ms, {old} was closed after {took_s * 1000:.0f} ms"


async def answers_still(stage: Stage, version: str) -> None:
    """Wait for one answer more of the version that was to be replaced."""
    watch = stage.traffic.watch(version)
    with trio.move_on_after(ANSWER_S):
        await watch.seen.wait()
    expect(watch.after_ms is not None, f"{version} goes on answering", f"no answer in {ANSWER_S:g} s")
