"""`changeover simulate`: plays the scenarios of the simulation, seed after seed, and tells what was broken.

Owns the line of progress on a terminal. It draws no chance of its own, but for the first seed where that is asked for.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from changeover_sim.explorer import machine
from changeover_sim.explorer.errors import ExplorerError

if TYPE_CHECKING:
    from changeover_sim.simulate.fleet import Item
    from changeover_sim.simulate.play import Outcome
    from changeover_sim.simulate.tally import Tally

ALL = "all"
POLICIES = ("random", "pct", "fifo")
"""The names of `play.POLICIES`, which is not imported for a help text."""
SEEDS = 100
SEED_END = 2**32
"""Seeds are below; a fresh one is drawn below half of it, so that there is room for those that follow."""

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
_WHOLE_MAX = 3
"""So many failures are told whole, in the moment that they are found; all of them stand in the summary."""
_PROGRESS_S = 0.2


def at_least(least: int, below: int = SEED_END) -> Callable[[str], int]:
    """Return what turns an argument into a number of a range, for argparse."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not least <= value < below:
            raise argparse.ArgumentTypeError(f"{value} must be at least {least} and below {below}")
        return value

    return number


def minutes(text: str) -> float:
    """Turn an argument into a time."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value


class SimulateCommand:
    """The command object that the entry point names."""

    help: str = "run the engine in a hostile virtual world, seed after seed, and judge its promises"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        parser.add_argument("scenario", nargs="?", metavar="SCENARIO", help=f"what is played, or `{ALL}`; see --list")
        parser.add_argument("--list", action="store_true", help="list the scenarios")
        seeds = parser.add_argument_group("seeds")
        text = f"so many seeds of each scenario ({SEEDS})"
        seeds.add_argument("--seeds", type=at_least(1), default=SEEDS, metavar="N", help=text)
        begin = seeds.add_mutually_exclusive_group()
        begin.add_argument("--first", type=at_least(0), default=0, metavar="SEED", help="the first of them (0)")
        begin.add_argument("--fresh", action="store_true", help="draw the first of them, and print it")
        begin.add_argument("--seed", type=at_least(0), metavar="S", help="this one alone, and tell all about it")
        seeds.add_argument("--forever", action="store_true", help="go on with the next seed until Ctrl-C")
        seeds.add_argument("--minutes", type=minutes, metavar="M", help="begin no run behind so many minutes")
        text = "who decides the order of steps: chance, strict priorities, or who was ready first (random)"
        parser.add_argument("--policy", choices=POLICIES, default=POLICIES[0], help=text)
        parser.add_argument("--jobs", type=at_least(1, 1_000), default=1, metavar="J", help="so many processes (1)")
        parser.add_argument("--json", action="store_true", help="print one JSON object for machines, nothing else")

    def run(self, arguments: argparse.Namespace) -> int:
        """Play; return 0 where all promises held, 1 where not, 2 for what cannot be played, 130 behind Ctrl-C."""
        from changeover_sim.scenarios import SCENARIOS  # noqa: PLC0415 - importing a command must be cheap

        if arguments.list:
            width = max(map(len, SCENARIOS))
            _say("\n".join(f"{name:{width}}  {scenario.says}" for name, scenario in SCENARIOS.items()))
            return 0
        wrong = _wrong(arguments, SCENARIOS)
        if wrong:
            print(f"changeover: {wrong}", file=sys.stderr)
            return _USAGE
        named = list(SCENARIOS) if arguments.scenario == ALL else [arguments.scenario]
        try:
            if arguments.seed is not None:
                return _one(arguments.scenario, arguments.seed, arguments.policy, as_json=arguments.json)
            return _many(named, arguments)
        except ExplorerError as error:
            print(f"changeover: {' '.join(str(error).split())}", file=sys.stderr)
            return _USAGE


command = SimulateCommand()


def _wrong(arguments: argparse.Namespace, known: Iterable[str]) -> str | None:
    """Return what is wrong with the arguments, in a line."""
    name, names = arguments.scenario, list(known)
    if name is None:
        return f"name a scenario, or {ALL}: {', '.join(names)}"
    if name != ALL and name not in names:
        close = difflib.get_close_matches(name, [*names, ALL], n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"there is no scenario {name!r}; {hint}there are: {', '.join(names)}, and {ALL}"
    if name == ALL and arguments.seed is not None:
        return "--seed plays one run; name its scenario"
    return None


# --- one run ----------------------------------------------------------------------------------------------------------


def _one(scenario: str, seed: int, policy: str, *, as_json: bool) -> int:
    """Play one run and tell all about it; it is played twice, and must be the same."""
    from changeover_sim.simulate import summary  # noqa: PLC0415 - importing a command must be cheap
    from changeover_sim.simulate.play import Player  # noqa: PLC0415 - the same
    from changeover_sim.simulate.run import Run  # noqa: PLC0415 - the same

    runs: list[Run] = []
    with Player() as player:
        outcome = player.play(scenario, seed, policy, runs.append)
        player.play(scenario, seed, policy, runs.append)
    outcome = attrs.evolve(outcome, log=tuple(map(str, runs[0].judge.log())))
    parted = _parted(*([str(line) for line in run.judge.log(0)] for run in runs))
    if as_json:
        _say(json.dumps(summary.outcome_as_json(outcome) | {"parted": parted}, indent=2))
    else:
        _say("\n".join([*summary.run_lines(outcome), summary.one_verdict(outcome, parted)]))
    return 0 if outcome.broken is None and parted is None else _FAILED


def _parted(first: Sequence[str], second: Sequence[str]) -> str | None:
    """Return the first line in which two logs of one run differ."""
    for number, (one, other) in enumerate(itertools.zip_longest(first, second), 1):
        if one != other:
            return f"line {number} of the log was `{one}`, and then `{other}`"
    return None


# --- many -------------------------------------------------------------------------------------------------------------


def _many(scenarios: Sequence[str], arguments: argparse.Namespace) -> int:
    """Play many runs and tell what they came to."""
    from changeover_sim.scenarios import SCENARIOS  # noqa: PLC0415 - importing a command must be cheap
    from changeover_sim.simulate import sites, summary  # noqa: PLC0415 - the same
    from changeover_sim.simulate.fleet import fleet  # noqa: PLC0415 - the same
    from changeover_sim.simulate.tally import Tally  # noqa: PLC0415 - the same

    first = machine.fresh_seed() if arguments.fresh else arguments.first
    seeds, told = _seeds(first, arguments)
    quiet = arguments.json
    if not quiet:
        _say(f"{', '.join(scenarios)}\n{told}, policy {arguments.policy}, {arguments.jobs} at a time\n")
    wanted = None if isinstance(seeds, itertools.count) else len(seeds) * len(scenarios)
    screen = _Screen(wanted, quiet=quiet)
    complete = set(scenarios) == set(SCENARIOS)
    tally = Tally(complete=complete, sites=sites.names("sometimes") if complete else ())
    fleet(
        scenarios, seeds, policy=arguments.policy, jobs=arguments.jobs, tally=tally, on_played=screen.played,
        stop=_late(arguments.minutes),
    )  # fmt: skip
    screen.wipe()
    _say(json.dumps(summary.as_json(tally) | {"first_seed": first}, indent=2) if quiet else summary.text(tally))
    if not tally.ok and not (tally.interrupted and not tally.broken):
        return _FAILED
    return _INTERRUPTED if tally.interrupted else 0


def _seeds(first: int, arguments: argparse.Namespace) -> tuple[range | itertools.count[int], str]:
    """Return the seeds, and what is said of them."""
    if arguments.forever:
        return itertools.count(first), f"seeds from {first} on, until Ctrl-C"
    return range(first, first + arguments.seeds), f"seeds {first} to {first + arguments.seeds - 1}"


def _late(after_minutes: float | None) -> Callable[[], bool]:
    """Return what says whether the time is over."""
    began = machine.stopwatch()
    return lambda: after_minutes is not None and machine.stopwatch() - began > after_minutes * 60


class _Screen:
    """Shows what goes on: the first failures whole, and on a terminal a line of progress."""

    def __init__(self, wanted: int | None, *, quiet: bool) -> None:
        self._wanted = wanted
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self._drawn_s = 0.0
        self._whole = 0

    def played(self, _: Item, failed: Outcome | None, tally: Tally) -> None:
        """Show how far it is."""
        from changeover_sim.simulate import summary  # noqa: PLC0415 - importing a command must be cheap

        if failed is not None and not self._quiet and self._whole < _WHOLE_MAX:
            self._whole += 1
            self.wipe()
            _say(summary.failure_text(failed) + "\n")
        if self._live and tally.wall_s - self._drawn_s > _PROGRESS_S:
            self._drawn_s = tally.wall_s
            print(f"\r\x1b[K{summary.progress(tally, self._wanted)}", end="", file=sys.stderr, flush=True)

    def wipe(self) -> None:
        """Take the line of progress away."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, flush=True)
