"""Prints what the explorer found in other people's code: `python -m tests.simulations.others.findings`.

With `--renew` it looks for all of it again, shrinks each schedule and writes `tokens.json`; with `--tokens` it prints
those as well. Owns nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from changeover_sim import RandomWalk, explore, shrink
from tests.simulations.others.record import TOKENS, Finding, shown

LIBRARIES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("test_*.py") if path.stem != "test_findings"))
"""The modules of the libraries that were looked at."""


def found() -> list[Finding]:
    """Return every finding, library by library."""
    modules = (importlib.import_module(f"{__package__}.{name}") for name in LIBRARIES)
    return [finding for module in modules for finding in module.FOUND]


def table(findings: list[Finding], *, tokens: bool = False) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| library | primitive | what happens | it says | verdict | stock Trio | known |"
    yield "|---|---|---|---|---|---|---|"
    for each in findings:
        says = f'"{each.against}"' if each.against else "nothing"
        stock = "yes" if each.stock else "no"
        known = each.known or "not found"
        yield f"| {each.library} | {each.primitive} | {each.what} | {says} | {each.verdict} | {stock} | {known} |"
    if tokens:
        yield ""
        yield from (f"{each.name} ({each.shows}): {each.token}" for each in findings)


def renewed(finding: Finding, schedules: int = 10_000) -> str:
    """Return the token of a short schedule in which the finding shows; raises ValueError where it does not any more."""
    failure = explore(finding.program, policy=RandomWalk(), schedules=schedules, mode=finding.mode).failure
    if shown(failure) != finding.shows or failure is None:
        raise ValueError(f"{finding.name} was {finding.shows!r} and now is {shown(failure)!r}")
    return shrink(finding.program, failure.token)


def main() -> None:
    """Print the table, or make the schedules anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true")
    parser.add_argument("--tokens", action="store_true")
    wanted = parser.parse_args()
    if wanted.renew:
        fresh = {each.name: renewed(each) for each in found()}
        TOKENS.write_text(json.dumps(fresh, indent=1, sort_keys=True) + "\n")
        return
    sys.stdout.writelines(f"{line}\n" for line in table(found(), tokens=wanted.tokens))


if __name__ == "__main__":
    main()
