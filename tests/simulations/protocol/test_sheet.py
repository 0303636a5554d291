"""The results file: what it keeps, what it does not take for one, and that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from changeover_sim.protocol.cells import Key
from changeover_sim.protocol.sheet import BadSheet, Sheet
from tests.simulations.protocol.runs import MADE, trial, typed

KEY, OTHER = Key("account", "natural", "random"), Key("stack", "natural", "random")


def filled(path: Path) -> Sheet:
    """Return a results file of two cells."""
    sheet = Sheet(path)
    sheet.under(MADE)
    sheet.add(KEY, "D", trial(0, 4))
    sheet.add(OTHER, "D", trial(0, 10_000, "cap"))
    return sheet


def test_each_trial_is_written_down_at_once(tmp_path: Path) -> None:
    """Whoever reads the file behind any trial finds all that were added so far, and no second file beside it."""
    sheet = filled(tmp_path / "r.json")
    for seed in (3, 1, 2):
        sheet.add(KEY, "D", trial(seed, 5))
        again = Sheet(sheet.path)
        assert (again.cells, again.made) == (sheet.cells, [MADE])
        assert list(tmp_path.iterdir()) == [sheet.path]
    assert [one.seed for one in Sheet(sheet.path).cell(KEY, "D").trials] == [0, 1, 2, 3]


def test_a_trial_that_is_run_again_replaces_the_old_one(tmp_path: Path) -> None:
    """There is one trial for each seed of a cell."""
    sheet = filled(tmp_path / "r.json")
    sheet.add(KEY, "D", trial(0, 9))
    assert sheet.cell(KEY, "D").found == [9]


def test_trials_of_another_source_are_not_mixed_in(tmp_path: Path) -> None:
    """They say nothing of this one: its cell begins empty, and the first trial takes their place."""
    sheet = filled(tmp_path / "r.json")
    assert sheet.cell(KEY, "E").trials == ()
    sheet.add(KEY, "E", trial(1, 9))
    assert [one.found for one in Sheet(sheet.path).cells] == [[9], []]


DAMAGED = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not JSON": lambda text: "results",
    "a list": lambda text: "[]",
    "of another format": lambda text: text.replace('"format": 1', '"format": 2'),
    "with other columns": lambda text: text.replace('"seconds"', '"minutes"'),
    "without cells": lambda text: text.replace('"cells"', '"sells"'),
    "with a trial too short": lambda text: text.replace('[0, 4, "found", 1.0, 0, ""]', "[0, 4]"),
    "with a word for a number": lambda text: text.replace('[0, 4, "found"', '[0, "4", "found"'),
    "with an unknown ending": lambda text: text.replace('"found", 1.0', '"lost", 1.0'),
    "with unknown conditions": lambda text: text.replace('"found", 1.0, 0', '"found", 1.0, 7'),
    "with no number of seconds": lambda text: text.replace('"found", 1.0', '"found", NaN'),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_and_left_as_it_is(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says which file it is and what to do; nothing is run, and not a byte is changed."""
    path = filled(tmp_path / "r.json").path
    text = DAMAGED[damage](path.read_text("utf-8"))
    assert text != path.read_text("utf-8")
    path.write_text(text, "utf-8")
    assert typed("account", "--results", path) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"changeover: {path} is no results file of the kernels (")
    assert said.err.endswith("it is left as it is: move it away, or name another file with --results\n")
    assert (said.out, path.read_text("utf-8")) == ("", text)
    assert list(tmp_path.iterdir()) == [path]


def test_two_runs_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """Who comes second is told, and the trials of the other are still there."""
    one, other = filled(tmp_path / "r.json"), Sheet(tmp_path / "r.json")
    other.add(KEY, "D", trial(1, 6))
    with pytest.raises(BadSheet, match="was changed by somebody else meanwhile"):
        one.add(KEY, "D", trial(2, 7))
    assert Sheet(one.path).cell(KEY, "D").found == [4, 6]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full, say: the file has all trials but the last."""
    sheet = filled(tmp_path / "r.json")

    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:10].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        sheet.add(KEY, "D", trial(1, 6))
    monkeypatch.undo()
    assert Sheet(sheet.path).cell(KEY, "D").found == [4]
    assert list(tmp_path.iterdir()) == [sheet.path]


def test_the_file_is_read_by_people_too(tmp_path: Path) -> None:
    """A line for each cell, so that a change to one is a line of a diff."""
    lines = filled(tmp_path / "r.json").path.read_text("utf-8").splitlines()
    assert [json.loads(line.rstrip(","))["kernel"] for line in lines[1:-1]] == ["account", "stack"]
