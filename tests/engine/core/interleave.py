"""Runs small thread programs under every schedule that preempts them at most so often, instruction by instruction.

After Musuvathi and Qadeer, "Iterative Context Bounding" (CHESS, 2007): few preemptions find most races. Real threads
run the real code, one at a time; a trace function hands control over where the schedule says so. An `Explorer` owns
its threads and ends them. It never lets two threads run at once, and the code it runs must not block.
"""

from __future__ import annotations

import ctypes
import dis
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any, Self

import attrs

Schedule = tuple[tuple[int, int], ...]
"""Where a run leaves the default order: (step, thread that goes on from there), by step."""

Pause = Callable[[], None]
"""A place in a program, outside the traced code, where other threads may run."""

_STEPS_MAX = 20_000
"""A run that is longer does not end."""
_PATIENCE_S = 60.0
"""How long a run may take whose steps nobody counts."""

# What only touches the frame it runs in, by the names of every version of Python since 3.11: to switch before it is
# the same as to switch before what follows. Anything that is not listed counts as a look at, or a change of, the world;
# test_interleave.py compares the two. `LOAD_GLOBAL` is here because nobody rebinds a name of the traced modules.
_LOCAL = (
    "CACHE", "COPY", "COPY_FREE_VARS", "IS_OP", "JUMP_BACKWARD", "JUMP_FORWARD", "KW_NAMES", "LOAD_CONST", "LOAD_FAST",
    "LOAD_GLOBAL", "LOAD_SMALL_INT", "MAKE_CELL", "NOP", "NOT_TAKEN", "POP_EXCEPT", "POP_JUMP_FORWARD_IF_NONE",
    "POP_JUMP_FORWARD_IF_NOT_NONE", "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "POP_TOP", "PRECALL", "PUSH_EXC_INFO",
    "PUSH_NULL", "RESUME", "STORE_FAST", "SWAP",
)  # fmt: skip


class Violation(AssertionError):
    """A schedule after which something was wrong; `schedule` runs it again."""

    def __init__(self, message: str, schedule: Schedule) -> None:
        """Keep the schedule beside the story that a person reads."""
        super().__init__(message)
        self.schedule = schedule


class NoEnd(RuntimeError):
    """Ends a program that is not watched any more and does not end by itself."""


@attrs.frozen
class Case:
    """One fresh world for one run."""

    programs: Sequence[Callable[[], object]]
    """What each thread does; an exception that leaves it is a violation."""
    check: Callable[[], Iterable[str]]
    """Called when all have ended: what is wrong, in sentences."""


Make = Callable[[Pause], Case]


@attrs.define
class _Segment:
    """A stretch of a run in which one thread ran."""

    step: int
    """The step at which it took over."""
    thread: int
    others: tuple[int, ...]
    """Who could have run instead."""
    free: bool
    """True where the thread before it had ended, so that to choose another one preempts nobody."""


class _Run:
    """The state of one run; only the thread that runs touches it."""

    def __init__(self, threads: int, schedule: Schedule) -> None:
        self.step = 0
        self.live = list(range(threads))
        self.segments: list[_Segment] = []
        self.errors: list[str] = []
        self.switches: list[str] = []
        self._left = iter((*schedule, (_STEPS_MAX, -1)))
        self.stop, self._target = next(self._left)

    def choose(self, *, free: bool) -> int:
        """Return who goes on at this step: as the schedule says, else the first that can."""
        thread = self.live[0]
        if self.step == self.stop:
            thread = self._target if self._target in self.live else thread
            self.stop, self._target = next(self._left)
        others = tuple(other for other in self.live if other != thread)
        self.segments.append(_Segment(self.step, thread, others, free))
        return thread

    def free(self, after: int) -> Iterator[tuple[int, int]]:
        """Yield every (step, thread) behind step `after` where another thread could have gone on after an end."""
        for segment in self.segments:
            if segment.free and segment.step > after:
                yield from ((segment.step, other) for other in segment.others)

    def preemptive(self, after: int) -> Iterator[tuple[int, int]]:
        """Yield every (step, thread) behind step `after` where another thread could have gone on all the same."""
        ends = [segment.step for segment in self.segments[1:]] + [self.step]
        for segment, end in zip(self.segments, ends, strict=True):
            for step in range(max(segment.step, after) + 1, end):
                yield from ((step, other) for other in segment.others)


