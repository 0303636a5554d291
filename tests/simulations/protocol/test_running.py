"""Trials: what is recorded of one, that several run side by side, and that no process is left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import trio

from changeover_sim import RandomWalk, explore
from changeover_sim.kernels import KERNELS
from changeover_sim.protocol import running
from changeover_sim.protocol.cells import Key, Trial
from changeover_sim.protocol.running import Task, run_all
from changeover_sim.protocol.sheet import Sheet
from changeover_sim.protocol.subjects import Subject

ACCOUNT = Subject("account", KERNELS["account"].programs, "exception", 10_000)


async def endless() -> None:
    """Do nothing, forever long by the standards of a test."""
    for _ in range(5):
        await trio.lowlevel.checkpoint()


async def dies() -> None:
    """End the process that runs it."""
    os._exit(7)


async def hangs() -> None:
    """Not come back, and say that it did something now and then."""
    while True:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001 - that is the point
            continue


def task(program: Callable[..., object] | None = None, seed: int = 0, **changes: object) -> Task:
    """Return a trial of `account`, or of a program without a bug."""
    subject = ACCOUNT if program is None else Subject("mine", {"natural": program}, None, 10**9)
    key = Key(subject.name, "natural", "random")
    return attrs.evolve(Task(subject, key, "D", seed, subject.cap, 60.0, 0), **changes)


def ran(*tasks: Task, jobs: int = 2) -> dict[int, Trial]:
    """Run trials, and return what came of them by seed."""
    done: dict[int, Trial] = {}
    run_all(iter(tasks), jobs, lambda one, trial: done.setdefault(one.seed, trial) and None, lambda _: None)
    return done


def test_a_trial_is_one_exploration() -> None:
    """It needs as many schedules as `explore` with its seed; whoever runs beside it changes nothing."""
    done = ran(*(task(seed=seed) for seed in range(3)), jobs=2)
    for seed in range(3):
        alone = explore(ACCOUNT.programs["natural"], policy=RandomWalk(), seed=seed)
        assert alone.failure is not None
        assert (done[seed].schedules, done[seed].ended) == (alone.schedules_run, "found")
        assert done[seed].note == "RandomWalk()"
    assert len({one.schedules for one in done.values()}) > 1


def test_how_a_trial_ends() -> None:
    """By the cap, by the clock, by a failure that is not the kernel's, or because its process died."""
    lying = attrs.evolve(ACCOUNT, verdict="deadlock")
    done = ran(
        task(endless, 0, cap=5),
        task(endless, 1, seconds=0.5),
        task(None, 2, subject=lying),
        task(dies, 3),
        jobs=2,
    )
    assert {seed: one.ended for seed, one in done.items()} == {0: "cap", 1: "time", 2: "other", 3: "broken"}
    assert done[0].schedules == 5
    assert done[1].schedules > 0
    assert done[2].note.startswith("exception; changeover replay ")
    assert done[3].note == "its process died, exit status 7"


def test_a_trial_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has had its seconds, and it is not waited for."""
    monkeypatch.setattr(running, "GRACE_S", 0.1)
    done = ran(task(hangs, seconds=0.1))
    assert (done[0].ended, done[0].note) == ("time", "it did not end by itself and was killed")


def test_whatever_ends_the_run_ends_its_processes() -> None:
    """Ctrl-C, say: nobody is left who runs on."""
    began: list[Task] = []

    def interrupt(tasks: list[Task]) -> None:
        began.extend(tasks)
        raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        run_all(iter([task(endless, 0), task(endless, 1)]), 2, lambda *_: None, interrupt)
    assert len(began) == 2
    assert set(multiprocessing.active_children()) <= before


def test_the_next_trial_is_asked_for_when_there_is_room() -> None:
    """So it can depend on those that are done."""
    done: list[int] = []

    def tasks() -> Iterator[Task]:
        for seed in range(4):
            assert len(done) >= seed - 1
            yield task(endless, seed, cap=1)

    run_all(tasks(), 2, lambda one, _: done.append(one.seed), lambda _: None)
    assert sorted(done) == [0, 1, 2, 3]


KILLED = """
import os, signal, sys
from changeover_sim.protocol.plan import Plan
from tests.simulations.protocol.runs import typed
kept = []
keep = Plan.keep
def keep_and_die(plan, task, trial):
    keep(plan, task, trial)
    kept.append(trial)
    if len(kept) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Plan.keep = keep_and_die
typed(*sys.argv[1:])
"""


@pytest.mark.kill
def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """What was done is in the file and is not run again, its processes end, and the end is that of a run in one go."""
    words = ["account", "stack", "counter", "--policy", "pos", "--port", "natural", "--trials", "3", "--cap"]
    killed, whole, here = tmp_path / "killed.json", tmp_path / "whole.json", Path(__file__).parents[3]
    command = [sys.executable, "-c", KILLED, *words, "counter=10000000", "--results", killed]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=60, cwd=here)
    # Only when nobody holds its output any more has it ended: the trial of `counter`, which takes hours, neither.
    assert ended.returncode == -9
    before = [one for cell in Sheet(killed).cells for one in cell.trials]
    assert len(before) == 3
    for path in (killed, whole):
        again = [sys.executable, "-c", KILLED.replace("== 3", "== 0"), *words, "counter=200", "--results", path]
        subprocess.run(again, capture_output=True, timeout=120, check=True, cwd=here)
    after = [one for cell in Sheet(killed).cells for one in cell.trials]
    assert [one for one in after if one in before] == before
    told = [[(one.seed, one.schedules, one.ended) for one in cell.trials] for cell in Sheet(killed).cells]
    assert told == [[(one.seed, one.schedules, one.ended) for one in cell.trials] for cell in Sheet(whole).cells]
    assert len(after) == 9
    assert json.loads(killed.read_text("utf-8"))["made"][0]["jobs"] == 2


def test_a_process_is_forked_without_a_word() -> None:
    """Python warns of forking beside threads; the child touches none of them."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ran(task(endless, cap=1))
    assert seen == []
