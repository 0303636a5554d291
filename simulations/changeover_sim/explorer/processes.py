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
    for answer in answers:
        if "interrupted" in answer:
            raise KeyboardInterrupt
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["text"])
    failing = min((a for a in answers if a["index"] is not None), key=lambda a: a["index"], default=None)
    stopped = any(answer["stopped"] for answer in answers)
    ran = _distinct(answers) if stopped else plan.schedules
    found = Found(run=ran if failing is None else failing["index"] + 1, stopped=stopped and failing is None)
    found.cut = sum(answer["cut"] for answer in answers)
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
    try:
        with Stage(plan.rules, plan.seed).open() as stage:
            found = Search(plan, stage).run(_share(plan, first, jobs, lowest))
        if found.index is not None:
            with lowest.get_lock():
                lowest.value = min(lowest.value, found.index)
        answer = {"cut": found.cut, "index": found.index, "notes": list(stage.guard.notes)}
        answer |= {"run": found.run, "stopped": found.stopped}
        answer |= {"ending": _fields(found.ending), "again": _fields(found.again)}
    except errors.ExplorerError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    except Exception as error:  # noqa: BLE001 - a policy's, say; told by whoever asked
        answer = {"error": "ExplorerError", "text": f"{type(error).__name__}: {error}"}
    except KeyboardInterrupt:
        answer = {"interrupted": True}
    pipe.send_bytes(json.dumps(answer).encode())


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
