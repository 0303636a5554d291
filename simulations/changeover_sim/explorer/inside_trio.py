"""All that the explorer touches inside Trio, in one place: the run loop driven by hand, and what is read of tasks.

Owns nothing. Each private name stands in `NAMES`; `check` says which are missing, and a test looks at each of them.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import contextvars
import math
import sys
import warnings
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any, NoReturn

import outcome
import sniffio
import trio
import trio._core._run as run_loop
import trio._threads as trio_threads
from trio._core import _entry_queue, _ki, _parking_lot, _thread_cache

from changeover_sim.explorer.errors import TrioNotSupported
from changeover_sim.explorer.instruments import Instruments

_CLOSES_MAX = 3
"""How often a coroutine that catches everything is told to end."""

_kept: list[Any] = []
"""Coroutines that would not end."""

TESTED = ("0.30", "0.31", "0.32", "0.33", "0.34", "0.35")
"""The releases of Trio with which the explorer's own tests were run."""

ENTRY = "<TrioToken.run_sync_soon task>"
"""The task in which Trio runs what other threads hand in."""

Runner = run_loop.Runner
Task = run_loop.Task
Loop = Generator[float, Any, None]

NAMES: tuple[tuple[Any, str], ...] = (
    (run_loop, "unrolled_run"),
    (run_loop, "GLOBAL_RUN_CONTEXT"),
    (run_loop, "Deadlines"),
    *(
        (Runner, name)
        for name in ("reschedule", "spawn_impl", "task_exited", "runq", "tasks", "deadlines", "waiting_for_idle")
    ),
    *((Runner, name) for name in ("init_task", "main_task", "main_task_outcome", "entry_queue", "asyncgens")),
    *((Task, name) for name in ("_counter", "_next_send", "_next_send_fn", "_abort_func", "_attempt_abort")),
    *((Task, name) for name in ("_cancel_status", "_runner", "custom_sleep_data", "iter_await_frames", "name")),
    *((trio.CancelScope, name) for name in ("_cancel_status", "_registered_deadline", "_has_been_entered")),
    (trio.CancelScope, "_cancel_called"),
    *((trio.Nursery, name) for name in ("_children", "_cancel_status", "_closed")),
    *(((trio.CancelScope, "_cancel"),) if hasattr(run_loop, "CancelReason") else ()),  # both since Trio 0.31
    (run_loop.CancelStatus, "encloses"),
    (Task, "_child_nurseries"),
    (_entry_queue.EntryQueue, "wakeup"),
    (_ki, "KIManager"),
    (_parking_lot, "GLOBAL_PARKING_LOT_BREAKER"),
    (_thread_cache, "THREAD_CACHE"),
    (trio_threads, "_send_message_to_trio"),
    (sniffio, "thread_local"),
)
"""Owner and name of everything private (or hardly public) that is used here or by Trio's loop on our stand-ins."""

spawn_order: Callable[[Any], int] = attrgetter("_counter")
"""What everything in the run queue is sorted by: tasks in the order of their spawning. Ids and sets have none."""


def check() -> None:
    """Raise `TrioNotSupported` where this Trio lacks one of the names; the sentence says which."""
    missing = [f"{owner.__name__}.{name}" for owner, name in NAMES if not _has(owner, name)]
    if missing:
        raise TrioNotSupported(
            f"Trio {trio.__version__} has no {', '.join(missing)}; the explorer was tested with Trio "
            f"{TESTED[0]} to {TESTED[-1]}: install one of them"
        )


def _has(owner: Any, name: str) -> bool:
    fields = {field.name for field in getattr(owner, "__attrs_attrs__", ())}
    made = getattr(getattr(owner, "__init__", None), "__code__", None)
    plainly = not fields and made is not None and name in made.co_names  # set by a class that is not one of attrs
    return hasattr(owner, name) or name in fields or plainly


def tested() -> bool:
    """Return whether the explorer's own tests were run with this Trio."""
    return ".".join(trio.__version__.split(".")[:2]) in TESTED


# --- the loop ---------------------------------------------------------------------------------------------------------


class Wakeup:
    """Wakes the task that runs what other threads hand in; no socket, since nobody else ever waits for it."""

    def __init__(self, foreign: Callable[[], bool]) -> None:
        """`foreign()` says whether the calling thread is one that is not controlled."""
        self._foreign = foreign
        self._waiting: Any = None
        self._woken = False

    def wakeup_thread_and_signal_safe(self) -> None:
        """Make the task runnable; refused to threads that nobody controls."""
        if self._foreign():
            return
        self._woken = True
        task, self._waiting = self._waiting, None
        if task is not None:
            task._runner.reschedule(task)

    async def wait_woken(self) -> None:
        """Return once there is something to run."""
        if not self._woken:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._woken = False

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def close(self) -> None:
        """Nothing was opened."""


