"""The command line: what it lists, what it hands over, and what it says in one line where it cannot.

Commands are made here and put into the place of the installed ones.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import EntryPoint, distribution, version
from types import ModuleType
from typing import Any

import pytest

from changeover import cli
from changeover.cli import main
from changeover.errors import InvalidValue, LoaderNotInstalled


class Greet:
    help = "say hello"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--status", type=int, default=0)

    def run(self, arguments: argparse.Namespace) -> int:
        sys.stdout.write(f"hello {arguments.name}\n")
        return arguments.status


class Raise:
    help = "fail"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Take no arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        raise self.error


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes these the only commands that are installed."""

    def put(**commands: Any) -> None:
        module = ModuleType("commands_of_a_test")
        vars(module).update(commands)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        points = [EntryPoint(name, f"{module.__name__}:{name}", cli.GROUP) for name in commands]
        monkeypatch.setattr(cli, "entry_points", lambda group: points)

    return put


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install, from this very package, a command `demo` whose module imports what is missing."""
    point = EntryPoint("demo", "no_such_module:command", cli.GROUP)._for(distribution("changeover"))
    monkeypatch.setattr(cli, "entry_points", lambda group: [point])


def only_line(text: str) -> str:
    """Return the text, which must be one line."""
    assert text.count("\n") == 1, text
    return text.strip()


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`changeover --help` names the commands that come with Changeover, and what each does."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name, about in (("demo", "train two digit classifiers"), ("plugins", "list the installed loaders")):
        assert any(line.split()[:1] == [name] and about in line for line in shown.splitlines()), shown


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """`changeover` alone shows the help on stderr and exits 2."""
    assert main([]) == 2
    shown = capsys.readouterr()
    assert "commands:" in shown.err
    assert shown.out == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`changeover --version` says which version is installed."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"changeover {version('changeover')}\n"


def test_command_gets_its_arguments_and_gives_the_status(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A command gets what stands behind its name, and its result is the exit status."""
    install(greet=Greet())
    assert main(["greet", "--status", "7", "you"]) == 7
    assert capsys.readouterr().out == "hello you\n"


def test_command_has_a_help_of_its_own(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` behind a command is the command's, and lists its arguments."""
    install(greet=Greet())
    with pytest.raises(SystemExit) as ended:
        main(["greet", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: changeover greet" in shown
    assert "--status" in shown


def test_wrong_argument_exits_2(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An argument that the command does not know exits 2, naming it."""
    install(greet=Greet())
    with pytest.raises(SystemExit) as ended:
        main(["greet", "you", "--loudly"])
    assert ended.value.code == 2
    assert "--loudly" in capsys.readouterr().err


def test_unknown_command_exits_2_with_a_hint(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that does not exist exits 2 with one line that names the nearest one and all there are."""
    install(greet=Greet(), fail=Raise(KeyboardInterrupt()))
    assert main(["gret"]) == 2
    line = only_line(capsys.readouterr().err)
    assert "'gret'" in line
    assert "did you mean 'greet'?" in line
    assert "fail, greet" in line


def test_unknown_command_where_none_is_installed(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no command is installed at all, the one line says so."""
    install()
    assert main(["demo"]) == 2
    assert "installed are: none" in only_line(capsys.readouterr().err)


@pytest.mark.usefixtures("broken")
def test_command_that_cannot_be_imported_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A command whose module cannot be imported exits 2 with one line that says what is missing and what to install."""
    assert main(["demo"]) == 2
    line = only_line(capsys.readouterr().err)
    assert "No module named 'no_such_module'" in line
    assert 'pip install "changeover[demo]"' in line


@pytest.mark.usefixtures("broken")
def test_help_survives_a_broken_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that cannot be imported does not take the help away; its line says what it lacks."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "No module named 'no_such_module'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (LoaderNotInstalled('it needs x; install it with: pip install "changeover[x]"'), 2, "changeover[x]"),
        (InvalidValue("--clients is 0; it must be 1 or more"), 1, "--clients is 0"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_error_is_one_line(
    install: Any, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    """A missing extra exits 2, another error of ours 1, Ctrl-C 130; each is one line on stderr and no traceback."""
    install(fail=Raise(error))
    assert main(["fail"]) == status
    shown = capsys.readouterr()
    assert said in only_line(shown.err)
    assert shown.out == ""


def test_bug_is_not_hidden(install: Any) -> None:
    """What is no error of ours comes out as it is: a bug needs its traceback."""
    install(fail=Raise(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["fail"])
