"""The command line: finds the commands that are installed and hands over to the one that was named.

Owns no state and spawns nothing. An error that a person can act on is one line on stderr, never a traceback.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Protocol

from changeover.errors import ChangeoverError, CommandNotAvailable, LoaderNotInstalled

GROUP = "changeover.commands"
"""The entry point group in which commands are found; each entry point is a `Command`."""

PROGRAM = "changeover"

_FAILED = 1
_USAGE = 2
_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


class Command(Protocol):
    """One sub-command. Importing it must be cheap: `changeover --help` imports every one of them."""

    help: str
    """One line that says what it does."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to a parser of its own."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it and return the exit status; what it raises of `ChangeoverError` is shown as one line."""
        ...


class _Parser(argparse.ArgumentParser):
    """The parser of `changeover` itself; it imports the commands only where help is asked for."""

    def format_help(self) -> str:
        """Return argparse's help, with the commands behind it."""
        return super().format_help() + "\n" + _listing(_installed())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 where it is unknown or something it needs is not installed.

    Raises SystemExit, as argparse does, for `--help`, `--version` and arguments that it does not know.
    """
    parser = _Parser(prog=PROGRAM, description="Replace a live ML model by its next version without losing a request.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version('changeover')}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its own; see COMMAND --help")
    given = parser.parse_args(argv)
    if given.command is None:
        parser.print_help(sys.stderr)
        return _USAGE
    try:
        return _run(given.command, given.arguments)
    except (CommandNotAvailable, LoaderNotInstalled) as error:
        return _complain(error, _USAGE)
    except ChangeoverError as error:
        return _complain(error, _FAILED)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the last flush complains once more
        return _FAILED


def _installed() -> dict[str, EntryPoint]:
    """Return the entry point of every installed command by name, in order."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def _find(name: str, points: Mapping[str, EntryPoint]) -> Command:
    """Return a command by name; raises `CommandNotAvailable`, which says what to type or to install instead."""
    point = points.get(name)
    if point is None:
        close = difflib.get_close_matches(name, points, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise CommandNotAvailable(f"there is no command {name!r}; {hint}installed are: {', '.join(points) or 'none'}")
    try:
        command: Command = point.load()
    except ChangeoverError:
        raise
    except Exception as error:  # whatever a package does when it is imported, the other commands must go on working
        raise CommandNotAvailable(f"the command {name!r} cannot be used: {error}; {_advice(point)}") from error
    return command


def _run(name: str, arguments: Sequence[str]) -> int:
    command = _find(name, _installed())
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", description=command.help)
    command.configure(parser)
    return command.run(parser.parse_args(arguments))


def _listing(points: Mapping[str, EntryPoint]) -> str:
    """Return one line per command; a command that cannot be imported says so in its line."""
    width = max(map(len, points), default=0)
    lines = [f"  {name:{width}}  {_help(name, points)}" for name in points]
    return "\n".join(["commands:", *(lines or ["  none is installed"])]) + "\n"


def _help(name: str, points: Mapping[str, EntryPoint]) -> str:
    try:
        return _find(name, points).help
    except (CommandNotAvailable, ChangeoverError) as error:
        return f"({error})"


def _advice(point: EntryPoint) -> str:
    """Return what to install: the extra that is called like the command, where its package has one."""
    if point.dist is None:
        return "install what it needs"
    package, extras = point.dist.name, point.dist.metadata.get_all("Provides-Extra") or []
    wanted = f"{package}[{point.name}]" if point.name in extras else package
    return f'install what it needs with: pip install "{wanted}"'


def _complain(error: Exception, status: int) -> int:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return status
