"""Where the demo shows itself: live in a terminal, line by line in a file, not at all beside JSON.

A live screen owns the terminal's cursor between `__enter__` and `__exit__` and draws when `tick` is called; it spawns
nothing. Nothing here decides anything.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from changeover.errors import LoaderNotInstalled
from changeover_plugins.demo.clients import Traffic
from changeover_plugins.demo.report import ActRow
from changeover_plugins.demo.tables import Table

if TYPE_CHECKING:
    from rich.console import RenderableType


class Screen(Protocol):
    """What the demo tells, in the order in which it happens."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing; what was shown stays."""
        ...

    def say(self, line: str) -> None:
        """Show a line."""
        ...

    def follow(self, traffic: Traffic) -> None:
        """Show these counts from now on."""
        ...

    def act_begins(self, number: int, title: str) -> None:
        """Show that an act is being played."""
        ...

    def act_ended(self, act: ActRow) -> None:
        """Show how it went."""
        ...

    def tick(self) -> None:
        """Draw what has changed."""
        ...

    def close_with(self, tables: Iterable[Table], verdict: str, *, good: bool) -> None:
        """Show the closing tables and the verdict."""
        ...


def choose(*, silent: bool) -> Screen:
    """Return the screen that fits stdout; raises LoaderNotInstalled in a terminal without rich."""
    if silent:
        return Silent()
    return Live() if sys.stdout.isatty() else Lines()


class Silent:
    """Shows nothing: what is printed is the JSON alone."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def say(self, line: str) -> None:
        """Drop it."""

    def follow(self, traffic: Traffic) -> None:
        """Drop it."""

    def act_begins(self, number: int, title: str) -> None:
        """Drop it."""

    def act_ended(self, act: ActRow) -> None:
        """Drop it."""

    def tick(self) -> None:
        """Draw nothing."""

    def close_with(self, tables: Iterable[Table], verdict: str, *, good: bool) -> None:
        """Drop it."""


class Lines(Silent):
    """Plain lines, each written when it is known."""

    def say(self, line: str) -> None:
        """Write the line."""
        print(line, flush=True)

    def act_begins(self, number: int, title: str) -> None:
        """Write what is about to happen."""
        self.say(f"{number}. {title}")

    def act_ended(self, act: ActRow) -> None:
        """Write what came of it below."""
        self.say(f"   {'ok' if act.ok else 'FAILED'}: {act.said}")

    def close_with(self, tables: Iterable[Table], verdict: str, *, good: bool) -> None:
        """Write the tables with their columns under each other."""
        for table in tables:
            self.say("\n" + aligned(table))
        self.say("\n" + verdict)


class Live(Silent):
    """The acts and the counts, redrawn in place."""

    def __init__(self) -> None:
        """Take over nothing yet; raises LoaderNotInstalled without rich."""
        try:
            from rich.console import Console
            from rich.live import Live as RichLive
        except ImportError as error:
            raise LoaderNotInstalled(
                f'a live screen needs rich ({error}); install it with: pip install "changeover[demo]"'
            ) from error
        self._console = Console(highlight=False)
        # Drawn by the demo's own loop: a thread of rich's would fight for the interpreter with what is being measured.
        self._live = RichLive(console=self._console, auto_refresh=False)
        self._lines: list[str] = []
        self._playing = ""
        self._traffic: Traffic | None = None

    def __enter__(self) -> Self:
        """Hide the cursor and begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw a last time and show the cursor again."""
        self._playing = ""
        self.tick()
        self._live.stop()

    def say(self, line: str) -> None:
        """Add a line above the counts."""
        self._lines.append(_escape(line))
        self.tick()

    def follow(self, traffic: Traffic) -> None:
        """Show these counts from now on."""
        self._traffic = traffic

    def act_begins(self, number: int, title: str) -> None:
        """Show the act in bold until it has ended."""
        self._playing = f"[bold yellow]...[/] [bold]{number}. {_escape(title)}[/]"
        self.tick()

    def act_ended(self, act: ActRow) -> None:
        """Put what came of it in its place."""
        mark, colour = ("ok ", "green") if act.ok else ("BAD", "red")
        self._playing = ""
        self._lines += [f"[{colour}]{mark}[/] {act.number}. {_escape(act.title)}", f"[dim]    {_escape(act.said)}[/]"]
        self.tick()

    def tick(self) -> None:
        """Draw."""
        self._live.update(self._view(), refresh=True)

    def close_with(self, tables: Iterable[Table], verdict: str, *, good: bool) -> None:
        """Print the tables below what was drawn."""
        for table in tables:
            self._console.print(_rich_table(table))
        self._console.print(f"[bold {'green' if good else 'red'}]{_escape(verdict)}[/]")

    def _view(self) -> RenderableType:
        from rich.text import Text

        counts = [_counts(self._traffic)] if self._traffic else []
        return Text.from_markup("\n".join([*self._lines, *filter(None, [self._playing]), *counts]))


def aligned(table: Table) -> str:
    """Return a table as lines."""
    columns = list(zip(table.header, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = [table.title, _row(table.header, widths, table.words), "  ".join("-" * width for width in widths)]
    lines += [_row(row, widths, table.words) for row in table.rows]
    return "\n".join([*lines, *filter(None, [table.note])])


def _row(cells: Iterable[str], widths: Iterable[int], words: int) -> str:
    pairs = enumerate(zip(cells, widths, strict=True))
    return "  ".join(f"{cell:<{width}}" if i < words else f"{cell:>{width}}" for i, (cell, width) in pairs).rstrip()


def _rich_table(table: Table) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(
        title=table.title,
        caption=table.note or None,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
    )
    for number, name in enumerate(table.header):
        words = number < table.words
        shown.add_column(name, justify="left" if words else "right", no_wrap=words)
    for row in table.rows:
        shown.add_row(*map(_escape, row))
    return shown


def _counts(traffic: Traffic) -> str:
    lost = traffic.lost.total()
    colour = "red" if lost else "green"
    return (
        f"[cyan]{traffic.answered_count:>11,} answered[/]   [{colour}]{lost:,} lost[/]   "
        f"[cyan]version {traffic.latest or '-'} answers[/]"
    )


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
