"""An engine step by step: a Trio run in a thread that goes on only while somebody waits for it, and who looks at it.

A `Loop` owns its thread; `end` waits for it. `Looks` sees every step of every task, and every event.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
import trio.testing

from changeover import VersionKey, VersionState
from changeover.core import lifecycle
from changeover.errors import ChangeoverError
from tests.support.rig import Rig, settle

EDGES = {(state, to.state) for state, row in lifecycle.TABLE.items() for to in row.values()}
"""Every step that a version may take."""

STEPS_MAX = 20_000
"""More than tasks need to come to rest; where they do not, a test fails and does not hang."""


class Loop:
    """A Trio run in a thread, whose clock moves when it is told to."""

    def __init__(self, main: Callable[[Loop], Awaitable[None]]) -> None:
        """Start it, and wait until `main` has called `is_up`."""
        self._up = threading.Event()
        self._clock = trio.testing.MockClock()
        self.steps = 0
        """How many steps tasks have made since somebody waits for them."""
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(main,), name="the engine")
        self._thread.start()
        self._up.wait()

    def _run(self, main: Callable[[Loop], Awaitable[None]]) -> None:
        try:
            trio.run(main, self, clock=self._clock)
        except BaseException as error:  # noqa: BLE001 - raised by `end`
            self.failed = error
        self._up.set()

    def is_up(self) -> None:
        """Let others in."""
        self._token = trio.lowlevel.current_trio_token()
        self._up.set()

    def runs_free(self) -> None:
        """Let time pass by itself from now on."""
        self._clock.autojump_threshold = 0.0

    def do(self, call: Callable[[], Any], *, pause_s: float = 0.0) -> Any:
        """Make a call in the run, and return when all have done what they can; then let so much time pass."""

        async def step() -> Any:
            self.steps = 0
            value = call()
            await settle()
            for _ in range(round(pause_s * 4)):
                self.steps = 0
                self._clock.jump(0.25)
                await settle()
            return value

        return trio.from_thread.run(step, trio_token=self._token)

    def end(self, over: trio.Event) -> None:
        """Set what `main` waits for, and wait for the end of the run; raises what ended it."""
        trio.from_thread.run_sync(over.set, trio_token=self._token)
        self._thread.join()
        if self.failed is not None:
            raise self.failed


@attrs.define(eq=False)
class Order:
    """Somebody's call, and how it ended."""

    kind: str
    number: int
    make: Callable[[], Awaitable[Any]]
    rounds: int = 0
    """So many checkpoints after the others it begins."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ends: list[str] = attrs.field(factory=list)
    error: ChangeoverError | None = None

    async def run(self) -> None:
        """Make it."""
        try:
            with self.scope:
                for _ in range(self.rounds):
                    await trio.lowlevel.checkpoint()
                await self.make()
                self.ends.append("returned")
        except ChangeoverError as error:
            self.error = error
            self.ends.append(type(error).__name__)
        if self.scope.cancelled_caught:
            self.ends.append("cancelled")


class Looks(trio.abc.Instrument):
    """Looks at the bytes after each step of each task, and reads every event."""

    def __init__(self, rig: Rig, loop: Loop, everything: trio.CancelScope) -> None:
        self._loop = loop
        self._everything = everything
        self.wrongs: list[str] = []
        self.lives: dict[VersionKey, list[VersionState]] = {}
        self._engine = rig.engine
        self._store = rig.engine._store
        rig.engine._bus.readers.append(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Look at the bytes; end everything where tasks go round in circles."""
        self._loop.steps += 1
        if self._loop.steps > STEPS_MAX:
            self.wrongs.append("a livelock")
            self._everything.cancel()
        store = self._store
        if store.budget_bytes is not None and store.reserved_bytes > store.budget_bytes:
            self.wrongs.append(f"{store.reserved_bytes} bytes of {store.budget_bytes} are reserved")

    def put(self, event: Any) -> None:
        """See where a version goes."""
        if event.kind == "version_registered":
            self.lives[VersionKey(event.model, event.version)] = [VersionState.REGISTERED]
        if event.kind == "version_state":
            life = self.lives[VersionKey(event.model, event.version)]
            life.append(VersionState(event.detail["state"]))
            if (life[-2], life[-1]) not in EDGES:
                self.wrongs.append(f"{event.model}/{event.version} went {[state.value for state in life]}")
            loaded = self._engine._versions[VersionKey(event.model, event.version)].loaded
            if life[-1] is VersionState.UNLOADING and loaded.account.held:
                self.wrongs.append(f"{event.model}/{event.version} is closed while it is held")

    def wake(self) -> None:
        """Hear that there are no more events."""
