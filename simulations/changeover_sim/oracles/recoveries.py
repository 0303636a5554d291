"""How one engine brings back what its predecessor has left on the disk: held against a reading of that disk.

Owns what was brought back in one life, and which versions have come, gone and failed in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from changeover import Member, SwapOperation, SwapState
from changeover_sim.oracles.reading import Reading

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.life import Life

_WELL = ("restored", "finished", "undone")
"""The results of a recovery that has found versions which can be loaded."""


class Recoveries:
    """What one life has brought back."""

    def __init__(self, left: Reading, holds: Callable[[object, str], None]) -> None:
        """Have brought back nothing of what the life before has `left`; `holds` judges."""
        self.left = left
        self.told: dict[str, SwapOperation] = {}
        """The swaps of this life that were told to have ended."""
        self.failed: set[tuple[str, str]] = set()
        """Versions that have failed, and were not ready since."""
        self.results: dict[str, str] = {}
        """By model, how its recovery has ended."""
        self._holds = holds
        self._active: dict[str, str | None] = {}
        """By model, what it was brought back with."""
        self._went: set[tuple[str, str]] = set()
        """Versions that were ready in this life and are not any more."""
        self._ready: set[tuple[str, str]] = set()
        self._states: dict[tuple[str, str], str] = {}
        self._lost: set[tuple[str, str]] = set()
        """Versions that have failed, or whose load was called off or in vain, before the engine was being closed."""

    def on_end(self, life: Life, operation: SwapOperation) -> None:
        """Hear of a swap that has ended."""
        self.told[operation.id] = operation
        if operation.id in self.left.swaps:
            self._is_ended_as_left(life, operation)

    def on_state(self, life: Life, event: Event) -> None:
        """Hear of a version that has come, gone or failed."""
        key, state = (str(event.model), str(event.version)), event.detail["state"]
        if state == "ready":
            self._ready.add(key)
            if not life.closing:  # else it gets no traffic any more
                self.failed.discard(key)
        elif key in self._ready:
            self._went.add(key)
        called_off = state in ("unloaded", "unloading") and self._states.get(key) in ("loading", "warming")
        if state == "failed":
            self.failed.add(key)
        if (state == "failed" or called_off) and not _refuses(life):
            self._lost.add(key)
        self._states[key] = state

    def _is_ended_as_left(self, life: Life, operation: SwapOperation) -> None:
        """See that a swap which its process has left open ends as the disk says."""
        end = self.left.open.get(operation.id)
        if end is None:
            self._holds(False, f"{short(operation)} had ended in an earlier process, and ends again")  # noqa: FBT003
            return
        went_back = end is SwapState.COMPLETED and operation.state is SwapState.ROLLED_BACK
        nobody = operation.state is SwapState.FAILED and operation.aftermath is not None
        said = operation.error_message or ""
        excused = (went_back or nobody) and self._may_fail(life, said)
        self._holds(operation.state is end or excused, f"{short(operation)} ({said}), and the disk says {end}")
        self._holds(operation.end_time is not None and said, f"{short(operation)} says not why")

    def _may_fail(self, life: Life, said: str) -> bool:
        """Return whether a version could not be had any more: where all goes well, only because there is no room."""
        lost = bool(self._lost) or "LoadTimeout" in said  # which is told before its version is told to have failed
        return lost and (not life.calm or "OverBudget" in said)

    def on_recovered(self, life: Life, event: Event) -> None:
        """See that a model is as its predecessor has left it: pivot written, the new version serves, else the old."""
        model, result, said = str(event.model), event.detail["result"], str(event.detail["error"])
        active = self._active[model] = event.detail["active"]
        self.results[model] = result
        meant = self.left.meant.get(model)
        if result in ("failed", "given_up"):
            self._holds(self._may_fail(life, said), f"{model}/{meant} could not be brought back: {said}")
            return
        if life.closing and active is None:
            return  # it was brought back, and by now nobody is led anywhere
        finished = [self.left.swaps[swap_id].operation for swap_id in sorted(self.left.moved & self.left.open.keys())]
        mine = [operation for operation in finished if model in models_of(operation)]
        expected = {meant, None} if life.closing else {meant}  # then nobody is led anywhere any more
        if meant is None:  # unloaded by force during a swap, which is brought to its end all the same
            expected |= {v for one in self.left.open_members(model) for v in _versions(one)}
        if result == "undone" and self._may_fail(life, said):
            expected |= {member.from_version for one in mine for member in one.members if member.model == model}
        fits = active in expected or any((model, str(version)) in self._went for version in expected)
        self._holds(fits, f"{model} was {result} with {active}, and the disk says {meant}")
        for operation in mine:
            self._is_whole(operation)
            told = self.told.get(operation.id)
            if told is not None and told.state is SwapState.COMPLETED and meant != active:
                brought = [member for member in told.members if member.model == model and member.to_version == meant]
                self._holds(not brought or (model, str(meant)) in self._went, f"{short(told)}, and {active} serves")

    def _is_whole(self, operation: SwapOperation) -> None:
        """See that a group was brought back as one: all of it new, or none of it."""
        members = [member for member in operation.members if member.model in self._active]
        is_last = all(self.left.meant.get(member.model) == member.to_version for member in operation.members)
        went = any((member.model, version) in self._went for member in members for version in _versions(member))
        if is_last and not went and all(self.results[member.model] in _WELL for member in members):
            sides = {self._active[member.model] == member.to_version for member in members}
            self._holds(len(sides) == 1, f"{short(operation)}, of which is brought back {self._active}")


def short(operation: SwapOperation) -> str:
    """Return a swap in a clause."""
    return (
        f"swap {operation.id} of {operation.model} from {operation.from_version} to {operation.to_version} "
        f"is {operation.state.value}"
    )


def _refuses(life: Life) -> bool:
    """Return whether an engine is being closed: what it has not brought back by now is left to the next one.

    Looked up inside, because it is a step of its own behind the end of the block.
    """
    return life.engine._router.refusal is not None  # pyright: ignore[reportPrivateUsage]


def models_of(operation: SwapOperation) -> set[str]:
    """Return the models that a swap moves."""
    return {member.model for member in operation.members}


def _versions(member: Member) -> tuple[str, str]:
    return member.from_version, member.to_version
