"""The table: its text from a fixed results file, and what each mark in it says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from changeover_sim.protocol import subjects, table, view
from changeover_sim.protocol.cells import Cell, Key
from changeover_sim.protocol.plan import Plan
from changeover_sim.protocol.published import Figure
from changeover_sim.protocol.sheet import Sheet
from tests.simulations.protocol.runs import PORTS, cell, plan, trial

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell is of today's source if it says D."""
    monkeypatch.setattr(view, "digest", lambda subject, port, policy: "D")


def lines(asked: Plan) -> list[str]:
    """Return the table."""
    return table.table(view.view(asked))


def row(text: list[str], name: str) -> list[str]:
    """Return the cells of the only line that begins so."""
    [found] = [line for line in text if line.startswith(name)]
    return found.removeprefix(name).split()


def test_the_text_is_that_of_the_golden_file() -> None:
    """From a results file with cells in full, in part, out of time, of another source, and with a false alarm."""
    sheet = Sheet(HERE / "results.json")
    known = subjects.subjects()
    names = ("account", "queue", "reorder_10", "safestack", "dining_3", "counter")
    shown = lines(Plan(sheet, [known[name] for name in names], PORTS, list(subjects.POLICIES), 3, 60.0))
    golden = HERE / "table.txt"
    assert "\n".join(shown) + "\n" == golden.read_text("utf-8"), "if this is meant, write the new text to table.txt"


def test_it_is_below_120_columns_whatever_the_figures() -> None:
    """With every kernel, port and policy, and figures as long as they can be."""
    draw, cells = random.Random(3), []
    for subject in subjects.subjects().values():
        for port in PORTS:
            for policy in subjects.POLICIES:
                trials = (
                    trial(seed, draw.randint(subject.cap // 2, subject.cap), draw.choice(["found", "cap", "time"]))
                    for seed in range(19)
                )
                cells.append(Cell(Key(subject.name, port, policy), draw.choice("DE"), tuple(trials)))
    shown = lines(plan(*cells, trials=20))
    assert max(map(len, shown)) < 120
    assert len(shown) > len(subjects.subjects()) * 4


@pytest.mark.parametrize(
    ("needed", "text"),
    [
        ((3, 4), "3.5±0.7"),
        ((120, 80), "100±28"),
        ((400_000, 200_000), "300k±141k"),
        ((12, None), "12 (1)"),
        ((None, None), "x"),
        ((5,), "5 (1)*"),
        ((None,), "(0)*"),
        ((), ""),
    ],
)
def test_a_cell_says_how_many_have_found_it(needed: tuple[int | None, ...], text: str) -> None:
    """Of two trials that are wanted; `x` stands only where all of them were run to the end."""
    assert table.cell_text(cell("stack", "pos", *needed), 2, old=False) == text


def test_out_of_time_is_not_taken_for_not_found() -> None:
    """The cell says (0)* and not x, and under the table it says how many trials were run."""
    late = cell("stack", "pos", None).with_trial(trial(1, 300, "time"))
    assert table.cell_text(late, 2, old=False) == "(0)*"
    assert "* stack, natural: of 2 trials, out of time: pos 1" in lines(plan(late))


def test_a_trial_of_fewer_schedules_is_not_taken_for_not_found() -> None:
    """Than are asked for now: 500 schedules say nothing of the other 9,500."""
    few = cell("stack", "pos", None, None, cap=500)
    shown = lines(plan(few))
    assert row(shown, "  natural") == ["(0)*"]
    assert "* stack, natural: of 2 trials, others with 500 schedules only: pos 0" in shown


def test_an_old_cell_is_told_apart() -> None:
    """It has a mark, and how many trials there are of that kind is said."""
    old = Cell(Key("stack", "natural", "pos"), "of yesterday", cell("stack", "pos", 3, 4).trials)
    shown = lines(plan(old, cell("stack", "random", 5, 6)))
    assert row(shown, "  natural") == ["3.5±0.7'", "5.5±0.7"]
    says = "' made before explorer, policy or kernel changed: 2 trials; `changeover kernels` runs them anew."
    assert says in shown


def test_what_always_fails_is_kept_out_of_averages() -> None:
    """It is named; totals, means and ranks are those of the other rows."""
    always = [cell("queue", policy, 1, 1) for policy in subjects.POLICIES]
    others = [cell("stack", policy, 10, 10) for policy in subjects.POLICIES]
    shown = lines(plan(*always, *others))
    assert row(shown, "trials that found it") == ["2", "of", "2"] * 6
    assert row(shown, "mean over 1 rows") == ["10"] * 6
    assert any(line.endswith("kept out of all that follows: queue natural.") for line in shown)
    assert not any(line.startswith("queue ") and "=" in line for line in shown)


def test_a_mean_is_over_rows_that_all_policies_found() -> None:
    """Else whoever misses the hard ones would have the best mean."""
    good = [cell("stack", "pos", 10, 10), cell("stack", "random", 40, 40)]
    missed = [cell("account", "pos", 1000, 1000), cell("account", "random", 5, None)]
    shown = lines(plan(*good, *missed, policies=["pos", "random"]))
    assert row(shown, "mean over 1 rows") == ["10", "40"]
    assert row(shown, "rows found in full") == ["2", "of", "2", "1", "of", "2"]


def test_the_arms_of_a_portfolio_are_counted() -> None:
    """Who found it, the most frequent first."""
    notes = ["POS()", "PCT(depth=3)", "POS()"]
    trials = tuple(trial(seed, 3, note=note) for seed, note in enumerate(notes))
    shown = lines(plan(Cell(Key("stack", "natural", "portfolio"), "D", trials), trials=3))
    assert "found by these arms of the portfolio: POS() 2, PCT(depth=3) 1" in shown


def test_false_alarms_are_counted_and_named() -> None:
    """In programs without a bug, whatever is found."""
    good = cell("counter", "pos", None, None, cap=1000)
    alarm = trial(1, 30, "other", note="deadlock; changeover replay TOKEN")
    shown = lines(plan(good))
    assert "False alarms: 0 in 2,000 schedules of programs without a bug (counter)." in shown
    shown = lines(plan(good.with_trial(alarm)))
    assert "False alarms: 1 in 1,030 schedules of programs without a bug (counter)." in shown
    assert "FALSE ALARM: counter, natural, pos, seed 1: deadlock; changeover replay TOKEN" in shown


def test_many_of_a_kind_are_cut() -> None:
    """A table that nobody can read says nothing."""
    broken = Cell(Key("stack", "natural", "pos"), "D", tuple(trial(n, 0, "broken", note="it fell") for n in range(20)))
    shown = lines(plan(broken, trials=20))
    assert sum(line.startswith("NO TRIAL") for line in shown) == 12
    assert "... and 8 more" in shown


def test_an_empty_table_is_a_table() -> None:
    """Nothing was run yet."""
    assert lines(plan())[0].startswith("Schedules to the first bug")


@pytest.mark.parametrize(
    ("figure", "text"),
    [(Figure(6), "6"), (Figure(3225, 16), "3225 (16)"), (Figure(None, 0), "x"), (Figure(None), "found"), (None, "")],
)
def test_a_published_figure_is_written_as_it_was(figure: Figure | None, text: str) -> None:
    """With how many trials found it, where not all did."""
    assert table.figure_text(figure) == text
