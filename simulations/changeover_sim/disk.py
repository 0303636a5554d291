"""A disk in the virtual world: what a journal has written outlives the engine, or is lost as on a real one.

A disk owns its entries, what was ordered and is not written yet, its faults, and who has the journal open. Each entry
is a piece of work called "journal" of its world, which ends with that. It sleeps on no clock and touches no file.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import attrs
import trio

from changeover.core import wire
from changeover.core.operations import SetAside
from changeover.core.records import DesiredVersion, Entry, Kept, SwapRecord
from changeover.errors import JournalFailed, JournalInUse
from changeover.runtime.journal import Rows
from changeover.runtime.ports import Journal, Offload

Durability = Literal["process", "power"]
Trouble = Literal["full", "read-only", "fsync", "slow", "hung"]
Which = int | Callable[[Entry], bool]
"""An entry by how many were ordered before it, or all entries of which this is true."""
Choose = Callable[[Sequence[int]], int]
"""Takes one of some numbers: `min`, `max`, or the explorer's own `choose`."""
Deliver = Callable[[Exception | None], None]

WORK = "journal"
"""What the writing of an entry is called in a world's durations."""

_ERRNO: dict[Trouble, int] = {"full": errno.ENOSPC, "read-only": errno.EROFS, "fsync": errno.EIO}


class Place(Protocol):
    """Where a disk stands: a `World`."""

    @property
    def threads(self) -> Offload:
        """What does its work."""
        ...

    @property
    def durations(self) -> dict[str, float | trio.Event]:
        """How long that takes, by name."""
        ...


@attrs.frozen
class Fault:
    """What is wrong with the disk, and for which entries."""

    which: Which
    trouble: Trouble
    takes: float | trio.Event
    """How long the writing takes: seconds, or until the event is set; 0 where it fails at once."""

    def meets(self, order: Order) -> bool:
        """Return whether an order is one of those that it is about."""
        if order.entry is None:
            return False
        return self.which == order.number if isinstance(self.which, int) else self.which(order.entry)


@attrs.define(eq=False)
class Order:
    """An entry that was ordered and not delivered yet; the last one of a journal that is closed has no entry."""

    journal: VirtualJournal
    number: int
    """How many entries were ordered on this disk before it."""
    entry: Entry | None
    deliver: Deliver
    refused: bool = False
    """Ordered from a journal that was not open."""


class VirtualJournal:
    """A journal on a virtual disk, for one engine."""

    def __init__(self, disk: VirtualDisk, durability: Durability, sync_every: int) -> None:
        """Be closed, until it is opened."""
        self.durability: Durability = durability
        self.sync_every = sync_every
        self.is_open = False
        self.killed = False
        self.buried = trio.Event()
        """Set when what it waits for fails at last."""
        self.has_let_go = trio.Event()
        self.has_let_go.set()
        self._disk = disk

    async def open(self) -> Kept:
        """Return what is on the disk; where its engine is killed meanwhile it never returns, and once buried raises.

        Cancelled, it is not open. Raises `JournalInUse` while another one has it open.
        """
        self._disk.opening.append(self)
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._disk.opening.remove(self)
        if self.killed:
            await self.buried.wait()
            raise killed()
        self._disk.take(self)
        self.is_open, self.has_let_go = True, trio.Event()
        return self._disk.kept()

    async def begin_anew(self, reason: str, *, newer: bool = False) -> Kept:
        """Forget all that is on the disk; once its engine was killed it changes nothing, and raises when buried."""
        await trio.lowlevel.checkpoint()
        if self.killed:
            await self.buried.wait()
            raise killed()
        self._disk.forget()
        return Kept(set_aside=SetAside("disk", reason))

    def write(self, entry: Entry, deliver: Deliver) -> None:
        """Order an entry; once its engine was killed nothing comes of that."""
        self._disk.order(self, entry, deliver)

    async def close(self) -> None:
        """Return when all that was ordered is written and synced, and another engine can open it; or it is killed.

        Cancelled, that goes on by itself.
        """
        if self.is_open:
            self.is_open = False
            self._disk.order(self, None, lambda _error: self.has_let_go.set())
        await self.has_let_go.wait()


