"""The page of a failure: well-formed, escaped, complete by itself, the same each time, readable without colour."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.lowlevel import checkpoint

from changeover_sim import Failure, RandomWalk, choose, explore
from changeover_sim.explorer.compare import Parting, parting
from changeover_sim.explorer.telling.markup import tag, text
from changeover_sim.explorer.telling.page import page
from tests.simulations.explorer import must_fail, told
from tests.simulations.explorer.test_any_program import program_of, tasks

ROOT = Path(__file__).parents[3]
NAME = "</style><script>alert('1')</script>\"'&<!--]]>\x1b[2J\u202e\x00\n"
EVIL = NAME + "\ud800"


def tree_of(page_: str) -> ET.Element:
    """Return the page as XML; raises where it is not well-formed."""
    first, rest = page_.split("\n", 1)
    assert first == "<!DOCTYPE html>"
    return ET.fromstring(rest)


def page_of(program: Any, picks: tuple[int, ...] = (), **rules: Any) -> tuple[Failure, Parting | None, ET.Element]:
    """Return how a program fails in a schedule, and the page of that."""
    failure, parts = told.told(program, picks, **rules)
    return failure, parts, tree_of(page(failure, parts))


def words_of(element: ET.Element) -> str:
    """Return all text of an element in a row."""
    return "".join(element.itertext())


def with_class(tree: ET.Element, name: str) -> list[ET.Element]:
    """Return the elements of a class."""
    return [element for element in tree.iter() if name in element.get("class", "").split()]


# --- what stands on it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", told.PICKS, ids=lambda program: program.__name__)
def test_every_step_is_on_the_timeline_and_in_the_table(program: Any) -> None:
    """Each step is drawn once, with its lines to be seen on hovering, and leads to its row in the table."""
    failure, _, tree = page_of(program, told.PICKS[program])
    rows = {row.get("id"): row for row in tree.iter("tr") if row.get("id")}
    links = list(tree.iter("a"))
    assert [link.get("href") for link in links] == [f"#step-{step.number}" for step in failure.trace]
    assert list(rows) == [f"step-{step.number}" for step in failure.trace]
    for step, link in zip(failure.trace, links, strict=True):
        title = words_of(next(link.iter("title")))
        assert title.startswith(f"step {step.number} at {step.time_s:g} s: {step.task or '(time and threads)'}\n")
        row = words_of(rows[f"step-{step.number}"])
        for place in step.lines:
            assert place.text in title
            assert f"told.py:{place.line}: {place.text}" in row


def test_the_page_says_what_the_report_says() -> None:
    """Verdict, program, who waits where for whom, the first difference, the graph, and the command to copy."""
    failure, parts, tree = page_of(told.deadlock, told.PICKS[told.deadlock])
    said = words_of(tree)
    assert parts is not None
    for line in str(failure).splitlines():
        if "waits in" in line or "->" in line:
            assert line.strip() in said
    assert "deadlock: tasks wait that nobody will wake" in said
    assert "First-in-first-out but for steps 4, 5." in said
    assert "Step 5 is the first that differs from the nearest schedule that passes: here late goes on" in said
    (command,) = with_class(tree, "command")
    assert words_of(command) == f"changeover replay {failure.token}"


def test_a_deviation_is_marked_by_more_than_a_colour() -> None:
    """A star, a word for it, and a line with a word where it first differs from what passes."""
    failure, parts, tree = page_of(told.deadlock, told.PICKS[told.deadlock])
    assert parts is not None
    deviating = [step.number for step in failure.trace if step.deviates]
    drawn = [group for group in with_class(tree, "deviates") if group.tag == "g"]
    assert [re.findall(r"step (\d+) at", words_of(group)) for group in drawn] == [[str(n)] for n in deviating]
    assert all(words_of(next(iter(group.iter("text")))) == "*" for group in drawn)
    rows = [row for row in with_class(tree, "deviates") if row.tag == "tr"]
    assert [words_of(next(row.iter("th"))) for row in rows] == [f"{number}*" for number in deviating]
    assert all("passed over: 1" in words_of(row) for row in rows)
    (line,) = [group for group in with_class(tree, "parts") if group.tag == "g"]
    assert words_of(line) == "first difference"
    (row,) = [row for row in with_class(tree, "parts") if row.tag == "tr"]
    assert row.get("id") == f"step-{parts.number}"


@pytest.mark.parametrize(("program", "sign"), [(told.cancel, "x"), (told.leftover, "?")])
def test_other_decisions_have_signs_of_their_own(program: Any, sign: str) -> None:
    """A cancellation and an option that was chosen are told apart from order, and the signs are explained."""
    _, _, tree = page_of(program, told.PICKS[program])
    (group,) = [group for group in with_class(tree, "deviates") if group.tag == "g"]
    assert words_of(next(iter(group.iter("text")))) == sign
    assert f"{sign} " in words_of(tree)


def test_the_circle_is_marked_in_the_graph() -> None:
    """Two thick boxes and two thick arrows, whose labels say so; the nursery's arrows are others."""
    _, _, tree = page_of(told.deadlock, told.PICKS[told.deadlock])
    boxes = [words_of(next(iter(node.iter("text")))) for node in with_class(tree, "node")]
    assert boxes == ["early", "late", "program"]
    assert len([arrow for arrow in with_class(tree, "arrow") if "cycle" in arrow.get("class", "")]) == 2
    labels = [words_of(label) for label in with_class(tree, "label")]
    assert sorted(labels) == ["a nursery", "a nursery", "trio.Lock (cycle)", "trio.Lock (cycle)"]


