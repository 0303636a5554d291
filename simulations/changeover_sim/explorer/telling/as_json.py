"""A failure as plain dictionaries and lists, for machines: the same facts that people read.

Pure functions.
"""

from __future__ import annotations

import traceback
from typing import Any

import attrs

from changeover_sim.explorer.compare import Parting
from changeover_sim.explorer.holding import Held
from changeover_sim.explorer.places import Place
from changeover_sim.explorer.results import Failure
from changeover_sim.explorer.schedule import leaves
from changeover_sim.explorer.telling.graph import cycle, edges
from changeover_sim.explorer.telling.held import held_at_the_end
from changeover_sim.explorer.trace import Step
from changeover_sim.explorer.waits import Wait


def failure_as_json(failure: Failure | None, parting: Parting | None) -> dict[str, Any]:
    """Return what is known of a failure; the keys are the same where there is none."""
    trace = () if failure is None else failure.trace
    waiting = () if failure is None else failure.waiting
    return {
        "verdict": None if failure is None else failure.verdict,
        "exception": None if failure is None or failure.exception is None else _raised(failure.exception),
        "steps": list(map(_step, trace)),
        "deviations": [step.number for step in trace if step.deviates],
        "parting": None if parting is None else _parting(parting),
        "waiting": list(map(_wait, waiting)),
        "graph": [attrs.asdict(edge) for edge in edges(waiting)],
        "cycle": [wait.task for wait in cycle(waiting)],
        "held": list(map(_held, held_at_the_end(trace))),
        "leftover": [] if failure is None else list(failure.leftover),
        "stock": None if failure is None else failure.stock,
    }


def _raised(error: BaseException) -> str:
    """Return what the program raised, out of the groups that nurseries make, each as a traceback ends."""
    return "".join(line for leaf in leaves(error) for line in traceback.format_exception_only(leaf)).rstrip()


def _parting(found: Parting) -> dict[str, Any]:
    return {
        "step": found.number,
        "kind": found.kind,
        "fails": None if found.fails is None else _step(found.fails),
        "passes": None if found.passes is None else _step(found.passes),
        "token": found.token,
        "schedules_run": found.runs,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "number": step.number,
        "task": step.task,
        "time_s": step.time_s,
        "begins": _place(step.begins),
        "lines": list(map(_place, step.lines)),
        "ends": _place(step.ends),
        "cause": step.cause,
        "skipped": step.skipped,
        "choices": list(step.choices),
        "taken": list(map(_held, step.taken)),
        "given": list(map(_held, step.given)),
    }


def _wait(wait: Wait) -> dict[str, Any]:
    return {
        "task": wait.task,
        "place": _place(wait.place),
        "primitive": wait.primitive,
        "holders": list(wait.holders),
        "until_s": wait.until_s,
    }


def _held(held: Held) -> dict[str, Any]:
    return {"task": held.task, "primitive": held.primitive, "place": _place(held.place), "step": held.step}


def _place(place: Place | None) -> dict[str, Any] | None:
    return None if place is None else {**attrs.asdict(place), "text": place.text}
