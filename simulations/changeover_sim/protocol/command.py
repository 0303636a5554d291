"""`changeover kernels`: runs the published comparison of schedule explorers here, and prints its table.

Owns the line of progress on a terminal. Whatever ends it, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from changeover_sim.explorer import machine
from changeover_sim.simulate.command import at_least
from changeover_sim.simulate.command import minutes as above_zero

if TYPE_CHECKING:
    from changeover_sim.protocol.cells import Trial
    from changeover_sim.protocol.plan import Plan
    from changeover_sim.protocol.running import Task
    from changeover_sim.protocol.sheet import Sheet
    from changeover_sim.protocol.subjects import Subject
    from changeover_sim.protocol.view import View

RESULTS = Path("kernels.json")
SECONDS_A_CELL = 600.0

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
_ABOUT = """
Each trial searches one port of one kernel under one policy, by one seed, until the first schedule that fails. It is
written to the results file when it ends; whatever interrupts the run, the same command goes on where it stopped. Trials
that were made before explorer, policy or kernel changed are run anew.
"""


class Refused(Exception):
    """What was asked for cannot be done; the message says what to do instead."""


class KernelsCommand:
    """The command object that the entry point names."""

    help: str = "measure policies on kernels with known bugs, beside the published figures"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        parser.epilog = _ABOUT
        parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="these alone; see --list")
        parser.add_argument("--list", action="store_true", help="list kernels, ports and policies")
        parser.add_argument("--policy", nargs="+", metavar="P", help="these policies alone")
        parser.add_argument("--port", nargs="+", metavar="PORT", help="these ports alone: natural spawned_1 spawned_4")
        parser.add_argument("--trials", type=at_least(1), default=20, metavar="N", help="so many seeds each (20)")
        text = "at most so many schedules a trial, or as KERNEL=N for one kernel (10000; safestack=1000000)"
        parser.add_argument("--cap", nargs="+", default=[], metavar="N", help=text)
        text = f"begin no schedule in a cell behind so many seconds of its trials ({SECONDS_A_CELL:g})"
        parser.add_argument("--seconds-a-cell", type=above_zero, default=SECONDS_A_CELL, metavar="S", help=text)
        parser.add_argument("--jobs", type=at_least(1, 1_000), default=2, metavar="J", help="trials at a time (2)")
        text = f"the file that is gone on with and written ({RESULTS})"
        parser.add_argument("--results", type=Path, metavar="FILE", help=text)
        text = "run nothing; without --results, print the results that come with the package"
        parser.add_argument("--table-only", action="store_true", help=text)
        parser.add_argument("--svg", type=Path, metavar="FILE", help="draw them as well; needs changeover[demo]")
        parser.add_argument("--json", action="store_true", help="print one JSON object for machines, nothing else")

    def run(self, arguments: argparse.Namespace) -> int:
        """Run what is left; return 0, 1 for false alarms and failed trials, 2 for bad words, 130 behind Ctrl-C."""
        from changeover_sim.protocol import drawing, subjects  # noqa: PLC0415 - importing a command must be cheap
        from changeover_sim.protocol.sheet import BadSheet  # noqa: PLC0415 - the same

        if arguments.list:
            print("\n".join(_listing(subjects.subjects().values())))
            return 0
        try:
            plan = _planned(arguments)
            if arguments.svg is not None:
                drawing.check(arguments.svg)
            if not arguments.table_only:
                _run(plan, arguments.jobs, quiet=arguments.json)
            return _tell(plan, arguments)
        except (Refused, BadSheet, drawing.NotDrawn) as error:
            return _refused(str(error))
        except OSError as error:
            return _refused(f"{error.filename or arguments.results or RESULTS}: {error.strerror}")
        except KeyboardInterrupt:
            return _INTERRUPTED


command = KernelsCommand()


def _refused(why: str) -> int:
    print(f"changeover: {why}", file=sys.stderr)
    return _USAGE


# --- what was asked for -----------------------------------------------------------------------------------------------


def _listing(known: Iterable[Subject]) -> list[str]:
    from changeover_sim.protocol.subjects import POLICIES  # noqa: PLC0415 - importing a command must be cheap

    known = list(known)
    width = max(len(subject.name) for subject in known)
    lines = [
        f"{one.name:{width}}  {'no bug' if one.correct else one.verdict:9}  at most {one.cap:>9,} schedules  "
        f"{' '.join(one.programs)}"
        for one in known
    ]
    return [*lines, f"policies: {' '.join(POLICIES)}"]


def _planned(arguments: argparse.Namespace) -> Plan:
    """Return what was asked for; raises `Refused` for a name that there is not."""
    from changeover_sim.kernels.port import PORTS  # noqa: PLC0415 - importing a command must be cheap
    from changeover_sim.protocol import subjects  # noqa: PLC0415 - the same
    from changeover_sim.protocol.plan import Plan  # noqa: PLC0415 - the same

    known = subjects.subjects()
    taken = [name for name in arguments.policy or () if name not in subjects.POLICIES]  # a kernel may have that name
    swallowed = [name for name in (*(arguments.port or ()), *taken) if name in known]
    if swallowed:
        raise Refused(f"{', '.join(swallowed)}: kernels are named first, before the options")
    names = _known("kernel", arguments.kernels or known, known)
    ports = _known("port", arguments.port or PORTS, PORTS)
    sheet = _sheet(arguments)
    tried = {cell.key.policy for cell in sheet.cells}
    default = [name for name in subjects.POLICIES if name in tried] if arguments.table_only else subjects.POLICIES
    policies = _known("policy", arguments.policy or default, subjects.POLICIES)
    caps = _caps(arguments.cap, known)
    chosen = [attrs.evolve(known[name], cap=caps[name]) for name in names]
    return Plan(sheet, chosen, ports, policies, arguments.trials, arguments.seconds_a_cell)


def _known(kind: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the names in the order of those that are known; raises `Refused` for another."""
    known, names = list(known), list(names)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise Refused(f"there is no {kind} {name!r}; {hint}there are: {', '.join(known)}")
    return [name for name in known if name in names]


