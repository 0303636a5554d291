"""`changeover replay`: runs the one schedule of a token again and tells what came of it.

Owns `sys.path` while the program runs. It imports the module that the token names, which runs its code, and says so.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import changeover_sim

if TYPE_CHECKING:
    from changeover_sim.explorer.places import Place
    from changeover_sim.explorer.results import Result
    from changeover_sim.explorer.token import Token
    from changeover_sim.explorer.trace import Step
    from changeover_sim.explorer.waits import Wait

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
        print(json.dumps(_as_json(replayed), indent=2) if arguments.json else _text(replayed.result))
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


def _text(result: Result) -> str:
    told = "the schedule no longer fails" if result.failure is None else str(result.failure)
    return "\n".join([told, *(f"note: {note}" for note in result.notes)])


# --- the program ------------------------------------------------------------------------------------------------------


def _replayed(text: str, named: str | None) -> _Replayed:
    """Run a token's schedule; raises `_Refused` and what `replay` raises."""
    from changeover_sim.explorer import token  # noqa: PLC0415 - importing a command must be cheap; this imports Trio

    made, replay = token.decode(text), changeover_sim.replay
    with _current_directory():
        program = _program(made.program if named is None else named, is_chosen=named is not None)
        if named is not None:
            made = attrs.evolve(made, program=token.name_of(program))
            text = token.encode(made)
        return _Replayed(text, made, replay(program, text))


def _program(name: str, *, is_chosen: bool) -> Callable[..., Any]:
    """Import a program; raises `_Refused` where it has no name that can be imported, or is none."""
    module, _, path = name.partition(":")
    _refuse_unimportable(name, module, path)
    found: Any = _imported(module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise _Refused(f"the module {module} has no {path}; say with --program MODULE:FUNCTION where it is now")
        found = getattr(found, part)
    if not is_chosen and not inspect.iscoroutinefunction(found):
        # A token may come from anywhere, and it shall not be enough to call os.abort.
        raise _Refused(f"{name} is no async function; if it is the program all the same, say so: --program {name}")
    _refuse_arguments(name, found)
    return found  # type: ignore[no-any-return]


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
    made, result, failure = replayed.made, replayed.result, replayed.result.failure
    return {
        "verdict": None if failure is None else failure.verdict,
        "exception": None if failure is None or failure.exception is None else _raised(failure.exception),
        "program": made.program,
        "policy": made.policy,
        "seed": made.seed,
        "schedule_index": made.index,
        "steps": [] if failure is None else list(map(_step, failure.trace)),
        "waiting": [] if failure is None else list(map(_wait, failure.waiting)),
        "leftover": [] if failure is None else failure.leftover,
        "stock": None if failure is None else failure.stock,
        "notes": result.notes,
        "token": replayed.text if failure is None else failure.token,
    }


def _raised(error: BaseException) -> str:
    """Return what the program raised, out of the groups that nurseries make, each as a traceback ends."""
    from changeover_sim.explorer.schedule import leaves  # noqa: PLC0415 - importing a command must be cheap

    return "".join(line for leaf in leaves(error) for line in traceback.format_exception_only(leaf)).rstrip()


def _step(step: Step) -> dict[str, Any]:
    return {
        "task": step.task,
        "time_s": step.time_s,
        "begins": _place(step.begins),
        "lines": list(map(_place, step.lines)),
        "ends": _place(step.ends),
        "cause": step.cause,
        "skipped": step.skipped,
    }


def _wait(wait: Wait) -> dict[str, Any]:
    return {
        "task": wait.task,
        "place": _place(wait.place),
        "primitive": wait.primitive,
        "holders": wait.holders,
        "until_s": wait.until_s,
    }


def _place(place: Place | None) -> dict[str, Any] | None:
    return None if place is None else {**attrs.asdict(place), "text": place.text}