def make_runner(
    runq: Any, timers: Any, clock: Any, io: Any, hooks: dict[str, Callable[..., None]], foreign: Callable[[], bool]
) -> Runner:
    """Return one run of Trio whose queue, deadlines, clock and I/O are ours; nothing is started yet."""
    return Runner(
        clock=clock,
        instruments=Instruments(hooks),  # type: ignore[arg-type]
        io_manager=io,
        ki_manager=_ki.KIManager(),
        strict_exception_groups=True,
        system_context=contextvars.copy_context(),
        runq=runq,
        deadlines=timers,
        entry_queue=_entry_queue.EntryQueue(wakeup=Wakeup(foreign)),  # type: ignore[arg-type]
    )


@contextmanager
def loop_of(runner: Runner, main: Callable[[], Awaitable[object]]) -> Generator[Loop, None, None]:
    """Install the run in this thread and hand out Trio's own loop, which makes one pass for each `send`."""
    before, sniffio.thread_local.name = sniffio.thread_local.name, "trio"
    runner.asyncgens.install_hooks(runner)
    setattr(run_loop.GLOBAL_RUN_CONTEXT, "runner", runner)  # noqa: B010 - typed for Trio's own files only
    loop = run_loop.unrolled_run(runner, main, (), host_uses_signal_set_wakeup_fd=True)
    try:
        yield loop
    finally:
        loop.close()
        run_loop.GLOBAL_RUN_CONTEXT.__dict__.clear()
        sniffio.thread_local.name = before


def idle_cushion_s(runner: Runner) -> float:
    """Return the shortest cushion with which a task waits until all others are blocked; infinity: none does."""
    return runner.waiting_for_idle.keys()[0][0] if runner.waiting_for_idle else math.inf


def drop(loop: Loop, tasks: Sequence[Task]) -> None:
    """Leave a run that cannot be ended: nothing in it runs any more, and nobody is told of it."""
    noise, sys.unraisablehook = sys.unraisablehook, _silent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in tasks:
                # So that an `await` in a `finally` yields; then the task is let be.
                setattr(run_loop.GLOBAL_RUN_CONTEXT, "task", task)  # noqa: B010 - as for `runner` below
                _close(task)
            loop.close()
    finally:
        sys.unraisablehook = noise


def _close(task: Task) -> None:
    for nursery in task._child_nurseries:
        nursery._children.clear()  # else it complains when it is collected, whenever that is
    for _ in range(_CLOSES_MAX):
        with suppress(BaseException):  # it awaits again instead of ending
            task.coro.close()
            return
    _kept.append(task.coro)  # to forget it is to close it once more, outside of everything


def _silent(_: object) -> None:
    """Say nothing of what a dropped coroutine complains of: the schedule was given up."""


def in_run() -> bool:
    """Return whether this thread is already inside `trio.run`."""
    return hasattr(run_loop.GLOBAL_RUN_CONTEXT, "runner")


# --- tasks ------------------------------------------------------------------------------------------------------------


def is_trios_own(task: Task) -> bool:
    """Return whether Trio started the task for itself, to close an async generator that nobody closed."""
    code = getattr(task.coro, "cr_code", None)
    return task.name == ENTRY or (code is not None and code.co_filename.endswith("_asyncgens.py"))


def is_of_the_loop(task: Task) -> bool:
    """Return whether the task is one of the two that every run of Trio begins with; its name says nothing.

    `start_soon(lambda: ...)` makes a task of the program's whose name begins with `<`, too.
    """
    return task.parent_nursery is None or task.name == ENTRY


def is_fresh(task: Task) -> bool:
    """Return whether the task has not made its first step."""
    return task._next_send is None


def error_of(task: Task) -> BaseException | None:
    """Return what the task will find raised at its checkpoint, such as Cancelled, if anything."""
    sent = task._next_send
    return sent.error if isinstance(sent, outcome.Error) else None


def poison(task: Task, error: BaseException) -> None:
    """Let a runnable task find `error` at the checkpoint that it stands at; one that never ran is left alone."""
    if not is_fresh(task) and task._next_send_fn == task.coro.send:
        task._next_send = outcome.Error(error)


def abort(task: Task, error: BaseException) -> None:
    """Raise `error` in a task that waits, shielded or not, by the way that a cancellation takes."""

    def raise_it() -> NoReturn:
        raise error

    if task._abort_func is not None:
        task._attempt_abort(raise_it)


def waits(task: Task) -> bool:
    """Return whether the task is parked: neither runnable nor ended."""
    return task._next_send_fn is None


def has_ended(task: Task) -> bool:
    """Return whether the task has returned or raised."""
    return task.coro.cr_frame is None


def joined_by(task: Task) -> tuple[Any, Task] | None:
    """Return the nursery that was over when this task, its last, ended, and the task that waited for it, if any did."""
    nursery = task.parent_nursery
    return (nursery, nursery.parent_task) if nursery is not None and nursery._closed else None


