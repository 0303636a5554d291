"""Promise 9: recovery is idempotent, a synced entry is never lost, and the disk makes sense whenever the process ends.

Reads the disk by its own rules, entry by entry, and holds every engine against what its predecessor has left. It looks
at the simulated disk, which is no part of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from changeover import Member, SwapOperation, SwapState
from changeover.core.records import Entry
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.reading import Reading, read

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.life import Life
    from changeover_sim.simulate.run import Run

_TROUBLES = ("journal-full", "journal-fsync")
"""The faults by which an entry is not kept; others only delay it."""
_DELAYS = (*_TROUBLES, "journal-slow", "journal-hung")
_ALL = 10_000
_WELL = ("restored", "finished", "undone")
"""The results of a recovery that has found versions which can be loaded."""


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
        self._left = Reading()
        """What the life before has left."""
        self._told: dict[str, SwapOperation] = {}
        """The swaps of this life that were told to have ended."""
        self._recovered: dict[str, str | None] = {}
        """By model, what it was brought back with."""
        self._results: dict[str, str] = {}
        self._troubles = self._delays = 0
        """How many entries had failed when this life began, and how many had failed or come late."""
        self._active: dict[str, str | None] = {}
        """By model, what has its traffic; behind the end of that, what a swap gave it back to."""
        self._failed: set[tuple[str, str]] = set()
        """Versions that have failed, and were not ready since."""
        self._went: set[tuple[str, str]] = set()
        """Versions that were ready in this life and are not any more."""
        self._ready: set[tuple[str, str]] = set()
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
        self._left = read(self._entries)
        self._told, self._recovered, self._results = {}, {}, {}
        self._went, self._ready, self._failed = set(), set(), set()
        self._troubles, self._delays = self._struck(), self._struck(*_DELAYS)
        self._active = {}
        waiting = {model for unit in life.engine.recovery().waiting for model in unit.models}
        forgotten = sorted(self._left.meant.keys() - waiting)
        self.holds(not forgotten, f"the journal speaks of {forgotten}, and nobody brings them back")
        for swap_id in self._left.open:
            operation = life.engine.swap_status(swap_id)
            self.holds(operation.state is SwapState.RECOVERING, f"{_short(operation)} is open on the disk")

    def died(self, life: Life) -> None:
        """See that what was told is kept, and that nothing that was synced is lost."""
        disk = self.run.desk.disk
        before = self._entries
        self._read_anew()
        kept = before if life.ending.how == "kill" else before[: min(len(before), disk.synced)]
        same = len(self._entries) >= len(kept) and all(a is b for a, b in zip(kept, self._entries, strict=False))
        self.holds(same, f"{len(kept)} entries were to outlive {life.ending.how}, and {len(self._entries)} are left")
        if life.ending.how == "kill" or self.run.shape.durability == "power":
            for operation in self._told.values():
                self._is_kept(operation)

    def _is_kept(self, told: SwapOperation) -> None:
        """See that a swap which was told to have ended is on the disk as told; one that never began may be missing."""
        record = self._reading.swaps.get(told.id)
        if not told.steps or self._struck() > self._troubles:
            return  # what is owed is written with the next entry, and there was none
        kept = record.operation.state if record is not None else None
        self.holds(kept is told.state, f"{_short(told)}, as everybody was told; on the disk it is {kept}")

    def _struck(self, *faults: str) -> int:
        return sum(self.run.faults.struck[name] for name in faults or _TROUBLES)

    # --- what an engine brings back -----------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Hear of ends and of recoveries."""
        if event.kind == "swap_state" and SwapState(event.detail["state"]).ended:
            self._on_end(life, event)
        elif event.kind == "version_state":
            self._on_state(life, (str(event.model), str(event.version)), str(event.detail["state"]))
        elif event.kind == "traffic_shifted":
            self._active[str(event.model)] = event.detail["to"]
        elif event.kind == "model_recovered":
            self._is_brought_back(life, event)

    def _on_end(self, life: Life, event: Event) -> None:
        operation = life.engine.swap_status(str(event.swap_id))
        if event.model != operation.members[0].model:
            return  # of a group it is told once for each model
        self._told[operation.id] = operation
        if operation.id in self._left.swaps:
            self._is_ended_as_left(life, operation)
        if life.closing and operation.steps and operation.state is not SwapState.COMPLETED:
            self._is_left(operation)

    def _is_left(self, operation: SwapOperation) -> None:
        """Hear of a swap that has not come to its end when its engine did; its traffic is its old version's again.

        Of one that was cut off nobody knows more than the disk says, unless it only had to be finished.
        """
        was_finished = any(one.step == "drain" for one in operation.steps)
        was_finished &= all(one.compensation == "none" for one in operation.steps)
        for member in operation.members:
            if not self._is_cut_off(operation):
                self._active[member.model] = member.from_version
            elif not was_finished:
                self._active.pop(member.model, None)

    def _on_state(self, life: Life, key: tuple[str, str], state: str) -> None:
        if state == "ready":
            self._ready.add(key)
            if not life.closing:  # else it gets no traffic any more
                self._failed.discard(key)
        elif key in self._ready:
            self._went.add(key)
        if state == "failed":
            self._failed.add(key)

    def _is_ended_as_left(self, life: Life, operation: SwapOperation) -> None:
        """See that a swap which its process has left open ends as the disk says."""
        end = self._left.open.get(operation.id)
        if end is None:
            self.broken(f"{_short(operation)} had ended in an earlier process, and ends again")
            return
        went_back = end is SwapState.COMPLETED and operation.state is SwapState.ROLLED_BACK
        nobody = operation.state is SwapState.FAILED and operation.aftermath is not None
        said = operation.error_message or ""
        excused = (went_back or nobody) and self._may_fail(life, said)
        self.holds(operation.state is end or excused, f"{_short(operation)} ({said}), and the disk says {end}")
        self.holds(operation.end_time is not None and said, f"{_short(operation)} says not why")

    def _may_fail(self, life: Life, said: str) -> bool:
        """Return whether a version could not be had any more: where all goes well, only because there is no room."""
        return bool(self._failed) and (not life.calm or "OverBudget" in said)

    def _is_brought_back(self, life: Life, event: Event) -> None:
        """See that a model is as its predecessor has left it: pivot written, the new version serves, else the old."""
        model, result, said = str(event.model), event.detail["result"], str(event.detail["error"])
        active = self._recovered[model] = event.detail["active"]
        self._results[model] = result
        meant = self._left.meant.get(model)
        if result in ("failed", "given_up"):
            self.holds(self._may_fail(life, said), f"{model}/{meant} could not be brought back: {said}")
            return
        finished = [
            self._left.swaps[swap_id].operation for swap_id in sorted(self._left.moved & self._left.open.keys())
        ]
        mine = [operation for operation in finished if model in _models(operation)]
        expected = {meant}
        if result == "undone" and self._may_fail(life, said):
            expected |= {member.from_version for one in mine for member in one.members if member.model == model}
        fits = active in expected or any((model, str(version)) in self._went for version in expected)
        self.holds(fits, f"{model} was {result} with {active}, and the disk says {meant}")
        for operation in mine:
            self._is_whole(operation)
            told = self._told.get(operation.id)
            if told is not None and told.state is SwapState.COMPLETED and meant != active:
                brought = [member for member in told.members if member.model == model and member.to_version == meant]
                self.holds(not brought or (model, str(meant)) in self._went, f"{_short(told)}, and {active} serves")

    def _is_whole(self, operation: SwapOperation) -> None:
        """See that a group was brought back as one: all of it new, or none of it."""
        members = [member for member in operation.members if member.model in self._recovered]
        is_last = all(self._left.meant.get(member.model) == member.to_version for member in operation.members)
        went = any((member.model, version) in self._went for member in members for version in _versions(member))
        if is_last and not went and all(self._results[member.model] in _WELL for member in members):
            sides = {self._recovered[member.model] == member.to_version for member in members}
            self.holds(len(sides) == 1, f"{_short(operation)}, of which is brought back {self._recovered}")

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
            before = self._left.swaps.get(operation.id)
            if before is not None and before.operation.state.ended:
                self.holds(operation == before.operation, f"{_short(operation)} was changed behind its end")
        if life.calm:
            self._is_calm(life, rest)

    def _is_calm(self, life: Life, rest: Rest) -> None:
        waiting = life.engine.recovery().waiting
        self.holds(not waiting, f"everything is registered, and not recovered: {waiting}")
        first, self._calm = self._calm, rest
        if first is not None:
            lost = {model for model, result in self._results.items() if result == "failed"}
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
            self.holds(fits, f"the engine is closed, and {_short(operation)} is kept as {kept}")
        for model, version in self._active.items():
            self._is_wanted(model, version)

    def _is_cut_off(self, operation: SwapOperation) -> bool:
        """Return whether the engine did not wait for the end of a swap, which it may have ordered to be written."""
        said = operation.error_message or ""
        is_open = operation.state is SwapState.RECOVERING or operation.id in self._reading.open
        return is_open or "the engine was closed before the swap ended" in said

    def _is_wanted(self, model: str, version: str | None) -> None:
        """See that what had the traffic when an engine was closed is what its successor will bring back."""
        wanted = self._reading.wanted.get(model)
        if any(model in _models(self._reading.swaps[swap_id].operation) for swap_id in self._reading.open):
            return  # how that swap ends decides about it
        if version is not None:
            self.holds(wanted == version, f"{model}/{version} was active at the end, and the disk wants {wanted}")
        elif wanted is not None:  # who has failed is wanted still: another process may have more luck with it
            failed = (model, wanted) in self._failed
            self.holds(failed, f"{model} had no traffic at the end, and the disk wants {wanted}, which did not fail")


def _ends(operations: tuple[SwapOperation, ...]) -> dict[str, Any]:
    return {operation.id: (operation.state.value, operation.end_time) for operation in operations}


def _short(operation: SwapOperation) -> str:
    return (
        f"swap {operation.id} of {operation.model} from {operation.from_version} to {operation.to_version} "
        f"is {operation.state.value}"
    )


def _models(operation: SwapOperation) -> set[str]:
    return {member.model for member in operation.members}


def _versions(member: Member) -> tuple[str, str]:
    return member.from_version, member.to_version


def _in_short(entry: Entry) -> str:
    from changeover_sim.disk import line_of  # noqa: PLC0415 - only a failure wants it

    return line_of(entry)
