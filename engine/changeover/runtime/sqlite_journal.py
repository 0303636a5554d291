"""The journal in a file: SQLite with a write-ahead log, in one thread that alone touches the file.

A `SqliteJournal` owns the queue to that thread, which `open` starts and `close` ends; it ends by itself, too, when the
journal is forgotten or the loop is gone. Nothing here blocks, and nothing but the thread knows the connection.
"""

from __future__ import annotations

import queue
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import trio

from changeover.core.records import Entry, Kept
from changeover.errors import JournalFailed
from changeover.runtime import fork
from changeover.runtime.ports import Ports, Wake

if TYPE_CHECKING:
    from changeover.runtime.sqlite_file import SqliteFile

Durability = Literal["process", "power"]
"""What must not lose anything: that the process is killed, or also that the power fails."""

LOOK_EVERY_S = 60.0
"""How often a thread without work looks whether its loop is still there."""


class Order(NamedTuple):
    """One thing to write."""

    entry: Entry
    deliver: Callable[[Exception | None], None]


class Anew(NamedTuple):
    """The order to set the file aside and begin with nothing."""

    reason: str
    newer: bool


Orders = queue.SimpleQueue[Order | Anew | None]
"""First in, first out; None ends the thread."""


class Opening:
    """What the loop knows of one thread; it never knows the journal, which may be forgotten while the thread runs."""

    def __init__(self) -> None:
        """Begin with a thread that has not answered."""
        self.orders: Orders = queue.SimpleQueue()
        self.closing = False
        self.kept: Kept | None = None
        self.error: BaseException | None = None
        self.answered = trio.Event()
        self.over = trio.Event()

    async def answer(self) -> Kept:
        """Wait for what the file holds; cancelled, or where that fails, it is closed. Raises as `Journal.open`."""
        try:
            await self.answered.wait()
        except BaseException:
            self.end()
            raise
        if self.kept is None:
            raise self.error if isinstance(self.error, JournalFailed) else self.refusal()
        kept, self.kept = self.kept, None  # it may be large
        return kept

    def end(self) -> None:
        """Have the thread end, behind all that was ordered."""
        if not self.closing:
            self.closing = True
            self.orders.put(None)

    def opened(self, kept: Kept) -> None:
        """Note that the file is open."""
        self.kept = kept
        self.answered.set()

    def ended(self, error: BaseException | None) -> None:
        """Note that the thread has ended; what it has left undone has failed."""
        self.error = error
        self.answered.set()
        self.over.set()
        while not self.orders.empty():
            if isinstance(order := self.orders.get(), Order):
                order.deliver(self.refusal())

    def refusal(self) -> JournalFailed:
        """Return why nothing can be done."""
        failed = JournalFailed("the journal is closed" if self.error is None else f"the journal failed: {self.error}")
        failed.__cause__ = self.error
        return failed


class SqliteJournal:
    """A journal in a file, which may be opened again when it was closed."""

    def __init__(self, path: Path, ports: Ports, durability: Durability = "process") -> None:
        """Keep swaps at `path`, so that nothing is lost when the process is killed, or also when the power fails."""
        self._path = path
        self._ports = ports
        self._durability: Durability = durability
        self._opening: Opening | None = None

    async def open(self) -> Kept:
        """Open it and return what it holds; cancelled, the thread closes what it opens.

        Raises `JournalInUse` where another engine has it, and `JournalFailed`.
        """
        assert self._opening is None or self._opening.over.is_set(), "it is open"
        self._opening = opening = Opening()
        fork.tell(self)
        self._ports.offload.start(
            "journal",
            partial(_keep, self._path, self._durability, self._ports, opening.orders, opening.opened),
            lambda _none, error: opening.ended(error),
        )
        weakref.finalize(self, opening.orders.put, None).atexit = False
        return await opening.answer()

    def write(self, entry: Entry, deliver: Callable[[Exception | None], None]) -> None:
        """Order an entry to be kept."""
        opening = self._opening
        if opening is None or opening.closing or opening.over.is_set():
            self._ports.wake.soon(partial(deliver, (opening or Opening()).refusal()))
        else:
            opening.orders.put(Order(entry, deliver))

    async def begin_anew(self, reason: str, *, newer: bool = False) -> Kept:
        """Set aside what `open` has returned and begin with nothing; cancelled, or where that fails, it is closed."""
        opening = self._opening
        if opening is None or opening.closing or opening.over.is_set():
            raise (opening or Opening()).refusal()
        opening.answered = trio.Event()
        opening.orders.put(Anew(reason, newer))
        return await opening.answer()

    async def close(self) -> None:
        """Write what was ordered, move it all into one file, and let go of it; cancelled, the thread does it alone."""
        if self._opening is None:
            await trio.lowlevel.checkpoint()
            return
        self._opening.end()
        await self._opening.over.wait()

    def orphan(self) -> None:
        """Be closed, in a forked child: the thread and the file are the parent's."""
        self._opening = None


def _keep(path: Path, durability: Durability, ports: Ports, orders: Orders, opened: Callable[[Kept], None]) -> None:
    """Open the file and carry out orders until the end; it runs in the thread, whose frames alone know the file.

    A forked child has no such frames, and so never closes it (`test_a_forked_child_leaves_the_file_alone`).
    """
    from changeover.runtime.sqlite_file import SqliteFile  # noqa: PLC0415 - SQLite, which not every engine needs

    file = SqliteFile(path, durability, ports.clock.wall)
    there = ports.wake.soon(partial(opened, file.open()))
    try:
        while (order := _next(orders, ports.wake, there=there)) is not None:
            if isinstance(order, Anew):
                there = ports.wake.soon(partial(opened, file.begin_anew(order.reason, newer=order.newer)))
            else:
                there = _carry_out(file, order, ports.wake)
            del order  # who waits for it may be forgotten from now on, and the journal with it
            file.tidy()
    finally:
        file.close()


def _next(orders: Orders, wake: Wake, *, there: bool) -> Order | Anew | None:
    """Wait for an order; None at the end, and where nobody is there and nothing is left to do."""
    while True:
        try:
            return orders.get(timeout=LOOK_EVERY_S) if there else orders.get_nowait()
        except queue.Empty:
            if not there:
                return None
            there = wake.soon(_nothing, idempotent=True)


def _carry_out(file: SqliteFile, order: Order, wake: Wake) -> bool:
    """Write one entry and deliver the outcome; False where nobody is there any more."""
    error: JournalFailed | None = None
    try:
        file.write(order.entry)
    except JournalFailed as failed:
        error = failed
    return wake.soon(partial(order.deliver, error))


def _nothing() -> None:
    """Be called, so that one knows that somebody is there."""
