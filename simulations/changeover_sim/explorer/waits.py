"""Who waits for whom: every parked task, the primitive it is parked in, and who holds that, where Trio knows it.

Pure functions over a run that stands still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import trio

from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.places import Names, Place, place

_SHOWN = 6
_FOR_ONE = "for one of"
_FOR_ALL = "for all of"


@attrs.frozen(eq=False)
class Wait:
    """A task that waits."""

    task: str
    """Its name."""
    place: Place | None
    """The line of the program's own that it stands at."""
    primitive: str
    """What it waits in, such as `trio.Lock` or `nursery`, with what is known of its state."""
    holders: tuple[str, ...]
    """The tasks without which it cannot go on, as far as Trio knows them."""
    until_s: float | None
    """When a deadline will wake it, in virtual seconds; None: never."""
    task_key: Any = attrs.field(repr=False, default=None)
    holder_keys: tuple[Any, ...] = attrs.field(repr=False, default=())
    needs: str = attrs.field(repr=False, default=_FOR_ALL)
    thing: Any = attrs.field(repr=False, default=None)

    def __str__(self) -> str:
        at = "" if self.place is None else f" at {self.place} in {self.place.function}"
        names = ", ".join(self.holders[:_SHOWN])
        if len(self.holders) > _SHOWN:
            names += f" and {len(self.holders) - _SHOWN} more"
        held = "" if not names else f" for {names}" if "nursery" in self.primitive else f", held by {names}"
        until = "" if self.until_s is None else f", until {self.until_s:g} s"
        return f"{self.task}{at} waits in {self.primitive}{held}{until}"


def graph(tasks: Iterable[Any], names: Names) -> tuple[Wait, ...]:
    """Return every one of these tasks that waits, in the order of spawning."""
    ordered = sorted(tasks, key=inside_trio.spawn_order)
    return tuple(_wait(task, names) for task in ordered if inside_trio.waits(task))


def has_cycle(waiting: Sequence[Wait]) -> bool:
    """Return whether some of them can never go on, whatever the others do, cancellation left aside."""
    return bool(stuck_for_good(waiting))


def stuck_for_good(waiting: Sequence[Wait]) -> list[Wait]:
    """Return those that can never go on, as far as it is seen from who waits for whom.

    The greatest set of tasks each of which waits, without a deadline, for others of the set only: a lock for its owner,
    a limiter for any borrower, a nursery for every child.
    """
    stuck = {wait.task_key: wait for wait in waiting if wait.until_s is None and wait.holder_keys}
    while True:
        free = [key for key, wait in stuck.items() if not _is_stuck(wait, stuck.keys())]
        if not free:
            return list(stuck.values())
        for key in free:
            del stuck[key]


def _is_stuck(wait: Wait, stuck: Iterable[Any]) -> bool:
    held = [holder in stuck for holder in wait.holder_keys]
    return all(held) if wait.needs == _FOR_ONE else any(held)


def _wait(task: Any, names: Names) -> Wait:
    found = inside_trio.frames(task)
    primitive, holders, needs, thing = _primitive(task, found)
    holders = sorted((holder for holder in holders if holder is not task), key=inside_trio.spawn_order)
    deadline = inside_trio.deadline_of(task)
    return Wait(
        names.of(task),
        place(task),
        primitive,
        tuple(names.of(holder) for holder in holders),
        None if math.isinf(deadline) else deadline,
        task,
        tuple(holders),
        needs,
        thing,
    )


def _primitive(task: Any, found: Sequence[tuple[Any, int]]) -> tuple[str, list[Any], str, Any]:
    """Return what the task is parked in, who holds it, whether it needs one of them or all, and the thing itself."""
    things = inside_trio.primitives(found)
    for thing in things:
        for kind, look in _KINDS:
            if isinstance(thing, kind):
                return *look(thing), thing
    inner = [frame.f_code.co_qualname for frame, _ in found if inside_trio.is_of_trio(frame.f_code.co_filename)]
    outermost = inner[0] if inner else "wait_task_rescheduled"
    return _PLAIN.get(outermost, outermost), inside_trio.lot_holders(task.custom_sleep_data), _FOR_ONE, None


_PLAIN = {
    "sleep_forever": "trio.sleep_forever()",
    "to_thread_run_sync": "trio.to_thread.run_sync()",
    "sleep": "trio.sleep()",
    "sleep_until": "trio.sleep_until()",
}


def _lock(lock: Any) -> tuple[str, list[Any], str]:
    owner = lock.statistics().owner
    return f"trio.{type(lock).__name__}", [owner] if owner else [], _FOR_ALL


def _nursery(nursery: Any) -> tuple[str, list[Any], str]:
    return "a nursery", list(nursery.child_tasks), _FOR_ALL


def _limiter(limiter: trio.CapacityLimiter) -> tuple[str, list[Any], str]:
    seen = limiter.statistics()
    borrowers = [task for task in seen.borrowers if isinstance(task, inside_trio.Task)]
    known = len(borrowers) == len(seen.borrowers)
    text = f"trio.CapacityLimiter ({seen.borrowed_tokens} of {seen.total_tokens} borrowed)"
    return text, borrowers if known else [], _FOR_ONE


def _channel(channel: Any) -> tuple[str, list[Any], str]:
    seen = channel.statistics()
    what = "send" if isinstance(channel, trio.MemorySendChannel) else "receive"
    return (
        (
            f"a memory channel's {what}() ({seen.current_buffer_used} of {seen.max_buffer_size} buffered, "
            f"{seen.open_send_channels} senders, {seen.open_receive_channels} receivers)"
        ),
        [],
        _FOR_ALL,
    )


def _event(event: trio.Event) -> tuple[str, list[Any], str]:
    return f"trio.Event ({event.statistics().tasks_waiting} waiting)", [], _FOR_ALL


def _plain(thing: Any) -> tuple[str, list[Any], str]:
    return f"trio.{type(thing).__name__}", [], _FOR_ALL


_KINDS: tuple[tuple[Any, Callable[[Any], tuple[str, list[Any], str]]], ...] = (
    ((trio.Lock, trio.StrictFIFOLock), _lock),
    (trio.Nursery, _nursery),
    (trio.CapacityLimiter, _limiter),
    ((trio.MemorySendChannel, trio.MemoryReceiveChannel), _channel),
    (trio.Event, _event),
    ((trio.Condition, trio.Semaphore), _plain),
)
"""What is known of each primitive; the innermost object of Trio that is one of these decides."""
