"""Simulation of Trio programs: every interleaving, virtual time, exact replay; and the engine in a virtual world.

Names are imported when they are first used, so that pytest can load the plugin without loading Trio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from changeover_sim.disk import VirtualDisk as VirtualDisk
    from changeover_sim.explorer.choices import cancel_anywhere as cancel_anywhere
    from changeover_sim.explorer.choices import choose as choose
    from changeover_sim.explorer.choices import touch as touch
    from changeover_sim.explorer.choices import touch_next as touch_next
    from changeover_sim.explorer.errors import BadPolicy as BadPolicy
    from changeover_sim.explorer.errors import BadProgram as BadProgram
    from changeover_sim.explorer.errors import ExplorerError as ExplorerError
    from changeover_sim.explorer.errors import NotExploring as NotExploring
    from changeover_sim.explorer.errors import Stalled as Stalled
    from changeover_sim.explorer.errors import TokenError as TokenError
    from changeover_sim.explorer.errors import TrioNotSupported as TrioNotSupported
    from changeover_sim.explorer.errors import Uncontrolled as Uncontrolled
    from changeover_sim.explorer.results import Failure as Failure
    from changeover_sim.explorer.results import Result as Result
    from changeover_sim.explorer.search import explore as explore
    from changeover_sim.explorer.search import replay as replay
    from changeover_sim.explorer.shrink import shrink as shrink
    from changeover_sim.policies.dpor import DPOR as DPOR
    from changeover_sim.policies.exhaustive import Exhaustive as Exhaustive
    from changeover_sim.policies.pct import PCT as PCT
    from changeover_sim.policies.portfolio import Portfolio as Portfolio
    from changeover_sim.policies.pos import POS as POS
    from changeover_sim.policies.random_walk import RandomWalk as RandomWalk
    from changeover_sim.policies.starvation import Starvation as Starvation
    from changeover_sim.policies.surw import SURW as SURW
    from changeover_sim.ports import Duration as Duration
    from changeover_sim.ports import World as World
    from changeover_sim.ports import open_world as open_world

_ERRORS = (
    *("BadPolicy", "BadProgram", "ExplorerError", "NotExploring", "Stalled", "TokenError", "TrioNotSupported"),
    "Uncontrolled",
)
_HOMES = {
    **dict.fromkeys(("cancel_anywhere", "choose", "touch", "touch_next"), "explorer.choices"),
    **dict.fromkeys(_ERRORS, "explorer.errors"),
    **dict.fromkeys(("Failure", "Result"), "explorer.results"),
    **dict.fromkeys(("explore", "replay"), "explorer.search"),
    "VirtualDisk": "disk",
    "shrink": "explorer.shrink",
    "Exhaustive": "policies.exhaustive",
    "Starvation": "policies.starvation",
    "SURW": "policies.surw",
    "Portfolio": "policies.portfolio",
    "POS": "policies.pos",
    "DPOR": "policies.dpor",
    "PCT": "policies.pct",
    "RandomWalk": "policies.random_walk",
    **dict.fromkeys(("Duration", "World", "open_world"), "ports"),
}

__all__ = [
    "DPOR",
    "PCT",
    "POS",
    "SURW",
    "BadPolicy",
    "BadProgram",
    "Duration",
    "Exhaustive",
    "ExplorerError",
    "Failure",
    "NotExploring",
    "Portfolio",
    "RandomWalk",
    "Result",
    "Stalled",
    "Starvation",
    "TokenError",
    "TrioNotSupported",
    "Uncontrolled",
    "VirtualDisk",
    "World",
    "cancel_anywhere",
    "choose",
    "explore",
    "open_world",
    "replay",
    "shrink",
    "touch",
    "touch_next",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted({*globals(), *_HOMES})
