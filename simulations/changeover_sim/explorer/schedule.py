"""One schedule: one run of the program under Trio, from its first step to its verdict.

Owns the run, its queue and its threads, and ends all of them, whatever the program does. It decides nothing itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import attrs
import trio

from changeover_sim.explorer import choices as choices_
from changeover_sim.explorer import inside_trio, threads, waits
from changeover_sim.explorer.errors import Abandoned, BadProgram
from changeover_sim.explorer.guard import current_guard
from changeover_sim.explorer.places import Names, place
from changeover_sim.explorer.queue import Mode, RunQueue, Timeouts
from changeover_sim.explorer.tape import Chooser, Decision, Watcher
from changeover_sim.explorer.trace import Recorder, Roll, Step
from changeover_sim.explorer.watching import Watching

Program = Callable[[], Awaitable[object]]

_NO_EVENTS: list[Any] = []

STALL_LEAST_S, STALL_MAX_S = 0.01, 86_400.0
STEPS_MAX = 1 << 40
SEED_MAX = 1 << 63
"""What limits must keep to."""


@attrs.frozen
class Rules:
    """What holds for every schedule of an exploration."""

    mode: Mode = "any-runnable"
    """`any-runnable`: any step that could be next; `trio-batch`: each once in a batch, as stock Trio does."""
    timeouts: Timeouts = "when-idle"
    """`when-idle`: time stands still while anything can run; `any-time`: a deadline may come at every step."""
    steps_max: int = 10_000
    """After so many steps the schedule goes on first-in-first-out, and after twice as many it is a livelock."""
    stall_s: float = 5.0
    """Real seconds after which a program that makes no step is interrupted."""


def limits_hold(rules: Rules) -> bool:
    """Return whether the limits are such that a program can be watched by them."""
    plain = type(rules.stall_s) in {int, float} and type(rules.steps_max) is int
    return plain and STALL_LEAST_S <= rules.stall_s < STALL_MAX_S and 0 < rules.steps_max < STEPS_MAX


@attrs.frozen(eq=False)
class Ending:
    """How a schedule ended."""

    verdict: str | None
    """None: well; else `exception`, `deadlock`, `livelock` or `leftover`."""
    error: BaseException | None
    """What the program raised."""
    tape: list[Decision]
    steps: int
    waiting: tuple[waits.Wait, ...] = ()
    """For a deadlock or a livelock: every task that waits, and for whom."""
    leftover: tuple[str, ...] = ()
    """The tasks that were alive when the program had returned."""
    trace: tuple[Step, ...] = ()
    """Step by step, where it was recorded."""
    stock: bool = True
    """Whether stock Trio, which runs each ready task once per batch, could have made this schedule, if recorded."""
    roll: Sequence[str] = ()
    """For each step who was ready and who was taken, where that was noted."""


class _NoIO:
    """Stands where Trio waits for sockets: nothing real is ever waited for."""

    def process_events(self, events: object) -> None:
        """There are none."""

    def force_wakeup(self) -> None:
        """Nobody sleeps."""

    def close(self) -> None:
        """Nothing was opened."""

    def statistics(self) -> SimpleNamespace:
        """Return that nobody waits for I/O."""
        return SimpleNamespace(backend="explorer", tasks_waiting_read=0, tasks_waiting_write=0)

    def __getattr__(self, name: str) -> Any:
        """Refuse every way of waiting for the operating system."""
        guard = current_guard()
        if name.startswith("__") or guard is None:
            raise AttributeError(name)
        guard.refuse(f"the program waits for real I/O ({name}); use trio.testing.memory_stream_pair()")
        raise AssertionError(name)


class Schedule:
    """One run, with everything that belongs to it."""

    def __init__(
        self,
        program: Program,
        chooser: Chooser,
        rules: Rules,
        launch: Callable[[Callable[[], None], str], None],
        recorder: Recorder | Roll | None,
    ) -> None:
        """`launch` runs a worker thread's work in a real one; what is recorded goes to `recorder`."""
        self.choices = choices_.Choices(chooser)
        self.queue = RunQueue(chooser, rules.mode, rules.timeouts, rules.steps_max)
        self.choices.queue = self.queue
        if hasattr(chooser, "watch"):
            self.queue.watching = Watching(cast("Watcher", chooser))
        self.threads = threads.Threads(self.queue.append, launch)
        self.leftover: tuple[str, ...] = ()
        self.blocked_at: str | None = None
        """Where a worker thread stood that did not give its turn back."""
        self._program = program
        self._recorder = recorder
        self._internal: trio.TrioInternalError | None = None
        self._names = Names()
        self.runner = inside_trio.make_runner(
            self.queue, self.queue.timers, self.queue.clock, _NoIO(), self._hooks(), self.threads.is_foreign
        )
        self.queue.idle_cushion_s = lambda: inside_trio.idle_cushion_s(self.runner)
        if recorder is not None:
            recorder.follow(self.queue, self._names)

    def _hooks(self) -> dict[str, Callable[..., None]]:
        hooks: dict[str, Callable[..., None]] = {"task_exited": self._task_exited}
        if self._recorder is not None:
            hooks["task_spawned"] = self._names.spawned
        if self.queue.watching is not None:
            hooks["task_spawned"] = self._spawned
        return hooks

    async def _main(self) -> None:
        made = self._program()
        if not inspect.isawaitable(made):
            raise BadProgram(
                f"the program returned {type(made).__name__} instead of something to await; hand over an async function"
            )
        await made

    def play(self) -> Ending:
        """Run to the end, and then end whatever is left."""
        choices_.install(self.choices)
        ended = False
        try:
            with inside_trio.loop_of(self.runner, self._main) as loop:
                try:
                    try:
                        ended = self._drive(loop)
                    finally:
                        if self._recorder is not None:
                            self._recorder.stop()
                    ending = self._judge(ended=ended)
                finally:
                    if not ended:
                        self._abandon(loop)
        finally:
            choices_.install(None)
            self.threads.give_up()
        return ending

    def _drive(self, loop: inside_trio.Loop) -> bool:
        """Make passes until the run is over (True) or stuck (False)."""
        send, queue = loop.send, self.queue
        try:
            send(None)
            while queue.halted is None:
                send(_NO_EVENTS)
        except StopIteration:
            return True
        except trio.TrioInternalError as error:
            self._internal = error
            self._drop(loop)
            return True
        return False

    def _judge(self, *, ended: bool) -> Ending:
        error = self._error()
        verdict: str | None = None
        waiting: tuple[waits.Wait, ...] = ()
        if error is not None:
            verdict = "exception"
            self._refuse_misuse(error)
        elif not ended:
            waiting = waits.graph(filter(self._is_ours, self.runner.tasks), self._names)
            dead = self.queue.halted == "stuck" or waits.has_cycle(waiting)
            verdict = "deadlock" if dead else "livelock"
        elif self.leftover:
            verdict = "leftover"
        recorder = self._recorder
        return Ending(
            verdict,
            error,
            self.queue.tape,
            self.queue.steps,
            waiting,
            self.leftover,
            () if recorder is None else recorder.steps(),
            recorder is None or recorder.stock,
            [] if recorder is None else recorder.calls,
        )

    def _error(self) -> BaseException | None:
        if self.queue.broken is not None:
            blocking = self.threads.blocking()
            self.blocked_at = None if blocking is None else f"{blocking[1]}, in the thread {blocking[0]!r}"
            raise self.queue.broken
        if self._internal is not None:
            if isinstance(self._internal.__cause__, KeyboardInterrupt):
                raise KeyboardInterrupt from self._internal
            return self._internal
        return getattr(self.runner.main_task_outcome, "error", None)

    @staticmethod
    def _refuse_misuse(error: BaseException) -> None:
        """Raise what is no finding: Ctrl-C, a program that is not async, one that calls `trio.run`."""
        for leaf in leaves(error):
            if isinstance(leaf, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            if isinstance(leaf, BadProgram):
                raise leaf
            if isinstance(leaf, RuntimeError) and "run() from inside a run()" in str(leaf):
                raise BadProgram("the program calls trio.run() itself; hand over the async function it runs") from error

    def _spawned(self, task: inside_trio.Task) -> None:
        self._names.spawned(task)
        if self.queue.watching is not None:
            self.queue.watching.spawned(task)

    def _task_exited(self, task: inside_trio.Task) -> None:
        if task is self.runner.main_task:
            alive = self.runner.tasks - {self.runner.init_task}
            left = sorted((t for t in alive if not inside_trio.is_trios_own(t)), key=inside_trio.spawn_order)
            self.leftover = tuple(f"{self._names.of(t)} at {place(t)}" for t in left)

    # --- giving up ----------------------------------------------------------------------------------------------------

    def _abandon(self, loop: inside_trio.Loop) -> None:
        """End a run that does not end: every task finds `Abandoned` at each checkpoint, shielded or not."""
        self.choices.give_up()
        self.queue.hand_over()
        self.queue.before_step = self._poison
        try:
            while self.queue.halted is None:
                if not self.queue:
                    self._abort_all()
                loop.send(_NO_EVENTS)
        except StopIteration:
            return
        except trio.TrioInternalError:
            pass
        self._drop(loop)

    def _drop(self, loop: inside_trio.Loop) -> None:
        inside_trio.drop(loop, sorted(self.runner.tasks, key=inside_trio.spawn_order))

    def _is_ours(self, task: inside_trio.Task) -> bool:
        return task is not self.runner.init_task and task.name != inside_trio.ENTRY

    def _poison(self, task: inside_trio.Task | None, _: object) -> None:
        if task is not None and self._is_ours(task):
            inside_trio.poison(task, Abandoned())

    def _abort_all(self) -> None:
        for task in sorted(self.runner.tasks, key=inside_trio.spawn_order):
            if self._is_ours(task) and inside_trio.waits(task):
                inside_trio.abort(task, Abandoned())


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions inside the groups that Trio wraps them in."""
    inner: Sequence[BaseException] = ()
    if isinstance(error, BaseExceptionGroup):  # others, too, have such an attribute
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return [leaf for one in inner for leaf in leaves(one)] or [error]
