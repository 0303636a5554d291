"""What a person reads of a fleet: a line per scenario, what was broken and how to see it again, what was looked at.

Pure functions from values to text, and to what a machine reads.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from changeover_sim.simulate.tally import MISSED, SAME_TRACE, Broken, Row, Tally

if TYPE_CHECKING:
    from changeover_sim.simulate.play import Outcome

WIDTH = 120
_INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "    "}
_TOLD_MAX = 7
"""So many failures, of different kinds or scenarios, are told with a command; of the others it is said where."""
_SEEDS_MAX = 8
_SITES_MAX = 8
_DEFECTS_MAX = 6
_FAULTS_MAX = 3


def replay_command(outcome: Outcome) -> str:
    """Return the one command that shows a failure again."""
    if outcome.broken in (MISSED, SAME_TRACE):  # what is looked for is not in one run
        seeds = f"--first {outcome.seed} --seeds 1"
        return f"changeover simulate {outcome.scenario} {seeds} --policy {outcome.policy}"
    return f"changeover simulate {outcome.scenario} --seed {outcome.seed} --policy {outcome.policy}"


def failure_text(outcome: Outcome) -> str:
    """Return the whole report of one failure."""
    return "\n".join(
        [
            *_verdict(outcome),
            *run_lines(outcome),
            "  run it again: " + replay_command(outcome),
        ]
    )


def run_lines(outcome: Outcome) -> list[str]:
    """Return what a run was like, and the last that happened in it."""
    return [
        f"  {outcome.scenario}, seed {outcome.seed}, policy {outcome.policy}, trace {outcome.trace}",
        *(wrapped for line in outcome.header for wrapped in textwrap.wrap(line, WIDTH - 2, **_INDENTED)),
        *(["  the last that happened:"] if outcome.log else []),
        *(f"  {line}" for line in outcome.log),
    ]


def one_verdict(outcome: Outcome, parted: str | None) -> str:
    """Return what one run has come to; `parted`: where it went another way when it was played again."""
    if parted is not None:
        return f"{SAME_TRACE}: played again, the same seed went another way: {parted}"
    if outcome.broken is not None:
        return "\n".join(_verdict(outcome))
    speed = f"{outcome.steps:,} steps, {outcome.virtual_s:,.1f} virtual seconds in {outcome.real_s:.2f}"
    return f"all promises held: {speed}; played again, it went the same way"


def _verdict(outcome: Outcome) -> list[str]:
    named = outcome.what.startswith(f"{outcome.broken} ")  # `promise 3 is broken (what it says): what contradicts it`
    told = outcome.what if named else f"{outcome.broken}: {outcome.what}"
    return textwrap.wrap(told, WIDTH, subsequent_indent="  ")


def text(tally: Tally) -> str:
    """Return the whole summary, which fits a large screen: fewer than 60 lines for a dozen scenarios."""
    return "\n".join([*table(tally), "", *_broken(tally), *_looked_at(tally), "", verdict(tally)])


def verdict(tally: Tally) -> str:
    """Return the last line."""
    speed = tally.runs / tally.wall_s * 60 if tally.wall_s else 0.0
    made = f"{tally.runs:,} runs in {tally.wall_s:,.1f} s ({speed:,.0f} a minute)"
    early = "stopped by Ctrl-C: " if tally.interrupted else ""
    if tally.broken:
        return f"{early}{_failures(tally.failed)} in {made}"
    found = "no promise was broken, but not all was looked at, in" if tally.defects() else "no failure in"
    return f"{early}{found} {made}"


def progress(tally: Tally, wanted: int | None) -> str:
    """Return one line for a terminal."""
    of = f"/{wanted:,}" if wanted is not None else ""
    speed = tally.runs / tally.wall_s * 60 if tally.wall_s else 0.0
    return f"{tally.runs:,}{of} runs, {_failures(tally.failed)}, {speed:,.0f} a minute"


# --- the table --------------------------------------------------------------------------------------------------------


def table(tally: Tally) -> list[str]:
    """Return a line per scenario, and one above all."""
    head = ("scenario", "runs", "failed", "a minute", "virtual s per s", "steps a run", "faults struck")
    rows = [head, *(_cells(name, row) for name, row in sorted(tally.rows.items()))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    return [_cut(_line(row, widths)) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = (
        f"{cell:{'<' if i == 0 else '>'}{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=False))
    )
    return "  ".join([name, *numbers, row[-1]]).rstrip()


def _cells(name: str, row: Row) -> tuple[str, ...]:
    seconds = row.real_s or 1.0
    speeds = (
        f"{row.runs / seconds * 60:,.0f}",
        f"{row.virtual_s / seconds:,.0f}",
        f"{row.steps / max(row.runs, 1):,.0f}",
    )
    return name, f"{row.runs:,}", f"{row.failed:,}", *speeds, _faults(row.struck)


def _faults(struck: Counter[str]) -> str:
    often = sorted(((count, name) for name, count in struck.items() if count), key=lambda pair: (-pair[0], pair[1]))
    shown = [f"{name} {count:,}" for count, name in often[:_FAULTS_MAX]]
    more = [f"{len(often) - _FAULTS_MAX} more"] if len(often) > _FAULTS_MAX else []
    return ", ".join(shown + more) or "none"


# --- what was broken --------------------------------------------------------------------------------------------------


def _broken(tally: Tally) -> Iterator[str]:
    kinds: defaultdict[str, list[tuple[str, Broken]]] = defaultdict(list)
    for (kind, scenario), broken in sorted(tally.broken.items(), key=lambda item: (_rank(item[0][0]), item[0][1])):
        kinds[kind].append((scenario, broken))
    each, told = max(1, _TOLD_MAX // max(1, len(kinds))), 0
    for kind, found in kinds.items():
        if told == _TOLD_MAX:
            yield _cut(f"and {', '.join(list(kinds)[_TOLD_MAX:])}")
            break
        yield _cut(_kind(kind, found))
        for _, broken in found[:each]:
            told += 1
            yield from _example(broken)
    if kinds:
        yield ""


def _kind(kind: str, found: Sequence[tuple[str, Broken]]) -> str:
    count = sum(len(broken.seeds) for _, broken in found)
    where = ", ".join(f"{scenario} {len(broken.seeds):,}" for scenario, broken in found)
    return f"{kind}: {_failures(count)}: {where}"


def _failures(count: int) -> str:
    return f"{count:,} {'failure' if count == 1 else 'failures'}"


def _example(broken: Broken) -> Iterator[str]:
    yield f"  {broken.first.scenario}, {_seeds(broken.seeds)}"
    what = " ".join(broken.first.what.split())
    said, _, contradicts = what.partition("): ")
    yield _cut(f"    {contradicts if said.startswith(f'{broken.first.broken} is broken (') else what}")
    yield f"    {replay_command(broken.first)}"


def _rank(kind: str) -> tuple[int, str]:
    """Return what sorts `promise 2` before `promise 10`, and both before what is no promise."""
    word, _, number = kind.partition(" ")
    return (int(number) if word == "promise" and number.isdigit() else 1_000, kind)


def _seeds(seeds: Sequence[int]) -> str:
    shown = sorted(seeds)[:_SEEDS_MAX]
    more = f" and {len(seeds) - len(shown):,} more" if len(seeds) > len(shown) else ""
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, shown))}{more}"


# --- what was looked at -----------------------------------------------------------------------------------------------


def _looked_at(tally: Tally) -> Iterator[str]:
    judged: Counter[int] = Counter()
    for row in tally.rows.values():
        judged.update(row.judged)
    told = ", ".join(f"{promise}: {judged[promise]:,}" for promise in sorted(judged))
    yield from textwrap.wrap(f"judged, by promise: {told or 'nothing'}", WIDTH, subsequent_indent="  ")
    if tally.sites:
        yield from textwrap.wrap(_sites(tally), WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    missed = sum(len(broken.seeds) for (kind, _), broken in tally.broken.items() if kind == MISSED)
    yield f"canaries found: {tally.canaries - missed:,} of {tally.canaries:,}; runs made twice: {tally.again:,}"
    for defect in tally.defects()[:_DEFECTS_MAX]:
        yield f"FAILED: {defect}"


def _sites(tally: Tally) -> str:
    never = tally.unreached
    more = f" and {len(never) - _SITES_MAX} more" if len(never) > _SITES_MAX else ""
    told = f"; never: {', '.join(never[:_SITES_MAX])}{more}" if never else ""
    return f"sites reached: {len(tally.sites) - len(never)} of {len(tally.sites)}{told}"


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3].rstrip()}..."


# --- for machines -----------------------------------------------------------------------------------------------------


def as_json(tally: Tally) -> dict[str, Any]:
    """Return the same as one object; seeds in order."""
    return {
        "ok": tally.ok,
        "interrupted": tally.interrupted,
        "runs": tally.runs,
        "wall_s": round(tally.wall_s, 3),
        "scenarios": {name: _row(row) for name, row in sorted(tally.rows.items())},
        "failures": [_failure(kind, broken) for (kind, _), broken in sorted(tally.broken.items())],
        "defects": tally.defects(),
        "reached": dict(sorted(tally.reached.items())),
        "never_reached": tally.unreached,
        "canaries": tally.canaries,
        "made_twice": tally.again,
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "runs": row.runs,
        "failed": row.failed,
        "steps": row.steps,
        "virtual_s": row.virtual_s,
        "real_s": round(row.real_s, 3),
        "struck": {name: row.struck[name] for name in sorted(row.struck)},
        "judged": {str(promise): row.judged[promise] for promise in sorted(row.judged)},
    }


def _failure(kind: str, broken: Broken) -> dict[str, Any]:
    first = broken.first
    return {
        "broken": kind,
        "scenario": first.scenario,
        "policy": first.policy,
        "seeds": sorted(broken.seeds),
        "first": outcome_as_json(first),
    }


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    """Return one run as an object."""
    return {
        "scenario": outcome.scenario,
        "seed": outcome.seed,
        "policy": outcome.policy,
        "broken": outcome.broken,
        "what": outcome.what,
        "header": list(outcome.header),
        "log": list(outcome.log),
        "trace": outcome.trace,
        "steps": outcome.steps,
        "virtual_s": outcome.virtual_s,
        "again": replay_command(outcome),
    }