def test_who_holds_what_is_on_the_timeline() -> None:
    """A bar from the step in which each lock was taken, that says where."""
    failure, _, tree = page_of(told.deadlock, told.PICKS[told.deadlock])
    held = [held for step in failure.trace for held in step.taken]
    assert [words_of(bar) for bar in with_class(tree, "held")] == list(map(str, held))
    assert len(with_class(tree, "waits")) == len(failure.waiting) == 3
    assert all(str(one) in words_of(tree) for one in held)


def test_what_is_given_back_ends_the_bar() -> None:
    """A bar ends in the step in which the lock was given back."""

    async def program() -> None:
        lock = trio.Lock()
        for _ in range(3):
            async with lock:
                await checkpoint()
        await checkpoint()
        await checkpoint()
        raise ValueError

    _, _, tree = page_of(program)
    ends = [float(bar.get("x2", "")) for bar in with_class(tree, "held")]
    starts = [float(bar.get("x1", "")) for bar in with_class(tree, "held")]
    assert len(ends) == 3
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    steps = [float(rect.get("x", "")) for group in with_class(tree, "step") for rect in group.iter("rect")]
    assert ends[-1] < steps[-1]


def test_time_and_steps_have_an_axis() -> None:
    """The virtual time stands above, the numbers of the steps below."""
    _, _, tree = page_of(must_fail.ticks_for_ever, steps_max=40)
    labels = [words_of(label) for label in with_class(tree, "axis")]
    assert labels[:2] == ["time", "step"]
    times = [float(label.removesuffix(" s")) for label in labels[2:] if label.endswith(" s")]
    assert times[0] == 0
    assert times == sorted(set(times))
    assert len(times) > 3
    assert "1" in labels


def test_many_tasks_have_one_column() -> None:
    """The table of thirty tasks has a column with the task's name, and the drawing a lane for each."""

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(trio.sleep, 1)
        raise ValueError

    failure, _, tree = page_of(program)
    (head,) = tree.iter("thead")
    assert [words_of(cell) for cell in head.iter("th")] == ["step", "time", "task", "what it did"]
    assert len(with_class(tree, "lane")) == len({step.task for step in failure.trace}) > 30


def test_nothing_recorded_makes_a_page_too() -> None:
    """A failure without a step has no timeline, and says so."""
    failure, parts = told.told(told.deadlock, told.PICKS[told.deadlock])
    tree = tree_of(page(attrs.evolve(failure, trace=()), parts))
    assert "No step was recorded." in words_of(tree)


# --- what must not stand on it ----------------------------------------------------------------------------------------


class Parser(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.add(tag)
        self.attributes += attrs


KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "pre", "div", "span", "code", "a"),
    *("table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "g", "line", "polyline", "rect", "text", "path", "defs", "marker"),
}


