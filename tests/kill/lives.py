"""What the processes do that are killed: serve under load, swap, recover; each tells what it does in lines of JSON.

A life owns its engine and the threads that ask it. Where a record of the journal is named, the process kills itself
with SIGKILL at that record: before its transaction is committed, or right after.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import trio

import changeover
from changeover import Engine, Event, Shift, SwapState
from changeover.errors import ChangeoverError, NotReady, SwapNotDone, VersionNotLoaded
from changeover.plugin import Signature
from changeover.runtime import sqlite_file
from changeover.runtime.sqlite_file import SqliteFile
from changeover_sim.disk import line_of

Tell = Callable[..., None]
Record = tuple[int, str]
"""Which transaction of the journal, from 1, and "before" or "after" its commit."""

BREATH_S = 0.0003
"""The pause of each of those who ask all the time."""

GROUP = ("a", "b")
VERSIONS = ("1", "2", "3", "4")
BROKEN = "0"
"""A version that cannot be loaded."""
CANARY = Shift.canary(((0.5, 0.01),), confirm_s=0.01, guard=None)
LONG_CANARY = Shift.canary(((0.5, 60.0),), guard=None)


# --- models ---------------------------------------------------------------------------------------------------------


class Weights:
    """A model of some weights that no other version has; it notices when it is used after it was closed."""

    signature = Signature(checked=False)
    thread_safe = True

    def __init__(self, version: str) -> None:
        self._version = version
        self._weights: Any = np.full((64, 64), float(version))

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"version": self._version, "sum": float((self._weights @ inputs["x"]).sum())}

    def memory_bytes(self) -> int:
        return int(self._weights.nbytes)

    def close(self) -> None:
        self._weights = None


def build(version: str) -> Weights:
    """Make a model."""
    if version == BROKEN:
        raise OSError("no such weights")
    return Weights(version)


X = np.ones(64)


def checked(answer: Any, version: str) -> str:
    """Return the version that answered, after a look at its arithmetic."""
    assert answer == {"version": version, "sum": 4096.0 * float(version)}, answer
    return version


def register(engine: Engine, models: tuple[str, ...], versions: tuple[str, ...]) -> None:
    """Register every version of every model."""
    for model in models:
        for version in versions:
            engine.register(
                model, version, "tests.kill.lives:build", loader="callable", allow_code=True,
                options={"version": version}, execution="worker" if model == "b" else "inline", load_retries=0,
            )  # fmt: skip


# --- dying at a record ----------------------------------------------------------------------------------------------


def watch_records(tell: Tell, dies_at: Record | None) -> None:
    """Tell every transaction that is committed, and die at one of them."""
    write, make = SqliteFile.write, sqlite_file.make
    number, line = 0, ""

    def die(moment: str) -> None:
        if dies_at is not None and tuple(dies_at) == (number, moment):
            os.kill(os.getpid(), signal.SIGKILL)

    def noted_write(file: SqliteFile, entry: Any) -> None:
        nonlocal number, line
        number, line = number + 1, line_of(entry)
        write(file, entry)
        tell(record=line)
        die("after")

    def fatal_make(db: Any, changes: Any) -> None:
        make(Fatal(db, lambda: die("before"), alone=len(changes) == 1), changes)

    SqliteFile.write, sqlite_file.make = noted_write, fatal_make


class Fatal:
    """A connection that kills before what commits a transaction."""

    def __init__(self, db: sqlite3.Connection, die: Callable[[], None], *, alone: bool) -> None:
        self._db, self._die, self._alone = db, die, alone

    def execute(self, statement: str) -> None:
        if statement == "COMMIT":
            self._die()
        self._db.execute(statement)

    def executemany(self, statement: str, values: Any) -> None:
        if self._alone:
            self._die()
        self._db.executemany(statement, values)


# --- load -----------------------------------------------------------------------------------------------------------


class Askers:
    """Threads and tasks that ask all the time, and look whether what they hear may be."""

    def __init__(self, tell: Tell, engine: Engine, models: tuple[str, ...]) -> None:
        self._tell = tell
        self._engine = engine
        self._models = models
        self._stopped = threading.Event()
        self.least = dict.fromkeys(models, 0)
        """By model: the version that a completed swap has brought; nothing older may answer from then on."""

    @asynccontextmanager
    async def asking(self) -> Any:
        """Ask beside the block."""
        threads = [threading.Thread(target=self._ask_leases, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(self._ask_requests)
            yield
            self._stopped.set()
        for thread in threads:
            await trio.to_thread.run_sync(thread.join)

    def _ask_leases(self) -> None:
        heard: tuple[str, ...] = ()
        while not self._stopped.wait(BREATH_S):
            least = dict(self.least)
            try:
                with self._engine.lease_many(self._models) as leases:
                    held = [leases[model] for model in self._models]
                    versions = [checked(lease.model.predict({"x": X}), lease.version) for lease in held]
            except Exception as error:  # noqa: BLE001 - none may be lost, for whatever reason
                self._tell(wrong=repr(error))
                continue
            heard = self._hear(heard, tuple(versions), least)

    async def _ask_requests(self) -> None:
        heard: tuple[str, ...] = ()
        while not self._stopped.is_set():
            await trio.sleep(BREATH_S)
            least = dict(self.least)
            try:
                replies = await self._engine.infer_many({model: {"x": X} for model in self._models})
            except ChangeoverError as error:
                self._tell(wrong=repr(error))
                continue
            answers = [replies[model] for model in self._models]
            heard = self._hear(heard, tuple(checked(reply.outputs, reply.version) for reply in answers), least)

    def _hear(self, heard: tuple[str, ...], versions: tuple[str, ...], least: Mapping[str, int]) -> tuple[str, ...]:
        if len(set(versions)) > 1:
            self._tell(wrong=f"a mixed group: {versions}")
        if any(int(version) < least[model] for model, version in zip(self._models, versions, strict=True)):
            self._tell(wrong=f"{versions} after {least}")
        if versions != heard:
            self._tell(answer=versions)
        return versions


# --- what is done meanwhile -----------------------------------------------------------------------------------------


async def until_state(engine: Engine, swap_id: str, state: SwapState) -> None:
    """Return when a swap has come so far."""
    async with engine.events() as events:
        if engine.swap_status(swap_id).state is state:
            return
        async for event in events:
            if isinstance(event, Event) and event.swap_id == swap_id and event.detail.get("state") == state.value:
                return


async def plain(engine: Engine) -> None:
    """Swap."""
    await engine.swap("m", "2")


async def fails_at_load(engine: Engine) -> None:
    """Swap to a version that cannot be loaded."""
    with suppress(SwapNotDone):
        await engine.swap("m", BROKEN)


async def rolled_back(engine: Engine, group: tuple[str, ...] = ("m",)) -> None:
    """Swap, and turn that round while the old version is drained."""
    with engine.lease_many(group):
        swap_id = engine.start_group_swap(dict.fromkeys(group, "2"))
        await until_state(engine, swap_id, SwapState.OLD_VERSION_DRAINING)
        await engine.rollback(swap_id)


async def swapped_back(engine: Engine) -> None:
    """Swap, and swap back."""
    done = await engine.swap("m", "2")
    await engine.rollback(done.id)


async def canary(engine: Engine) -> None:
    """Swap with a ramp."""
    await engine.swap("m", "2", plan=CANARY)


async def superseded(engine: Engine) -> None:
    """Swap with a ramp that another swap does not wait for."""
    swap_id = engine.start_swap("m", "2", plan=LONG_CANARY)
    await until_state(engine, swap_id, SwapState.TRANSITIONING)
    await engine.swap("m", "3", on_busy="supersede")


async def group(engine: Engine) -> None:
    """Swap two models as one."""
    await engine.swap_group(dict.fromkeys(GROUP, "2"))


SCENARIOS: dict[str, Callable[[Engine], Awaitable[None]]] = {
    "plain": plain,
    "fails at load": fails_at_load,
    "rolled back in the drain": rolled_back,
    "swapped back": swapped_back,
    "canary": canary,
    "superseded": superseded,
    "group": group,
    "group rolled back": partial(rolled_back, group=GROUP),
}


def models_of(scenario: str) -> tuple[str, ...]:
    """Return the models that a scenario is about."""
    return GROUP if scenario.startswith("group") else ("m",)


# --- lives ----------------------------------------------------------------------------------------------------------


def serves(tell: Tell, path: str, durability: Any, scenario: str, dies_at: Record | None) -> None:
    """Serve with a new journal, and do what a scenario says."""
    watch_records(tell, dies_at)
    models = models_of(scenario)

    async def main() -> None:
        async with changeover.open_engine(journal=path, durability=durability, strict_references=True) as engine:
            register(engine, models, (*VERSIONS, BROKEN))
            for model in models:
                await engine.load(model, "1")
            async with Askers(tell, engine, models).asking():
                await SCENARIOS[scenario](engine)

    trio.run(main)


async def report(engine: Engine, models: tuple[str, ...]) -> dict[str, Any]:
    """Wait for the recovery, and return all that a test wants to know."""
    told = await engine.recovered(10.0)
    serves = {}
    for model in models:
        try:
            reply = await engine.infer(model, {"x": X})
        except (NotReady, VersionNotLoaded):  # nothing of it was written down
            serves[model] = None
        else:
            serves[model] = checked(reply.outputs, reply.version)
    for model, version in serves.items():
        if version:
            with engine.lease(model) as lease:
                assert lease.version == version
    return {
        "serves": serves,
        "loaded": {model: list(engine.loaded_versions(model)) for model in models},
        "swaps": [[s.from_version, s.to_version, s.state.value] for s in engine.swaps() if s.end_time is not None],
        "open": [s.id for s in engine.swaps() if not s.state.ended or s.end_time is None],
        "waiting": len(told.waiting), "set_aside": told.set_aside is not None,
        "results": [one.result for one in told.done], "errors": [one.error for one in told.done if one.error],
        "clean": engine.audit().clean,
    }  # fmt: skip


def recovers(tell: Tell, path: str, durability: Any, models: list[str], dies_at: Record | None) -> None:
    """Go on where another life has ended, tell what is there, then swap each model to version 4."""
    watch_records(tell, dies_at)
    names = tuple(models)

    async def main() -> None:
        async with changeover.open_engine(journal=path, durability=durability, strict_references=True) as engine:
            register(engine, names, (*VERSIONS, BROKEN))
            found = await report(engine, names)
            tell(report=found)
            active = {model: "4" for model, version in found["serves"].items() if version}
            if active:
                await engine.swap_group(active)
                replies = await engine.infer_many({model: {"x": X} for model in active})
                tell(then={model: checked(reply.outputs, reply.version) for model, reply in replies.items()})

    trio.run(main)


def goes_on(tell: Tell, path: str, durability: Any, count: int) -> None:
    """Go on where another life has ended, and swap to one version after the other."""
    versions = tuple(str(n) for n in range(1, count + 1))

    async def main() -> None:
        async with changeover.open_engine(journal=path, durability=durability, strict_references=True) as engine:
            register(engine, ("m",), versions)
            found = await report(engine, ("m",)) if engine.recovery().waiting else None
            if found is None:
                await engine.load("m", "1")
            tell(report=found)
            current = int((await engine.infer("m", {"x": X})).version)
            askers = Askers(tell, engine, ("m",))
            async with askers.asking():
                for n in range(current + 1, count + 1):
                    tell(begun=n)
                    await engine.swap("m", str(n), plan=CANARY if n % 5 == 0 else None)
                    askers.least["m"] = n
                    tell(complete=n)

    trio.run(main)


LIVES: dict[str, Callable[..., None]] = {"serves": serves, "recovers": recovers, "goes on": goes_on}

sys.setswitchinterval(1e-4)  # threads that ask all the time must not keep the loop waiting
for point in entry_points(group="changeover.loaders"):
    point.load()  # once, and not in every life
