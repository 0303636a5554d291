"""What a policy that looks at conflicts is told: who spawned whom, what each step used, and what each is about to use.

Owns this for one schedule. A schedule whose policy does not look has none of it, and pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, cast

from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.tape import Path, Watcher

_NOTHING: frozenset[Hashable] = frozenset()


class Follower(Watcher, Protocol):
    """A watcher that must know whatever else, beside what they use, lets two steps not change places."""

    def far(self) -> None:
        """See that the step which `made` is told of next cancelled somebody, as one that fails does to its siblings.

        Or that it entered or left a scope, which it then is cancelled with, or no longer; or that it spawned into a
        nursery that could have ended before.
        """
        ...

    def joined(self, task: Any, others: Sequence[Any]) -> None:
        """See that a task which waited for a nursery can go on, because the last of all who were in it has ended."""
        ...


class Watching:
    """One schedule, as its policy sees it."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._paths: dict[Any, Path] = {}
        self._children: dict[Any, int] = {}
        self._ahead: dict[Any, frozenset[Hashable]] = {}
        self._running: Any = None
        self._made = False
        self._used = _NOTHING
        self._waits: Callable[[Any], None] | None = getattr(watcher, "waits", None)
        """Told of a task that waits, or has ended, behind the step that it has just made; for those who have it."""
        self._follower = cast("Follower", watcher) if hasattr(watcher, "far") else None
        self._living: dict[Any, tuple[object, bool]] = {}
        """The tasks that have not ended, and in which scope each is, and whether cancelled; for a follower alone."""
        self._outside = False
        """Whether the step has spawned into a nursery that could have ended before; likewise."""
        self._left: dict[Any, list[Any]] = {}
        """The tasks that have ended, by the nursery that they were in; likewise."""
        watcher.watch(self.ahead)

    def ahead(self, candidate: Any) -> frozenset[Hashable]:
        """Return what a candidate has said that its next step uses; nothing is known of a deadline or a thread."""
        return self._ahead.get(candidate, _NOTHING)

    def touch(self, task: Any, resource: Hashable) -> None:
        """Note that the step that `task` is making uses a resource."""
        if task is self._running:
            self._used |= {resource}

    def touch_next(self, task: Any, resource: Hashable) -> None:
        """Note that the step that `task` makes behind this one will use a resource."""
        self._ahead[task] = self._ahead.get(task, _NOTHING) | {resource}

    def spawned(self, task: Any) -> None:
        """Give a task its path: that of the task whose step this is, and the how manieth of its tasks it is."""
        spawner = self._running
        number = self._children.get(spawner, 0)
        self._children[spawner] = number + 1
        self._paths[task] = path = (*self._paths.get(spawner, ()), number)
        if self._follower is not None:
            self._living[task] = inside_trio.scope_of(task)
            self._outside = self._outside or not inside_trio.keeps_open(spawner, task)
        self._watcher.spawned(task, path)

    def begins(self, task: Any) -> None:
        """Note whose step begins; None: a deadline or a thread has its effect."""
        self._running, self._made = task, True
        self._used = self._ahead.pop(task, _NOTHING)

    def ended(self) -> None:
        """Tell the policy of the step that was made since it was last told, if one was."""
        if self._made:
            self._made = False
            task = self._running
            if self._follower is not None:
                self._follow(self._follower, task)
            self._watcher.made(task, self._used)
            if self._waits is not None and task is not None and inside_trio.waits(task):
                self._waits(task)

    def _follow(self, follower: Follower, task: Any) -> None:
        """Look at what else the step of a task did."""
        before, self._living = self._living, {one: inside_trio.scope_of(one) for one in self._living}
        far, self._outside = self._outside or self._living != before, False
        if task is not None and inside_trio.has_ended(task):
            self._living.pop(task, None)
            self._left.setdefault(task.parent_nursery, []).append(task)
            over = inside_trio.joined_by(task)
            if over is not None:
                follower.joined(over[1], self._left.pop(over[0]))
        if far:
            follower.far()
