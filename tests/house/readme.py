"""Reads the README's code blocks: what must run, what a command prints, and what nobody would check.

`python` blocks are programs, `sh` and `console` blocks are commands, a `text` block straight after commands is what
the last of them prints, any other `text` block is a figure; test_diagrams sees to `mermaid`. Owns no state; runs
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import attrs

from tests.house.tree import ROOT

README = ROOT / "README.md"
CI = ROOT / ".ci" / "run"

FRONT_DOOR = (
    'python3.11 -m venv .venv && .venv/bin/pip install -e ".[demo]" && .venv/bin/changeover demo',
    'python3.11 -m venv .venv && .venv/bin/pip install -e ".[all]" && .venv/bin/pytest -n auto',
)
"""The two commands that a newcomer types; `.ci/run` types them as they stand in the README."""

LANGUAGES = frozenset({"python", "sh", "console", "text", "mermaid"})
COMMANDS = frozenset({"sh", "console"})

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[^`\s]*)")
AS_IN_README = re.compile(r"^ *as_in_readme '([^']+)'", re.MULTILINE)
"""How `.ci/run` names a command of the README."""
VARYING = re.compile(r"\d[\d.,:_]*( ?(ns|µs|us|ms|s|min|%|B|kB|KB|MB|KiB|MiB|GB)(?![\w]))?")
"""A number with its unit: differs from run to run."""


@attrs.frozen
class Block:
    """One fenced block."""

    language: str
    """The word after the opening fence; empty where there is none."""
    text: str
    """What is between the fences, indentation of the fence removed."""
    line: int
    """Where it opens, counted from 1."""
    follows: bool
    """True where only blank lines, or one line that ends with a colon, part it from the block before."""

    @property
    def file(self) -> str:
        """The file name that a Python block gives itself in its first line, `# models.py`, or one made up."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else f"readme_line_{self.line}.py"


@attrs.frozen
class Command:
    """One command line that a reader may type."""

    text: str
    """The line without its prompt."""
    output: str | None
    """What the README shows as its output; None: nothing is shown."""


def blocks(markdown: str) -> Iterator[Block]:
    """Yield the fenced blocks in order; raises ValueError where a fence is not closed."""
    lines = list(enumerate(markdown.splitlines(), 1))
    between = ["start"]
    while lines:
        number, line = lines.pop(0)
        opened = FENCE.match(line)
        if opened is None:
            between.append(line)
            continue
        inside: list[str] = []
        while lines and not lines[0][1].strip().startswith(opened["fence"]):
            inside.append(lines.pop(0)[1].removeprefix(opened["indent"]))
        if not lines:
            raise ValueError(f"the fence of line {number} is not closed")
        lines.pop(0)
        prose = [text for text in between if text.strip()]
        follows = not prose or (len(prose) == 1 and prose[0].rstrip().endswith(":"))
        yield Block(opened["language"], "\n".join([*inside, ""]), number, follows)
        between = []


def commands(markdown: str) -> Iterator[Command]:
    """Yield every command line of the README with the output that it shows, from `console` or `text` blocks."""
    found = [*blocks(markdown), Block("", "", 0, follows=False)]
    for block, after in pairwise(found):
        if block.language not in COMMANDS:
            continue
        typed = list(in_sh(block.text) if block.language == "sh" else in_console(block.text))
        if typed and after.language == "text" and after.follows:
            typed[-1] = attrs.evolve(typed[-1], output=after.text)
        yield from typed


def in_sh(text: str) -> Iterator[Command]:
    """Yield the lines of an `sh` block; comments are no commands, a trailing backslash joins lines."""
    for line in text.replace("\\\n", "").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield Command(line.strip(), None)


def in_console(text: str) -> Iterator[Command]:
    """Yield the lines of a `console` block that begin with a dollar, the others being the output of the one above."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield Command(line.strip(), output if output.strip() else None)


def skeleton(text: str) -> list[str]:
    """Return the lines that are not blank, with numbers and spacing evened out."""
    lines = (" ".join(VARYING.sub("#", line).split()) for line in text.splitlines())
    return [line for line in lines if line]


def fits(shown: str, real: str) -> bool:
    """Tell whether real output has the shown form; `...` alone stands for any lines, inside a line for any text."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n" for line in skeleton(shown)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in skeleton(real))) is not None


def run_by_ci(script: str) -> set[str]:
    """Return the README commands that `.ci/run` runs."""
    return set(AS_IN_README.findall(script))
