"""The engine's marks on rare branches, as a simulator sees them: which there are, which were reached, which fire.

The list is read out of the engine's sources, so that nothing has to be written twice. A `Sink` belongs to one run, and
owns its counts and its chance. It changes nothing in the engine: who begins a run installs it, and takes it out again.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal, get_args

import attrs

import changeover

Kind = Literal["sometimes", "buggify"]

SHARE = 0.25
"""In so many runs a site may do what is rare, and where it may, it does so as often: rare things meet, and not all."""

_ENGINE = Path(changeover.__file__).parent
_KINDS = {f"sites.{kind}": kind for kind in get_args(Kind)}
_SWITCH = "sites.ON"
_NAME = re.compile(r"[a-z]+(-[a-z]+)*")


class BadSites(ValueError):
    """Some marks of the engine are not as they must be; one line for each."""


@attrs.frozen
class Site:
    """One mark."""

    kind: Kind
    name: str
    """Unique in the engine."""
    file: str
    """Below the engine's folder, with slashes."""
    line: int


def sites(engine: Path = _ENGINE) -> tuple[Site, ...]:
    """Return every mark below a folder, by file and line.

    Raises `BadSites` for a name that is no literal in kebab-case or is given twice, and for a mark that looks not at
    the switch first.
    """
    return _sites(engine)


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names of the engine's marks of one kind, sorted."""
    return tuple(sorted(site.name for site in sites() if site.kind == kind))


class Sink:
    """Who listens to the marks during one run."""

    def __init__(
        self, random: Random, of: Iterable[str] | None = None, may_fire: Callable[[], bool] = lambda: True
    ) -> None:
        """Draw which of the sites may fire, by default of all; each then has chance of its own, in whatever order.

        `may_fire` is asked each time that one is about to.
        """
        self.reached: Counter[str] = Counter()
        """How often each branch was reached, also where a rare thing was only asked about."""
        self.fired: Counter[str] = Counter()
        """How often each rare thing was done."""
        self._may_fire = may_fire
        drawn = ((name, random.random() < SHARE, random.getrandbits(64)) for name in sorted(_rare(of)))
        self._chances = {name: Random(seed) for name, may, seed in drawn if may}

    @property
    def active(self) -> tuple[str, ...]:
        """The sites that may fire in this run, sorted."""
        return tuple(self._chances)

    # --- what the engine calls ---

    def reach(self, name: str) -> None:
        """Count that a branch was reached."""
        self.reached[name] += 1

    def fires(self, name: str) -> bool:
        """Return whether a rare thing is done this time."""
        self.reached[name] += 1
        chance = self._chances.get(name)
        if chance is None or chance.random() >= SHARE or not self._may_fire():
            return False
        self.fired[name] += 1
        return True


def _rare(of: Iterable[str] | None) -> Iterable[str]:
    return names("buggify") if of is None else of


# --- reading the engine ---------------------------------------------------------------------------------------------


@cache
def _sites(engine: Path) -> tuple[Site, ...]:
    found: list[Site] = []
    wrong: list[str] = []
    for path in sorted(engine.rglob("*.py")):
        file = path.relative_to(engine).as_posix()
        for call, is_guarded in _marks(ast.parse(path.read_text("utf-8")), is_guarded=False):
            where, name = f"{file}:{call.lineno}", _name(call)
            if name is None:
                wrong.append(f"{where}: the name of a site is one literal in kebab-case: {ast.unparse(call)}")
                continue
            if not is_guarded:
                wrong.append(f"{where}: {name} must stand behind `if {_SWITCH}`")
            found.append(Site(_KINDS[ast.unparse(call.func)], name, file, call.lineno))
    counts = Counter(site.name for site in found)
    wrong += [f"{site.file}:{site.line}: {site.name} is there twice" for site in found if counts[site.name] > 1]
    if wrong:
        raise BadSites("\n".join(wrong))
    return tuple(found)


def _marks(node: ast.AST, *, is_guarded: bool) -> Iterator[tuple[ast.Call, bool]]:
    """Yield every call of a mark, with whether the switch was looked at before."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in _KINDS:
        yield node, is_guarded
    guarded: list[ast.AST] = []
    if isinstance(node, ast.If) and _looks(node.test):
        guarded = [*node.body]
    elif _looks(node):
        guarded = [*ast.iter_child_nodes(node)]
    for child in ast.iter_child_nodes(node):
        yield from _marks(child, is_guarded=is_guarded or child in guarded)


def _looks(test: ast.AST) -> bool:
    """Return whether a condition is the switch, or that and more."""
    if isinstance(test, ast.BoolOp):
        return isinstance(test.op, ast.And) and ast.unparse(test.values[0]) == _SWITCH
    return isinstance(test, ast.Attribute) and ast.unparse(test) == _SWITCH


def _name(call: ast.Call) -> str | None:
    """Return the name that a mark gives itself; None where it is not one that can be read."""
    if len(call.args) != 1 or call.keywords or not isinstance(call.args[0], ast.Constant):
        return None
    name = call.args[0].value
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None
