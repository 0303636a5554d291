"""The score: which mutant is found under which policy, by which promise, behind how many schedules.

Owns the sheet, a JSON file that is written after each trial, and the processes of the trials; all of them have ended
when `run_all` returns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import attrs

from changeover_sim.mutants.catalogue import MUTANTS
from changeover_sim.mutants.trial import NONE, Trial, begun

COMMITTED = Path(__file__).with_name("score.json")
"""The sheet that comes with the package."""
LIMIT_S = 120.0
"""No run of a trial begins behind so many seconds, ..."""
KILL_S = 60.0
"""... and so many later its process is killed."""


class Sheet:
    """All trials that were run, in a file."""

    def __init__(self, path: Path) -> None:
        """Read what is there; raises `ValueError` for a file that is no sheet, and `OSError`."""
        self.path = path
        self.made_at = ""
        """The commit at which the last trial was run."""
        self._trials: dict[tuple[Any, ...], Trial] = {}
        if path.exists():
            self._read(path.read_text("utf-8"))

    def _read(self, text: str) -> None:
        try:
            read = json.loads(text)
            self.made_at = read["made_at"]
            found = [Trial(**fields) for fields in read["trials"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.path} is no sheet of a score: {error}") from error
        self._trials = {trial.key: trial for trial in found}

    @property
    def trials(self) -> list[Trial]:
        """All trials, in order."""
        return [self._trials[key] for key in sorted(self._trials)]

    def has(self, trial: Trial) -> bool:
        """Return whether this one was run to its end: the same mutant, patch, scenario, policy and seeds."""
        had = self._trials.get(trial.key)
        return had is not None and not failed([had])

    def add(self, trial: Trial, made_at: str) -> None:
        """Keep a trial, and write all down; a process that is killed meanwhile leaves the file as it was."""
        self._trials[trial.key] = trial
        self.made_at = made_at
        lines = ",\n  ".join(json.dumps(trial.as_json(), sort_keys=True) for trial in self.trials)
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(f'{{"made_at": {json.dumps(made_at)}, "trials": [\n  {lines}\n]}}\n', "utf-8")
        new.replace(self.path)


def planned(names: Iterable[str], policies: Sequence[str], seeds: range) -> list[Trial]:
    """Return the trials of these mutants, and before them those of the engine without a bug in the same scenarios."""
    names = list(names)
    scenarios = dict.fromkeys(MUTANTS[name].scenario for name in names)
    wanted = [(NONE, scenario) for scenario in scenarios] + [(name, MUTANTS[name].scenario) for name in names]
    return [begun(name, scenario, policy, seeds) for name, scenario in wanted for policy in policies]


def run_all(
    trials: Iterable[Trial], jobs: int, done: Callable[[Trial], None], limit_s: float = LIMIT_S, kill_s: float = KILL_S
) -> None:
    """Run trials, `jobs` at a time, each in a process of its own, and hand each out when it is done."""
    running: set[subprocess.Popen[str]] = set()
    waiting: set[Future[Trial]] = set()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for trial in trials:
                waiting.add(pool.submit(_in_process, trial, limit_s, kill_s, running))
                if len(waiting) > jobs:
                    waiting = _hand_out(waiting, done)
            while waiting:
                waiting = _hand_out(waiting, done)
        finally:  # Ctrl-C, say
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()


def _hand_out(waiting: set[Future[Trial]], done: Callable[[Trial], None]) -> set[Future[Trial]]:
    ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
    for trial in sorted((future.result() for future in ended), key=lambda trial: trial.key):
        done(trial)
    return waiting


def _in_process(trial: Trial, limit_s: float, kill_s: float, running: set[subprocess.Popen[str]]) -> Trial:
    """Run one trial; one whose process dies or does not end has found nothing, and says so."""
    told = trial.mutant, trial.scenario, trial.policy, str(trial.first), str(trial.last), str(limit_s)
    command = [sys.executable, "-m", "changeover_sim.mutants.trial", *told]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own
    running.add(process)
    said = complained = ""
    try:
        said, complained = process.communicate(timeout=limit_s + kill_s)
        return Trial(**json.loads(said.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return attrs.evolve(trial, what=f"killed behind {limit_s + kill_s:g} s", seconds=limit_s + kill_s)
    except (ValueError, IndexError):
        last = (complained.strip() or "it said nothing").splitlines()[-1]
        return attrs.evolve(trial, broken="no trial", what=f"exit status {process.returncode}: {last}")
    finally:
        running.discard(process)


def commit() -> str:
    """Return the commit of the source tree that this is run from, with a mark where it was changed since."""
    command = ["git", "-C", os.fspath(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - our own
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# --- what it comes to -------------------------------------------------------------------------------------------------


@attrs.frozen
class Score:
    """How one policy did."""

    policy: str
    tried: int
    found: int
    median: float | None
    """Of the schedules that were needed where it was found; None where none was."""


def scores(trials: Sequence[Trial]) -> list[Score]:
    """Return how each policy did."""
    return [_score(policy, trials) for policy in _policies(trials)]


def _score(policy: str, trials: Sequence[Trial]) -> Score:
    of = [trial for trial in trials if trial.policy == policy and trial.mutant != NONE]
    needed = [trial.schedules for trial in found(trials) if trial in of and trial.schedules is not None]
    return Score(policy, len(of), len(needed), statistics.median(needed) if needed else None)


def found(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have found their mutant: at a seed that shows nothing without it."""
    alarms = {(alarm.scenario, alarm.policy, alarm.found_at_seed) for alarm in false_alarms(trials)}
    return [
        trial
        for trial in trials
        if trial.found_at_seed is not None and (trial.scenario, trial.policy, trial.found_at_seed) not in alarms
    ]


