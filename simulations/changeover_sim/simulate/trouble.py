"""What goes wrong with the disk of a run: for some of its entries, until the faults are off.

Pure arrangement: it tells the disk which entries it is about, and spawns nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from changeover.core.records import Entry
from changeover_sim.disk import Trouble
from changeover_sim.ports import Duration

if TYPE_CHECKING:
    from changeover_sim.simulate.life import Life

_TROUBLES: dict[str, tuple[Trouble, float]] = {
    "journal-full": ("full", 0.06),
    "journal-fsync": ("fsync", 0.06),
    "journal-slow": ("slow", 0.06),
    "journal-hung": ("hung", 0.02),
}


def trouble_the_disk(life: Life) -> None:
    """Have the faults of the journal that are on strike some of the entries of this life."""
    for name, (trouble, probability) in _TROUBLES.items():
        if name in life.run.faults.on:
            takes: Duration = life.run.faults.hang if trouble == "hung" else 3.0 if trouble == "slow" else 0.0
            life.run.desk.disk.fails(_Struck(life, name, probability).is_about, trouble, takes)


class _Struck:
    """Which entries one fault strikes; each is asked for several times, and the answer stays."""

    def __init__(self, life: Life, name: str, probability: float) -> None:
        self._life, self._name, self._probability = life, name, probability
        self._known: list[tuple[Entry, bool]] = []

    def is_about(self, entry: Entry) -> bool:
        """Return whether it strikes this entry."""
        if self._life.dead:
            return False
        for known, struck in self._known:
            if known is entry:
                return struck
        struck = self._life.run.faults.strikes(self._name, self._probability)
        self._known.append((entry, struck))
        return struck
