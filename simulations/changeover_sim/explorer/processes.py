"""An exploration shared out among processes: the first of n takes the schedules 0, n, 2n and so on.

Owns the processes, which are forked, so that any program can be explored, and have ended when it returns.
"""

from __future__ import annotations

import json
import multiprocessing
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from changeover_sim.explorer import errors, machine
from changeover_sim.explorer.results import Result
from changeover_sim.explorer.schedule import Ending
from changeover_sim.explorer.search import Found, Plan, Search
from changeover_sim.explorer.stage import Stage
from changeover_sim.policies.base import PROBES


def explore_in_processes(plan: Plan, jobs: int) -> Result:
    """Explore in `jobs` processes; the failure of the lowest index is the one that is told."""
    began = machine.stopwatch()
    context = multiprocessing.get_context("fork")
    lowest = context.Value("q", plan.schedules)
    pipes: list[tuple[Any, Connection]] = []
    for first in range(min(jobs, plan.schedules)):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(plan, first, jobs, lowest, theirs), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: the child touches none
            process.start()
        theirs.close()
        pipes.append((process, ours))
    try:
        answers = [_answer(process, pipe) for process, pipe in pipes]
    finally:
        for process, pipe in pipes:
            process.kill()
            process.join()
            pipe.close()
    return _told(plan, answers, began)


def _told(plan: Plan, answers: list[dict[str, Any]], began: float) -> Result:
    if any("interrupted" in answer for answer in answers):
        raise KeyboardInterrupt
    failing = min((a for a in answers if a["index"] is not None), key=lambda a: a["index"], default=None)
    if failing is not None and "error" in failing:
        raise getattr(errors, failing["error"])(failing["text"])
    answers = [answer for answer in answers if "error" not in answer]
    stopped = failing is None and any(answer["stopped"] for answer in answers)
    end = plan.schedules if failing is None else failing["index"] + 1
    found = Found(run=_distinct(answers) if stopped else end, stopped=stopped)
    found.cut = sorted({index for answer in answers for index in answer["cut"] if index < end})
    notes = dict.fromkeys(note for answer in answers for note in answer["notes"])
    failure = None
    if failing is not None:
        with Stage(plan.rules, plan.seed).open() as stage:
            found.index, found.ending, found.again = (
                failing["index"],
                _ending(failing["ending"]),
                _ending(failing["again"]),
            )
            failure = found.confirm(plan, stage)
    return found.result(plan, failure, machine.stopwatch() - began, notes)


def _distinct(answers: list[dict[str, Any]]) -> int:
    """Return how many schedules were run by processes that were stopped; the probes, which each runs, once."""
    probes: int = max(min(answer["run"], PROBES) for answer in answers)
    own: int = sum(max(0, answer["run"] - PROBES) for answer in answers)
    return probes + own


def _answer(process: Any, pipe: Connection) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(pipe.recv_bytes())
    except EOFError:
        process.join()
        raise errors.ExplorerError(f"a process of the exploration died, exit status {process.exitcode}") from None
    return answer


def _work(plan: Plan, first: int, jobs: int, lowest: Any, pipe: Connection) -> None:
    """Run one process's share, and send what came of it."""
    answer: dict[str, Any]
    at = 0

    def begun() -> Iterator[int]:
        nonlocal at
        for index in _share(plan, first, jobs, lowest):
            at = index
            yield at

    try:
        with Stage(plan.rules, plan.seed).open() as stage:
            found = Search(plan, stage).run(begun())
        if found.index is not None:
            _lower(lowest, found.index)
        answer = {"cut": found.cut, "index": found.index, "notes": list(stage.guard.notes)}
        answer |= {"run": found.run, "stopped": found.stopped}
        answer |= {"ending": _fields(found.ending), "again": _fields(found.again)}
    except errors.ExplorerError as error:
        answer = {"index": at, "error": type(error).__name__, "text": str(error)}
        _lower(lowest, at)
    except Exception as error:  # noqa: BLE001 - a policy's, say; told by whoever asked
        answer = {"index": at, "error": "ExplorerError", "text": f"{type(error).__name__}: {error}"}
        _lower(lowest, at)
    except KeyboardInterrupt:
        answer = {"index": None, "interrupted": True}
    pipe.send_bytes(json.dumps(answer).encode())


def _lower(lowest: Any, index: int) -> None:
    """Let nobody go on behind this schedule."""
    with lowest.get_lock():
        lowest.value = min(lowest.value, index)


def _fields(ending: Ending | None) -> dict[str, Any] | None:
    """Return what is told of an ending; what it raised is raised again in the process that asked."""
    if ending is None:
        return None
    return {"verdict": ending.verdict, "tape": ending.tape, "steps": ending.steps, "roll": list(ending.roll)}


def _ending(fields: dict[str, Any] | None) -> Ending | None:
    if fields is None:
        return None
    tape = [(kind, width, taken) for kind, width, taken in fields["tape"]]
    return Ending(fields["verdict"], None, tape, fields["steps"], roll=fields["roll"])


def _share(plan: Plan, first: int, jobs: int, lowest: Any) -> Iterator[int]:
    """Yield the indices of one process, up to the lowest that has failed anywhere; the probes are everybody's."""
    for index in range(plan.schedules):
        if index > lowest.value:
            return
        if index < PROBES or index % jobs == first:
            yield index
