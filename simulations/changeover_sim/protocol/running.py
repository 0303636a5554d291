"""Runs trials, some side by side, each in a process of its own: forked, so that a trial costs milliseconds to begin.

Owns the processes; all have ended when `run_all` returns, and those of a process that was killed end by themselves.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

import attrs

from changeover_sim.explorer import machine
from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.explorer.search import explore
from changeover_sim.protocol.cells import Ended, Key, Trial
from changeover_sim.protocol.subjects import POLICIES, Subject

GRACE_S = 10.0
"""A trial ends by itself when its seconds are over; one that is still there so much later is killed."""
TICK_S = 0.2


@attrs.frozen
class Task:
    """A trial that is to be run."""

    subject: Subject
    key: Key
    digest: str
    seed: int
    cap: int
    seconds: float
    made: int


@attrs.define(eq=False)
class _Child:
    task: Task
    process: Any
    began_s: float


Done = Callable[[Task, Trial], None]
Tick = Callable[[list[Task]], None]


def run_all(tasks: Iterator[Task], jobs: int, done: Done, tick: Tick) -> None:
    """Run the tasks, `jobs` at a time; `tick` is told a few times a second of those that run.

    The next task is asked for when there is room for it, so that it can depend on those that are done.
    """
    running: dict[Connection, _Child] = {}
    alive, ours = os.pipe()  # the children see our end of it close when we die, whatever we die of
    try:
        while True:
            while len(running) < jobs and (task := next(tasks, None)) is not None:
                pipe, child = _start(task, alive, ours)
                running[pipe] = child
            if not running:
                return
            tick([child.task for child in running.values()])
            wait(list(running), TICK_S)
            for pipe, child in list(running.items()):
                trial = _ended(pipe, child)
                if trial is not None:
                    _reap(child, pipe)
                    del running[pipe]
                    done(child.task, trial)
    finally:
        for pipe, child in running.items():
            _reap(child, pipe)
        os.close(alive)
        os.close(ours)


def _start(task: Task, alive: int, ours: int) -> tuple[Connection, _Child]:
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, theirs, alive, ours), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: the child touches none
        process.start()
    theirs.close()
    return pipe, _Child(task, process, machine.stopwatch())


def _reap(child: _Child, pipe: Connection) -> None:
    child.process.kill()
    child.process.join()
    pipe.close()


def _ended(pipe: Connection, child: _Child) -> Trial | None:
    """Return what came of a trial; None while it runs."""
    task, seconds = child.task, round(machine.stopwatch() - child.began_s, 3)
    if pipe.poll():
        try:
            return Trial(**json.loads(pipe.recv_bytes()))
        except (EOFError, OSError):  # before a message, or in the middle of one
            child.process.join()
            note = f"its process died, exit status {child.process.exitcode}"
            return Trial(task.seed, 0, "broken", seconds, task.made, note)
    if seconds > task.seconds + GRACE_S:
        return Trial(task.seed, 0, "time", seconds, task.made, "it did not end by itself and was killed")
    return None


# --- in the child -----------------------------------------------------------------------------------------------------


def _work(task: Task, pipe: Connection, alive: int, ours: int) -> None:
    """Run a trial, and send what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which kills us
    os.close(ours)
    threading.Thread(target=_die_with_parent, args=(alive,), daemon=True).start()
    pipe.send_bytes(json.dumps(attrs.asdict(run(task))).encode())


def _die_with_parent(alive: int) -> None:
    os.read(alive, 1)  # nobody writes: it returns when the other end is closed
    os._exit(1)


def run(task: Task) -> Trial:
    """Run a trial in this process, and return what came of it."""
    began = machine.stopwatch()
    schedules, ended, note = _explored(task)
    return Trial(task.seed, schedules, ended, round(machine.stopwatch() - began, 4), task.made, note)


def _explored(task: Task) -> tuple[int, Ended, str]:
    """Return how many schedules it took, how it ended, and what is to be noted of it."""
    try:
        program, policy = task.subject.programs[task.key.port], POLICIES[task.key.policy]()
        result = explore(program, schedules=task.cap, policy=policy, seed=task.seed, seconds=task.seconds)
    except ExplorerError as error:
        return 0, "broken", f"{type(error).__name__}: {error}"
    if result.failure is None:
        return result.schedules_run, "time" if result.stopped else "cap", ""
    if result.failure.verdict == task.subject.verdict:
        return result.schedules_run, "found", result.failure.policy
    return result.schedules_run, "other", f"{result.failure.verdict}; changeover replay {result.failure.token}"
