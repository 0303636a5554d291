"""A supervised actor: one task with a mailbox, timers that post to it, and a nursery for its children.

The task runs while there is something to do and is started by the next message. Every message gets an outcome: those
that a crash or a stop leaves behind are refused. Subclasses decide; no handler waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import trio

from changeover.runtime.mailbox import ControlLane
from changeover.runtime.ports import Ports
from changeover.runtime.supervisor import ChildSpec, Restart, Supervisor

M = TypeVar("M")


class Actor(ABC, Generic[M]):
    """What a version actor is built on; `post` is called on the loop, `post_soon` from any thread."""

    def __init__(self, name: str, ports: Ports, supervisor: Supervisor) -> None:
        """Begin without a task; `name` is unique in the supervisor."""
        self._name = name
        self._ports = ports
        self._supervisor = supervisor
        self._lane: ControlLane[M] = ControlLane()
        self._current: M | None = None
        self._nursery: trio.Nursery | None = None

    def post(self, message: M) -> None:
        """Put a message into the mailbox, and start the task where none runs; a closed engine answers at once."""
        if not self._supervisor.is_running:
            self._clean_up(trio.RunFinishedError())
            self._refuse(message)
            return
        self._lane.post(message)
        if not self.has_task:
            self._supervisor.start(ChildSpec(self._name, self._run, self._crashed, Restart(), self._ended))

    @property
    def has_task(self) -> bool:
        """Whether its task runs, or waits to be started again."""
        return self._name in self._supervisor

    def post_soon(self, message: M) -> None:
        """Put a message into the mailbox from any thread; an engine that is gone never hears of it."""
        self._ports.wake.soon(lambda: self.post(message))

    # --- what a subclass decides ---

    @abstractmethod
    def _starting(self) -> None:
        """Prepare a task that starts, for the first time or after a crash."""

    @abstractmethod
    def _has_work(self) -> bool:
        """Return whether the task must go on though its mailbox is empty."""

    @abstractmethod
    def _handle(self, message: M) -> None:
        """Do what a message asks; an exception from here is a crash of the actor."""

    @abstractmethod
    def _is_wanted(self) -> bool:
        """Return whether the task shall be started again after the crash that was just cleaned up."""

    @abstractmethod
    def _clean_up(self, error: BaseException) -> None:
        """Leave everything in order behind a crash; or a stop, which is `RunFinishedError` or no Exception."""

    @abstractmethod
    def _refuse(self, message: M) -> None:
        """Give a message that will not be handled its outcome; it may have one already."""

    @abstractmethod
    def _crashed(self, error: Exception, delay_s: float | None) -> None:
        """Hear from the supervisor of a crash and of the delay before the restart; None: there will be none."""

    # --- for the subclass ---

    def _post_later(self, seconds: float, scope: trio.CancelScope, message: M) -> None:
        """Post a message to itself later, unless `scope` is cancelled or the task ends before."""
        assert self._nursery is not None
        self._nursery.start_soon(self._ring, seconds, scope, message)

    async def _ring(self, seconds: float, scope: trio.CancelScope, message: M) -> None:
        with scope:
            await self._ports.clock.sleep(seconds)
            self._lane.post(message)

    # --- the task ---

    async def _run(self) -> None:
        """Take messages until there is nothing to do."""
        try:
            self._starting()
            while self._is_busy():
                async with trio.open_nursery() as self._nursery:
                    while self._is_busy():
                        self._current = await self._lane.receive()
                        self._handle(self._current)
                        self._current = None
                    self._nursery.cancel_scope.cancel()  # a timer that nobody needs any more
        except BaseException as error:
            self._clean_up(error)
            self._refuse_the_rest()
            if not isinstance(error, Exception) or self._is_wanted():
                raise

    def _is_busy(self) -> bool:
        return len(self._lane) > 0 or self._has_work()

    def _ended(self) -> None:
        """Hear from the supervisor that there is no task any more, also where it waited for a restart."""
        if len(self._lane):
            self._clean_up(trio.RunFinishedError())
            self._refuse_the_rest()

    def _refuse_the_rest(self) -> None:
        current, self._current = self._current, None
        for message in ([] if current is None else [current]) + self._lane.take_all():
            self._refuse(message)
