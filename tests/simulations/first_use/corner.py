"""A version with little around it: its actor, its host and router, and no more tasks than a drain needs.

Small enough that every order of a drain and two who hold can be run. Loads and closes take no step; uses, timers,
wake-ups and worker threads are the engine's own. `open_corner` owns the tasks, and looks behind itself.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import attrs
import trio

from changeover import Drain, DrainOutcome, VersionState
from changeover.core.messages import Acquire, RefId
from changeover.core.values import VersionKey
from changeover.runtime.base import Settings
from changeover.runtime.calls import Engine
from changeover.runtime.journal import MemoryJournal
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.ports import Ports, TrioWake
from changeover_sim.ports import Duration, VirtualClock, VirtualMemory, VirtualThreads
from tests.simulations.first_use.stage import Call
from tests.support.models import UNCHECKED, Cast
from tests.support.rig import LOADER, settle

KEY = VersionKey("m", "1")
Kind = Literal["lease", "async lease", "infer", "stream"]
ENDS = {"returned", "LeaseRevoked", "NotReady", "cancelled"}
"""How a use may end."""


class CountingWake(TrioWake):
    """The way onto the loop, which counts who is woken: the version's actor, or one who waits for zero."""

    def __init__(self) -> None:
        super().__init__(trio.lowlevel.current_trio_token())
        self.actor = 0
        self.waiters: Counter[object] = Counter()

    def soon(self, callback: Callable[[], None], *, idempotent: bool = False) -> bool:
        """Count, and pass on."""
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, trio.Event):
            self.waiters[owner] += 1
        elif callback.__qualname__.startswith("Actor."):
            self.actor += 1
        return super().soon(callback, idempotent=idempotent)


class ClockForThreads(VirtualClock):
    """The virtual clock, which real threads may read as well."""

    def __init__(self) -> None:
        self.now = trio.lowlevel.current_clock().current_time


class FewThreads(VirtualThreads):
    """Threads for uses only: a model is loaded and closed in the step that asks for it."""

    def start(self, name: str, work: Callable[[], Any], deliver: Any, orphaned: Any = None) -> None:
        """Do it at once, unless it is a use."""
        if name.startswith(("load", "close")):
            deliver(work(), None)
        else:
            super().start(name, work, deliver, orphaned)


@attrs.define(eq=False)
class Use:
    """One hold of the version, and when it was."""

    name: str
    kind: Kind
    since_s: float | None = None
    """None: it was never taken, or is the engine's to take."""
    ended_s: float | None = None
    call: Call = attrs.field(init=False)


@attrs.frozen
class Told:
    """What stood in the account when the version changed its state."""

    state: str
    at_s: float
    kinds: tuple[str, ...]
    names: frozenset[str]