def _caps(given: Sequence[str], known: Mapping[str, Subject]) -> dict[str, int]:
    """Return the caps by kernel: a number alone is for all that are not named, and lowers that of correct programs."""
    caps = {name: subject.cap for name, subject in known.items()}
    for text in sorted(given, key=lambda text: "=" in text):
        name, _, count = text.rpartition("=")
        try:
            cap = at_least(1)(count)
        except argparse.ArgumentTypeError as error:
            raise Refused(f"--cap {text}: {error}") from None
        if "=" in text:
            caps |= dict.fromkeys(_known("kernel", [name], known), cap)
        else:
            caps = {name: min(cap, own) if known[name].correct else cap for name, own in caps.items()}
    return caps


def _sheet(arguments: argparse.Namespace) -> Sheet:
    from changeover_sim.protocol.sheet import COMMITTED, Sheet  # noqa: PLC0415 - importing a command must be cheap

    path: Path = arguments.results or (COMMITTED if arguments.table_only else RESULTS)
    if arguments.table_only and not path.exists():
        raise Refused(f"there are no results at {path}; leave --table-only out to make them")
    if not path.parent.is_dir():
        raise Refused(f"--results {path} is in no folder that there is")
    return Sheet(path)


# --- running ----------------------------------------------------------------------------------------------------------


def _run(plan: Plan, jobs: int, *, quiet: bool) -> None:
    """Run the trials that the file has not; Ctrl-C says how to go on, and is raised."""
    from changeover_sim.explorer import inside_trio  # noqa: PLC0415 - importing a command must be cheap
    from changeover_sim.protocol import running, sheet, sources  # noqa: PLC0415 - the same

    trio, python = inside_trio.versions()
    made = sheet.Made(sources.commit(), python, trio, os.cpu_count() or 0, jobs)
    screen = _Screen(plan.left(), quiet=quiet)

    def done(task: Task, trial: Trial) -> None:
        screen.done += 1
        plan.keep(task, trial)

    try:
        running.run_all(plan.tasks(made), jobs, done, screen.show)
    except KeyboardInterrupt:
        screen.wipe()
        print(f"changeover: interrupted; {plan.sheet.path} has {screen.done:,} new trials, {plan.left():,} are left: "
              "the same command goes on from there", file=sys.stderr)  # fmt: skip
        raise
    screen.wipe()
    screen.say(
        f"{screen.done:,} trials in {machine.stopwatch() - screen.began_s:,.0f} s; they are in {plan.sheet.path}"
    )


class _Screen:
    """Shows how far it is: a bar on a terminal, a line before and behind for a person elsewhere."""

    def __init__(self, wanted: int, *, quiet: bool) -> None:
        self.done = 0
        self.began_s = machine.stopwatch()
        self._wanted = wanted
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self.say(f"{wanted:,} trials are left to run")

    def say(self, text: str) -> None:
        """Print a line for a person."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def show(self, tasks: Sequence[Task]) -> None:
        """Draw the bar."""
        if self._live:
            share = self.done / self._wanted if self._wanted else 1.0
            bar = "#" * int(share * _BAR) + "." * (_BAR - int(share * _BAR))
            now = "; ".join(f"{one.key.kernel} {one.key.port} {one.key.policy} seed {one.seed}" for one in tasks)
            text = f"[{bar}] {self.done:,}/{self._wanted:,}, {machine.stopwatch() - self.began_s:,.0f} s: {now}"
            print(f"\r\x1b[K{text[:_COLUMNS]}", end="", file=sys.stderr, flush=True)

    def wipe(self) -> None:
        """Take the bar away."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


_BAR, _COLUMNS = 20, 110


# --- telling ----------------------------------------------------------------------------------------------------------


def _tell(plan: Plan, arguments: argparse.Namespace) -> int:
    """Print the table, draw it where that is asked for, and return the exit status."""
    from changeover_sim.protocol import as_json, drawing, table, view  # noqa: PLC0415 - importing a command must be cheap

    shown: View = view.view(plan)
    if not shown.rows and arguments.table_only:
        raise Refused("there are no results of what was asked for; leave --table-only out to make them")
    if arguments.json:
        print(json.dumps(as_json.as_json(shown), indent=2))
    else:
        print("\n".join(table.table(shown)))
    if arguments.svg is not None:
        drawing.write(shown, arguments.svg)
    wrong = (*shown.false_alarms(), *shown.strange(), *shown.broken())
    return _FAILED if wrong else 0
