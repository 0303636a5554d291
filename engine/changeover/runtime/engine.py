"""`open_engine`: the start order of an engine, its stop order, and what comes out of the block.

It owns the one nursery of the engine, in which the two supervisors run: versions first, then sagas, stopped the other
way round. A body's own exception comes out as it is; a crash of the engine cancels the body and is `EngineFailed`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, cast

import trio

from changeover.core.checks import count, describe, is_path, seconds
from changeover.core.values import Drain, SwapState
from changeover.errors import ChangeoverError, EngineClosed, EngineFailed, InvalidValue, WrongLoop
from changeover.runtime import fork, sites
from changeover.runtime.base import Settings
from changeover.runtime.calls import Engine
from changeover.runtime.events import logger
from changeover.runtime.journal import MemoryJournal
from changeover.runtime.keeper import Keeper, KeeperWorld
from changeover.runtime.orders import DrainOrder
from changeover.runtime.ports import Journal, Ports
from changeover.runtime.saga import Saga
from changeover.runtime.supervisor import Supervisor

Durability = Literal["process", "power"]
"""What a journal survives: the end of the process, or that of the computer's power."""


class _Running(Engine):
    """An engine with its tasks."""

    failure: BaseException | None = None
    """What crashed it."""
    is_orphan = False
    """True in a forked process: its threads and its loop stayed behind."""

    def __init__(self, settings: Settings, ports: Ports, journal: Journal) -> None:
        """Wire the parts together; nothing runs yet."""
        super().__init__(settings, ports, journal)
        self._journal = journal
        self._keeper = Keeper(
            KeeperWorld(
                ports, self._bus, self._version_supervisor, self._registry, self._router, self._slots,
                self._versions, self._sagas, self._version,
                swap=lambda model, to, policy: self.start_swap(model, to, plan=policy.plan, on_busy="supersede"),
                look=lambda looked: self._look(looked, at_once=False),
                take=self._take,
            )
        )  # fmt: skip

    async def start_in(self, nursery: trio.Nursery, body: trio.CancelScope) -> None:
        """Start the supervisors, then register what the repository holds; a crash of theirs cancels `body`."""
        with trio.CancelScope(shield=True):  # a supervisor that is cancelled before it has started cannot be stopped
            for supervisor in (self._version_supervisor, self._saga_supervisor):
                await nursery.start(self._run, supervisor, body)
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._recovery.open()
        self._recovery.start()
        if self._settings.repository is not None:
            await self.scan()
            if self._settings.watch_s is not None:
                self._keeper.watch(self._settings.watch_s)

    async def _run(self, supervisor: Supervisor, body: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        """Run a supervisor; its crash is the engine's."""
        try:
            with trio.CancelScope(shield=True):  # whatever is cancelled around the engine, it is closed in order
                await supervisor.run(task_status=task_status)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the body must hear of it, and all be closed
            self.failure = self.failure or error
            logger.error("the engine crashed", exc_info=error)
            self._router.refuse(self.failed())
            body.cancel()

    def failed(self) -> EngineFailed:
        """Return the crash as an error to raise."""
        error = EngineFailed(f"the engine crashed: {self.failure!r}; open a new one")
        error.__cause__ = self.failure
        return error

    async def stop(self) -> None:
        """Refuse new work, undo swaps before their pivot, let what runs end, close every model that nobody holds."""
        if self.is_orphan:
            self._leave_child()
            return
        self._keeper.stop()  # first: nothing is loaded or swapped any more that nobody ordered
        self._recovery.stop()
        self._desires.flush(self._is_on_trial)
        if self.failure is None:
            self._router.refuse(EngineClosed("the engine is closed; use it inside its `async with` block"))
        if self.failure is None:
            await self._wind_down()
        for version in self._versions.values():
            if version.loaded is not None:
                version.post(DrainOrder(Drain(0)))  # whoever still waits for holders waits no longer
        for saga in self._slots.everybody():
            if isinstance(saga, Saga) and not saga.has_begun:
                saga.over()
        for saga in self._sagas.values():
            saga.expose()
        await self._saga_supervisor.stop()
        await self._version_supervisor.stop()
        with trio.move_on_after(self._settings.close_timeout_s):
            await self._host.quiet()
        with trio.move_on_after(max(self._settings.close_timeout_s, 1.0)):  # or the next engine finds it in use
            await self._journal.close()
        self._waits.give_up()
        self._host.replies.give_up()
        for home in tuple(self._host.homes):  # loops in other threads come and go meanwhile
            home.give_up_soon()
        self._bus.close()

    async def _wind_down(self) -> None:
        """Do what can be done in `close_timeout_s`."""
        with trio.move_on_after(self._settings.close_timeout_s) as in_time:
            await self._end_all()
        if sites.ON and in_time.cancelled_caught:
            sites.sometimes("close-timeout-spent")

    async def _end_all(self) -> None:
        """Turn round the swaps that can be, then empty every version; sagas past their pivot end with their drains."""
        turned = [saga for saga in self._slots.everybody() if isinstance(saga, Saga)]
        for saga in turned:
            if saga.is_before_pivot:
                saga.turn(SwapState.CANCELLED, why="the engine was closed")
        for saga in turned:
            await saga.ended.over()
        drain = Drain(self._settings.close_timeout_s)
        orders = [(version, DrainOrder(drain)) for version in self._versions.values() if version.loaded is not None]
        for version, order in orders:
            version.post(order)
        for _, order in orders:
            await order.closed.over()
        for saga in list(self._sagas.values()):
            await saga.ended.over()

    def orphan(self) -> None:
        """Refuse everything, in a forked process: what the engine stands on has stayed in the other one."""
        self.is_orphan = True
        text = "this engine was opened before this process was forked; open one in the child"
        self._router.refuse(EngineClosed(text))
        for version in self._versions.values():
            version.loaded = None  # it is the parent's, who closes it
        self._host.orphan()

    def _leave_child(self) -> None:
        """Let the tasks end where they are; nobody is left to answer them."""
        for saga in self._sagas.values():
            saga.expose()
        for supervisor in (self._saga_supervisor, self._version_supervisor):
            supervisor.drop()

    def settle_accounts(self, *, strict: bool) -> None:
        """Log what is still held; raises `ReferenceLeakError` where that is not allowed."""
        if self.is_orphan:
            return  # what is held is the parent's
        audit = self.audit()
        for key, holders in audit.holders.items():
            for holder in holders:
                logger.warning("still held when the engine was closed: %s: %s", key, holder)
        if strict:
            audit.raise_for_leaks()


@asynccontextmanager
async def open_engine(
    *,
    repository: Path | str | None = None,
    watch_s: float | None = 2.0,
    journal: Path | str | None = None,
    durability: Durability = "process",
    memory_budget_bytes: int | None = None,
    debug_references: bool = False,
    strict_references: bool = False,
    close_timeout_s: float = 10.0,
    stuck_loads_max: int = 8,
    ports: Ports | None = None,
) -> AsyncGenerator[Engine, None]:
    """Open an engine for the block, and close it behind it.

    What the `repository` holds is registered at the start, and what comes into it every `watch_s` seconds; None: only
    with `scan()`.

    The `journal` is a SQLite file of open and past swaps and of what is active, from which the next engine goes on;
    None: in memory. It survives the end of the process, with `durability="power"` also that of the computer. Raises
    `JournalInUse` and `JournalFailed`.

    Closing undoes swaps before their pivot, drains every version for `close_timeout_s` and closes what nobody holds;
    what is still held is logged, or raised as `ReferenceLeakError` with `strict_references`. A body's own exception
    comes out as it is. A crash of the engine cancels the body and raises `EngineFailed`. `ports` is for simulators.
    """
    settings = Settings(
        repository=Path(repository) if repository is not None else None,
        watch_s=None if watch_s is None else seconds("watch_s", watch_s, zero=False),
        memory_budget_bytes=None if memory_budget_bytes is None else count("memory_budget_bytes", memory_budget_bytes),
        debug_references=debug_references,
        close_timeout_s=seconds("close_timeout_s", close_timeout_s),
        stuck_loads_max=count("stuck_loads_max", stuck_loads_max),
    )
    ports = ports or _system_ports()
    engine = _Running(settings, ports, ports.journal or _journal(journal, durability, ports))
    fork.tell(engine)
    error: BaseException | None = None
    with trio.CancelScope() as whole:
        async with trio.open_nursery() as nursery:
            try:
                with trio.CancelScope() as body:
                    await engine.start_in(nursery, body)
                    yield engine
            except BaseException as raised:  # noqa: BLE001 - it is raised again below, outside of the nursery's group
                error = raised
            whole.shield = True
            await engine.stop()
    interruption = _interruption(engine.failure)
    if interruption is not None:
        raise interruption
    if engine.failure is not None and (error is None or isinstance(error, Exception)):
        raise _both(engine.failed(), error)
    engine.settle_accounts(strict=strict_references and error is None)
    if error is not None:
        raise error


def _journal(path: Path | str | None, durability: Durability, ports: Ports) -> Journal:
    """Return a journal that is not open yet; raises `InvalidValue`."""
    if durability not in ("process", "power"):
        raise InvalidValue(f'durability must be "process" or "power", not {durability!r}')
    if path is None:
        return MemoryJournal()
    if not is_path(path):
        raise InvalidValue(f"journal must name a file, not {path!r}")
    from changeover.runtime.sqlite_journal import SqliteJournal  # noqa: PLC0415 - SQLite is for those who have a file

    return SqliteJournal(Path(path), ports, durability)


def _system_ports() -> Ports:
    """Return the real world; raises `WrongLoop` outside of Trio."""
    try:
        return Ports.system()
    except RuntimeError:
        raise WrongLoop(
            "changeover.open_engine works inside a Trio run; from asyncio use changeover.aio.open_engine, from plain "
            "threads changeover.threads.open_engine"
        ) from None


def _interruption(failure: BaseException | None) -> BaseException | None:
    """Return what is no crash: a Ctrl-C, say, that came in the middle of one of the engine's own steps."""
    while isinstance(failure, BaseExceptionGroup):
        failure = cast("BaseExceptionGroup[BaseException]", failure).exceptions[0]
    return None if isinstance(failure, Exception) else failure


def _both(failed: EngineFailed, error: Exception | None) -> ChangeoverError:
    """Return the engine's crash, with what the body made of it."""
    if error is not None and not isinstance(error, EngineFailed):
        failed.add_note(f"the body raised too: {describe(error)}")
    return failed