def missed(trials: Sequence[Trial]) -> list[str]:
    """Return the mutants that no policy has found."""
    return sorted({trial.mutant for trial in trials} - {trial.mutant for trial in found(trials)} - {NONE})


def false_alarms(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have found something in the engine without a bug."""
    return [trial for trial in trials if trial.mutant == NONE and trial.found_at_seed is not None]


def failed(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that could not be run."""
    return [trial for trial in trials if trial.broken is not None and trial.found_at_seed is None]


def _policies(trials: Sequence[Trial]) -> list[str]:
    order = {"random": 0, "pct": 1, "fifo": 2}
    return sorted({trial.policy for trial in trials}, key=lambda name: (order.get(name, len(order)), name))


def table(trials: Sequence[Trial]) -> list[str]:
    """Return a line per mutant with a cell per policy, and under all how each policy did."""
    policies, good = _policies(trials), found(trials)
    rows: list[tuple[str, ...]] = [("mutant", "promise", "scenario", *policies)]
    for name in dict.fromkeys([*MUTANTS, *(trial.mutant for trial in trials)]):
        rows += _rows(name, policies, [trial for trial in trials if trial.mutant == name], good)
    rows += _totals(scores(trials))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _rows(
    name: str, policies: Sequence[str], trials: Sequence[Trial], good: Sequence[Trial]
) -> Iterator[tuple[str, ...]]:
    promise = str(MUTANTS[name].promise) if name in MUTANTS else ""
    for scenario in sorted({trial.scenario for trial in trials}):
        by_policy = {trial.policy: trial for trial in trials if trial.scenario == scenario}
        tried = (by_policy.get(policy) for policy in policies)
        yield name, promise, scenario, *("-" if one is None else cell(one, counts=one in good) for one in tried)


def cell(trial: Trial, *, counts: bool = True) -> str:
    """Return what has found a mutant, and behind how many schedules; `x` and how many where nothing has."""
    if trial.found_at_seed is None:
        return trial.broken or f"x ({'killed' if trial.schedules is None else trial.schedules})"
    return f"{trial.broken} after {trial.schedules}" if counts else f"false alarm after {trial.schedules}"


def _totals(totals: Sequence[Score]) -> Iterator[tuple[str, ...]]:
    yield ("found", "", "", *(f"{score.found} of {score.tried}" for score in totals))
    medians = (f"{score.median:g}" if score.median is not None else "-" for score in totals)
    yield ("median schedules", "", "", *medians)