def keeps_open(task: Task | None, child: Task) -> bool:
    """Return whether it is sure that the nursery which `child` is in cannot end before `task` does.

    So it is for a task that is in it, too, or opened it. There is none around Trio's own first task.
    """
    nursery = child.parent_nursery
    if nursery is None or task is nursery.parent_task:
        return True
    while task is not None and task.parent_nursery is not None:
        if task.parent_nursery is nursery:
            return True
        task = task.parent_nursery.parent_task
    return False


def scope_of(task: Task) -> tuple[object, bool]:
    """Return what stands for the innermost scope that the task is in, and whether a cancellation reaches it there."""
    status: Any = task._cancel_status
    if status is None and task.parent_nursery is not None:  # it has ended, as far inside as it began
        status = task.parent_nursery._cancel_status
    return status, status is not None and status.effectively_cancelled


def deadline_of(task: Task) -> float:
    """Return when time will cancel the task, in seconds of the virtual clock; infinity: never."""
    return task._cancel_status.effective_deadline()


def lot_holders(lot: object) -> list[Task]:
    """Return the tasks without which nobody leaves this parking lot, as Trio knows it: the owner of a lock."""
    return [task for task, lots in _parking_lot.GLOBAL_PARKING_LOT_BREAKER.items() if lot in lots]


def frames(task: Task) -> list[tuple[Any, int]]:
    """Return frame and line of everything that the task is inside of, outermost first."""
    return list(task.iter_await_frames()) if task.coro.cr_frame is not None else []


# --- cancel scopes ----------------------------------------------------------------------------------------------------


def is_inside(task: Task, scope: trio.CancelScope) -> bool:
    """Return whether a cancellation of the scope would reach the task, shields left aside."""
    status: Any = task._cancel_status
    if status is None and task.parent_nursery is not None:  # it has ended; it was where its nursery is
        status = task.parent_nursery._cancel_status
    return scope._cancel_status is not None and scope._cancel_status.encloses(status)


def is_over(scope: trio.CancelScope) -> bool:
    """Return whether the scope was left, or cancelled already."""
    return scope._cancel_called or (scope._has_been_entered and scope._cancel_status is None)


def is_due(scope: trio.CancelScope, deadline: float) -> bool:
    """Return whether this is still the scope's deadline."""
    return scope._registered_deadline == deadline


def expire(scope: trio.CancelScope) -> None:
    """Cancel a scope as Trio does when its deadline has come."""
    reason = getattr(run_loop, "CancelReason", None)
    if reason is None:
        scope.cancel()
    else:
        scope._cancel(reason(source="deadline"))


# --- threads ----------------------------------------------------------------------------------------------------------


class ThreadCache:
    """Stands where Trio keeps its worker threads: hands each piece of work to `start`, where there is one."""

    def __init__(self, start: Callable[[Any, Any, Any], bool]) -> None:
        """`start(fn, deliver, name)` returns False for work that is not ours."""
        self._start = start
        self.real = _thread_cache.THREAD_CACHE

    def start_thread_soon(self, fn: Any, deliver: Any, name: Any = None) -> None:
        """Do what Trio's does."""
        if not self._start(fn, deliver, name):
            self.real.start_thread_soon(fn, deliver, name)

    @property
    def _idle_workers(self) -> Any:
        return self.real._idle_workers


@contextmanager
def threads_by(
    start: Callable[[Any, Any, Any], bool], mailbox: Callable[[], Any | None]
) -> Generator[ThreadCache, None, None]:
    """Let Trio start worker threads by `start`, and give what they send back a `mailbox()` for the answer."""
    cache, send = ThreadCache(start), trio_threads._send_message_to_trio

    def send_with_mailbox(token: Any, message: Any) -> Any:
        box = mailbox()
        if box is not None:
            object.__setattr__(message, "queue", box)  # a frozen attrs class; nothing else is changed of it
        return send(token, message)

    _thread_cache.THREAD_CACHE = cache  # type: ignore[assignment]
    trio_threads._send_message_to_trio = send_with_mailbox  # type: ignore[assignment]
    try:
        yield cache
    finally:
        _thread_cache.THREAD_CACHE = cache.real
        trio_threads._send_message_to_trio = send


def versions() -> tuple[str, str]:
    """Return the versions of Trio and of Python."""
    return trio.__version__, ".".join(map(str, sys.version_info[:3]))


def primitives(found: Sequence[tuple[Any, int]]) -> list[Any]:
    """Return the objects of Trio in whose methods a task stands, innermost first."""
    inner = [frame.f_locals.get("self") for frame, _ in reversed(found) if is_of_trio(frame.f_code.co_filename)]
    return [thing for thing in inner if thing is not None]


def is_of_trio(filename: str) -> bool:
    """Return whether a file belongs to Trio."""
    return filename.startswith(_HOME)


_HOME = trio.__file__.removesuffix("__init__.py")