class Explorer:
    """Threads that run programs under chosen schedules."""

    def __init__(self, *traced: type | FunctionType, threads: int = 3, every: bool = False) -> None:
        """Switch only inside the code of `traced`; `every`: also before instructions that only touch their frame."""
        self.runs = 0
        self._tracers = {code: self._tracer(code, every=every) for thing in traced for code in _codes(thing)}
        self._run = _Run(0, ())
        self._is_last = False
        self._looks_away = False
        self._programs: Sequence[Callable[[], object] | None] = [None] * threads
        # A bare lock is the quickest way to hand over: whoever may run finds his own unlocked.
        self._batons = [threading.Lock() for _ in range(threads)]
        self._over = threading.Lock()
        for lock in (*self._batons, self._over):
            lock.acquire()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._programs = [None] * len(self._threads)
        for baton, thread in zip(self._batons, self._threads, strict=True):
            baton.release()
            thread.join()

    def explore(self, make: Make, *, preemptions: int) -> int:
        """Run fresh cases under every schedule with at most so many preemptions, fewest first; return how many.

        Raises `Violation` for the first schedule after which something is wrong.
        """
        before = self.runs
        level: list[Schedule] = [()]
        for left in range(preemptions, -1, -1):
            following: list[Schedule] = []
            while level:
                schedule = level.pop()
                self._try(make, schedule, is_last=not left)
                after = schedule[-1][0] if schedule else -1
                level += [(*schedule, choice) for choice in self._run.free(after)]
                if left:
                    following += [(*schedule, choice) for choice in self._run.preemptive(after)]
            level = following
        return self.runs - before

    def replay(self, make: Make, schedule: Schedule = ()) -> None:
        """Run one fresh case under one schedule; raises `Violation` where something is wrong after it."""
        self._try(make, schedule, is_last=False)

    def _try(self, make: Make, schedule: Schedule, *, is_last: bool) -> None:
        """Do as `replay`; in the `is_last` round nobody asks where else a run that is decided could be preempted."""
        case = make(self.pause)
        self._programs = case.programs
        self._run = run = _Run(len(case.programs), schedule)
        self._is_last = is_last
        first = run.choose(free=True)
        self._looks_away = self._is_decided()
        self._batons[first].release()
        while not self._over.acquire(timeout=_PATIENCE_S):
            self._break_off(run.segments[-1].thread)
        self.runs += 1
        assert run.stop == _STEPS_MAX, f"the programs do not do the same each time: {schedule}"
        wrong = [*run.errors, *case.check()]
        if wrong:
            story = "; ".join(run.switches) or "no thread was interrupted"
            raise Violation(f"{'; '.join(wrong)}\n  {story}\n  replay(make, {schedule!r})", schedule)

    def pause(self) -> None:
        """Be a step at which another thread may go on; for the programs."""
        run = self._run
        run.step += 1
        if run.step == run.stop:
            self._switch("in the program")

    def _is_decided(self) -> bool:
        """Return whether nothing is left to choose but preemptions, and these are not allowed: steps need no number."""
        return self._is_last and self._run.stop == _STEPS_MAX and len(self._run.live) <= 2

    def _work(self, me: int) -> None:
        """Be one thread: run program after program whenever it is this thread's turn."""
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for this when it is given a trace function
        while True:
            self._batons[me].acquire()
            program = self._programs[me]
            if program is None:
                return
            sys.settrace(None if self._looks_away else self._on_call)  # again: Python forgets one that raised
            try:
                program()
            except BaseException as error:  # noqa: BLE001 - whatever leaves a program is reported
                self._run.errors.append(f"thread {me} raised {type(error).__name__}: {error}")
            self._end(me)

    def _end(self, me: int) -> None:
        run = self._run
        run.step += 1
        run.live.remove(me)
        if run.live:
            target = run.choose(free=True)
            self._looks_away = self._is_decided()
            self._batons[target].release()
        else:
            self._over.release()

    def _switch(self, where: str) -> None:
        """Let the thread go on that the schedule names, and wait for one's own next turn."""
        run = self._run
        if run.step >= _STEPS_MAX:
            raise RuntimeError(f"no end after {_STEPS_MAX} steps")
        me = run.segments[-1].thread
        target = run.choose(free=False)
        run.switches.append(f"step {run.step}: thread {me} stops {where}, thread {target} goes on")
        self._looks_away = self._is_decided()
        self._batons[target].release()
        self._batons[me].acquire()
        if self._looks_away:
            sys.settrace(None)

    def _break_off(self, thread: int) -> None:
        """Raise an exception in the thread that runs."""
        ident = self._threads[thread].ident
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident or 0), ctypes.py_object(NoEnd))

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Be the trace function of a thread: look into the traced code only."""
        tracer = self._tracers.get(frame.f_code)
        if tracer is not None:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return tracer

    def _tracer(self, code: CodeType, *, every: bool) -> Callable[[FrameType, str, Any], Any]:
        """Make the trace function of one piece of code."""
        points = frozenset(i.offset for i in dis.get_instructions(code) if every or not i.opname.startswith(_LOCAL))

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode" and frame.f_lasti in points:
                run = self._run
                run.step += 1
                if run.step == run.stop:
                    self._switch(f"before {dis.opname[code.co_code[frame.f_lasti]]} in {code.co_qualname}")
            return trace

        return trace


def _codes(thing: type | FunctionType) -> Iterator[CodeType]:
    """Yield the code of a function, or of every function in a class, and of what is nested in it."""
    members = [thing] if isinstance(thing, FunctionType) else list(vars(thing).values())
    members = [getattr(member, "fget", member) for member in members]
    codes = [member.__code__ for member in members if isinstance(member, FunctionType)]
    while codes:
        code = codes.pop()
        yield code
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
