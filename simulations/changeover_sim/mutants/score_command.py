"""`changeover score`: tries every mutant under every policy, and tells which are found, by what, and how fast.

Owns the line of progress on a terminal. The trials that are in the sheet already are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from changeover_sim.simulate.command import POLICIES, SEED_END, at_least

if TYPE_CHECKING:
    from collections.abc import Sequence

    from changeover_sim.mutants.trial import Trial

SEEDS = 60
SHEET = Path("score.json")

_FAILED, _USAGE = 1, 2
_HERE = "-"
_WIDTH = 200


class ScoreCommand:
    """The command object that the entry point names."""

    help: str = "plant known bugs in the engine, one at a time, and tell which of them the simulation finds"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        text = "who decides the order of steps (random pct)"
        parser.add_argument("--policy", nargs="+", choices=POLICIES, default=["random", "pct"], metavar="P", help=text)
        text = f"so many seeds of a mutant's scenario at most ({SEEDS})"
        parser.add_argument("--seeds", type=at_least(1), default=SEEDS, metavar="N", help=text)
        parser.add_argument("--first", type=at_least(0), default=0, metavar="SEED", help="the first of them (0)")
        parser.add_argument("--jobs", type=at_least(1, 1_000), default=2, metavar="J", help="trials at a time (2)")
        parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants alone")
        parser.add_argument("--list", action="store_true", help="list the mutants")
        text = f"the sheet that is gone on with and written ({SHEET})"
        parser.add_argument("--out", type=Path, default=SHEET, metavar="FILE", help=text)
        parser.add_argument("--again", action="store_true", help="run trials again that the sheet has")
        text = "run nothing, and print a sheet: this one, or the one that comes with the package"
        parser.add_argument("--show", nargs="?", const=_HERE, metavar="FILE", help=text)
        parser.add_argument("--json", action="store_true", help="print one JSON object for machines, nothing else")

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the trials; return 0 where every mutant is found, and nothing without one; else 1, or 2 for bad words."""
        from changeover_sim.mutants import score  # noqa: PLC0415 - importing a command must be cheap
        from changeover_sim.mutants.catalogue import MUTANTS  # noqa: PLC0415 - the same

        if arguments.list:
            width = max(map(len, MUTANTS))
            print("\n".join(f"{name:{width}}  {mutant.says}" for name, mutant in MUTANTS.items()))
            return 0
        unknown = sorted({*(arguments.only or ())} - {*MUTANTS})
        if unknown:
            return _refused(f"there is no mutant {', '.join(unknown)}; see changeover score --list")
        try:
            if arguments.show is not None:
                return _show(Path(arguments.show) if arguments.show != _HERE else score.COMMITTED, arguments)
            sheet = score.Sheet(arguments.out)
        except (OSError, ValueError) as error:
            return _refused(str(error))
        return _try(sheet, arguments.only or list(MUTANTS), arguments)


command = ScoreCommand()


def _refused(why: str) -> int:
    print(f"changeover: {why}", file=sys.stderr)
    return _USAGE


def _show(path: Path, arguments: argparse.Namespace) -> int:
    """Print a sheet, or the part of it that was asked for."""
    from changeover_sim.mutants import score  # noqa: PLC0415 - importing a command must be cheap

    if not path.exists():
        return _refused(f"there is no sheet {path}")
    sheet = score.Sheet(path)
    return _tell([t for t in sheet.trials if _asked(t, arguments.only)], sheet.made_at, as_json=arguments.json)


def _asked(trial: Trial, only: Sequence[str] | None) -> bool:
    return only is None or trial.mutant in only


def _try(sheet: Any, names: Sequence[str], arguments: argparse.Namespace) -> int:
    """Run the trials that the sheet has not, and print those that were asked for."""
    from changeover_sim.mutants import score  # noqa: PLC0415 - importing a command must be cheap

    seeds = range(arguments.first, min(arguments.first + arguments.seeds, SEED_END))
    wanted = score.planned(names, arguments.policy, seeds)
    left = [trial for trial in wanted if arguments.again or not sheet.has(trial)]
    made_at = score.commit()
    progress = _Progress(len(left), quiet=arguments.json)
    progress.say(f"{len(wanted):,} trials, seeds {seeds[0]} to {seeds[-1]}; {len(left):,} are left to run")

    def done(trial: Trial) -> None:
        sheet.add(trial, made_at)
        progress.done(trial)

    score.run_all(left, arguments.jobs, done)
    keys = {trial.key for trial in wanted}
    return _tell([trial for trial in sheet.trials if trial.key in keys], sheet.made_at, as_json=arguments.json)


def _tell(trials: Sequence[Trial], made_at: str, *, as_json: bool) -> int:
    """Print what trials have come to, and return the exit status."""
    from changeover_sim.mutants import score  # noqa: PLC0415 - importing a command must be cheap

    missed, alarms, failed = score.missed(trials), score.false_alarms(trials), score.failed(trials)
    if as_json:
        scores = [attrs.asdict(one) for one in score.scores(trials)]
        told = {"made_at": made_at, "scores": scores, "missed": missed, "false_alarms": len(alarms)}
        print(json.dumps(told | {"trials": [trial.as_json() for trial in trials]}, indent=2))
    else:
        print("\n".join([*score.table(trials), f"made at {made_at or 'nowhere'}"]))
        for trial in alarms:
            where = f"{trial.scenario}, seed {trial.found_at_seed}, policy {trial.policy}"
            print(f"FALSE ALARM: {textwrap.shorten(f'{trial.broken} in {where}: {trial.what}', _WIDTH)}")
        for trial in failed:
            print(f"NO TRIAL: {textwrap.shorten(f'{trial.mutant} under {trial.policy}: {trial.what}', _WIDTH)}")
        print(f"not found: {', '.join(missed) or 'none'}")
    return _FAILED if missed or alarms or failed else 0


class _Progress:
    """Tells of each trial as it is done."""

    def __init__(self, wanted: int, *, quiet: bool) -> None:
        self._wanted = wanted
        self._quiet = quiet
        self._done = 0

    def say(self, text: str) -> None:
        """Print a line beside the result, for a person."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def done(self, trial: Trial) -> None:
        """Tell of a trial."""
        from changeover_sim.mutants import score  # noqa: PLC0415 - importing a command must be cheap

        self._done += 1
        about = f"{trial.mutant} in {trial.scenario} under {trial.policy}: {score.cell(trial)}"
        self.say(f"{self._done:,}/{self._wanted:,} {about}, {trial.seconds:.0f} s")
