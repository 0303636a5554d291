"""What is compared: the policies by the names of the table, and the programs by kernel and port.

Values only; importing it imports Trio and every kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import attrs

from changeover_sim import kernels
from changeover_sim.kernels import Program
from changeover_sim.policies.base import Policy
from changeover_sim.policies.pct import PCT
from changeover_sim.policies.portfolio import Portfolio
from changeover_sim.policies.pos import POS
from changeover_sim.policies.random_walk import RandomWalk
from changeover_sim.policies.starvation import Starvation
from changeover_sim.policies.surw import SURW
from changeover_sim.protocol import sources
from changeover_sim.protocol.published import CAP, CAPS

CORRECT_CAP = 1_000
"""How many schedules a trial of a program without a bug has: each runs all of them."""


POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        "surw": SURW,
        "pct-3": partial(PCT, 3),
        "pos": POS,
        "random": RandomWalk,
        "portfolio": Portfolio,
        "starvation": Starvation,
    }
)
"""In the order of the table's columns: first those that figures are published for."""


@attrs.frozen
class Subject:
    """A kernel, or a program without a bug, and how it is tried."""

    name: str
    programs: Mapping[str, Program]
    """By port."""
    verdict: str | None
    """How its bug shows; None: it has none, and whatever is found is a false alarm."""
    cap: int

    @property
    def correct(self) -> bool:
        """Whether it has no bug."""
        return self.verdict is None


def subjects() -> dict[str, Subject]:
    """Return all of them by name, kernels first."""
    buggy = [Subject(k.name, k.programs, k.verdict, CAPS.get(k.name, CAP)) for k in kernels.KERNELS.values()]
    correct = [Subject(c.name, c.programs, None, CORRECT_CAP) for c in kernels.CORRECT.values()]
    return {subject.name: subject for subject in (*buggy, *correct)}


def digest(subject: Subject, port: str, policy: str) -> str:
    """Return the digest of all that decides what a trial of this cell finds."""
    return sources.digest(subject.programs[port].__module__, type(POLICIES[policy]()).__module__)
