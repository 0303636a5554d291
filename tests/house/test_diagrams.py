"""The README's diagrams are the engine's tables, all of them and as they are now."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from changeover.core import plan
from changeover.core.lifecycle import TABLE
from changeover.core.values import SwapState, VersionState
from tests.house import diagrams
from tests.house.diagrams import DIAGRAMS, REDRAW, fenced, lifecycle, places, redrawn, swap, walk, words
from tests.house.readme import README, blocks

ARROW = re.compile(r"^ +(\w+) -->(?:\|\"(?P<flow>[^\"]*)\"\|)? (\w+)(?:: (?P<state>.*))?$", re.MULTILINE)
NOTE = re.compile(r"^ +note right of (\w+): (.+) leads here from (.+)$", re.MULTILINE)


def arrows(drawn: str) -> dict[tuple[str, str], str]:
    """Return the label of each arrow in a diagram, by the names at its ends."""
    return {(found[1], found[3]): found["flow"] or found["state"] or "" for found in ARROW.finditer(drawn)}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_the_table_of_today(name: str) -> None:
    """What stands in the README is what would be drawn now."""
    stands = places(README.read_text()).get(name)
    assert stands is not None, f"README.md has no place for {name!r}: <!-- drawn: {name} --> and <!-- /drawn -->"
    assert stands == fenced(name), f"the diagram {name!r} in README.md is stale; run: {REDRAW}"


def test_no_diagram_is_drawn_by_hand() -> None:
    """Every mermaid block of the README is one of these, each once."""
    drawn = [block.text for block in blocks(README.read_text()) if block.language == "mermaid"]
    assert sorted(drawn) == sorted(f"{draw()}\n" for draw in DIAGRAMS.values())


def test_redrawing_changes_nothing_else() -> None:
    """A stale diagram is replaced, the text around it stays, and drawing twice is drawing once."""
    text = "before\n<!-- drawn: swap, from there -->\n```mermaid\nold\n```\n<!-- /drawn -->\nafter\n"
    once = redrawn(text)
    assert once == f"before\n<!-- drawn: swap, from there -->\n{fenced('swap')}<!-- /drawn -->\nafter\n"
    assert redrawn(once) == once


def test_a_place_for_no_diagram_is_an_error() -> None:
    """A misspelt name in a place is not passed over."""
    with pytest.raises(KeyError, match="swop"):
        redrawn("<!-- drawn: swop -->\n<!-- /drawn -->")


def test_write_redraws_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--write` changes the file; without it the diagrams are only printed."""
    copy = tmp_path / "README.md"
    copy.write_text("<!-- drawn: lifecycle -->\n<!-- /drawn -->\n")
    monkeypatch.setattr(diagrams, "README", copy)
    diagrams.main([])
    assert places(copy.read_text()) == {"lifecycle": ""}
    diagrams.main(["--write"])
    assert places(copy.read_text()) == {"lifecycle": fenced("lifecycle")}


def test_every_cell_of_the_table_is_drawn() -> None:
    """Each (state, event) pair of the lifecycle is an arrow with that event or in a note; nothing else is."""
    drawn = lifecycle()
    found = {(start, event, to) for (start, to), label in arrows(drawn).items() for event in label.split(" / ")}
    found |= {(start, event, to) for to, event, states in NOTE.findall(drawn) for start in states.split(", ")}
    assert found == {
        (state.name, words(event), transition.state.name)
        for state, row in TABLE.items()
        for event, transition in row.items()
    }
    assert f"[*] --> {VersionState.REGISTERED.name}\n" in drawn


def test_every_step_is_drawn_with_what_undoes_it() -> None:
    """Each step that can be undone points at its compensation, which points at that of the step before."""
    drawn, undone = arrows(swap()), [step for step in plan.ORDER if plan.UNDONE_BY[step]]
    assert [f"undo_{step.value}" for step in undone if (step.value, f"undo_{step.value}") in drawn] == [
        f"undo_{step.value}" for step in undone
    ]
    for before, after in pairwise(undone):
        assert (f"undo_{after.value}", f"undo_{before.value}") in drawn
    for step in undone:
        assert f'undo_{step.value}["{plan.UNDONE_BY[step]}"]' in swap()


def test_pivot_and_point_of_no_return_are_marked() -> None:
    """Before the pivot a failure turns the swap round, after it only an order does, and in the last step nothing."""
    drawn = arrows(swap())
    turned = {start: label for (start, to), label in drawn.items() if to == f"undo_{start}"}
    assert turned == {
        "validate": "failed or ordered back",
        "load": "failed or ordered back",
        "warm": "failed or ordered back",
        "shift": "failed or ordered back",
        "drain": "ordered back",
    }
    assert drawn["shift", "drain"] == "the pivot"
    assert drawn["drain", "unload"] == "the point of no return, done or failed"


def test_the_walk_finds_every_end() -> None:
    """All states in which a swap can end are reached, and named in the diagram."""
    ends = {arrow.to.state for arrow in walk() if isinstance(arrow.to, plan.Finish)}
    assert ends == {state for state in SwapState if state.ended}
    assert all(end.name in swap() for end in ends)


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_small_enough_to_read(name: str) -> None:
    """At most thirty lines: above that, find another way to draw it."""
    assert len(DIAGRAMS[name]().splitlines()) <= 30
