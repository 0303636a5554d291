"""`changeover replay`: which program it runs, what it says of it, and what it refuses in one line.

Every test writes the module that a token names into a folder of its own, which is the current directory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from changeover.cli import main
from changeover_sim import explore
from changeover_sim.explorer import token as tokens
from changeover_sim.replay_command import command

LOSES = """
import functools
import trio

async def count(n=2):
    total = 0
    async def add():
        nonlocal total
        seen = total
        await trio.lowlevel.checkpoint()
        total = seen + 1
    async with trio.open_nursery() as nursery:
        for _ in range(n):
            nursery.start_soon(add)
    print("counted", total)
    assert total == n, f"{n - total} lost"

async def wait():
    lock = trio.Lock()
    async with trio.open_nursery() as nursery:
        await lock.acquire()
        nursery.start_soon(lock.acquire)
        await trio.sleep_forever()

async def both():
    a, b = trio.Lock(), trio.Lock()
    async def take(first, second):
        async with first:
            await trio.sleep(1)
            async with second:
                pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, a, b, name="left")
        nursery.start_soon(take, b, a, name="right")

async def long():
    for _ in range(400):
        await trio.sleep(0)
    raise ValueError

async def inside():
    async with trio.open_nursery():
        raise KeyError("gone")

async def of(n):
    await count(n)

def plain():
    return count()

class Program:
    async def __call__(self):
        await count()

class Counts:
    @staticmethod
    async def twice():
        await count(2)

