"""`changeover replay`: runs the one schedule of a token again and tells what came of it.

Owns `sys.path` while the program runs. It imports the module that the token names, which runs its code, and says so.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import changeover_sim

if TYPE_CHECKING:
    from changeover_sim.explorer.compare import Parting
    from changeover_sim.explorer.results import Result
    from changeover_sim.explorer.token import Token

_FAILED = 1
_USAGE = 2
_WARNING = (
    "A token names a module and an async function in it: the module is imported and the function is run, with the "
    "current directory on sys.path, as `python -m` has it. So a token is as good as the name of a program: run none "
    "that comes from somebody whose programs you would not run."
)
_INSTEAD = "call changeover_sim.replay(program, token) in your code, or for a test `pytest NODE --explore-replay TOKEN`"


class ReplayCommand:
    """The command object that the entry point names."""

    help: str = "run the one schedule of a token again; imports the module that the token names"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        parser.epilog = _WARNING
        parser.add_argument("token", metavar="TOKEN", help="what the report of a failure ends with")
        text = "run this program, whatever the token says: one that has moved, or that was run as a script"
        parser.add_argument("--program", metavar="MODULE:FUNCTION", help=text)
        parser.add_argument("--full", action="store_true", help="leave nothing out of the report")
        text = "write a page with the timeline, the graph and the table into this file; it needs no network"
        parser.add_argument("--html", metavar="FILE", help=text)
        parser.add_argument("--json", action="store_true", help="print one JSON object for machines, nothing else")

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the schedule; return 0 where it passes, 1 where it fails, 2 where it cannot be run."""
        aside = redirect_stdout(sys.stderr) if arguments.json else nullcontext()  # what the program prints
        try:
            with aside:
                replayed = _replayed(arguments.token, arguments.program)
        except (_Refused, changeover_sim.ExplorerError, ValueError) as error:
            print(f"changeover: {' '.join(str(error).split())}", file=sys.stderr)
            return _USAGE
        print(json.dumps(_as_json(replayed), indent=2) if arguments.json else _text(replayed, full=arguments.full))
        if arguments.html is not None and not _written(replayed, arguments.html):
            return _USAGE
        return 0 if replayed.result.failure is None else _FAILED


command = ReplayCommand()


class _Refused(Exception):
    """The program cannot be had; the text says why, and what to do."""


@attrs.frozen
class _Replayed:
    """A token, as text and decoded, and what came of it."""

    text: str
    made: Token
    result: Result
    parting: Parting | None
    """Where it first differs from a schedule that passes; None: none was found, or it passes itself."""


def _text(replayed: _Replayed, *, full: bool) -> str:
    from changeover_sim.explorer.report import failure_text, notes  # noqa: PLC0415 - importing a command must be cheap

    result, failure = replayed.result, replayed.result.failure
    told = "the schedule no longer fails"
    if failure is not None:
        told = failure_text(failure, parting=replayed.parting, full=full)
    return "\n".join([told, *notes(result.notes)])


def _written(replayed: _Replayed, file: str) -> bool:
    """Write the page; return False where that is not possible, and say why."""
    failure = replayed.result.failure
    if failure is None:
        print("no page is written: the schedule does not fail", file=sys.stderr)
        return True
    from changeover_sim.explorer.telling.page import page  # noqa: PLC0415 - importing a command must be cheap

    try:
        Path(file).write_text(page(failure, replayed.parting, replayed.result.notes), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"changeover: the page cannot be written: {error}", file=sys.stderr)
        return False
    print(f"the page is in {file}", file=sys.stderr)
    return True


# --- the program ------------------------------------------------------------------------------------------------------


def _replayed(text: str, named: str | None) -> _Replayed:
    """Run a token's schedule; raises `_Refused` and what `replay` raises."""
    from changeover_sim.explorer import token  # noqa: PLC0415 - importing a command must be cheap; this imports Trio
    from changeover_sim.explorer.compare import parting  # noqa: PLC0415 - the same

    made, replay = token.decode(text), changeover_sim.replay
    with _current_directory():
        program = _program(made.program if named is None else named, is_chosen=named is not None)
        if named is not None:
            made = attrs.evolve(made, program=token.name_of(program))
            text = token.encode(made)
        result = replay(program, text)
        return _Replayed(text, made, result, parting(program, text) if result.failure else None)


def _program(name: str, *, is_chosen: bool) -> Callable[..., Any]:
    """Import a program; raises `_Refused` where it has no name that can be imported, or is none."""
    module, _, path = name.partition(":")
    _refuse_unimportable(name, module, path)
    found: Any = _imported(module)
    for part in path.split("."):
        if not _has(found, part):
            raise _Refused(f"the module {module} has no {path}; say with --program MODULE:FUNCTION where it is now")
        found = getattr(found, part)
    if not is_chosen and not inspect.iscoroutinefunction(found):
        # A token may come from anywhere, and it shall not be enough to call os.abort.
        raise _Refused(f"{name} is no async function; if it is the program all the same, say so: --program {name}")
    _refuse_arguments(name, found)
    return found  # type: ignore[no-any-return]


def _has(thing: Any, name: str) -> bool:
    try:
        return hasattr(thing, name)
    except Exception as error:  # a module may have a `__getattr__` of its own
        raise _Refused(f"{name} cannot be looked up: {type(error).__name__}: {error}") from error


def _refuse_unimportable(name: str, module: str, path: str) -> None:
    if module == "__main__":
        raise _Refused(
            f"the program {name} was run as a script, whose name the token does not know; say with --program "
            f"MODULE:FUNCTION which it is, or {_INSTEAD}"
        )
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise _Refused(f"the program {name!r} cannot be imported by its name; {_INSTEAD}")


def _imported(module: str) -> Any:
    print(f"importing the module {module}, which runs its code", flush=True)  # whatever it does, it was announced
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise _Refused(f"the module {module} cannot be imported: {type(error).__name__}: {error}") from error


def _refuse_arguments(name: str, found: Any) -> None:
    if not callable(found) or isinstance(found, type):
        raise _Refused(f"{name} is no function; say with --program MODULE:FUNCTION what the program is")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise _Refused(f"{name} cannot be called without arguments ({error}); {_INSTEAD}") from error
    except ValueError:  # written in C, and says nothing of its arguments
        return


@contextmanager
def _current_directory() -> Generator[None, None, None]:
    """Look for modules in the current directory first, for the length of the block."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


# --- for machines -----------------------------------------------------------------------------------------------------


def _as_json(replayed: _Replayed) -> dict[str, Any]:
    """Return all that is known of a replay; the keys are the same whether it failed or not."""
    from changeover_sim.explorer.telling.as_json import failure_as_json  # noqa: PLC0415 - importing a command is cheap

    made, result, failure = replayed.made, replayed.result, replayed.result.failure
    told = failure_as_json(failure, replayed.parting)
    return {
        "verdict": told.pop("verdict"),
        "exception": told.pop("exception"),
        "program": made.program,
        "policy": made.policy,
        "seed": made.seed,
        "schedule_index": made.index,
        **told,
        "notes": list(result.notes),
        "token": replayed.text if failure is None else failure.token,
    }
