"""All that is private of Trio is listed in one place, is there, is named when it is not, and is used nowhere else.

These fail on a Trio that has changed inside, before anything else does, and say where.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trio._core._run as run_loop

import changeover_sim
from changeover_sim import ExplorerError, TrioNotSupported, explore, replay, shrink
from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.inside_trio import NAMES, TESTED, check
from tests.simulations.explorer import must_fail

SOURCES = Path(changeover_sim.__file__).parent
INSIDE = Path(inside_trio.__file__)
LOOP = ast.parse(textwrap.dedent(inspect.getsource(run_loop.unrolled_run)))


def said(owner: Any, name: str) -> str:
    """Return how a name is told to people."""
    return f"{owner.__name__}.{name}"


def assigned(owner: Any) -> tuple[str, ...]:
    """Return the names that a plain class uses in its `__init__`, where it gives its instances their attributes."""
    code = getattr(getattr(owner, "__init__", None), "__code__", None)
    return () if code is None or not isinstance(owner, type) else code.co_names


def take_away(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let Trio be without a name: as an attribute, as a field of an attrs class, and as what `__init__` assigns."""
    if name in vars(owner):
        monkeypatch.delattr(owner, name)
    fields = getattr(owner, "__attrs_attrs__", ())
    if any(field.name == name for field in fields):
        monkeypatch.setattr(owner, "__attrs_attrs__", tuple(field for field in fields if field.name != name))
    if name in assigned(owner):
        monkeypatch.setattr(owner, "__init__", lambda self: None)


every_name = pytest.mark.parametrize(("owner", "name"), NAMES, ids=[said(owner, name) for owner, name in NAMES])


# --- names ------------------------------------------------------------------------------------------------------------


@every_name
def test_trio_has_it(owner: Any, name: str) -> None:
    """The name is an attribute of its owner, a field of the class, or what the class gives its instances."""
    fields = {field.name for field in getattr(owner, "__attrs_attrs__", ())}
    found = inspect.getattr_static(owner, name, None) is not None
    assert found or name in fields or name in assigned(owner)


@every_name
def test_a_trio_without_it_is_refused(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Trio that lacks a single name gets an error that says which, which Trio this is, and which ones work."""
    take_away(monkeypatch, owner, name)
    with pytest.raises(TrioNotSupported) as refused:
        check()
    text = str(refused.value)
    assert said(owner, name) in text
    assert trio.__version__ in text
    assert TESTED[0] in text
    assert TESTED[-1] in text


def test_this_trio_has_them_all() -> None:
    """And nothing is said."""
    check()


def test_no_name_stands_there_twice() -> None:
    """Each is listed once."""
    listed = [said(owner, name) for owner, name in NAMES]
    assert len(listed) == len(set(listed))


def test_every_way_in_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exploring, replaying and shrinking are refused at the door, before anything was touched; processes, too."""
    failure = explore(must_fail.raises).failure
    assert failure is not None
    monkeypatch.delattr(inside_trio.Runner, "task_exited")
    ways = (
        lambda: explore(must_fail.raises),
        lambda: explore(must_fail.raises, jobs=2),
        lambda: replay(must_fail.raises, failure.token),
        lambda: shrink(must_fail.raises, failure.token),
    )
    for way in ways:
        with pytest.raises(TrioNotSupported, match=r"Runner\.task_exited"):
            way()
    assert issubclass(TrioNotSupported, ExplorerError)


def test_the_installed_trio_is_one_of_those_it_was_tested_with() -> None:
    """These tests run with it, so it belongs into the list, which is in order."""
    assert ".".join(trio.__version__.split(".")[:2]) in TESTED
    assert inside_trio.tested()
    assert sorted(TESTED, key=lambda release: [int(part) for part in release.split(".")]) == list(TESTED)


# --- what the sources touch -------------------------------------------------------------------------------------------


def private_attributes(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every private attribute that is used of something other than `self` or `cls`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            of_itself = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not of_itself:
                yield node.lineno, node.attr


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that is imported."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def defined(path: Path) -> set[str]:
    """Return the names that a module gives to its own things: functions, methods, and what it assigns to `self`."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return found | {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


OTHERS = sorted(path for path in SOURCES.rglob("*.py") if path != INSIDE)
OF_PYTHON = {"_current_frames", "_exit", "_getframe"}
"""Private in name only: documented functions of `sys` and `os`."""


ENGINE = sorted((SOURCES.parents[1] / "engine" / "changeover").rglob("*.py"))
DOORS = {SOURCES / "ports.py", SOURCES / "simulate" / "behind.py", *(SOURCES / "oracles").glob("*.py")}
"""Who looks behind the engine's doors: the oracles, and where a world gives it loaders and ears."""


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(SOURCES)))
def test_no_other_module_uses_private_names(path: Path) -> None:
    """What is private of Trio is used in `inside_trio` and nowhere else here; what is private of the engine, by few."""
    own = defined(path)
    if path in DOORS:
        own = own.union(*map(defined, ENGINE))
    assert [use for use in private_attributes(path) if use[1] not in own | OF_PYTHON] == []
    assert [name for name in imported(path) if "trio._" in f"{name[1]}."] == []