three = functools.partial(of, 3)
program = Program()
number = 7
"""
Saw = pytest.CaptureFixture[str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that writes a module into the current directory, which is not on sys.path."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)

    def put(text: str = LOSES, name: str = "losing") -> None:
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        Path(f"{name}.py").write_text(text)

    yield put
    assert sys.path == path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def token_of(write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: Saw) -> Callable[..., str]:
    """Return a function that explores a program of the module and returns the token of its failure."""
    write()

    def token(name: str = "count", program: str | None = None) -> str:
        with monkeypatch.context() as patch:
            patch.syspath_prepend(Path.cwd())
            found = importlib.import_module("losing")
        for part in name.split("."):
            found = getattr(found, part)
        failure = explore(found, schedules=50, seed=3).failure
        assert failure is not None
        del sys.modules["losing"]
        capsys.readouterr()  # what was printed so far is not the command's
        return failure.token if program is None else renamed(failure.token, program)

    return token


def renamed(text: str, program: str) -> str:
    """Return the token with another program in it."""
    return tokens.encode(attrs.evolve(tokens.decode(text), program=program))


def refused(saw: Saw, *arguments: str) -> str:
    """Run the command, which fails with one line, and return that."""
    assert main(["replay", *arguments]) == 2
    said = saw.readouterr().err
    assert said.startswith("changeover: ")
    assert said.count("\n") == 1, said
    return said


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_schedule_that_fails_again(token_of: Callable[..., str], capsys: Saw) -> None:
    """It imports the module from the current directory, prints the report, and exits with 1."""
    token = token_of()
    assert main(["replay", token]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("importing the module losing, which runs its code\n")
    assert "AssertionError: 1 lost" in said.out
    assert f"changeover replay {token}" in said.out
    assert said.err == ""


def test_a_schedule_that_no_longer_fails(write: Callable[..., Any], token_of: Callable[..., str], capsys: Saw) -> None:
    """Behind a repair it says so, and that the program has changed, and exits with 0."""
    token = token_of()
    write(LOSES.replace("        await trio.lowlevel.checkpoint()\n", ""))
    assert main(["replay", token]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["counted 2", "the schedule no longer fails"]
    assert lines[2].startswith("note: the steps are not those that the token was made with")


def test_a_method_is_found(token_of: Callable[..., str], capsys: Saw) -> None:
    """A program inside a class is found by its qualified name."""
    assert main(["replay", token_of("Counts.twice")]) == 1
    assert "losing:Counts.twice" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["three", "program", "plain"])
def test_a_program_that_has_moved(token_of: Callable[..., str], name: str, capsys: Saw) -> None:
    """With --program any callable is run in place of the one in the token; the new token is for that one."""
    token = token_of(name, "__main__:main")
    assert main(["replay", token, "--program", f"losing:{name}", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["program"].startswith("losing:")
    assert tokens.decode(told["token"]).program == told["program"]
    assert "__main__:main" not in str(told)


# --- for machines -----------------------------------------------------------------------------------------------------


def test_json_of_an_exception(token_of: Callable[..., str], capsys: Saw) -> None:
    """--json prints one object with all that is known of the failure, whatever the program itself prints."""
    token = token_of()
    assert main(["replay", token, "--json"]) == 1
    said = capsys.readouterr()
    told = json.loads(said.out)
    steps = told.pop("steps")
    parting = told.pop("parting")
    assert told == {
        "verdict": "exception",
        "exception": "AssertionError: 1 lost",
        "program": "losing:count",
        "policy": tokens.decode(token).policy,
        "seed": 3,
        "schedule_index": tokens.decode(token).index,
        "deviations": [step["number"] for step in steps if step["skipped"]],
        "waiting": [],
        "graph": [],
        "cycle": [],
        "held": [],
        "leftover": [],
        "stock": told["stock"],
        "notes": [],
        "token": token,
    }
    assert "counted 1" in said.err
    assert steps[0]["task"] == "program"
    assert steps[0]["lines"][0] | {"file": ""} == {"file": "", "line": 6, "function": "count", "text": "total = 0"}
    assert steps[0].keys() == {
        *("number", "task", "time_s", "begins", "lines", "ends", "cause", "skipped", "choices", "taken", "given"),
    }
    assert parting.keys() == {"step", "kind", "fails", "passes", "token", "schedules_run"}
    assert parting["fails"] == steps[parting["step"] - 1]
    assert parting["passes"]["task"] != parting["fails"]["task"]


def test_json_of_a_group(token_of: Callable[..., str], capsys: Saw) -> None:
    """What was raised inside a nursery is told without the group that it comes out in."""
    assert main(["replay", token_of("inside"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["exception"] == "KeyError: 'gone'"


def test_json_of_a_deadlock(token_of: Callable[..., str], capsys: Saw) -> None:
    """Of a deadlock the object says who waits, where, in what and for whom."""
    assert main(["replay", token_of("wait"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["exception"]) == ("deadlock", None)
    program, other = told["waiting"]
    assert (program["task"], program["place"]["text"], program["until_s"]) == (
        "program",
        "await trio.sleep_forever()",
        None,
    )
    assert (other["primitive"], other["holders"]) == ("trio.Lock", ["program"])


def test_json_of_a_schedule_that_no_longer_fails(
    write: Callable[..., Any], token_of: Callable[..., str], capsys: Saw
) -> None:
    """Without a failure the object has the same keys, and no verdict."""
    token = token_of()
    assert main(["replay", token, "--json"]) == 1
    keys = list(json.loads(capsys.readouterr().out))
    write("async def count(): pass")
    assert main(["replay", token, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == keys
    assert (told["verdict"], told["steps"], told["token"], len(told["notes"])) == (None, [], token, 1)


def test_json_of_a_deadlock_has_graph_and_holders(token_of: Callable[..., str], capsys: Saw) -> None:
    """Who waits for whom as pairs, the circle by its tasks, and who holds what since which step and line."""
    assert main(["replay", token_of("both"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    pairs = {(edge["waiter"], edge["holder"], edge["primitive"], edge["in_cycle"]) for edge in told["graph"]}
    assert pairs >= {("left", "right", "trio.Lock", True), ("right", "left", "trio.Lock", True)}
    assert sorted(told["cycle"]) == ["left", "right"]
    held = {one["task"]: one for one in told["held"]}
    assert held.keys() == {"left", "right"}
    for name, one in held.items():
        assert (one["primitive"], one["place"]["text"]) == ("trio.Lock", "async with first:")
        step = told["steps"][one["step"] - 1]
        assert step["task"] == name
        assert step["taken"] == [one]


# --- where it differs, all of it, as a page ---------------------------------------------------------------------------


def test_the_first_difference_is_told(token_of: Callable[..., str], capsys: Saw) -> None:
    """The report says in which step it parts from what passes; what the runs print that find it is not shown."""
    assert main(["replay", token_of()]) == 1
    said = capsys.readouterr().out
    assert "is the first that differs from the nearest schedule that passes: here add" in " ".join(said.split())
    assert said.count("\ncounted ") == 1


def test_full_leaves_nothing_out(token_of: Callable[..., str], capsys: Saw) -> None:
    """What is folded in the report is there with --full."""
    token = token_of("long")
    assert main(["replay", token]) == 1
    short = capsys.readouterr().out.splitlines()
    assert main(["replay", token, "--full"]) == 1
    full = capsys.readouterr().out.splitlines()
    assert any(line.endswith("steps in order ...") for line in short)
    assert not any("..." in line for line in full)
    assert len(short) < 60
    assert len(full) > 400


def test_the_page_is_written(token_of: Callable[..., str], capsys: Saw) -> None:
    """--html writes a page, says where, and changes nothing else."""
    token = token_of("both")
    assert main(["replay", token]) == 1
    before = capsys.readouterr()
    assert main(["replay", token, "--html", "out.html"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == (before.out, before.err + "the page is in out.html\n")
    page = Path("out.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>\n<html")
    assert token in page
    assert "trio.Lock (cycle)" in page


def test_page_and_json_go_together(token_of: Callable[..., str], capsys: Saw) -> None:
    """With both the page is written, and nothing but the object is printed."""
    assert main(["replay", token_of(), "--json", "--html", "out.html"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "exception"
    assert Path("out.html").exists()


@pytest.mark.parametrize("file", ["no/such/folder/out.html", ".", "nul\0l"])
def test_a_page_that_cannot_be_written(token_of: Callable[..., str], file: str, capsys: Saw) -> None:
    """The report is told all the same, then one line says what is wrong, and the status is that of bad usage."""
    assert main(["replay", token_of(), "--html", file]) == 2
    said = capsys.readouterr()
    assert "AssertionError: 1 lost" in said.out
    assert said.err.startswith("changeover: the page cannot be written: ")
    assert said.err.count("\n") == 1


def test_no_page_where_nothing_fails(write: Callable[..., Any], token_of: Callable[..., str], capsys: Saw) -> None:
    """A schedule that no longer fails has nothing to show, and an old page is left alone."""
    token = token_of()
    write("async def count(): pass")
    Path("out.html").write_text("old")
    assert main(["replay", token, "--html", "out.html"]) == 0
    assert "no page is written: the schedule does not fail" in capsys.readouterr().err
    assert Path("out.html").read_text() == "old"


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "hello", "sx1-", "sx1-AAAA", "sx9-AAAA", "sx1-\n\u20ac"])
def test_a_damaged_token(text: str, capsys: Saw) -> None:
    """What is no token is refused in one line."""
    assert "token" in refused(capsys, text)


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("__main__:main", "was run as a script"),
        ("losing:of.<locals>.inner", "cannot be imported by its name; call changeover_sim.replay(program, token)"),
        ("losing:<lambda>", "or for a test `pytest NODE --explore-replay TOKEN`"),
        ("losing:test_it[1]", "cannot be imported by its name"),
        ("losing", "cannot be imported by its name"),
        (":count", "cannot be imported by its name"),
        (".losing:count", "cannot be imported by its name"),
        ("losing:\x1b[2Jcount", r"'losing:\x1b[2Jcount' cannot be imported by its name"),
        ("no_such_module:count", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("losing:gone", "the module losing has no gone; say with --program"),
        ("losing:number", "losing:number is no async function"),
        ("losing:of", "losing:of cannot be called without arguments (missing a required argument: 'n')"),
        ("losing:plain", "is no async function; if it is the program all the same, say so: --program losing:plain"),
    ],
)
def test_a_program_that_cannot_be_had(token_of: Callable[..., str], program: str, sentence: str, capsys: Saw) -> None:
    """A program that has no importable name, is not there or is none is refused in one line that says what to do."""
    assert sentence in refused(capsys, token_of(program=program))


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("losing:number", "losing:number is no function"),
        ("losing:Program", "losing:Program is no function"),
        ("losing:of", "losing:of cannot be called without arguments"),
        ("losing", "cannot be imported by its name"),
    ],
)
def test_a_chosen_program_is_looked_at_too(
    token_of: Callable[..., str], program: str, sentence: str, capsys: Saw
) -> None:
    """What --program names must be callable without arguments, and no class."""
    assert sentence in refused(capsys, token_of(), "--program", program)


def test_a_token_calls_async_functions_only(token_of: Callable[..., str], capsys: Saw) -> None:
    """A token that names a function such as os.abort does not get it called."""
    assert "is no async function" in refused(capsys, token_of(program="os:abort"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("raise ValueError('two\\nlines')", "the module broken cannot be imported: ValueError: two lines"),
        ("import sys; sys.exit('bye')", "the module broken cannot be imported: SystemExit: bye"),
        ("def f(:", "the module broken cannot be imported: SyntaxError: "),
    ],
)
def test_a_module_that_cannot_be_imported(
    write: Callable[..., Any], token_of: Callable[..., str], text: str, sentence: str, capsys: Saw
) -> None:
    """Whatever a module does when it is imported is told in one line."""
    write(text, "broken")
    assert sentence in refused(capsys, token_of(program="broken:count"))


def test_what_the_explorer_cannot_do(write: Callable[..., Any], token_of: Callable[..., str], capsys: Saw) -> None:
    """A program that has come to use something real is told in one line, and the exit status is not that of a bug."""
    token = token_of()
    write("import time\nasync def count():\n    time.sleep(1)")
    assert "time.sleep() blocks the run loop" in refused(capsys, token)


# --- what it costs, what it says of itself ----------------------------------------------------------------------------


def test_help_says_that_code_is_run(capsys: Saw) -> None:
    """The help says that the token names code, which is imported and run."""
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "the module is imported and the function is run" in said
    assert "run none that comes from somebody whose programs you would not run" in said
    assert "imports the module that the token names" in command.help


def test_importing_the_command_is_cheap(pytester: pytest.Pytester) -> None:
    """The command's module imports neither Trio nor the explorer; `changeover --help` imports every command."""
    code = (
        "import sys, changeover_sim.replay_command; print(*sorted(n for n in sys.modules if n[:4] in ('chan', 'trio')))"
    )
    result = pytester.run(sys.executable, "-c", code)
    assert result.outlines == ["changeover_sim changeover_sim.replay_command"]


def test_it_is_a_command() -> None:
    """It has what the command line asks of a command."""
    parser = argparse.ArgumentParser()
    command.configure(parser)
    arguments = parser.parse_args(["sx1-x"])
    assert (arguments.token, arguments.program, arguments.json) == ("sx1-x", None, False)
    assert (arguments.full, arguments.html) == (False, None)