class Corner:
    """The version, who holds it, who drains it and who waits."""

    def __init__(
        self, tasks: trio.Nursery, callers: trio.Nursery, execution: str, work_s: Duration, *, record: bool
    ) -> None:
        self.cast = Cast()
        self.uses: list[Use] = []
        self.told: list[Told] = []
        self.drains: list[tuple[Drain, float, Call]] = []
        self.waits: list[Call] = []
        self.loads: list[Call] = []
        self.calls: list[Call] = []
        self.woken = CountingWake()
        threads = FewThreads(tasks.start_soon, lambda _name: work_s)
        ports = Ports(ClockForThreads(), random.Random(0), self.woken, threads, VirtualMemory())
        self.engine = Engine(Settings(debug_references=record), ports, MemoryJournal())
        self._callers = callers
        self._in_use: set[str] = set()
        self._waiting = 0
        self.late_zeros_max = 0
        """How often a zero may be reported that is over."""
        self._load(execution)
        self.engine._bus.readers.append(self)

    def _load(self, execution: str) -> None:
        """Have the version loaded and ready, without a step."""
        script = self.cast.script(*KEY)
        script.chunks, script.on_close, script.signature = self._chunks, self._on_close, UNCHECKED
        engine = self.engine
        engine._host.loaders.add(LOADER, self.cast.loader)
        spec = engine.register(*KEY, "script", loader=LOADER, execution=execution)
        found: list[LoadedModel | None] = []
        engine._host.load(spec, lambda loaded, error: found.append(loaded))
        (loaded,) = found
        assert loaded is not None
        self.loaded = loaded
        self.version = engine._version(KEY)
        self.version.loaded, self.version.state = loaded, VersionState.READY
        engine._router.opened(loaded)

    @staticmethod
    def _chunks(_inputs: object) -> Iterator[Any]:
        yield {"y": 0}
        yield {"y": 1}

    def _on_close(self) -> None:
        assert not self._in_use, f"closed while {self._in_use} hold it"
        assert not self.loaded.account.held, "closed while it was held"

    # --- a reader of events ---

    def put(self, event: Any) -> None:
        """Note who holds what as the version changes its state."""
        if event.kind == "version_state":
            held = self.loaded.account.held
            kinds = tuple(use[0] for use in held.values())
            names = frozenset(ref for ref in held if isinstance(ref, str))
            if self.version.loaded is self.loaded:
                assert names == {name for name in self._in_use if "stream" not in name}
            self.told.append(Told(event.detail["state"], trio.current_time(), kinds, names))

    def wake(self) -> None:
        """Hear that there are no more events."""

    # --- who calls ---

    def hold(self, number: int, kind: Kind, stay_s: Duration = 0.0, *, anywhere: bool = False) -> Use:
        """Use the version, for so long."""
        use = Use(f"{kind} {number}", kind)
        ways = {"lease": self._lease, "async lease": self._async_lease, "infer": self._infer, "stream": self._stream}
        use.call = self.call(use.name, lambda: ways[kind](use, stay_s), anywhere=anywhere)
        self.uses.append(use)
        return use

    def drain(self, drain: Drain, after_s: float | None = None, *, anywhere: bool = False) -> Call:
        """Order the version's unload."""

        async def unload() -> DrainOutcome:
            if after_s is not None:
                await trio.sleep(after_s)
            return await self.engine.unload(*KEY, drain=drain, force=True)

        call = self.call("unload", unload, anywhere=anywhere)
        self.drains.append((drain, after_s or 0.0, call))
        return call

    def wait(self, timeout_s: float = 10.0, *, anywhere: bool = False) -> Call:
        """Wait for zero."""

        async def wait() -> Any:
            self._waiting += 1
            try:
                return await self.engine.references.wait_for_zero(*KEY, timeout_s)
            finally:
                self._waiting -= 1
                drains = self.version._draining is not None
                assert len(self.loaded.account._watchers) <= self._waiting + drains, "a watcher is left behind"

        call = self.call("wait", wait, anywhere=anywhere)
        self.waits.append(call)
        return call

    def load(self, after_s: float, *, anywhere: bool = False) -> Call:
        """Want the version again, in so many seconds: perhaps it is given back."""
        self.late_zeros_max = 1

        async def load() -> None:
            await trio.sleep(after_s)
            await self.engine.ensure_loaded(*KEY)

        call = self.call("load", load, anywhere=anywhere)
        self.loads.append(call)
        return call

    def call(self, name: str, make: Callable[[], Awaitable[Any]], *, anywhere: bool = False) -> Call:
        """Make a call beside the program."""
        call = Call(name, make, anywhere)
        self.calls.append(call)
        self._callers.start_soon(call.run, name=name)
        return call

    async def _lease(self, use: Use, stay_s: Duration) -> None:
        with self.engine.lease("m", request_id=use.name), self._using(use):
            await stay(stay_s)

    async def _async_lease(self, use: Use, stay_s: Duration) -> None:
        async with self.engine.lease("m", request_id=use.name):
            with self._using(use):
                await stay(stay_s)

    async def _infer(self, use: Use, _stay_s: Duration) -> None:
        await self.engine.infer("m", {"x": use.name})

    async def _stream(self, use: Use, stay_s: Duration) -> None:
        async with self.engine.infer_stream("m", {"x": use.name}) as chunks:
            with self._using(use):
                await chunks.__anext__()
                await stay(stay_s)
                await chunks.__anext__()

    @contextmanager
    def _using(self, use: Use) -> Generator[None, None, None]:
        use.since_s = trio.current_time()
        self._in_use.add(use.name)
        try:
            yield
        finally:
            use.ended_s = trio.current_time()
            self._in_use.discard(use.name)


async def stay(duration: Duration) -> None:
    """Return after so many seconds, or once the event is set."""
    if isinstance(duration, trio.Event):
        await duration.wait()
    else:
        await trio.sleep(duration)


@asynccontextmanager
async def open_corner(
    execution: str = "inline", work_s: Duration = 0.0, *, record: bool = True
) -> AsyncGenerator[Corner, None]:
    """Open a corner whose uses in threads take so long; behind the block wait for every caller, then look.

    `assert_outcome` needs the messages of an account that records; one that does not can be slow to tell of a zero.
    """
    async with trio.open_nursery() as tasks:
        async with trio.open_nursery() as callers:
            corner = Corner(tasks, callers, execution, work_s, record=record)
            await tasks.start(corner.engine._version_supervisor.run)
            if execution == "worker":
                tasks.start_soon(corner.engine._host.work, corner.loaded, 0)
            await settle()
            yield corner
        await trio.sleep(100.0)  # threads that nobody waits for come to their ends
        await settle()
        assert_corner_at_rest(corner)
        tasks.cancel_scope.cancel()


def assert_corner_at_rest(corner: Corner) -> None:
    """Everybody has one answer, nothing is held or waited for, and the model was closed once, or given back."""
    engine, version, account = corner.engine, corner.version, corner.loaded.account
    assert corner.cast.wrongs() == []
    audit = engine.audit()
    assert (audit.clean, audit.holders, audit.total.over_releases) == (True, {}, 0), audit
    for call in corner.calls:
        assert call.end
    assert (account._watchers, account._revokers) == ([], {})
    assert engine.references._world.waits._waiting == set()
    left = (version._loading, version._draining, version._current, version._later)
    assert left == (None, None, None, []), left
    assert len(version._lane) == len(corner.loaded.lane) == 0
    is_ready = version.state is VersionState.READY
    assert is_ready or version.state is VersionState.UNLOADED, version.state
    assert [made.closed for made in corner.cast.made] == [1] * (len(corner.cast.made) - 1) + [0 if is_ready else 1]
    for use in corner.uses:
        assert use.call.end in ENDS, (use.name, use.call.end)
    assert_woken_once(corner)