def test_what_is_used_there_is_listed() -> None:
    """Each private name in `inside_trio` stands in the list, so that the guard looks at it."""
    listed = {name for _, name in NAMES} | {"_cancel"}  # which is there only where Trio has it
    own = defined(INSIDE)
    assert [use for use in private_attributes(INSIDE) if use[1] not in listed | own] == []


def test_the_scan_sees_what_it_should(tmp_path: Path) -> None:
    """Private attributes, imports of private modules, and not one's own."""
    path = tmp_path / "module.py"
    path.write_text("import trio._core\nfrom trio import _ki\nself._own\ntask._counter\nx.__class__\n")
    assert list(private_attributes(path)) == [(4, "_counter")]
    assert [name for _, name in imported(path)] == ["trio._core", "trio._ki"]


# --- the loop ---------------------------------------------------------------------------------------------------------


def calls(tree: ast.AST, text: str) -> list[ast.AST]:
    """Return where an expression stands in the loop."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.expr) and ast.unparse(node) == text]


def test_the_loop_copies_its_queue_and_clears_it_once_per_pass() -> None:
    """That is how one chosen task is handed over per pass: `list(runner.runq)`, then `runner.runq.clear()`."""
    (passes,) = (
        node for node in ast.walk(LOOP) if isinstance(node, ast.While) and "runner.tasks" in ast.unparse(node.test)
    )
    lines = [ast.unparse(statement) for statement in passes.body]
    at = lines.index("batch = list(runner.runq)")
    assert lines[at + 1] == "runner.runq.clear()"
    assert len(calls(LOOP, "list(runner.runq)")) == len(calls(LOOP, "runner.runq.clear()")) == 1


def test_the_loop_asks_its_queue_for_nothing_else() -> None:
    """Beside that it only asks whether it is empty, and every task comes in by `append`."""
    uses = calls(LOOP, "runner.runq")
    asked = [ast.unparse(node) for node in ast.walk(LOOP) if isinstance(node, ast.If | ast.UnaryOp | ast.BoolOp)]
    assert len(uses) == 4
    assert any("not runner.runq" in text for text in asked)
    assert "self.runq.append(task)" in inspect.getsource(run_loop.Runner.reschedule)
    everywhere = ast.parse(inspect.getsource(run_loop))
    assert len([node for node in ast.walk(everywhere) if isinstance(node, ast.Attribute) and node.attr == "runq"]) == 7
    assert len(calls(everywhere, "len(self.runq)")) == len(calls(everywhere, "not self.runq")) == 1


def test_the_loop_makes_one_step_for_each_event_that_is_sent() -> None:
    """It is a generator: one `yield`, once per pass, between its start and its end."""
    assert len([node for node in ast.walk(LOOP) if isinstance(node, ast.Yield)]) == 1
    assert inspect.isgeneratorfunction(run_loop.unrolled_run)


def test_the_loop_expires_deadlines_by_their_owner() -> None:
    """Deadlines and clock are asked by the names that the explorer's own answer to."""
    for asked in ("runner.deadlines.next_deadline()", "runner.deadlines.expire(now)", "runner.clock.current_time()"):
        assert calls(LOOP, asked), asked
    assert calls(LOOP, "runner.clock.deadline_to_sleep_time(deadline)")


def test_stand_ins_have_what_trio_asks_them_for() -> None:
    """Each stand-in has every public method of what it stands for, as far as the loop and the tasks use it."""
    from changeover_sim.explorer.timers import Clock, Timers

    for stand_in, real in ((Timers, run_loop.Deadlines), (Clock, trio.abc.Clock)):
        wanted = {name for name in vars(real) if not name.startswith("_")}
        assert wanted <= set(dir(stand_in)), (stand_in, wanted)


def test_names_are_looked_up_in_modules_and_classes() -> None:
    """The list has owners that can be named in an error."""
    assert all(isinstance(owner, ModuleType | type) or hasattr(owner, "__name__") for owner, _ in NAMES)
