"""What a policy that looks at conflicts is told: who spawned whom, what each step used, and what each is about to use.

Owns this for one schedule. A schedule whose policy does not look has none of it, and pays nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from changeover_sim.explorer.tape import Path, Watcher

_NOTHING: frozenset[Hashable] = frozenset()


class Watching:
    """One schedule, as its policy sees it."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._paths: dict[Any, Path] = {}
        self._children: dict[Any, int] = {}
        self._ahead: dict[Any, set[Hashable]] = {}
        self._running: Any = None
        self._made = False
        self._used: set[Hashable] = set()
        watcher.watch(self.ahead)

    def ahead(self, candidate: Any) -> frozenset[Hashable]:
        """Return what a candidate has said that its next step uses; nothing is known of a deadline or a thread."""
        said = self._ahead.get(candidate)
        return _NOTHING if said is None else frozenset(said)

    def touch(self, task: Any, resource: Hashable) -> None:
        """Note that the step that `task` is making uses a resource."""
        if task is self._running:
            self._used.add(resource)

    def touch_next(self, task: Any, resource: Hashable) -> None:
        """Note that the step that `task` makes behind this one will use a resource."""
        self._ahead.setdefault(task, set()).add(resource)

    def spawned(self, task: Any) -> None:
        """Give a task its path: that of the task whose step this is, and the how manieth of its tasks it is."""
        spawner = self._running
        number = self._children.get(spawner, 0)
        self._children[spawner] = number + 1
        self._paths[task] = path = (*self._paths.get(spawner, ()), number)
        self._watcher.spawned(task, path)

    def begins(self, task: Any) -> None:
        """Note whose step begins; None: a deadline or a thread has its effect."""
        self._running, self._made = task, True
        self._used = self._ahead.pop(task, set())

    def ended(self) -> None:
        """Tell the policy of the step that was made since it was last told, if one was."""
        if self._made:
            self._made = False
            self._watcher.made(self._running, frozenset(self._used))
