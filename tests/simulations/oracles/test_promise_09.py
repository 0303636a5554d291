"""The oracle of promise 9 finds journals without sense, ends that are told and lost, and recoveries that go astray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from changeover import Recovered, SwapState
from changeover.core import plan, recovery
from changeover.core.plan import Progress, Step
from changeover.core.records import Entry, SwapRecord
from changeover.core.recovery import Open
from changeover.errors import ChangeoverError
from changeover.runtime.desires import Desires
from changeover.runtime.logbook import Logbook
from changeover.runtime.mailbox import Promise
from changeover.runtime.rescue import Rescue
from changeover.runtime.saga import Saga
from changeover_sim.disk import VirtualDisk
from changeover_sim.oracles.promise_09_journal import Promise09Journal
from changeover_sim.simulate.shape import Ending, Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

PARTS = (*parts("1", "2", "3"), *parts("1", "2", model="b"))
WHO = (("swapper", 2), ("group swapper", 2), ("undoer", 2), ("leaser", 2))


def lived(*lives: Ending, **fields: Any) -> Shape:
    """Return a shape of lives that end like this, and swap all the time."""
    return shape(WHO, PARTS, lives=lives, plans=("at once", "confirmed"), hurry=0.6, **fields)


CLOSED = lived(Ending(), horizon_s=4.0)
CUT_OFF = lived(Ending("close-early", 1.25, 2), Ending("cancel-early", 1.0, 1))
KILLED = lived(*(Ending("kill", entry=entry, rounds=1) for entry in (4, 9, 6, 12)))
DARK = attrs.evolve(lived(*(Ending("power-cut", entry=entry) for entry in (5, 9, 7))), durability="power")
FULL = lived(Ending("kill", 2.0), Ending("close-early", 1.5), Ending(), faults=["journal-full"])
LOST = lived(Ending("kill", entry=8), Ending(), Ending("kill", entry=6), Ending(), faults=["load-raises"])


@pytest.mark.parametrize("small", [CLOSED, CUT_OFF, KILLED, DARK, FULL, LOST])
def test_silent(small: Shape) -> None:
    """Nothing is wrong with the engine as it is."""
    assert_silent(Promise09Journal, small)


def test_a_pivot_that_is_written_in_two_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a swap is and what is wanted are one entry."""
    write = Logbook.write

    async def in_two(book: Logbook, progress: Progress, desired: Mapping[str, bytes | None], end: Any = None) -> None:
        await write(book, progress, {}, end)
        if desired:
            written: Promise[None] = Promise()
            book._journal.write(Entry(desired=desired), lambda _error: written.settle(None))
            await written.wait()

    monkeypatch.setattr(Logbook, "write", in_two)
    assert_found(Promise09Journal, CLOSED, "the journal makes no sense behind")


def test_an_end_that_is_told_before_it_is_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What everybody was told is on the disk when the process is killed."""

    async def tells_first(saga: Saga, state: SwapState) -> None:
        ended = saga._ended(state)
        saga._give_up_slot()
        saga._end(ended)
        await saga._book.write(saga._progress, {}, ended)

    monkeypatch.setattr(Saga, "_finish", tells_first)
    slow = attrs.evolve(KILLED, lives=tuple(Ending("kill", entry=entry) for entry in range(4, 14)))
    assert_found(Promise09Journal, slow, "as everybody was told; on the disk it is")


def test_an_undoing_that_wants_nothing_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind its pivot a swap that is turned round wants the old version again."""

    async def forgets(saga: Saga, _step: Step) -> None:
        await saga._book.write(saga._progress, {})

    monkeypatch.setattr(Saga, "_write_undo", forgets)
    assert_found(Promise09Journal, attrs.evolve(CLOSED, horizon_s=8.0), "the journal makes no sense behind undo")


def test_an_engine_that_forgets_what_it_had_when_it_is_closed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """That nobody is active in an engine which is being closed is not what anybody wants."""

    def has_changed(desires: Desires, model: str) -> bool:
        return desires._router.active(model) != desires.versions.get(model)

    monkeypatch.setattr(Desires, "_has_changed", has_changed)
    assert_found(Promise09Journal, CUT_OFF, "was active at the end, and the disk wants None")


def test_a_recovery_that_finishes_what_had_only_begun_to_shift_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap whose pivot is not written is undone."""
    ending = recovery._ending

    def finishes(record: SwapRecord) -> Open:
        found = ending(record)
        at_pivot = record.progress.forward and record.progress.step is plan.PIVOT
        return attrs.evolve(found, end=SwapState.COMPLETED) if at_pivot else found

    monkeypatch.setattr(recovery, "_ending", finishes)
    assert_found(Promise09Journal, KILLED, "and the disk says")


def test_a_recovery_that_brings_back_another_version_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk wants is what serves."""
    tell = Rescue._tell

    def lies(rescue: Rescue, records: list[SwapRecord], recovered: Recovered) -> None:
        tell(rescue, records, attrs.evolve(recovered, active=dict.fromkeys(recovered.active, "9")))

    monkeypatch.setattr(Rescue, "_tell", lies)
    assert_found(Promise09Journal, KILLED, "with 9, and the disk says")


def test_a_recovery_that_leaves_a_swap_open_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every swap that a process has left open is ended by the next one."""

    def leaves(_rescue: Rescue, swap: Open, _chosen: object) -> SwapRecord:
        return swap.record

    monkeypatch.setattr(Rescue, "_end", leaves)
    assert_found(Promise09Journal, KILLED, "is a row that ended")


def test_a_recovery_that_fails_without_a_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be loaded is brought back."""

    async def fails(_rescue: Rescue, *, is_last: bool) -> None:
        raise ChangeoverError(f"not today, and not tomorrow: {is_last}")

    monkeypatch.setattr(Rescue, "_load", fails)
    assert_found(Promise09Journal, KILLED, "could not be brought back")


def test_a_recovery_that_wants_nothing_any_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was brought back is wanted still."""

    def wants_nothing(rescue: Rescue, *_: object) -> Mapping[str, bytes | None]:
        return rescue._world.swaps.desires.want(dict.fromkeys(rescue.models))

    monkeypatch.setattr(Rescue, "_desired", wants_nothing)
    monkeypatch.setattr(Desires, "look", lambda _desires, _models: None)
    monkeypatch.setattr(Desires, "flush", lambda _desires, _is_on_trial: None)  # who is active is written at the end
    assert_found(Promise09Journal, KILLED, "was active at the end, and the disk wants None")


def test_a_disk_that_loses_what_was_synced_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A synced entry is never lost."""
    cut = VirtualDisk.power_cut

    def loses(disk: VirtualDisk, choose: Any = min) -> None:
        cut(disk, choose)
        del disk._entries[-1:]

    monkeypatch.setattr(VirtualDisk, "power_cut", loses)
    assert_found(Promise09Journal, DARK, "were to outlive power-cut")