def evil_failure() -> tuple[Failure, Parting | None]:
    """Return a failure in which everything that somebody may write is meant to break out."""

    async def program() -> None:
        lock = trio.Lock()

        async def holder() -> None:
            async with lock:
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            if choose([False, True]):
                nursery.start_soon(holder, name=f"holder {NAME}")
                nursery.start_soon(lock.acquire, name=NAME)
                await trio.sleep(1)

    failure, parts = told.told(program, (1,))
    return attrs.evolve(failure, program=f"m:{EVIL}", policy=EVIL, token=EVIL), parts


def test_nothing_breaks_out() -> None:
    """Names, messages and tokens stay text, to an XML parser as well as to a browser's."""
    failure, parts = evil_failure()
    raised = attrs.evolve(failure, exception=ValueError(EVIL), verdict="exception")
    for each in (failure, raised, attrs.evolve(failure, difference=EVIL)):
        written = page(each, parts, [EVIL])
        tree_of(written)
        written.encode()
        parser = Parser()
        parser.feed(written)
        assert parser.tags <= KNOWN
        assert not any(name.startswith("on") or name in {"src", "style"} for name, _ in parser.attributes)
        assert {value for name, value in parser.attributes if name == "href"} == {
            f"#step-{step.number}" for step in each.trace
        }
        assert all(letter.isprintable() or letter == "\n" for letter in written)


@settings(deadline=None)
@given(st.text(), st.text())
def test_text_is_text(inside: str, value: str) -> None:
    """Whatever is put in comes out of a parser as it was, or as its code where it cannot be printed."""
    element = ET.fromstring(tag("p", inside, title=value))
    for given_, found in ((inside, element.text or ""), (value, element.get("title") or "")):
        assert found == "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in given_)


def test_markup_is_escaped_once() -> None:
    """An element inside another one stays an element, and text in its place stays text."""
    assert tag("p", tag("code", "<")) == "<p><code>&lt;</code></p>"
    assert tag("p", "<code>") == "<p>&lt;code&gt;</p>"
    assert tag("p", text("&lt;")) == "<p>&amp;lt;</p>"


def test_the_page_needs_nothing_else() -> None:
    """It loads nothing and runs nothing, and tells the browser to allow neither."""
    failure, parts = told.told(told.deadlock, told.PICKS[told.deadlock])
    written = page(failure, parts)
    assert "http" not in written.replace("http-equiv", "")
    assert set(re.findall(r"url\(([^)]*)\)", written)) == {"#head-cycle", "#head"}
    assert not re.search(r"<(script|link|img|iframe|object|embed|base|form|use|image)\b|@import", written)
    assert "default-src 'none'; style-src 'unsafe-inline'" in words_of_meta(tree_of(written))


def words_of_meta(tree: ET.Element) -> str:
    """Return what the page's meta elements say."""
    return " ".join(meta.get("content", "") for meta in tree.iter("meta"))


def test_light_and_dark_have_every_colour() -> None:
    """Each colour that is used is defined for a light and for a dark page."""
    failure, parts = told.told(told.deadlock, told.PICKS[told.deadlock])
    style = words_of(next(tree_of(page(failure, parts)).iter("style")))
    light, dark = style.split("prefers-color-scheme: dark")
    used = set(re.findall(r"var\(--(\w+)\)", style))
    assert used == set(re.findall(r"--(\w+):", light)) == set(re.findall(r"--(\w+):", dark))


# --- the same each time -----------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=20)
@given(all_moves=tasks, seed=st.integers(0, 1_000))
def test_the_page_of_any_program_is_well_formed(all_moves: Any, seed: int) -> None:
    """Whatever fails, and however; and written twice it is the same."""
    program = program_of(all_moves, [])
    failure = explore(program, schedules=12, steps_max=60, seed=seed, policy=RandomWalk()).failure
    if failure is None:
        return
    parts = parting(program, failure.token)
    tree = tree_of(page(failure, parts))
    assert len(list(tree.iter("a"))) == len(failure.trace)
    assert page(failure, parts) == page(failure, parts)


def test_other_processes_write_the_same_page() -> None:
    """The order of a set, which is another in each process, decides nothing."""
    code = (
        "import sys\n"
        "from changeover_sim.explorer.telling.page import page\n"
        "from tests.simulations.explorer import told\n"
        "sys.stdout.write(page(*told.told(told.deadlock, told.PICKS[told.deadlock])))"
    )
    pages = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    failure, parts = told.told(told.deadlock, told.PICKS[told.deadlock])
    assert pages == {page(failure, parts)}
