"""Killed at every record of the journal, under load: the next process is consistent, and so is one after a second kill.

Real processes, SIGKILL and files; what must be true is told from the records that were committed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from changeover import SwapState
from tests.kill.forge import Forge, Life
from tests.kill.lives import models_of
from tests.support.disks import log_of, look_at_once

FORWARD = ["load", "shift"]
RECORDS = {
    "plain": ["m: 1", *FORWARD, "drain; m: 2", "unload", "completed; m: 2"],
    "fails at load": ["m: 1", "load", "undo load", "undo validate", "failed; m: 1"],
    "rolled back in the drain": [
        "m: 1", *FORWARD, "drain; m: 2",
        "undo drain; m: 1", "undo shift; m: 1", "undo warm", "undo load", "undo validate", "rolled_back; m: 1",
    ],
    "swapped back": [
        "m: 1", *FORWARD, "drain; m: 2", "unload", "completed; m: 2",
        *FORWARD, "drain; m: 1", "unload", "completed; m: 1",
    ],
    "canary": ["m: 1", *FORWARD, "drain; m: 2", "unload", "completed; m: 2"],
    "superseded": [
        "m: 1", *FORWARD, "undo shift; m: 1", "undo warm", "undo load", "undo validate", "superseded",
        *FORWARD, "drain; m: 3", "unload", "completed; m: 3",
    ],
    "group": ["a: 1", "b: 1", *FORWARD, "drain; a: 2; b: 2", "unload", "completed; a: 2; b: 2"],
    "group rolled back": [
        "a: 1", "b: 1", *FORWARD, "drain; a: 2; b: 2",
        "undo drain; a: 1; b: 1", "undo shift; a: 1; b: 1", "undo warm", "undo load", "undo validate",
        "rolled_back; a: 1; b: 1",
    ],
}  # fmt: skip
"""By scenario: all that it writes."""

AT_ONCE = 4
"""So many processes live side by side: the machine shall be busy, and the test bounded."""


# --- what must be true ----------------------------------------------------------------------------------------------


@attrs.frozen
class End:
    """What the next process has to find, after so many records of a scenario."""

    serves: dict[str, str | None]
    states: list[str]
    """Of each swap, oldest first."""
    results: list[str]
    """Of each recovery."""

    @classmethod
    def after(cls, scenario: str, count: int) -> End:
        """Return it: past the record of the drain the new version, before it the old one."""
        serves: dict[str, str | None] = dict.fromkeys(models_of(scenario))
        states: list[str] = []
        ended = True
        whole = RECORDS[scenario]
        for n, record in enumerate(whole[:count]):
            step, *wanted = [part for part in record.split("; ") if ": " not in part] or [""]
            assert not wanted
            serves |= dict(part.split(": ") for part in record.split("; ") if ": " in part)
            if step == "load":
                states.append("failed")
            elif step in ("drain", "unload"):
                states[-1] = "completed"
            elif step.startswith("undo"):
                states[-1] = next(line for line in map(_word, whole[n:]) if line in _ENDS)
            elif step in _ENDS:
                states[-1] = step
            ended = step in (*_ENDS, "")
        there = sum(version is not None for version in serves.values())
        open_end = "finished" if states[-1:] == ["completed"] else "undone"
        return cls(serves, states, ["restored"] * there if ended else [open_end])

    def compare(self, report: Mapping[str, Any]) -> None:
        """Assert that a life has found this."""
        assert report["serves"] == self.serves
        assert report["loaded"] == {model: [version] if version else [] for model, version in self.serves.items()}
        assert [state for _, _, state in report["swaps"]] == self.states
        assert report["results"] == self.results
        assert (report["open"], report["waiting"], report["set_aside"], report["errors"]) == ([], 0, False, [])
        assert report["clean"]


_ENDS = tuple(state.value for state in SwapState if state.ended)


def _word(record: str) -> str:
    return record.partition("; ")[0]


# --- lives ----------------------------------------------------------------------------------------------------------


def side_by_side(forge: Forge, orders: Sequence[tuple[Any, ...]]) -> Iterator[Life]:
    """Begin lives, some at a time, and yield each once it has ended, in their order."""
    for first in range(0, len(orders), AT_ONCE):
        for life in [forge.begin(*order) for order in orders[first : first + AT_ONCE]]:
            life.ends()
            assert life.facts("wrong") == []
            assert life.facts("crashed") == []
            yield life


def copied(path: Path, name: str) -> Path:
    """Return a copy of a journal, to be used up."""
    folder = path.parent / name
    folder.mkdir()
    shutil.copy(path, folder / "j")
    if log_of(path).exists():
        shutil.copy(log_of(path), log_of(folder / "j"))
    return folder / "j"


def killed(forge: Forge, folder: Path, scenario: str, durability: str) -> list[tuple[int, Path]]:
    """Kill a life of a scenario at every record, before and after; return how many it has kept, and the journal."""
    found: list[tuple[int, Path]] = []
    moments = [(n, moment) for n in range(1, len(RECORDS[scenario]) + 1) for moment in ("before", "after")]
    for n, moment in moments:
        (folder / f"{n} {moment}").mkdir()
        found.append((n if moment == "after" else n - 1, folder / f"{n} {moment}" / "j"))
    orders = [("serves", str(path), durability, scenario, at) for (_, path), at in zip(found, moments, strict=True)]
    for life, (kept, _) in zip(side_by_side(forge, orders), found, strict=True):
        assert life.status == -9
        assert life.facts("record") == RECORDS[scenario][:kept]
    return found


def ends_well(life: Life, end: End, path: Path) -> int:
    """Assert that a life has recovered to this end and could go on; return how many records the recovery took."""
    assert life.status == 0
    (report,) = life.facts("report")
    end.compare(report)
    active = {model: "4" for model, version in end.serves.items() if version}
    assert life.facts("then") == ([active] if active else [])
    kept = look_at_once(path)
    assert (kept.set_aside, [row.id for row in kept.swaps if not row.ended]) == (None, [])
    assert len(kept.swaps) == len(end.states) + bool(active)
    return next(n for n, fact in enumerate(life.told) if "report" in fact)


def all_is_well(forge: Forge, folder: Path, scenario: str, durability: str) -> list[tuple[int, Path]]:
    """Kill at every record, and recover; return what `killed` does."""
    victims = killed(forge, folder, scenario, durability)
    copies = [copied(path, "again") for _, path in victims]
    models = models_of(scenario)
    orders = [("recovers", str(path), durability, models, None) for path in copies]
    for life, (kept, _), copy in zip(side_by_side(forge, orders), victims, copies, strict=True):
        end = End.after(scenario, kept)
        assert ends_well(life, end, copy) == len(end.results)  # each recovery is one transaction
    return victims


# --- the truths -----------------------------------------------------------------------------------------------------


@pytest.mark.kill
@pytest.mark.parametrize("scenario", RECORDS)
def test_nothing_is_wrong_where_nobody_is_killed(forge: Forge, tmp_path: Path, scenario: str) -> None:
    """Each scenario writes these records, loses no request under load, and the next process finds its end."""
    (life,) = side_by_side(forge, [("serves", str(tmp_path / "j"), "process", scenario, None)])
    assert (life.status, life.facts("record")) == (0, RECORDS[scenario])
    assert len(life.facts("answer")) >= 4
    (after,) = side_by_side(forge, [("recovers", str(tmp_path / "j"), "process", models_of(scenario), None)])
    ends_well(after, End.after(scenario, len(RECORDS[scenario])), tmp_path / "j")


def test_killed_around_the_pivot(forge: Forge, tmp_path: Path) -> None:
    """Killed before the commit of the pivot the old version serves, right after it the new one."""
    pivot = RECORDS["group"].index("drain; a: 2; b: 2") + 1
    for moment, version in (("before", "1"), ("after", "2")):
        path = tmp_path / moment
        (first,) = side_by_side(forge, [("serves", str(path), "process", "group", (pivot, moment))])
        (second,) = side_by_side(forge, [("recovers", str(path), "process", models_of("group"), None)])
        assert (first.status, second.facts("report")[0]["serves"]) == (-9, {"a": version, "b": version})


@pytest.mark.kill
@pytest.mark.parametrize("scenario", RECORDS)
def test_killed_at_every_record_and_again_in_the_recovery(forge: Forge, tmp_path: Path, scenario: str) -> None:
    """At each commit, before and after: the next process finds the end that the records say, and so does a third one.

    A group is never mixed, every swap has ended, nothing is held, and the next swap completes.
    """
    models = models_of(scenario)
    again: list[tuple[int, Path, int, str]] = []
    for kept, path in all_is_well(forge, tmp_path, scenario, "process"):
        moment = path.parent.name.split()[1]  # what is left after a record is left before the next: both get both
        again += [(kept, path, n, moment) for n in range(1, len(End.after(scenario, kept).results) + 1)]
    copies = [copied(path, f"recovery {n}") for _, path, n, _ in again]
    orders = [("recovers", str(copy), "process", models, row[2:]) for copy, row in zip(copies, again, strict=True)]
    for life in side_by_side(forge, orders):
        assert life.status == -9
    orders = [("recovers", str(copy), "process", models, None) for copy in copies]
    for life, copy, (kept, _, n, moment) in zip(side_by_side(forge, orders), copies, again, strict=True):
        end = End.after(scenario, kept)
        if (n, moment) != (1, "before") and end.states:  # the end of its swap is written down
            end = attrs.evolve(end, results=["restored"] * len(end.serves))
        ends_well(life, end, copy)


@pytest.mark.kill
@pytest.mark.parametrize("scenario", ["plain", "group"])
def test_with_power_it_is_the_same(forge: Forge, tmp_path: Path, scenario: str) -> None:
    """`durability="power"` survives SIGKILL at every record as the other does."""
    assert all_is_well(forge, tmp_path, scenario, "power")


@pytest.mark.kill
def test_killed_at_any_moment_of_the_recovery(forge: Forge, tmp_path: Path) -> None:
    """Ten times in a row at random moments: the process that is let live comes to the same end."""
    chance = random.Random(7)
    pivot = RECORDS["group"].index("drain; a: 2; b: 2") + 1
    for kept in (pivot - 1, pivot):
        path = tmp_path / str(kept)
        (life,) = side_by_side(forge, [("serves", str(path), "process", "group", (kept, "after"))])
        assert life.status == -9
        before_report = 0
        for _ in range(10):
            life = forge.begin("recovers", str(path), "process", models_of("group"), None)
            life.lives_for(chance.uniform(0.0, 0.03))
            life.ends()
            if life.facts("report"):  # too late: it was done
                break
            before_report += 1
        assert before_report
        if not life.facts("report"):
            (life,) = side_by_side(forge, [("recovers", str(path), "process", models_of("group"), None)])
        (report,) = life.facts("report")
        end = End.after("group", kept)
        assert (report["serves"], report["loaded"]) == (end.serves, {m: [v] for m, v in end.serves.items()})
        assert [state for _, _, state in report["swaps"]] == end.states
