"""What the simulation does behind the engine's doors: its only place, beside the oracles, that names private parts.

Owns nothing; everything here is a look or an ear, but for the loader, which a program would have by an entry point.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping

from changeover import Engine, VersionKey
from changeover.plugin import Loader
from changeover.runtime.events import Reader
from changeover.runtime.version import Version
from changeover_sim.ports import World


def add_loader(engine: Engine, name: str, loader: type[Loader]) -> None:
    """Give an engine a loader that is not installed."""
    World.add_loader(engine, name, loader)


def listen(engine: Engine, reader: Reader) -> None:
    """Have a reader told of every event in the moment that it happens; a task that reads them hears later."""
    engine._bus.readers.append(reader)


def versions(engine: Engine) -> Mapping[VersionKey, Version]:
    """Return the actors of all versions that were ever wanted."""
    return engine._versions


def is_known(engine: Engine, model: str, version: str) -> bool:
    """Return whether a version is registered; a call that was cancelled does not tell."""
    return VersionKey(model, version) in engine._registry