class VirtualDisk:
    """A disk with one journal on it: every entry is ordered, then written, then synced."""

    def __init__(self, place: Place, entries: Iterable[Entry] = ()) -> None:
        """Do its work in `place`, and hold some entries from the start, which are synced."""
        self.opening: list[VirtualJournal] = []
        """Those that are being opened."""
        self._place = place
        self._entries = list(entries)
        self._synced = self._ordered = len(self._entries)
        self._orders: deque[Order] = deque()
        self._making: Order | None = None
        self._faults: list[Fault] = []
        self._holder: VirtualJournal | None = None
        self._dead: list[VirtualJournal] = []
        self._unheard: list[Deliver] = []

    # --- what is on it ----------------------------------------------------------------------------------------------

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is on the disk, in order."""
        return tuple(self._entries)

    @property
    def synced(self) -> int:
        """How many of its entries a power cut leaves."""
        return self._synced

    def after(self, count: int, place: Place | None = None) -> VirtualDisk:
        """Return a disk, in another world where one is named, that holds the first `count` entries of this one."""
        assert 0 <= count <= len(self._entries), f"{count} of {len(self._entries)} entries"
        return VirtualDisk(place or self._place, self._entries[:count])

    def forget(self) -> None:
        """Lose all that is on it, as a file that was set aside."""
        self._entries, self._synced = [], 0

    def kept(self) -> Kept:
        """Return what an engine finds that opens it now."""
        rows = Rows()
        for entry in self._entries:
            rows.apply(entry)
        return rows.kept()

    def records(self) -> list[SwapRecord]:
        """Return every boundary of every swap that is on the disk, in the order in which they were written."""
        return [record for entry in self._entries for record in swaps_of(entry)]

    def desired(self) -> dict[str, DesiredVersion]:
        """Return by model which version shall be active."""
        return {model: wire.decode(DesiredVersion, data) for model, data in self.kept().desired.items()}

    def lines(self) -> list[str]:
        """Return each entry in short: `load`, `undo load`, `completed; m: 2`, `m: none`."""
        return [line_of(entry) for entry in self._entries]

    # --- engines and their ends -------------------------------------------------------------------------------------

    def journal(self, durability: Durability = "process", *, sync_every: int = 100) -> Journal:
        """Return a journal for one engine.

        With "power" an entry is synced before it is delivered; with "process" all are with every `sync_every`-th one
        that is written, and when it is closed.
        """
        assert sync_every >= 1, "it syncs with every so many entries"
        return VirtualJournal(self, durability, sync_every)

    def kill(self, choose: Choose = min) -> None:
        """End the process that has the journal open, or else is opening it: nothing is delivered to it any more.

        `choose` is asked how many entries are on the disk then: all that were delivered, and any number of those that
        were ordered behind them, which fail to be reported only.
        """
        self._stop([self._holder] if self._holder else self.opening, len(self._entries), choose)

    def power_cut(self, choose: Choose = min) -> None:
        """End every process: as `kill`, and of what was written and not synced only a prefix is on the disk."""
        self._stop([*self.opening, *([self._holder] if self._holder else [])], self._synced, choose)
        self._synced = len(self._entries)

    def bury(self) -> None:
        """Fail all that those who were killed wait for, and will order yet, so that Trio can unwind their tasks."""
        for journal in self._dead:
            journal.buried.set()
        unheard, self._dead, self._unheard = self._unheard, [], []
        for deliver in unheard:
            deliver(killed())

    # --- faults -----------------------------------------------------------------------------------------------------

    def fails(self, which: Which, trouble: Trouble, takes: float | trio.Event = 0.0) -> None:
        """Have trouble with one entry, or with all of which `which` is true, until it is healed.

        "full" and "read-only": nothing is kept; "fsync": nothing can be synced, so that with "power" it is not kept;
        "slow": it takes so many seconds; "hung": until the event is set. The first three may take their time as well.
        Raises ValueError for a slow one with an event, or one that hangs without.
        """
        if trouble in ("slow", "hung") and isinstance(takes, trio.Event) is (trouble == "slow"):
            raise ValueError(f"{trouble!r} takes {'seconds' if trouble == 'slow' else 'an event'}, not {takes!r}")
        self._faults.append(Fault(which, trouble, takes))

    def heal(self, *troubles: Trouble) -> None:
        """Switch faults off, those of some kinds or all; what hangs by one goes on."""
        for fault in self._faults:
            if isinstance(fault.takes, trio.Event) and (not troubles or fault.trouble in troubles):
                fault.takes.set()
        self._faults = [fault for fault in self._faults if troubles and fault.trouble not in troubles]

    # --- for journals -----------------------------------------------------------------------------------------------

    def take(self, journal: VirtualJournal) -> None:
        """Let a journal have it, alone."""
        if self._holder is not None:
            raise JournalInUse("the journal on this disk is open in another engine; give each a disk of its own")
        self._holder = journal

    def order(self, journal: VirtualJournal, entry: Entry | None, deliver: Deliver) -> None:
        """Write an entry behind all others; None: let the journal go."""
        if journal.buried.is_set():
            deliver(killed())
            return
        if journal.killed:
            self._unheard.append(deliver)
            return
        order = Order(journal, self._ordered, entry, deliver, refused=entry is not None and not journal.is_open)
        self._ordered += entry is not None
        self._orders.append(order)
        self._begin()

    def _begin(self) -> None:
        """Begin with what is first in line, unless that is being made already."""
        if not self._orders or self._orders[0] is self._making:
            return
        order = self._making = self._orders[0]
        name = WORK
        for fault in self._faults:
            if fault.takes != 0.0 and fault.meets(order):
                name = f"{WORK} {order.number}"
                self._place.durations[name] = fault.takes
                break
        self._place.threads.start(name, lambda: None, lambda _value, _error: self._made(order))

    def _made(self, order: Order) -> None:
        """Keep an entry whose time is up, and deliver; where its engine was killed meanwhile nothing comes of it."""
        if order is not self._making:
            return
        self._orders.popleft()
        error = self._error(order)
        if order.entry is None:
            self._holder, self._synced = None, len(self._entries)
        elif error is None:
            self._keep(order, order.entry)
        order.deliver(error)
        self._begin()

    def _keep(self, order: Order, entry: Entry) -> None:
        self._entries.append(entry)
        due = order.journal.durability == "power" or len(self._entries) - self._synced >= order.journal.sync_every
        if due and not any(fault.trouble == "fsync" and fault.meets(order) for fault in self._faults):
            self._synced = len(self._entries)

    def _error(self, order: Order) -> JournalFailed | None:
        """Return why nothing of an entry is kept; None where all of it is."""
        if order.refused:
            return JournalFailed("the journal is not open")
        for fault in self._faults:
            number = _ERRNO.get(fault.trouble)
            spared = fault.trouble == "fsync" and order.journal.durability == "process"
            if number is not None and not spared and fault.meets(order):
                error = JournalFailed(f"the journal could not be written: {fault.trouble}")
                error.__cause__ = OSError(number, fault.trouble)
                return error
        return None

    def _stop(self, dying: Iterable[VirtualJournal], least: int, choose: Choose) -> None:
        """End some; of what could be on the disk `least` entries are, and as many more as chosen."""
        ordered = [order.entry for order in self._orders if order.entry is not None and self._error(order) is None]
        could = [*self._entries, *ordered]
        count = choose(range(least, len(could) + 1))
        assert least <= count <= len(could), f"{count} of {least} to {len(could)} entries"
        self._entries = could[:count]
        self._unheard += [order.deliver for order in self._orders]
        self._orders.clear()
        self._making = self._holder = None
        for journal in dying:
            journal.killed, journal.is_open = True, False
            journal.has_let_go.set()
            self._dead.append(journal)


def swaps_of(entry: Entry) -> list[SwapRecord]:
    """Return the swaps of an entry, decoded."""
    return [wire.decode(SwapRecord, row.record) for row in entry.swaps]


def line_of(entry: Entry) -> str:
    """Return an entry in short."""
    parts = [_boundary(record) for record in swaps_of(entry)]
    for model, data in entry.desired.items():
        parts.append(f"{model}: {'none' if data is None else wire.decode(DesiredVersion, data).version}")
    return "; ".join(parts)


def _boundary(record: SwapRecord) -> str:
    if record.operation.state.ended:
        return record.operation.state.value
    step = record.progress.step.value
    return step if record.progress.forward else f"undo {step}"


def killed() -> JournalFailed:
    """Return what the dead hear, each an error of his own."""
    return JournalFailed("the process was killed")
