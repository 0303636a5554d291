"""Promise 9: recovery is idempotent, a synced entry is never lost, and the disk makes sense whenever the process ends.

Reads the disk by its own rules, entry by entry, and holds every engine against what its predecessor has left. It looks
at the simulated disk, which is no part of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import trio

from changeover import SwapOperation, SwapState
from changeover.core.records import Entry
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.reading import Reading, read
from changeover_sim.oracles.recoveries import Recoveries, models_of, short

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.life import Life
    from changeover_sim.simulate.run import Run

_TROUBLES = ("journal-full", "journal-fsync")
"""The faults by which an entry is not kept; others only delay it."""
_DELAYS = (*_TROUBLES, "journal-slow", "journal-hung")
_ALL = 10_000
_A_WHILE_S = 2.0
"""So long may it take until who is active is written down, behind all that is ordered before it."""


@attrs.frozen
class Rest:
    """What an engine shows when nothing goes on."""

    active: Mapping[str, str | None]
    swaps: tuple[SwapOperation, ...]


class Promise09Journal(Oracle):
    """What was told is on the disk; what is on the disk is brought back; the second time nothing changes."""

    promise: ClassVar[int] = 9
    says: ClassVar[str] = "recovery is idempotent; a synced entry is never lost"

    def __init__(self, run: Run) -> None:
        """Have read nothing."""
        super().__init__(run)
        self._reading = Reading()
        self._entries: tuple[Entry, ...] = ()
        """Those that were read."""
        self._recoveries = Recoveries(Reading(), self.holds)
        self._troubles = self._delays = 0
        """How many entries had failed when this life began, and how many had failed or come late."""
        self._moved_s: dict[str, float] = {}
        """By model, when its traffic moved last."""
        self._active: dict[str, str | None] = {}
        """By model, what has its traffic; behind the end of that, what a swap gave it back to."""
        self._calm: Rest | None = None
        """How the first life without faults came to rest."""

    @property
    def _written(self) -> list[Entry]:
        return self.run.desk.disk._entries  # pyright: ignore[reportPrivateUsage] - a copy for each step would be dear

    # --- the disk -----------------------------------------------------------------------------------------------------

    def step(self, life: Life) -> None:
        """Read what is new."""
        if len(self._written) != len(self._entries):
            self._read_on()

    def _read_on(self) -> None:
        known, found = len(self._entries), tuple(self._written)
        self.judged += 1
        if len(found) < known:
            self.broken(f"{known - len(found)} entries have gone from the disk of a process that lives")
        self._take(found[known:])
        self._entries = found

    def _take(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            self.judged += 1
            try:
                self._reading.take(entry)
            except AssertionError as error:
                self.broken(f"the journal makes no sense behind {_in_short(entry)}: {error}")

    def _read_anew(self) -> None:
        """Read all of it: a death has taken some, or left what nobody was told of."""
        self._entries = tuple(self._written)
        try:
            self._reading = read(self._entries)
        except AssertionError as error:
            self.broken(f"what the process has left makes no sense: {error}")

    # --- lives --------------------------------------------------------------------------------------------------------

    def life_began(self, life: Life) -> None:
        """Hold the new engine against what is on the disk."""
        self._read_anew()
        left = read(self._entries)
        self._recoveries = Recoveries(left, self.holds)
        self._troubles, self._delays = self._struck(), self._struck(*_DELAYS)
        self._active = {}
        waiting = {model for unit in life.engine.recovery().waiting for model in unit.models}
        forgotten = sorted(left.meant.keys() - waiting)
        self.holds(not forgotten, f"the journal speaks of {forgotten}, and nobody brings them back")
        for swap_id in left.open:
            operation = life.engine.swap_status(swap_id)
            self.holds(operation.state is SwapState.RECOVERING, f"{short(operation)} is open on the disk")

    def died(self, life: Life) -> None:
        """See that what was told is kept, and that nothing that was synced is lost."""
        disk = self.run.desk.disk
        before = self._entries
        self._read_anew()
        kept = before if life.ending.how == "kill" else before[: min(len(before), disk.synced)]
        same = len(self._entries) >= len(kept) and all(a is b for a, b in zip(kept, self._entries, strict=False))
        self.holds(same, f"{len(kept)} entries were to outlive {life.ending.how}, and {len(self._entries)} are left")
        if life.ending.how == "kill" or self.run.shape.durability == "power":
            for operation in self._recoveries.told.values():
                self._is_kept(operation)
        if life.ending.how == "kill" and self._struck(*_TROUBLES, *_DELAYS) == 0:
            self._is_known(life)

    def _is_known(self, life: Life) -> None:
        """See that the disk wants something of every model that has had its traffic for a while, with no swap about."""
        busy = {member.model for one in life.engine.swaps(limit=_ALL) if not one.state.ended for member in one.members}
        for model, version in self._active.items():
            if version is not None and model not in busy and trio.current_time() - self._moved_s[model] > _A_WHILE_S:
                self.holds(
                    model in self._reading.wanted, f"{model}/{version} had the traffic, and the disk knows nothing"
                )

    def _is_kept(self, told: SwapOperation) -> None:
        """See that a swap which was told to have ended is on the disk as told; one that never began may be missing."""
        record = self._reading.swaps.get(told.id)
        if not told.steps or self._struck() > self._troubles:
            return  # what is owed is written with the next entry, and there was none
        kept = record.operation.state if record is not None else None
        self.holds(kept is told.state, f"{short(told)}, as everybody was told; on the disk it is {kept}")

    def _struck(self, *faults: str) -> int:
        return sum(self.run.faults.struck[name] for name in faults or _TROUBLES)

    # --- what an engine brings back -----------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Hear of ends and of recoveries."""
        if event.kind == "swap_state" and SwapState(event.detail["state"]).ended:
            self._on_end(life, event)
        elif event.kind == "version_state":
            self._recoveries.on_state(life, event)
        elif event.kind == "traffic_shifted":
            self._active[str(event.model)] = event.detail["to"]
            self._moved_s[str(event.model)] = trio.current_time()
        elif event.kind == "model_recovered":
            self._recoveries.on_recovered(life, event)

    def _on_end(self, life: Life, event: Event) -> None:
        operation = life.engine.swap_status(str(event.swap_id))
        if event.model != operation.members[0].model:
            return  # of a group it is told once for each model
        self._recoveries.on_end(life, operation)
        if life.closing and operation.steps and operation.state is not SwapState.COMPLETED:
            self._is_left(operation)

    def _is_left(self, operation: SwapOperation) -> None:
        """Hear of a swap that has not come to its end when its engine did; its traffic is its old version's again.

        Of one that was cut off nobody knows more than the disk says, unless it only had to be finished.
        """
        if not any(one.step == "shift" for one in operation.steps):
            return  # it has not come to move anything
        was_finished = any(one.step == "drain" for one in operation.steps)
        was_finished &= all(one.compensation == "none" for one in operation.steps)
        for member in operation.members:
            if not self._is_cut_off(operation):
                self._active[member.model] = member.from_version
            elif not was_finished:
                self._active.pop(member.model, None)

    # --- rest ---------------------------------------------------------------------------------------------------------

    def at_rest(self, life: Life) -> None:
        """Hold the engine against its own journal, and the second calm life against the first."""
        self._read_on()
        engine = life.engine
        models = sorted({part.model for part in self.run.shape.parts})
        # Asked version by version it would be the same.
        active = {model: engine._router.active(model) for model in models}  # pyright: ignore[reportPrivateUsage]
        rest = Rest(active, engine.swaps(limit=_ALL))
        for operation in rest.swaps:
            before = self._recoveries.left.swaps.get(operation.id)
            if before is not None and before.operation.state.ended:
                self.holds(operation == before.operation, f"{short(operation)} was changed behind its end")
        if life.calm:
            self._is_calm(life, rest)

    def _is_calm(self, life: Life, rest: Rest) -> None:
        waiting = life.engine.recovery().waiting
        self.holds(not waiting, f"everything is registered, and not recovered: {waiting}")
        first, self._calm = self._calm, rest
        if first is not None:
            lost = {model for model, result in self._recoveries.results.items() if result == "failed"}
            one, two = ({model: v for model, v in it.active.items() if model not in lost} for it in (first, rest))
            self.holds(one == two, f"recovered once: {one}; twice: {two}")
            once, twice = map(_ends, (first.swaps, rest.swaps))
            self.holds(once == twice, f"recovered once: {once}; twice: {twice}")

    def life_over(self, life: Life) -> None:
        """Hold the disk against what the engine was when its end began, unless that could not be written."""
        self._read_on()
        if life.ending.how != "close" and self._struck(*_DELAYS) > self._delays:
            return  # the end of an engine waits for its disk, but not for ever
        for operation in life.engine.swaps(limit=_ALL):
            record = self._reading.swaps.get(operation.id)
            kept = record.operation.state if record is not None else None
            fits = kept is operation.state or (life.ending.how != "close" and self._is_cut_off(operation))
            self.holds(fits, f"the engine is closed, and {short(operation)} is kept as {kept}")
        for model, version in self._active.items():
            if not self._was_tried(life, model, version):
                self._is_wanted(model, version)

    def _was_tried(self, life: Life, model: str, version: str | None) -> bool:
        """Return whether a version had its traffic as the new one of a swap that was undone by the engine's end.

        It may have had it before its time: where the old one crashed.
        """
        undone = [one for one in life.engine.swaps(limit=_ALL) if one.state is not SwapState.COMPLETED]
        return life.ending.how != "close" and any(
            (member.model, member.to_version) == (model, version) for one in undone for member in one.members
        )

    def _is_cut_off(self, operation: SwapOperation) -> bool:
        """Return whether the engine did not wait for the end of a swap, which it may have ordered to be written."""
        said = operation.error_message or ""
        is_open = operation.state is SwapState.RECOVERING or operation.id in self._reading.open
        return is_open or "the engine was closed before the swap ended" in said

    def _is_wanted(self, model: str, version: str | None) -> None:
        """See that what had the traffic when an engine was closed is what its successor will bring back."""
        wanted = self._reading.wanted.get(model)
        if any(model in models_of(self._reading.swaps[swap_id].operation) for swap_id in self._reading.open):
            return  # how that swap ends decides about it
        if version is not None:
            self.holds(wanted == version, f"{model}/{version} was active at the end, and the disk wants {wanted}")
        elif wanted is not None:  # who has failed is wanted still: another process may have more luck with it
            failed = (model, wanted) in self._recoveries.failed
            self.holds(failed, f"{model} had no traffic at the end, and the disk wants {wanted}, which did not fail")


def _ends(operations: tuple[SwapOperation, ...]) -> dict[str, Any]:
    return {operation.id: (operation.state.value, operation.end_time) for operation in operations}


def _in_short(entry: Entry) -> str:
    from changeover_sim.disk import line_of  # noqa: PLC0415 - only a failure wants it

    return line_of(entry)
