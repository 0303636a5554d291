"""Processes that end at any moment of a swap, and again at any moment of the recovery, on a simulated disk.

What each program asserts comes on top of `read`, which looks behind every entry whether a process may end there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Shift, SwapState
from changeover.core import plan, recovery
from changeover.core.plan import Progress, Step
from changeover.core.records import Entry, SwapRecord
from changeover.core.recovery import Open
from changeover.runtime.desires import Desires
from changeover.runtime.logbook import Logbook
from changeover.runtime.mailbox import Promise
from changeover.runtime.rescue import Rescue
from changeover.runtime.saga import Saga
from changeover_sim import PCT, Exhaustive, RandomWalk, choose, explore
from tests.simulations.first_use.lives import (
    Death,
    Live,
    Trouble,
    assert_brought_back,
    later,
    live_and_die,
    recover,
    use,
)
from tests.simulations.first_use.reading import Reading
from tests.simulations.first_use.stage import (
    Durability,
    House,
    Search,
    Stage,
    assert_explored,
    open_house,
    open_stage_in,
)

RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)
BOUNDARIES = ("", "a", "load", "shift", "drain", "unload", "undo", "completed")
RECOVERING = 40
"""So many rounds of the others are enough for an opening and a recovery."""


# --- what goes on when the process ends -----------------------------------------------------------------------------


async def load(stage: Stage) -> None:
    """Load, and nothing else."""
    stage.call(lambda: stage.engine.load("b", "1"))


async def swap(stage: Stage) -> None:
    """Swap at once."""
    stage.call(lambda: stage.engine.swap("a", "2"))


async def swap_in_vain(stage: Stage) -> None:
    """Swap to what cannot be loaded."""
    stage.rig.script("a", "2").load_error = RuntimeError("cannot be loaded")
    stage.call(lambda: stage.engine.swap("a", "2"))


async def ramp(stage: Stage) -> None:
    """Swap by a canary."""
    stage.call(lambda: stage.engine.swap("a", "2", plan=RAMP))


async def ramp_and_turn(stage: Stage) -> None:
    """Order a canary back."""
    swap_id = stage.engine.start_swap("a", "2", plan=RAMP)
    stage.call(later(0.25, lambda: stage.engine.rollback(swap_id)))


async def hold(stage: Stage) -> None:
    """Hold the old version, so that its drain takes a second."""

    async def hold_on() -> None:
        async with stage.engine.lease("a"):
            await trio.sleep(1.0)

    stage.call(hold_on)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


async def turn_in_the_drain(stage: Stage) -> None:
    """Order a swap back that is past its pivot."""
    await hold(stage)
    swap_id = stage.engine.start_swap("a", "2", drain=Drain(5.0))
    stage.call(later(0.5, lambda: stage.engine.rollback(swap_id)))


async def swap_and_swap_back(stage: Stage) -> None:
    """Take a swap back that is completed."""

    async def there_and_back() -> None:
        operation = await stage.engine.swap("a", "2")
        await stage.engine.rollback(operation.id)

    stage.call(there_and_back)


async def swap_a_group(stage: Stage) -> None:
    """Swap two models as one."""
    stage.call(lambda: stage.engine.swap_group({"a": "2", "b": "2"}, plan=choose([Shift.at_once(), RAMP])))


async def swap_a_group_in_vain(stage: Stage) -> None:
    """Swap two models as one, of which one cannot be loaded."""
    stage.rig.script("b", "2").load_error = RuntimeError("cannot be loaded")
    stage.call(lambda: stage.engine.swap_group({"a": "2", "b": "2"}))


async def turn_a_group(stage: Stage) -> None:
    """Order a group back that is past its pivot."""
    await hold(stage)
    swap_id = stage.engine.start_group_swap({"a": "2", "b": "2"}, drain=Drain(5.0))
    stage.call(later(0.5, lambda: stage.engine.rollback(swap_id)))


async def swap_side_by_side(stage: Stage) -> None:
    """Swap two models that have nothing to do with each other."""
    for model in "ab":
        stage.call(partial(stage.engine.swap, model, "2"))


async def swap_one_behind_the_other(stage: Stage) -> None:
    """Order a swap that begins in the drain of another one."""
    await hold(stage)
    stage.call(lambda: stage.engine.swap("a", "2", drain=Drain(5.0)))
    await trio.lowlevel.checkpoint()
    stage.call(lambda: stage.engine.swap("a", "3", on_busy=choose(["queue", "supersede"])))


@attrs.frozen
class Scene:
    """What goes on, when something happens in it, and what is loaded before."""

    live: Live
    moments: tuple[tuple[float, int], ...]
    """So many rounds of the others behind each of these times are enough for what happens then."""
    behind: frozenset[str]
    """What it writes, an entry each."""
    loaded: str = "ab"


FORWARD = frozenset({"load", "shift"})
BACK = frozenset({"undo warm", "undo load", "undo validate"})
SWAPPED, TURNED = FORWARD | {"drain; a: 2", "unload", "completed; a: 2"}, FORWARD | BACK | {"rolled_back; a: 1"}
SCENES: Mapping[str, Scene] = {
    "a load": Scene(load, ((0.0, 12),), frozenset({"a: 1", "b: 1"}), "a"),
    "a swap": Scene(swap, ((0.0, 36),), SWAPPED),
    "a swap in vain": Scene(
        swap_in_vain, ((0.0, 26),), frozenset({"load", "undo load", "undo validate", "failed; a: 1"})
    ),
    "a ramp": Scene(ramp, ((0.0, 21), (0.75, 18)), SWAPPED),
    "a ramp that is turned": Scene(ramp_and_turn, ((0.0, 20), (0.25, 25)), TURNED | {"undo shift; a: 1"}),
    "a turn in the drain": Scene(
        turn_in_the_drain, ((0.0, 25), (0.5, 30)), TURNED | {"drain; a: 2", "undo drain; a: 1", "undo shift; a: 1"}
    ),
    "a swap back": Scene(swap_and_swap_back, ((0.0, 72),), SWAPPED | {"drain; a: 1", "completed; a: 1"}),
    "a group": Scene(
        swap_a_group, ((0.0, 38), (0.75, 20)), FORWARD | {"drain; a: 2; b: 2", "unload", "completed; a: 2; b: 2"}
    ),
    "a group in vain": Scene(
        swap_a_group_in_vain, ((0.0, 32),), frozenset({"load", "undo load", "undo validate", "failed; a: 1; b: 1"})
    ),
    "a group that is turned": Scene(
        turn_a_group, ((0.0, 30), (0.5, 38)), FORWARD | BACK | {"undo drain; a: 1; b: 1", "rolled_back; a: 1; b: 1"}
    ),
    "two models": Scene(swap_side_by_side, ((0.0, 40),), SWAPPED | {"drain; b: 2", "completed; b: 2"}),
    "two swaps": Scene(
        swap_one_behind_the_other, ((0.0, 50), (1.0, 18)), FORWARD | {"drain; a: 2", "drain; a: 3", "completed; a: 3"}
    ),
}


# --- the programs ---------------------------------------------------------------------------------------------------


async def register(stage: Stage) -> None:
    """Register three versions of two models."""
    for model in "ab":
        stage.add("1", "2", "3", model=model)


async def prepare(stage: Stage, models: str = "ab") -> None:
    """Register everything, and load version 1 of some models."""
    await register(stage)
    for model in models:
        await stage.engine.load(model, "1")


def mend(house: House) -> None:
    """Let everything be loaded again."""
    for model in "ab":
        for version in "123":
            house.cast.script(model, version).load_error = None


async def a_process_ends(name: str, seen: set[str] | None = None) -> None:
    """Kill an engine at any moment of a scene, and have the next one recover what it has left."""
    scene = SCENES[name]
    after_s, rounds = choose(scene.moments)
    death = Death("process", "kill", after_s, choose(range(rounds)))
    async with open_house() as house:
        left = await live_and_die(house, scene.live, death, prepare=partial(prepare, models=scene.loaded))
        if seen is not None:
            seen.update(house.world.disk.lines()[-1:])
        mend(house)
        async with open_stage_in(house, on_disk="process") as stage:
            await recover(stage, register)
            assert_brought_back(stage, left)


async def processes_end(name: str, begins: str | None = None) -> None:
    """Kill an engine, and the next one in its recovery, or cut the power; the third one brings everything back.

    Perhaps some entries of the first one fail: those that begin so, where that is given.
    """
    scene = SCENES[name]
    async with open_house() as house:
        house.world.durations["journal"] = choose([0.0, 0.0, 0.125])
        durability: Durability = choose(["process", "power"])
        first = choose_death(durability, scene.moments)
        second = choose_death(durability, ((0.0, RECOVERING), (0.125, RECOVERING)))
        from_the_start = choose([False, False, True])
        live = partial(open_and_live, scene) if from_the_start else scene.live
        trouble = choose([None, None, Trouble(choose(BOUNDARIES if begins is None else (begins,)), choose([1, 3]))])
        first_steps = None if from_the_start else prepare
        left = await live_and_die(house, live, first, prepare=first_steps, trouble=trouble)
        mend(house)
        instead = choose_what_is_lost(house, left)
        again = await live_and_die(house, register_anyhow, second)
        if second.how == "kill":
            assert_came_no_further(left, again, instead)
        instead = {model: version for model, version in instead.items() if again.meant.get(model) == left.meant[model]}
        async with open_stage_in(house, on_disk=durability) as stage:
            await recover(stage, register_anyhow)
            assert_brought_back(stage, again, instead)
            mend(house)
            if choose([False, False, True]):
                await use(stage)


def choose_death(durability: Durability, moments: tuple[tuple[float, int], ...]) -> Death:
    """Return any death at any of these moments."""
    after_s, rounds = choose(moments)
    return Death(durability, choose(["kill", "power_cut"]), after_s, choose(range(rounds)))


async def open_and_live(scene: Scene, stage: Stage) -> None:
    """Play a scene with all that comes before it."""
    await prepare(stage)
    await scene.live(stage)


async def register_anyhow(stage: Stage) -> None:
    """Register what there is in any order, and not at once."""
    for model in choose(["ab", "ba"]):
        for version in choose(["123", "321"]):
            stage.add(version, model=model)
        if choose([True, False]):
            await trio.lowlevel.checkpoint()


def choose_what_is_lost(house: House, left: Reading) -> dict[str, str]:
    """Perhaps lose the version of a model that an open swap has moved to it; return who goes back, and to what."""
    for swap_id in sorted(left.moved & left.open.keys()):
        members = left.swaps[swap_id].operation.members
        if choose([False, True]) and all(left.meant[member.model] == member.to_version for member in members):
            house.cast.script(choose(members).model, members[0].to_version).load_error = RuntimeError("is lost")
            return {member.model: member.from_version for member in members}
    return {}


def assert_came_no_further(left: Reading, again: Reading, instead: Mapping[str, str]) -> None:
    """A recovery that was killed has changed nothing but the ends of what was open."""
    for model, version in again.meant.items():
        assert version in {left.meant.get(model), instead.get(model)}, (left.meant, again.meant, instead)
    for swap_id, record in again.swaps.items():
        before = left.swaps[swap_id]
        assert record == before or swap_id in left.open


@pytest.mark.parametrize("scene", SCENES)
def test_processes_that_end_in_any_order_leave_what_the_last_one_brings_back(search: Search, scene: str) -> None:
    """Killed or without power at any moment, and again in the recovery: what was told is true, no group is mixed.

    Pivot written, the new version serves, else the old one; every swap has ended accordingly. Only a power cut without
    `durability="power"` takes what was told, and what is left makes sense even then.
    """
    search(partial(processes_end, scene), policy=RandomWalk(), schedules=40)


def test_a_process_ends_while_what_could_not_be_written_is_owed(search: Search) -> None:
    """Undone past its pivot while the disk was full for a while: the next process does not bring the new one back."""
    search(partial(processes_end, "a turn in the drain", "undo"), policy=RandomWalk(), schedules=120)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_a_process_that_ends_at_any_moment_whatever_is_on_the_disk(scene: str) -> None:
    """Killed between any two steps of a swap, with any number of its entries written, and so behind every entry."""
    seen: set[str] = set()
    assert_explored(partial(a_process_ends, scene, seen), policy=Exhaustive(delays=0), exhausted=True)
    assert seen >= SCENES[scene].behind, seen


@pytest.mark.slow
def test_processes_that_end_by_priority() -> None:
    """The same with one task or another held back for long."""
    for scene in SCENES:
        assert_explored(partial(processes_end, scene), policy=PCT(depth=3), schedules=12)


# --- these tests see what is wrong ----------------------------------------------------------------------------------


async def writes_its_pivot_in_two(book: Logbook, progress: Progress, desired: Any, end: Any = None) -> None:
    """Write down first where the swap is, and then what is wanted."""
    await WRITE(book, progress, {}, end)
    if desired:
        written: Promise[None] = Promise()
        book._journal.write(Entry(desired=desired), lambda _error: written.settle(None))
        await written.wait()


async def tells_before_it_is_written(saga: Saga, state: SwapState) -> None:
    """Tell the end, and write it down then."""
    ended = saga._ended(state)
    saga._give_up_slot()
    saga._end(ended)
    await saga._book.write(saga._progress, {}, ended)


async def wants_nothing_back(saga: Saga, step: Step) -> None:
    """Write down that a step is being undone, and leave wanted what was."""
    await saga._book.write(saga._progress, {})


def finishes_what_was_shifting(record: SwapRecord) -> Open:
    """Take a swap for one past its pivot that was only at it."""
    ending = ENDING(record)
    at_pivot = record.progress.forward and record.progress.step is plan.PIVOT
    return attrs.evolve(ending, end=SwapState.COMPLETED) if at_pivot else ending


async def writes_one_of_a_group(book: Logbook, progress: Progress, desired: Any, end: Any = None) -> None:
    """Write down of the first model alone what is wanted."""
    await WRITE(book, progress, dict(list(desired.items())[:1]), end)


def forgets_what_was_open(rescue: Rescue, swap: Open, chosen: Any) -> SwapRecord:
    """Leave an open swap as it is."""
    return attrs.evolve(swap.record, operation=attrs.evolve(swap.record.operation, state=SwapState.RECOVERING))


def owes_nothing(desires: Desires, models: Any) -> Any:
    """Undo a step, and leave what could not be written of the one before unwritten."""
    return {}


def wants_what_is_there(rescue: Rescue) -> Any:
    """Write nothing down of what shall be active from now on."""
    return {}


WRITE, ENDING = Logbook.write, recovery._ending
BROKEN: Mapping[str, tuple[Any, str, Callable[..., Any], str]] = {
    "writes its pivot in two": (Logbook, "write", writes_its_pivot_in_two, "a swap"),
    "tells before it is written": (Saga, "_finish", tells_before_it_is_written, "a swap"),
    "wants nothing back": (Saga, "_write_undo", wants_nothing_back, "a turn in the drain"),
    "finishes what was shifting": (recovery, "_ending", finishes_what_was_shifting, "a ramp"),
    "writes one of a group": (Logbook, "write", writes_one_of_a_group, "a group"),
    "forgets what was open": (Rescue, "_end", forgets_what_was_open, "a swap"),
    "owes nothing": (Desires, "owed_for", owes_nothing, "a turn in the drain"),
    "wants what is there": (Rescue, "_desired", wants_what_is_there, "a group"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene that is there for a mistake fails where it is made."""
    owner, name, wrong, scene = BROKEN[broken]
    monkeypatch.setattr(owner, name, wrong)
    program = partial(processes_end, scene, "undo" if broken == "owes nothing" else None)
    assert explore(program, policy=RandomWalk(), schedules=300).failure is not None
