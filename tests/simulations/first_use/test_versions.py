"""Versions that come, go, are evicted and come back, all in the same moment: what holds in every order of it.

What each program asserts comes on top of what `open_shelf` and `assert_shelf_at_rest` look at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Shift, VersionState
from changeover.core import lifecycle
from changeover.errors import VersionInUse
from changeover.runtime.calls import Engine
from changeover.runtime.host import Host, LoadJob
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.orders import DropOrder, Evict, Loading, LoadOrder
from changeover.runtime.room import Room, Want
from changeover.runtime.version import Version
from changeover_sim import PCT, Exhaustive, RandomWalk, choose, explore
from tests.simulations.first_use.shelf import Shelf, assert_shelf_at_rest, open_shelf
from tests.simulations.first_use.stage import Search, assert_explored

KINDS = ("infer", "stream", "async lease", "lease", "thread")
WAITING = ("infer", "stream", "async lease")
"""Uses that wait for a version that was evicted."""
TOLD = {
    "load": {"returned", "OverBudget", "LoadCancelled"},
    "infer": {"returned", "NotReady"},
    "stream": {"returned", "NotReady"},
    "async lease": {"returned", "NotReady", "LeaseRevoked"},
    "lease": {"returned", "NotReady", "Evicted"},
    "thread": {"returned", "NotReady", "Evicted"},
    "unload": {"returned", "VersionNotLoaded"},
    "unregister": {"returned", "VersionInUse"},
    "swap": {"returned", "SwapFailed"},
    "kill": {"VersionCrashed", "NotReady"},
    "scene": {"returned"},
}
"""How a call may end, by the first word of its name, where nobody goes away and the engine stays."""


@attrs.frozen
class Scene:
    """What is there, what happens in one moment, and what is true behind it."""

    budget: int
    act: Callable[..., Awaitable[None]]
    """Begins the calls; where `anywhere` is true, the first of them may be cancelled anywhere."""
    told: Mapping[str, set[str]] = {}
    """Ends that only this scene may have."""


# --- an eviction meets something else ---------------------------------------------------------------------------------


async def an_eviction_and_a_use(shelf: Shelf, *, anywhere: bool) -> None:
    """Load b, for which a has to go, and use a in the very moment, for a while or not at all."""
    await shelf.fill("a", execution=choose(["inline", "worker"]))
    shelf.add_model("b")
    shelf.load("b", anywhere=anywhere)
    shelf.use(choose(KINDS), "a", choose([0.0, 1.0]))


async def an_eviction_and_a_way_out(shelf: Shelf, *, anywhere: bool) -> None:
    """Load b while a, which has to go for it, is unloaded, crashes, or is forgotten."""
    await shelf.fill("a", execution=choose(["inline", "worker"]))
    shelf.add_model("b")
    shelf.rig.takes("close a/1", choose([0.0, 1.0]))
    shelf.load("b", anywhere=anywhere)
    match choose(["unload", "unload twice", "crash", "unregister"]):
        case "unload":
            shelf.unload("a", drain=Drain(choose([0.0, 1.0]), choose(["quarantine", "rollback"])))
            shelf.use("lease", "a", choose([0.0, 2.0]))
        case "unload twice":
            shelf.unload("a")
            shelf.unload("a")
        case "crash":
            shelf.kill("a")
        case "unregister":
            shelf.unload("a")
            shelf.forget("a")


async def an_eviction_and_a_swap(shelf: Shelf, *, anywhere: bool) -> None:
    """Swap a to a version for which b has to go, while c is loaded, for which a or b has to go."""
    await shelf.fill("a", "b")
    shelf.add_model("a", "2")
    shelf.add_model("c")
    plan = choose([Shift.at_once(), Shift.at_once(confirm_s=0.5, guard=None)])
    shelf.rig.takes("load a/2", choose([0.0, 0.5]))
    shelf.load("c", anywhere=anywhere)
    shelf.call(partial(shelf.engine.swap, "a", "2", plan=plan), "swap a")
    shelf.use(choose(WAITING), choose("ab"))


async def two_need_room(shelf: Shelf, *, anywhere: bool) -> None:
    """Load c and d, one of them larger than it said, where a and b are; one of these is used meanwhile."""
    await shelf.fill("a", "b")
    shelf.add_model("c", memory_hint_bytes=choose([10, 1]))
    shelf.add_model("d")
    shelf.rig.takes("close a/1", choose([0.0, 1.0]))
    shelf.rig.takes("load c/1", choose([0.0, 1.0]))
    shelf.load("c", anywhere=anywhere)
    shelf.load("d")
    shelf.use(choose(KINDS), choose("ab"), choose([0.0, 2.0]))


# --- a reload meets something else ------------------------------------------------------------------------------------


async def a_reload_and_its_end(shelf: Shelf, *, anywhere: bool) -> None:
    """Ask for a, which was evicted, and unload it, swap it away, or forget it."""
    await shelf.fill("a", "b")
    shelf.add_model("a", "2")
    shelf.rig.takes("load a/1", choose([0.0, 1.0]))
    shelf.rig.takes("close b/1", choose([0.0, 1.0]))
    shelf.use(choose(KINDS), "a", choose([0.0, 0.5]), anywhere=anywhere)
    if choose([True, False]):
        await trio.sleep(0.5)
    match choose(["unload", "swap", "unregister", "load"]):
        case "unload":
            shelf.unload("a")
        case "swap":
            shelf.call(partial(shelf.engine.swap, "a", "2"), "swap a")
        case "unregister":
            shelf.unload("a")
            shelf.forget("a")
        case "load":
            shelf.load("a")
            shelf.load("a")


async def reloads_of_two(shelf: Shelf, *, anywhere: bool) -> None:
    """Ask for a, b and c where there is room for one: each has to go for the other."""
    await shelf.fill("a", "b", "c", execution=choose(["inline", "worker"]))
    shelf.rig.takes("load a/1", choose([0.0, 1.0]))
    shelf.rig.takes("close b/1", choose([0.0, 1.0]))
    shelf.use(choose(KINDS), "a", choose([0.0, 1.0]), anywhere=anywhere)
    other = choose(WAITING)
    shelf.use(other, "b", choose([0.0, 1.0]))
    shelf.use(other, choose("ac"))


async def a_reload_that_fails(shelf: Shelf, *, anywhere: bool) -> None:
    """Ask for a, whose source is away or broken, or that dies when it is asked; a second one asks, too."""
    await shelf.fill("a", "b")
    match choose(["away", "broken", "deadly"]):
        case "away":
            shelf.away("a", tries=choose([1, 9]))
        case "broken":
            shelf.rig.script("a").load_error = RuntimeError("cannot be loaded")
        case "deadly":
            shelf.kill("a")
    shelf.use(choose(WAITING), "a", anywhere=anywhere)
    shelf.use(choose(KINDS), "a", choose([0.0, 1.0]))


# --- a load that takes its time ---------------------------------------------------------------------------------------


async def a_wait_for_room(shelf: Shelf, *, anywhere: bool) -> None:
    """Wait for the bytes of b, which is being closed, with a load, a request or a lease; somebody else waits, too."""
    await shelf.fill("a", "b")
    shelf.rig.takes("close b/1", 1.0)
    shelf.add_model("c", load_timeout_s=choose([0.5, 60.0]))
    shelf.unload("b")
    await trio.sleep(0.25)
    if choose([True, False]):
        shelf.load("c", anywhere=anywhere)
        shelf.use(choose(WAITING), "a")
    else:
        shelf.use(choose(WAITING), "a", anywhere=anywhere)
        shelf.load("c")
    await trio.sleep(choose([0.0, 0.75]))
    shelf.unload(choose("abc"))


async def a_source_that_is_away(shelf: Shelf, *, anywhere: bool) -> None:
    """Load a, whose source is away, and call it off, unload it or forget it, perhaps as it is tried again."""
    shelf.add_model("a", load_timeout_s=choose([0.75, 60.0]), load_retries=choose([1, 3]))
    shelf.away("a", tries=choose([1, 2, 9]))
    load = shelf.load("a", anywhere=anywhere)
    if choose([True, False]):
        shelf.load("a")
    await trio.sleep(choose([0.0, 0.25]))
    if choose([True, False]):
        await trio.sleep_until(shelf.watcher.rings_s)
    match choose(["call off", "unload", "unregister", "load"]):
        case "call off":
            load.scope.cancel()
        case "unload":
            shelf.unload("a")
        case "unregister":
            shelf.forget("a")
        case "load":
            shelf.load("a")


async def a_version_is_forgotten(shelf: Shelf, *, anywhere: bool) -> None:
    """Forget a twice while it is loaded, and register and load it anew."""
    shelf.add_model("a")
    if choose([True, False]):
        await shelf.engine.load("a", "1")
        shelf.unload("a")

    async def again() -> None:
        await shelf.engine.unregister("a", "1")
        shelf.add_model("a")
        await shelf.engine.ensure_loaded("a", "1")

    shelf.call(again, "again", anywhere=anywhere)
    shelf.forget("a")
    if choose([True, False]):
        shelf.load("a")
    shelf.use(choose(KINDS), "a")


CRASHED, LATE = {kind: {"VersionCrashed"} for kind in WAITING}, {"load": {"LoadTimeout"}}
AWAY = {"load": {"cancelled", "LoadTimeout", "SourceUnavailable", "VersionNotLoaded", "ModelNotRegistered"}}
UNKNOWN = {"ModelNotRegistered", "VersionNotLoaded"}
FORGOTTEN = {
    "again": {"returned", "VersionInUse", "AlreadyRegistered", "LoadCancelled", *UNKNOWN},
    **dict.fromkeys(("load", "unload", "unregister", *KINDS), UNKNOWN),
}
SCENES: Mapping[str, Scene] = {
    "an eviction and a use": Scene(1, an_eviction_and_a_use),
    "an eviction and a way out": Scene(1, an_eviction_and_a_way_out),
    "an eviction and a swap": Scene(2, an_eviction_and_a_swap),
    "two need room": Scene(2, two_need_room),
    "a reload and its end": Scene(1, a_reload_and_its_end),
    "reloads of two": Scene(1, reloads_of_two),
    "a reload that fails": Scene(1, a_reload_that_fails, CRASHED),
    "a wait for room": Scene(1, a_wait_for_room, LATE),
    "a source that is away": Scene(1, a_source_that_is_away, AWAY),
    "a version is forgotten": Scene(1, a_version_is_forgotten, FORGOTTEN),
}


# --- the programs -----------------------------------------------------------------------------------------------------


async def comes_to_rest(name: str, *, anywhere: bool = False) -> None:
    """Play a scene to its end; perhaps the first caller goes away anywhere."""
    scene = SCENES[name]
    async with open_shelf(scene.budget) as shelf:
        await scene.act(shelf, anywhere=anywhere)
        await assert_shelf_at_rest(shelf)
        assert_told(shelf, scene, {"cancelled"} if anywhere else set())


async def is_closed(name: str) -> None:
    """Play a scene, and close the engine at any moment of it."""
    scene = SCENES[name]
    async with open_shelf(scene.budget, close_timeout_s=choose([0.0, 10.0])) as shelf:
        shelf.call(partial(scene.act, shelf, anywhere=False), "scene")
        await shelf.has_begun.wait()
        await trio.sleep(choose([0.0, 0.25, 0.5, 1.0]))
        for _ in range(choose(range(20))):
            await trio.lowlevel.checkpoint()
    assert_told(shelf, scene, {"EngineClosed", "VersionCrashed", "SwapRolledBack", "cancelled"})


def assert_told(shelf: Shelf, scene: Scene, more: set[str]) -> None:
    """Everybody was told one thing, and one that he may be told."""
    for call in shelf.calls:
        kind = call.name.rsplit(" ", 1)[0]
        assert call.end in TOLD.get(kind, set()) | scene.told.get(kind, set()) | more, (call.name, call.end, call.error)


async def somebody_goes_away(name: str) -> None:
    """Play a scene to its end, perhaps without the first caller."""
    await comes_to_rest(name, anywhere=choose([False, True]))


@pytest.mark.parametrize("scene", SCENES)
def test_versions_that_come_and_go_come_to_rest(search: Search, scene: str) -> None:
    """In any order, whoever goes away: each is told one thing, the budget is kept, what is left works, nothing else is.

    After each event the bytes are those of what is loading, loaded or closing, and each version walks along its table.
    """
    search(partial(somebody_goes_away, scene), policy=RandomWalk(), schedules=200)


@pytest.mark.parametrize("scene", SCENES)
def test_versions_that_come_and_go_as_the_engine_is_closed(search: Search, scene: str) -> None:
    """Closed at any moment of it, the engine answers everybody, closes every model once and frees every byte."""
    search(partial(is_closed, scene), policy=RandomWalk(), schedules=100)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_whoever_goes_away_at_whatever_moment(scene: str) -> None:
    """The same with every choice there is, and the first caller cancelled at each of his checkpoints."""
    assert_explored(partial(comes_to_rest, scene, anywhere=True), policy=Exhaustive(delays=0), exhausted=True)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_versions_that_come_and_go_in_very_many_orders(scene: str) -> None:
    """The same with one task or another held back for long, and in the batches of stock Trio."""
    for program in (partial(somebody_goes_away, scene), partial(is_closed, scene)):
        assert_explored(program, policy=PCT(depth=3), schedules=100)
        assert_explored(program, schedules=50, mode="trio-batch")


# --- these tests see what is wrong ------------------------------------------------------------------------------------


def looks_at_nobody(version: Version, order: Evict) -> None:
    """Trust the look that was taken before the gate was shut."""
    if order.loaded is version.loaded and version.state is VersionState.READY and not version.is_leaving:
        version._step(lifecycle.Event.EVICT)
        version._step(lifecycle.Event.ZERO)


def frees_and_tells_nobody(host: Host, number: int) -> None:
    """Free the bytes, and leave those who wait for them alone."""
    host._store.free(number)


def is_leaving_for_ever(version: Version, loaded: LoadedModel) -> None:
    """Give an eviction back, and go on to count on its bytes."""
    was_leaving = loaded.is_leaving
    OPEN(version, loaded)
    loaded.is_leaving = was_leaving


def takes_the_traffic_away(version: Version, loaded: LoadedModel) -> None:
    """Evict as if it were unloaded."""
    version._in_service, version.is_evicted = False, True
    version._world.shut(loaded)
    loaded.account.shut()


def loads_once_more(version: Version, order: LoadOrder) -> None:
    """Load what is being loaded, in place of joining."""
    if version.state is VersionState.LOADING:
        version._loading = Loading([order])
        version._step(lifecycle.Event.LOAD_RETRIED)
    else:
        ON_LOAD(version, order)


def serves_without_bytes(room: Room, want: Want) -> bool:
    """Let the first in line go without having reserved."""
    if room._store.room_for(want.bytes()):
        room._line.popleft()
        want.granted()
        return True
    return SERVE(room, want)


def stays_in_line(host: Host, job: LoadJob) -> None:
    """Call a load off, and leave its place in line to it."""
    job.listener = None


def counts_on_the_quarantined(version: Version) -> None:
    """Go on to count on the bytes of what nobody knows when it will be closed."""
    ON_DEADLINE(version)
    if version.loaded is not None:
        version.loaded.is_leaving = True


async def forgets_by_name(engine: Engine, model: str, version: str) -> None:
    """Forget whoever has the name when it is time to."""
    target, order = engine._named(model, version), DropOrder()
    target.post(order)
    await order.done.wait()
    if target.is_coming or target.state not in lifecycle.RESTING:
        raise VersionInUse("it is loading", model=model)
    engine._forget(target.key)


OPEN, ON_LOAD, ON_DEADLINE, SERVE = Version._open, Version._on_load, Version._on_deadline, Room._serve
BROKEN: Mapping[str, tuple[type, str, Callable[..., Any], str]] = {
    "looks before the gate is shut": (Version, "_on_evict", looks_at_nobody, "an eviction and a use"),
    "looks at no line after a close": (Host, "_free", frees_and_tells_nobody, "an eviction and a use"),
    "is leaving for ever": (Version, "_open", is_leaving_for_ever, "two need room"),
    "is evicted and has no traffic": (Version, "_park", takes_the_traffic_away, "reloads of two"),
    "is loaded twice": (Version, "_on_load", loads_once_more, "reloads of two"),
    "is served without bytes": (Room, "_serve", serves_without_bytes, "an eviction and a use"),
    "stays in line": (Host, "abandon", stays_in_line, "a wait for room"),
    "counts on the quarantined": (Version, "_on_deadline", counts_on_the_quarantined, "an eviction and a way out"),
    "forgets by name": (Engine, "unregister", forgets_by_name, "a version is forgotten"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene that is there for a mistake fails where it is made."""
    owner, name, wrong, scene = BROKEN[broken]
    monkeypatch.setattr(owner, name, wrong)
    assert explore(partial(somebody_goes_away, scene), policy=RandomWalk(), schedules=500).failure is not None
