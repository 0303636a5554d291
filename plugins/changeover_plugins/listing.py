"""`changeover plugins`: which loaders and commands are installed, where they come from, and what they still need.

Owns no state and spawns nothing. It asks a loader to load an empty file, and only one that runs no code of the
file's author.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import attrs

from changeover.errors import LoaderNotInstalled
from changeover.plugin import Loader, Source

LOADERS = "changeover.loaders"
COMMANDS = "changeover.commands"


@attrs.frozen
class LoaderRow:
    """One installed loader."""

    name: str
    """What `VersionSpec.loader` calls it."""
    origin: str
    """The package that brought it, with its version."""
    runs_code: bool | None
    """Whether loading runs code that came with the source; None where the loader cannot be imported."""
    missing: str | None
    """What it lacks and how to install that; None: it is ready."""


@attrs.frozen
class CommandRow:
    """One installed command."""

    name: str
    origin: str
    """The package that brought it, with its version."""
    help: str | None
    """What it does; None where it cannot be imported."""
    missing: str | None
    """Why it cannot be imported; None: it can."""


class PluginsCommand:
    """The command object that the entry point names."""

    help: str = "list the installed loaders and commands, and what they need"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add `--json`."""
        parser.add_argument("--json", action="store_true", help="print one JSON object for machines")

    def run(self, arguments: argparse.Namespace) -> int:
        """Print both lists; the exit status is 0."""
        loaders = [_loader(point) for point in _points(LOADERS)]
        commands = [_command(point) for point in _points(COMMANDS)]
        if arguments.json:
            listed = {"loaders": list(map(attrs.asdict, loaders)), "commands": list(map(attrs.asdict, commands))}
            print(json.dumps(listed, indent=2))
        else:
            print(_aligned([("loader", "from", "runs code on load", "state"), *map(_loader_cells, loaders)]))
            print()
            print(_aligned([("command", "from", "what it does"), *map(_command_cells, commands)]))
        return 0


command = PluginsCommand()


def _points(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda point: point.name)


def _loader(point: EntryPoint) -> LoaderRow:
    try:
        kind: type[Loader] = point.load()
        runs_code = kind.executes_code_on_load
    except Exception as error:  # noqa: BLE001 - one package that cannot be imported must not hide the others
        return LoaderRow(point.name, _origin(point), None, f"cannot be imported: {error}")
    return LoaderRow(point.name, _origin(point), runs_code, None if runs_code else _lacks(kind))


def _lacks(kind: type[Loader]) -> str | None:
    """Return what a loader lacks, which it says only when it is asked to load; the file it is given is empty."""
    with tempfile.TemporaryDirectory(prefix="changeover-") as folder:
        file = Path(folder) / "empty"
        file.touch()
        try:
            kind().load(Source("changeover", "plugins", str(file))).close()
        except LoaderNotInstalled as error:
            return str(error)
        except Exception:  # noqa: BLE001 - it was able to look at the file, so it has all that it needs
            return None
    return None


def _command(point: EntryPoint) -> CommandRow:
    try:
        return CommandRow(point.name, _origin(point), point.load().help, None)
    except Exception as error:  # noqa: BLE001 - one package that cannot be imported must not hide the others
        return CommandRow(point.name, _origin(point), None, f"cannot be imported: {error}")


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"


def _loader_cells(row: LoaderRow) -> tuple[str, ...]:
    runs = {True: "yes", False: "no", None: "unknown"}[row.runs_code]
    return row.name, row.origin, runs, row.missing or "ready"


def _command_cells(row: CommandRow) -> tuple[str, ...]:
    return row.name, row.origin, row.help or row.missing or ""


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Return rows as lines with their columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
