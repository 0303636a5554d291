"""The files that the demo's picture goes to: chosen and tried before the run, written whole behind it.

Owns no state but the paths; spawns nothing. Never leaves half a file under a final name.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import attrs

from changeover.errors import InvalidValue, LoaderNotInstalled
from changeover_plugins.demo.digits import write_whole
from changeover_plugins.demo.drawing import Caption, draw
from changeover_plugins.demo.report import Report
from changeover_plugins.demo.repository import KINDS

DEFAULT = Path("changeover-demo")
"""Where the picture goes unless the command line says otherwise."""
FORMATS = ("png", "svg")


@attrs.frozen
class Picture:
    """One picture, in one file or in two."""

    files: tuple[Path, ...]

    @classmethod
    def at(cls, path: Path) -> Picture:
        """Return the picture that goes to `path`, or, where that has no ending, to a PNG and an SVG of that name.

        Raises InvalidValue for another ending.
        """
        if path.suffix.lower() in {f".{name}" for name in FORMATS}:
            return cls((path,))
        if path.suffix or not path.name:
            raise InvalidValue(f"--picture {path} must end in .png, in .svg, or in neither, which gives you both")
        return cls(tuple(path.with_name(f"{path.name}.{name}") for name in FORMATS))

    def check(self) -> None:
        """Find out, before a run of half a minute, whether it can be drawn and written behind it; leaves no trace.

        Raises InvalidValue where a file cannot be written, LoaderNotInstalled without matplotlib.
        """
        if importlib.util.find_spec("matplotlib") is None:  # imported only when it draws: it costs what is measured
            raise LoaderNotInstalled(
                "the demo's picture needs matplotlib; install it with: "
                'pip install "changeover[demo]", or leave the picture out with --no-picture'
            )
        for path in self.files:
            if path.is_dir():
                raise InvalidValue(f"--picture {path} is a folder; name a file in it")
            try:
                probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise InvalidValue(
                    f"the picture cannot be written to {path}: {error.strerror}; "
                    "name another file with --picture, or leave it out with --no-picture"
                ) from error

    def write(self, report: Report) -> None:
        """Draw the run; raises InvalidValue where it cannot be written any more, LoaderNotInstalled."""
        names = [path.suffix.lower()[1:] for path in self.files]
        drawn = draw(report.series, Caption(title(report), KINDS), names)
        for path, name in zip(self.files, names, strict=True):
            try:
                write_whole(path, drawn[name])
            except OSError as error:
                raise InvalidValue(f"the picture cannot be written to {path}: {error.strerror}") from error


def title(report: Report) -> str:
    """Return the run in one line."""
    return (
        f"changeover demo: {report.sent:,} requests of {report.clients} clients, {report.lost:,} lost, "
        f"{report.fell_back:,} answered by the fallback"
    )
