"""A supervisor: starts children, restarts those that crash, and stops them in reverse order of their start.

It owns one nursery and its children; a child's exception never reaches its siblings. After Erlang's `supervisor`,
but the intensity is counted per child, because versions share nothing. Its own crash is the engine's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from changeover.runtime import sites
from changeover.runtime.ports import Ports


@attrs.frozen
class Restart:
    """How often and how soon a child that crashed is started again."""

    most: int = 5
    """So many restarts ..."""
    within_s: float = 60.0
    """... within this time; one more, and it is given up."""
    first_s: float = 0.1
    """The delay before the first restart; it doubles with each."""
    longest_s: float = 10.0
    """The longest delay."""
    jitter: float = 0.2
    """The part of the delay that is left to chance, so that many children do not start at once."""

    def delay_s(self, crashes: list[float], draw: float) -> float | None:
        """Return the delay before the next restart for the crash times within the window; None: give up."""
        if len(crashes) > self.most:
            return None
        delay: float = min(self.longest_s, self.first_s * 2 ** (len(crashes) - 1))
        return delay * (1 - self.jitter + 2 * self.jitter * draw)


@attrs.frozen
class ChildSpec:
    """What a supervisor needs to know of a child."""

    name: str
    """Unique among the children that run."""
    run: Callable[[], Awaitable[None]]
    """The child; returning ends it, raising is a crash."""
    crashed: Callable[[Exception, float | None], None]
    """Told of every crash and the delay before the restart; None: there will be none."""
    restart: Restart | None = None
    """None: never restarted."""
    ended: Callable[[], None] | None = None
    """Told when it will run no more, whatever ended it."""


@attrs.define(eq=False)
class _Child:
    spec: ChildSpec
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    stopping: bool = False


class Supervisor:
    """Keeps children running; `run` is its task, everything else is called on the loop."""

    def __init__(self, ports: Ports) -> None:
        """Begin without children."""
        self._ports = ports
        self._children: dict[str, _Child] = {}
        self._nursery: trio.Nursery | None = None
        self._stopped = trio.Event()
        self.restarts = 0
        """How often anything was restarted."""

    def __contains__(self, name: object) -> bool:
        """Return whether a child of this name runs or waits for its restart."""
        return name in self._children

    @property
    def is_running(self) -> bool:
        """Whether children can be started."""
        nursery = self._nursery
        # One that has crashed takes no more children, some turns before `run` hears of it.
        return nursery is not None and not nursery.cancel_scope.cancel_called and not self._stopped.is_set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the supervisor until `stop`; an exception from here is a crash of the engine."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._stopped.wait()
        finally:
            self._nursery = None

    def start(self, spec: ChildSpec) -> None:
        """Start a child; its name must be free."""
        assert self._nursery is not None, "the supervisor runs before its children"
        assert spec.name not in self._children, spec.name
        child = _Child(spec)
        self._nursery.start_soon(self._keep, child, name=spec.name)  # first: `stop` waits for whoever is listed
        self._children[spec.name] = child

    async def stop(self) -> None:
        """Stop every child, the youngest first, then end; cancelled, it has stopped some of them."""
        while self._children:
            child = self._children[next(reversed(self._children))]
            child.stopping = True
            child.scope.cancel()
            await child.ended.wait()
        self._stopped.set()

    def drop(self) -> None:
        """End with every child at once, in no order and without waiting: for a forked process."""
        self._stopped.set()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _keep(self, child: _Child) -> None:
        """Run a child until it ends, is stopped or is given up."""
        crashes: list[float] = []
        try:
            while not child.stopping:
                try:
                    with child.scope:
                        await child.spec.run()
                except Exception as error:  # noqa: BLE001 - a child's crash, whatever it is, is an event here
                    delay_s = self._after_crash(child, crashes)
                    child.spec.crashed(error, delay_s)
                    if delay_s is None:
                        return
                else:
                    return
                child.scope = trio.CancelScope()
                with child.scope:
                    await self._ports.clock.sleep(delay_s)
                if sites.ON and child.scope.cancelled_caught:
                    sites.sometimes("restart-delay-cut-short")
                child.scope = trio.CancelScope()
        finally:
            del self._children[child.spec.name]
            if child.spec.ended is not None:
                child.spec.ended()
            child.ended.set()

    def _after_crash(self, child: _Child, crashes: list[float]) -> float | None:
        """Note a crash and decide."""
        policy = child.spec.restart
        if policy is None or child.stopping:
            return None
        now = self._ports.clock.now()
        crashes.append(now)
        crashes[:] = [at for at in crashes if at > now - policy.within_s]
        delay_s = policy.delay_s(crashes, self._ports.random.random())
        if sites.ON and delay_s is not None and sites.buggify("restart-at-once"):
            delay_s = 0.0
        if sites.ON and delay_s is not None and sites.buggify("restart-as-late-as-may-be"):
            delay_s = policy.delay_s(crashes, 1.0)
        self.restarts += delay_s is not None
        return delay_s
