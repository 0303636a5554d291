"""Starlette 1.10.0, as servers drive it on Trio: streamed answers, middleware, and clients that leave."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

from changeover_sim import choose
from tests.simulations.others.record import Finding, Program, assert_fails_again, assert_found, assert_well, checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'tests.simulations.others:ResourceWarning")
"""What is found below leaves a generator to the garbage collector, of which Trio warns."""

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "http_version": "1.1"}
SERVER = {"version": "3.0", "spec_version": "2.3"}
"""What uvicorn and Hypercorn say of themselves."""


class Visit:
    """A client's visit to an application; it may leave at any time."""

    def __init__(self, *, leaves: bool, lookup_steps: int = 0) -> None:
        self.sent: list[Any] = []
        self.log: list[str] = []
        self._leaves = leaves
        self._lookup_steps = lookup_steps
        self._gone = trio.Event()
        self._parts = [b""] if leaves else [b"one", b"two"]

    async def make(self, application: Any) -> None:
        """Run the application to its end."""
        async with trio.open_nursery() as nursery:
            if self._leaves:
                nursery.start_soon(self._leave)
            await application({**SCOPE, "asgi": SERVER}, self._receive, self._send)
            nursery.cancel_scope.cancel()

    @property
    def body(self) -> bytes:
        """What the client has got."""
        return b"".join(message.get("body", b"") for message in self.sent)

    async def _receive(self) -> dict[str, Any]:
        await checkpoint()
        if self._parts:
            return {"type": "http.request", "body": self._parts.pop(0), "more_body": bool(self._parts)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _leave(self) -> None:
        for _ in range(choose(range(4))):
            await checkpoint()
        self._gone.set()

    async def _send(self, message: Any) -> None:
        await checkpoint()
        self.sent.append(message)

    async def numbers(self) -> AsyncGenerator[bytes, None]:
        """Yield what is streamed, and note the begin and the end of it."""
        self.log.append("begin")
        try:
            for number in (b"0", b"1", b"2"):
                await checkpoint()
                yield number
        finally:
            self.log.append("end")

    async def afterwards(self) -> None:
        """Be the background task."""
        await checkpoint()
        self.log.append("afterwards")

    async def streaming(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an application that streams, and looks something up before each message, as for a session."""

        async def send_later(message: Any) -> None:
            for _ in range(self._lookup_steps):
                await checkpoint()
            await send(message)

        await StreamingResponse(self.numbers(), background=BackgroundTask(self.afterwards))(scope, receive, send_later)

    async def echoing(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an application that reads all of the request first."""
        body = await Request(scope, receive).body()
        await PlainTextResponse(body, background=BackgroundTask(self.afterwards))(scope, receive, send)


async def _pass_on(request: Request, call_next: Any) -> Any:
    return await call_next(request)


def wrapped(application: Any) -> Any:
    """Return the application behind a middleware that does nothing."""
    return BaseHTTPMiddleware(application, dispatch=_pass_on)


async def left_stream() -> None:
    """When the client leaves, the generator that it was reading has ended behind the call."""
    visit = Visit(leaves=True)
    await visit.make(visit.streaming)
    assert visit.log.count("begin") == visit.log.count("end"), "the generator is left where it was"


async def left_middleware() -> None:
    """A client that leaves is no error of the application."""
    visit = Visit(leaves=True, lookup_steps=6)
    await visit.make(wrapped(visit.streaming))


FOUND = (
    Finding(
        "starlette==1.10.0",
        "StreamingResponse",
        left_stream,
        "when the client leaves between two parts, the body's generator is not closed: its `finally` runs when the "
        "garbage collector comes (`responses.py`, `stream_response` iterates over it and does not close it)",
        "",
        "AssertionError: the generator is left where it was",
        known="put off in Kludex/starlette#3491",
    ),
    Finding(
        "starlette==1.10.0",
        "BaseHTTPMiddleware",
        left_middleware,
        "when the client leaves before a streamed answer has begun, the middleware raises an error of the server: "
        "`StreamingResponse` has given up without a message, and `call_next` in `middleware/base.py` knows no reason",
        "",
        "RuntimeError: No response returned.",
        known="Kludex/starlette#1634 and #2516, closed; with a streamed answer it is still there",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def all_is_streamed() -> None:
    """A client that stays gets everything, through middleware, and the background task runs to its end."""
    visit = Visit(leaves=False)
    await visit.make(wrapped(visit.streaming))
    assert visit.body == b"012"
    assert visit.log == ["begin", "end", "afterwards"]


async def all_is_read() -> None:
    """An application behind middleware gets the whole of the request."""
    visit = Visit(leaves=False)
    await visit.make(wrapped(visit.echoing))
    assert visit.body == b"onetwo"
    assert visit.log == ["afterwards"]


WELL = (all_is_streamed, all_is_read)


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
