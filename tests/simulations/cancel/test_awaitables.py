"""The list of awaitables and the watch on a call: what they see, and that nothing gets past them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import trio

import changeover
from changeover.core.ledger import Account
from changeover.runtime.events import Events
from changeover.runtime.inference import Inference
from changeover.runtime.orders import LoadOrder
from changeover.runtime.streaming import Stream
from changeover_sim import Exhaustive, explore
from tests.simulations.cancel import test_cancel_everywhere as everywhere
from tests.simulations.cancel.awaitables import awaitables
from tests.simulations.cancel.watch import Log, Watch

# --- the list ---------------------------------------------------------------------------------------------------------


class Ticket:
    """Is awaited itself."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield

    def number(self) -> int:
        return 1


class Shop:
    """Has one of each kind."""

    async def buy(self) -> Ticket:
        return Ticket()

    def order(self) -> Awaitable[int]:
        raise NotImplementedError

    @property
    def queue(self) -> Ticket:
        return Ticket()

    @staticmethod
    async def look() -> None: ...

    def goods(self) -> AsyncIterator[str]:
        raise NotImplementedError

    async def visitors(self) -> AsyncGenerator[str, None]:
        yield ""

    def close(self) -> None: ...

    async def _hidden(self) -> None: ...

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None: ...


@asynccontextmanager
async def open_shop() -> AsyncGenerator[Shop, None]:
    """Be a block that gives something with awaitables of its own."""
    yield Shop()


def face(*things: Any) -> ModuleType:
    """Return a module that offers some things as its own."""
    module = ModuleType(__name__)
    module.__dict__.update({thing.__name__: thing for thing in things})
    module.__dict__["__all__"] = [thing.__name__ for thing in things]
    return module


def test_every_kind_of_awaitable_is_found() -> None:
    """Coroutines, what returns an awaitable, iterators and blocks, also of what only a call returns."""
    assert awaitables(face(open_shop)) == (
        "Shop.__aenter__", "Shop.__aexit__", "Shop.buy", "Shop.goods.__anext__", "Shop.look", "Shop.order",
        "Shop.visitors.__anext__", "Ticket.__await__", "open_shop.__aenter__", "open_shop.__aexit__",
    )  # fmt: skip


def test_a_new_awaitable_without_a_scene_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives the engine one more call that waits is told to write a scene for it."""

    async def refresh(self: object) -> None: ...

    refresh.__module__ = "changeover.runtime.calls"
    monkeypatch.setattr(changeover.Engine, "refresh", refresh, raising=False)
    with pytest.raises(AssertionError, match=r"give Engine\.refresh a scene"):
        everywhere.test_every_awaitable_has_a_scene()


# --- the watch --------------------------------------------------------------------------------------------------------


async def load(sleep: Callable[[], Awaitable[object]]) -> None:
    """Be a call with a checkpoint, one that is shielded, and one more."""
    await trio.lowlevel.checkpoint()
    with trio.CancelScope(shield=True):
        await trio.sleep(1.0)
    await sleep()


def watched(sleep: Callable[[], Awaitable[object]]) -> Log:
    """Return what is seen of that call."""
    log = Log("Engine.load")

    async def program() -> None:
        here = Watch(log, "inside")
        with trio.CancelScope() as here.scope:
            await here(load(sleep))

    assert explore(program, policy=Exhaustive(delays=0)).exhausted
    return log


def test_a_watch_sees_each_checkpoint_that_can_be_cancelled() -> None:
    """Two of three are cancelled; the one that is shielded is none of those that are missed."""
    log = watched(partial(trio.sleep, 1.0))
    assert (len(log.parked), log.missed, log.pause) == (2, [], "waits")
    assert watched(trio.lowlevel.checkpoint).pause == "yields"


def test_a_watch_sees_a_checkpoint_that_swallows_its_cancellation() -> None:
    """A checkpoint that is no end of a call is one that cannot be cancelled, and is told."""

    async def deaf() -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    assert [number for number, _ in watched(deaf).missed] == [2]


# --- what is broken ---------------------------------------------------------------------------------------------------


async def loads_on(engine: Any, version: Any) -> None:
    """Tell nobody that the caller does not wait any more."""
    order = LoadOrder()
    version.post(order)
    await order.ready.wait()


async def swaps_on(engine: Any, saga: Any, _on_cancel: str) -> Any:
    """Let a swap go on whose caller went before its pivot."""
    return await saga.ended.wait()


def leaves_open(stream: Any, request: Any) -> None:
    """Go away from a pull, and leave the stream to whoever collects it."""
    stream._home.forget(request)


def leaves_queued(inference: Any, request: Any) -> None:
    """Go away from a request, and leave it in the queue."""
    inference._home.forget(request)
    inference._left = request
    inference._dismiss()


def watches_on(account: Any, _watcher: object) -> None:
    """Tell whoever does not wait for zero any more of it, too."""


class BadEvents(Events):
    """Goes on to listen behind its block, and takes an event before it lets others go first."""

    async def __aexit__(self, *_exc: object) -> None: ...

    async def __anext__(self) -> Any:
        event = await ANEXT(self)
        await trio.lowlevel.checkpoint()
        return event


ANEXT = Events.__anext__
BROKEN: dict[str, tuple[Any, str, Any, str, str]] = {
    "loads on": (changeover.Engine, "_load", loads_on, "Engine.load", "for long"),
    "swaps on": (changeover.Engine, "_ended", swaps_on, "Engine.swap", "by a canary"),
    "leaves a stream open": (Stream, "leave", leaves_open, "Chunks.__anext__", "the first"),
    "leaves a request queued": (Inference, "leave", leaves_queued, "Engine.infer", "behind others"),
    "watches on": (Account, "unwatch", watches_on, "ReferenceTracker.wait_for_zero", "of what is held"),
    "listens on": (Events, "__aexit__", BadEvents.__aexit__, "Events.__aexit__", "alone"),
    "loses an event": (Events, "__anext__", BadEvents.__anext__, "Events.__anext__", "before there is one"),
}
"""The owner of what is broken, its name, what it does then, and the scene that is there for it."""


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that leaves something behind fails its scene."""
    owner, name, wrong, call, situation = BROKEN[broken]
    monkeypatch.setattr(owner, name, wrong)
    program = partial(everywhere.a_caller_goes_away, Log(call), situation, "inside")
    assert explore(program, policy=Exhaustive(delays=0)).failure is not None