def assert_woken_once(corner: Corner) -> None:
    """The actor was woken once for the zero of its model, and each waiter once, if he was not out of time."""
    rung = corner.woken.waiters
    assert set(rung.values()) <= {1}, "woken twice"
    waited = [call for call in corner.waits if call.end == "returned" and call.value.waited_s > 0]
    assert len(waited) <= len(rung) <= len(corner.waits)
    closed = sum(made.closed for made in corner.cast.made)
    assert corner.woken.actor <= closed + corner.late_zeros_max, (corner.woken.actor, closed)
    assert corner.woken.actor >= closed or corner.loads  # a load that is called off is closed by the host


def assert_outcome(corner: Corner, drain: Drain, call: Call) -> None:
    """A drain that was alone, and ordered at 0 s, ended as its policy has it, when it must, and names who was left."""
    outcome: DrainOutcome = call.value
    assert outcome.duration_s == call.ended_s
    if outcome.result == "drained":
        ends = holds(corner)
        assert outcome.holders == ()
        assert call.ended_s == max([0.0, *(ended_s for _, ended_s in ends)]), (call.ended_s, ends)
        latest_s = max([0.0, *(limit_s(drain, kind) for kind, _ in ends)])  # until then somebody is to be asked
        for kind, ended_s in ends:
            limited_s = latest_s if drain.then == "cancel" else limit_s(drain, kind)
            assert ended_s <= limited_s, f"a {kind} was waited for until {ended_s}"
    else:
        assert outcome.result == {"rollback": "given_back"}.get(drain.then, "quarantined"), drain
        (told,) = [it for it in corner.told if it.state == {"given_back": "ready"}.get(outcome.result, outcome.result)]
        assert told.at_s == call.ended_s
        assert Counter(holder.kind for holder in outcome.holders) == Counter(told.kinds)
        assert told.names <= {holder.holder for holder in outcome.holders}
        out_of_time = [told.at_s >= limit_s(drain, kind) for kind in told.kinds]
        assert any(out_of_time), f"{told.kinds} in time at {told.at_s}"
        assert drain.then != "cancel" or all(out_of_time), f"not all of {told.kinds} were asked by {told.at_s}"
    if drain.then == "cancel":
        revoked = [use for use in corner.uses if use.kind == "async lease" and use.ended_s is not None]
        assert all(use.ended_s <= drain.deadline_s for use in revoked if use.ended_s is not None), "it was not revoked"


def limit_s(drain: Drain, kind: str) -> float:
    """Return for how long a drain waits for holders of a kind, with the grace of those who are asked to let go."""
    if drain.then == "wait":
        return float("inf")
    is_other = kind == "stream" and drain.stream_deadline_s is not None
    deadline_s = drain.stream_deadline_s if is_other else drain.deadline_s
    return (deadline_s or 0.0) + (drain.grace_s if drain.then == "cancel" else 0.0)


def holds(corner: Corner) -> list[tuple[str, float]]:
    """Return the kind of every hold that has ended, and when."""
    kinds: dict[RefId, str] = {}
    ended: list[tuple[str, float]] = []
    for message in corner.loaded.account.messages():
        if isinstance(message, Acquire):
            kinds[message.ref] = message.kind
        else:
            ended.append((kinds[message.ref], message.at_s))
    return ended


def assert_bounds(corner: Corner) -> None:
    """Every drain and every wait was answered within its own bound, by what those that joined it allow."""
    policies = {drain.then for drain, _, _ in corner.drains}
    allowed = {"drained"}
    allowed |= {"quarantined"} if policies & {"quarantine", "cancel"} else set()
    allowed |= {"given_back"} if "rollback" in policies or corner.loads else set()
    for drain, after_s, call in corner.drains:
        assert call.end in {"returned", "cancelled", "VersionNotLoaded"}, call.end
        if call.end == "returned":
            assert call.value.result in allowed, call.value
            assert call.value.result != "drained" or not call.value.holders
            assert call.value.result != "quarantined" or call.value.holders, "for nobody"
        grace_s = drain.grace_s if drain.then == "cancel" else 0.0
        bound_s = after_s + max(drain.deadline_s, drain.stream_deadline_s or 0.0) + grace_s
        assert drain.then == "wait" or call.ended_s <= bound_s, (drain, call.ended_s)
    for call in corner.waits:
        assert call.end in {"returned", "cancelled", "DrainTimeout"}, call.end
        assert call.end != "returned" or call.value.result in {"zero", "drained"}
        assert call.error is None or call.error.holders  # type: ignore[attr-defined]  # it is a DrainTimeout
    for call in corner.loads:
        # The newest order wins: a load whose version another drain wants gone hears of it.
        assert call.end in {"returned", "cancelled", "LoadCancelled"}, call.end
