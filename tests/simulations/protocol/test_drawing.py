"""The picture: well-formed, the same twice, and with a mark for each thing that was measured or published."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from changeover_sim.protocol import drawing, subjects, view
from changeover_sim.protocol.cells import Cell
from changeover_sim.protocol.drawing import LOOKS, NotDrawn
from changeover_sim.protocol.view import View
from tests.simulations.protocol.runs import PORTS, cell, plan, trial

pytest.importorskip("matplotlib", reason="the picture needs changeover[demo]")


def shown(*cells: Cell) -> View:
    """Return what is drawn: these cells, or some of each kind."""
    some = [
        cell(name, policy, number + 3, None, port=port)
        for name in ("account", "stack", "safestack")
        for number, policy in enumerate(subjects.POLICIES)
        for port in PORTS
    ]
    return view.view(plan(*(cells or some)))


def test_it_is_an_svg_of_a_readmes_width() -> None:
    """Well-formed, as wide as asked for, with the names of kernels and policies, and nothing from outside."""
    svg = drawing.draw(shown())
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert 850 < float(root.attrib["width"].removesuffix("pt")) * 96 / 72 < 950
    comments = set(re.findall(r"<!-- (.*?) -->", svg.decode()))
    assert {"account", "stack", "safestack", *subjects.POLICIES, *PORTS, "hollow: published"} <= comments
    assert not re.findall(rb"(?:href|src)=\"(?!#)", svg)
    assert b"<script" not in svg


def test_it_is_the_same_twice() -> None:
    """Also in another process, whose strings hash otherwise: no date, no chance, no address."""
    drawn, here = drawing.draw(shown()), Path(__file__).parents[3]
    script = (
        "from tests.simulations.protocol import test_drawing as t; print(t.drawing.draw(t.shown()).decode(), end='')"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(here)}
    command = [sys.executable, "-c", script]
    elsewhere = subprocess.run(command, check=True, capture_output=True, cwd=here, env=environment)
    assert elsewhere.stdout == drawn == drawing.draw(shown())


def marks(figure_of: View) -> list[tuple[float, str, str]]:
    """Return each mark of the panels: where it stands, its shape, and its filling."""
    figure = drawing._figure(figure_of)
    lines = [line for axes in figure.axes for line in axes.lines if line.get_marker() not in {"None", None, ""}]
    return [(line.get_xdata()[0], line.get_marker(), line.get_markerfacecolor()) for line in lines]


def test_what_is_measured_is_full_and_what_is_published_hollow() -> None:
    """At their schedules; what was not found stands at the cap."""
    drawn = marks(shown(cell("stack", "pos", 7, 9), cell("reorder_5", "random", None, None)))
    assert (8, "^", LOOKS["pos"].colour) in drawn
    assert (2, "^", "none") in drawn
    assert (10_000, "D", LOOKS["random"].colour) in drawn
    assert (10_000, "D", "none") in drawn


def test_what_ran_out_of_time_is_not_drawn_as_not_found() -> None:
    """It has no mark at all."""
    empty = Cell(cell("dining_3", "pos").key, "D", (trial(0, 300, "time"),))
    assert marks(shown(empty)) == []


def test_shapes_and_colours_differ() -> None:
    """So that each is enough without the other."""
    assert set(LOOKS) == set(subjects.POLICIES)
    assert len({look.mark for look in LOOKS.values()}) == len({look.colour for look in LOOKS.values()}) == len(LOOKS)


def test_nothing_at_all_can_be_drawn() -> None:
    """An empty table is an empty picture."""
    ET.fromstring(drawing.draw(view.view(plan())))


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything is run."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotDrawn, match=r'pip install "changeover\[demo\]"'):
        drawing.check(tmp_path / "kernels.svg")
