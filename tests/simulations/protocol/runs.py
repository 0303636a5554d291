"""What the tests of the protocol share: the command as it is typed, and cells made by hand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from changeover_sim.protocol import subjects
from changeover_sim.protocol.cells import Cell, Ended, Key, Trial
from changeover_sim.protocol.command import command
from changeover_sim.protocol.plan import Plan
from changeover_sim.protocol.sheet import Made, Sheet

MADE = Made("0badf00d0bad", "3.11.7", "0.35.0", 2, 2)
PORTS = ["natural", "spawned_1", "spawned_4"]


def typed(*arguments: object) -> int:
    """Run `changeover kernels` with these arguments, and return its exit status."""
    parser = argparse.ArgumentParser(prog="changeover kernels")
    command.configure(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def cell(name: str, policy: str, *schedules: int | None, port: str = "natural", cap: int = 10_000) -> Cell:
    """Return a cell with a trial for each number of schedules; None: it found nothing up to the cap."""
    trials = (trial(seed, n or cap, "found" if n else "cap") for seed, n in enumerate(schedules))
    return Cell(Key(name, port, policy), "D", tuple(trials))


def trial(seed: int, schedules: int, ended: Ended = "found", seconds: float = 1.0, note: str = "") -> Trial:
    """Return a trial."""
    return Trial(seed, schedules, ended, seconds, 0, note)


def plan(*cells: Cell, trials: int = 2, policies: Sequence[str] = tuple(subjects.POLICIES)) -> Plan:
    """Return what asks for the kernels and ports of these cells, with a results file that holds them."""
    sheet = Sheet(Path("nowhere", "at", "all"))
    sheet.made = [MADE]
    for one in cells:
        sheet._keep(one)
    known = subjects.subjects()
    names = dict.fromkeys(one.key.kernel for one in cells)
    ports = [port for port in PORTS if any(one.key.port == port for one in cells)]
    return Plan(sheet, [known[name] for name in names], ports, list(policies), trials, 600.0)
