"""Walks every state that small thread programs can reach, breadth first, and looks at each of them.

Real threads run the real code, one at a time, as in interleave.py; here no schedule is left out, and a state that many
schedules lead to is gone on from once. A state is the world and what the threads' frames remember (framestate.py);
threads that remember the same are the same. A `Walker` owns its threads. What it runs may wait, on it, for a condition.
"""

from __future__ import annotations

import dis
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from types import CodeType, FrameType, FunctionType
from typing import Any

from tests.engine.core.forms import Forms
from tests.engine.core.framestate import (
    AT_CHANGES,
    EVERYWHERE,
    NOWHERE,
    READS,
    FrameMemory,
    Table,
    part_of,
    stored_names,
)
from tests.engine.core.graph import Found, Model, State, Trip
from tests.engine.core.interleave import Explorer, Schedule, Violation, _codes

_WORK = Explorer._work.__code__
_COMPREHENSIONS = frozenset({"<dictcomp>", "<genexpr>", "<listcomp>", "<setcomp>"})


Make = Callable[["Walker"], Model]


class _Abandoned(BaseException):
    """Ends a program in a run that has nothing new to tell."""


class Walker(Explorer):
    """Threads that run programs, and the graph of the states that they have reached."""

    def __init__(
        self,
        *traced: type | FunctionType,
        beside: Sequence[type | FunctionType] = (),
        solo: Sequence[FunctionType] = (),
        whole: Sequence[type | FunctionType] = (),
        pure: Sequence[str] = (),
        calm: Sequence[str] = (),
        threads: int = 3,
    ) -> None:
        """Take steps inside the code of `traced`; the programs' own code, `beside`, takes them where it says so.

        `solo` is code among it that one thread alone runs: it takes steps only before what may change something, for
        what it sees nobody else changes. `whole` is code that is part of the step that calls it. `pure`, `calm`: see
        `Table`. A comprehension is part of its step as well.
        """
        self._pure, self._calm = frozenset(pure), frozenset(calm)
        self._solo = {code for thing in solo for code in _codes(thing)}
        ours = {code for thing in (*traced, *beside) for code in _codes(thing)}
        inner = {code for code in ours if code.co_name in _COMPREHENSIONS} | {
            code for it in whole for code in _codes(it)
        }
        self._watched = {code.co_name for code in ours - inner}
        self._beside = {code for thing in beside for code in _codes(thing)}
        self._rebound = stored_names(code for thing in (*traced, *beside, *whole) for code in _codes(thing))
        self._tables: dict[CodeType, Table] = {}
        self._states: dict[int, State] = {}
        self._edges: dict[tuple[int, int], int] = {}
        self._numbers: dict[Hashable, int] = {}
        self._looking = False
        super().__init__(*traced, *beside, threads=threads)
        for code in inner:
            self._tracers.pop(code, None)

    # --- for the programs ---

    def pause(self) -> None:
        """Be a step at which another thread may go on."""
        self._stop_program("in the program")

    def wait(self, until: Callable[[], object]) -> None:
        """Be a step that is not taken before the condition holds."""
        trip = self._trip
        trip.waits[trip.thread] = until
        self._stop_program("where it waits")
        trip.waits[trip.thread] = None

    # --- the graph ---

    def walk(self, make: Make) -> Found:
        """Look at every state that can be reached; raises `Violation` for the nearest where something is wrong."""
        self._states, self._edges, self._numbers = {}, {}, {}
        began = time.perf_counter()
        start = self._travel(make, b"", None, None).here
        depths = {start: 0}
        queue = deque([start])
        while queue:
            here = queue.popleft()
            state = self._states[here]
            if state.wrong:
                raise self._violation(make, state)
            for part in state.parts:
                if (here, part) not in self._edges:
                    self._travel(make, state.way, state, part)
                there = self._edges[here, part]
                if there not in depths:
                    depths[there] = depths[here] + 1
                    queue.append(there)
        ends = sum(state.ended for state in self._states.values())
        return Found(len(depths), len(self._edges), max(depths.values()), ends, time.perf_counter() - began)

    def replay(self, make: Make, schedule: Schedule = ()) -> None:  # type: ignore[override]  # other cases
        """Run one way again; raises `Violation` where something is wrong at its end."""
        way = b"".join(bytes([who]) * (end - step) for (step, who), (end, _) in pairwise(schedule))
        self._states, self._edges, self._numbers = {}, {}, {}
        state = self._states[self._travel(make, way, None, None).here]
        if state.wrong:
            raise self._violation(make, state)

    def _violation(self, make: Make, state: State) -> Violation:
        """Go there once more to see what each thread did on the way."""
        places, way = self._travel(make, state.way, None, None).places, state.way
        turns = [step for step in range(len(way)) if step == 0 or way[step] != way[step - 1]]
        schedule = (*((step, way[step]) for step in turns), (len(way), -1))
        story = "".join(
            f"\n  thread {who}: {end - step} steps, to {places[end - 1]}"
            for (step, who), (end, _) in pairwise(schedule)
        )
        return Violation(f"{'; '.join(state.wrong)}{story}\n  replay(make, {schedule!r})", schedule)

    # --- one run ---

    def _travel(self, make: Make, way: bytes, start: State | None, first: int | None) -> Trip:
        """Run along a way, and on from its end for as long as nobody has been there."""
        model = make(self)
        self._forms = Forms(model.shared, model.solo, self._rebound, self._numbers, apart=self)
        self._programs = model.programs
        self._trip = trip = Trip(model, way, start, first)
        self._run = trip  # type: ignore[assignment]  # interleave.py only writes errors to it
        for thread, program in enumerate(model.programs):
            trip.parts[thread] = self._forms.number(("not begun", self._forms.form(program)))
        following = self._next(trip)
        if following is not None:
            self._batons[following].release()
            self._over.acquire()
        self.runs += 1
        if trip.failure:
            raise trip.failure
        self._forms.check_fixed()
        return trip

    def _next(self, trip: Trip) -> int | None:
        """Return who takes the next step, or None where the run has nothing new to tell."""
        self._world: int | None = None
        step = len(trip.taken)
        try:
            chosen = trip.way[step] if step < len(trip.way) else self._on_new_ground(trip)
        except Exception as error:  # noqa: BLE001 - it belongs to who asked for the walk, not to this thread
            trip.failure, chosen = error, None
        if chosen is not None:
            trip.taken.append(chosen)
            trip.thread = chosen
            trip.begun.add(chosen)
        return chosen

    def _on_new_ground(self, trip: Trip) -> int | None:
        """Note where one is and how one came here; return a thread whose next step from here nobody has seen."""
        if trip.blind and trip.start is not None:
            self._remember(trip, trip.start)
        solo = self._check_solo(trip)
        self._world = self._forms.world(solo)
        here = self._forms.number(("state", self._world, *sorted(trip.parts)))
        if trip.edge is None:
            trip.here = here
        else:
            self._edges[trip.edge] = here
        state = self._states.get(here)
        if state is None:
            state = self._states[here] = self._look(trip)
        assert trip.edge or trip.start is None or trip.start is state, f"not the same each time: {trip.errors}"
        if state.wrong or (trip.edge is None and trip.first is None and trip.way):
            return None
        for thread in sorted(trip.live, key=lambda thread: thread != trip.thread):
            part = trip.parts[thread]
            wanted = trip.edge is not None or trip.first in {None, part}
            if wanted and part in state.parts and (here, part) not in self._edges:
                trip.edge = (here, part)
                return thread
        return None

    def _check_solo(self, trip: Trip) -> int:
        """Return the number of what one thread alone changes; raises where another one did."""
        seen = self._forms.solo()
        assert trip.thread == trip.soloist or seen == trip.seen or trip.seen is None, "another thread changed it too"
        trip.seen = seen
        return seen

    def _remember(self, trip: Trip, start: State) -> None:
        """Be at the end of a way that was gone blindly: take the notes that were made there before."""
        trip.blind = False
        for thread, kept in enumerate(start.kept):
            stack = trip.stacks[thread]
            for memory, notes in zip(stack, kept, strict=True):
                memory.remember(notes)
            if stack:
                trip.parts[thread] = part_of(stack, self._forms)

    def _look(self, trip: Trip) -> State:
        """Look at a state that nobody has seen before."""
        self._looking = True  # the model's code is traced, and this is not one of its threads
        able = [thread for thread in trip.live if (until := trip.waits[thread]) is None or until()]
        wrong = [*trip.errors, *trip.model.wrong(not trip.live)]
        if trip.live and not able:
            wrong.append(f"threads {trip.live} wait for ever")
        self._looking = False
        kept = tuple(tuple(memory.kept() for memory in stack) for stack in trip.stacks)
        parts = tuple(dict.fromkeys(trip.parts[thread] for thread in able))
        return State(bytes(trip.taken), kept, parts, tuple(wrong), not trip.live)

    # --- inside the threads ---

    def _stop_program(self, place: str) -> None:
        """Stop in a call that returns nothing, whatever the world is like."""
        self._trip.stacks[self._trip.thread][-1].called()
        sys.settrace(None)  # else every call of the walker's own is looked at; the frames keep their tracers
        self._stop(place)
        sys.settrace(self._on_call)

    def _stop(self, place: str) -> None:
        """End a step: let the thread go on that takes the next one, and wait for one's own next turn."""
        trip = self._trip
        me = trip.thread
        if not trip.blind:
            trip.places.append(place)
            trip.parts[me] = part_of(trip.stacks[me], self._forms)
        following = self._next(trip)
        if following is None:
            trip.abandoned = True
        elif following != me:
            self._batons[following].release()
            self._batons[me].acquire()
        if trip.abandoned:
            raise _Abandoned

    def _end(self, me: int) -> None:
        sys.settrace(None)
        trip = self._trip
        trip.live.remove(me)
        following = None
        if not trip.abandoned:
            trip.places.append("its end")
            trip.stacks[me].clear()
            trip.parts[me] = self._forms.number(("ended",))
            following = self._next(trip)
            trip.abandoned = following is None
        if following is None:
            following = next((thread for thread in trip.live if thread in trip.begun), None)
        (self._over if following is None else self._batons[following]).release()
        sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        tracer = None if self._looking else super()._on_call(frame, event, arg)
        if tracer is not None and not self._trip.abandoned:
            stack = self._trip.stacks[self._trip.thread]
            caller = stack[-1].frame.f_code if stack else _WORK
            assert frame.f_back is not None
            assert frame.f_back.f_code is caller, f"{frame.f_back.f_code.co_qualname} remembers what nobody looks at"
            if stack and not self._trip.blind:
                stack[-1].called()
            if frame.f_code in self._solo:
                assert self._trip.soloist in {None, self._trip.thread}, f"two threads run {frame.f_code.co_qualname}"
                self._trip.soloist = self._trip.thread
            stack.append(FrameMemory(frame, self._tables[frame.f_code]))
        return tracer

    def _tracer(self, code: CodeType, *, every: bool) -> Callable[[FrameType, str, Any], Any]:
        """Make the trace function of one piece of code."""
        solo = code in self._solo
        steps = NOWHERE if code in self._beside else AT_CHANGES if solo else EVERYWHERE
        watched = self._watched | (READS if solo else set[str]())
        table = self._tables[code] = Table(code, self._rebound, steps, self._pure, watched, self._calm)
        points = table.points

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            trip = self._trip
            if trip.abandoned or (trip.blind and event == "opcode" and frame.f_lasti not in points):
                return trace
            try:
                if event == "opcode":
                    self._on_opcode(frame.f_lasti, trip.stacks[trip.thread][-1])
                else:
                    self._on_other(trip, event, arg)
            except Exception as error:  # the code that is traced might take it for one of its own
                trip.failure, trip.abandoned = error, True
                raise _Abandoned from error
            return trace

        return trace

    def _on_opcode(self, offset: int, memory: FrameMemory) -> None:
        """Be before an instruction: stop there where others may run, then note what it leaves on the stack."""
        table = memory.table
        if memory.pending or memory.notes:
            memory.settle(table.depths[offset], self._forms)
        if offset in table.points:
            self._stop(f"before {dis.opname[table.code.co_code[offset]]} in {table.code.co_qualname}")
        land = table.lands.get(offset)
        if land is None or self._trip.blind:
            return
        if offset in table.looks:
            memory.pending = (land, self._see(table.looks[offset], solo=table.code in self._solo))
        elif offset in table.counts:
            memory.pending = (land, 0)
        elif memory.notes:
            memory.pending = (land, None)

    def _on_other(self, trip: Trip, event: str, arg: Any) -> None:
        """Follow the thread out of a frame, or to the handler of an exception."""
        stack = trip.stacks[trip.thread]
        if event == "return":
            stack.pop()
            if stack and not trip.blind:
                stack[-1].returned(self._forms.number(("returned", self._forms.form(arg))))
        elif event == "exception" and not trip.blind:
            stack[-1].raised(self._forms.number(("raised", self._forms.form(arg[1]))), self._forms)

    def _see(self, name: str | None, *, solo: bool) -> int:
        """Return the number of what an instruction can see: of the whole world unless it loads an attribute."""
        if solo:
            return self._forms.solo()
        if name is not None:
            return self._forms.attribute(name)
        if self._world is None:
            self._world = self._forms.world(self._forms.solo())
        return self._world
