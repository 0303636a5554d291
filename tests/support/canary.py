"""A canary on a stage: an old and a new version, clients who ask all the time, and what became of each request.

`asking` owns its clients: it starts them and ends them with its block. Nothing else is spawned.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from changeover import SwapOperation
from changeover.errors import ChangeoverError
from tests.support.rig import Rig


@attrs.frozen
class Seen:
    """What a client saw of one request."""

    began_s: float
    ended_s: float
    key: str | None
    version: str | None
    """Who answered; None: nobody."""
    fell_back: bool
    error: ChangeoverError | None


class Clients:
    """Some clients, and everything that they saw, in the order of the answers."""

    def __init__(self, rig: Rig, options: dict[str, Any]) -> None:
        self.seen: list[Seen] = []
        self._rig = rig
        self._options = options

    @property
    def errors(self) -> list[ChangeoverError]:
        """What went wrong, as clients see it."""
        return [seen.error for seen in self.seen if seen.error is not None]

    def versions(self, since_s: float = 0.0, until_s: float = float("inf")) -> list[str | None]:
        """Return who answered the requests that began in a span of time."""
        return [seen.version for seen in self.seen if since_s <= seen.began_s < until_s]

    async def ask(self, key: str | None = None) -> None:
        """Ask once."""
        began_s, engine = trio.current_time(), self._rig.engine
        version, fell_back, error = None, False, None
        try:
            reply = await engine.infer("m", {"n": len(self.seen)}, key=key, **self._options)
            version, fell_back = reply.version, reply.fell_back
        except ChangeoverError as raised:
            error = raised
        self.seen.append(Seen(began_s, trio.current_time(), key, version, fell_back, error))

    async def go_on(self, key: str | None, every_s: float) -> None:
        """Ask, wait, and ask again."""
        while True:
            await self.ask(key)
            await trio.sleep(every_s)


@asynccontextmanager
async def asking(
    rig: Rig, every_s: float = 0.05, keys: Sequence[str | None] = (None,), **options: Any
) -> AsyncGenerator[Clients, None]:
    """Let one client for each key ask model `m` again and again, for as long as the block."""
    clients = Clients(rig, options)
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(clients.go_on, key, every_s)
        yield clients
        nursery.cancel_scope.cancel()


async def two(rig: Rig, execution: str = "inline", **fields: Any) -> None:
    """Make version 1 serve and register version 2 with `fields`; a request with `poison` for 1 ends 1."""
    await rig.ready("m", "1", execution=execution, fatal_on=lambda inputs: inputs.get("poison") == "1")
    rig.add("m", "2", execution=execution, **{"fatal_on": lambda inputs: inputs.get("poison") == "2", **fields})


async def serving(rig: Rig) -> str:
    """Return the version that answers now."""
    return (await rig.engine.infer("m", {})).version


async def check_undone(rig: Rig, operation: SwapOperation) -> None:
    """Check that nothing is left of a swap from 1 to 2."""
    assert operation.state.ended
    assert (operation.share, operation.paused) == (0.0, False)
    assert await serving(rig) == "1"
    assert rig.engine.loaded_versions("m") == ("1",)
    assert [made.closed for made in rig.cast.of("m", "2")] == [1] * len(rig.cast.of("m", "2"))
    check_quiet(rig)


def check_quiet(rig: Rig) -> None:
    """Check that no comparison, no trial and no reference is left over."""
    engine = rig.engine
    assert engine.audit().clean
    assert engine._slots.everybody() == ()
    assert engine._router.listeners == {}
    assert all(route.trial is None for route in engine._router.snapshot.routes.values())
    assert [(loaded.meter, loaded.shadow) for loaded in engine._host.living()] == [(None, None)] * len(
        engine._host.living()
    )
