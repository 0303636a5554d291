"""What stands between uvicorn and the handlers: one that counts, and two that cancel what nobody waits for any more.

`Seen` owns the counts. `Attentive` runs a handler in a task of its own, and has ended that when it returns.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Seen:
    """How often what was seen, for who waits for it on the same loop."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._waiting: list[asyncio.Future[None]] = []

    def note(self, what: str) -> None:
        """Count one more."""
        self._counts[what] += 1
        while self._waiting:
            waiting = self._waiting.pop()
            if not waiting.done():
                waiting.set_result(None)

    def count(self, what: str) -> int:
        """Return how often it was seen."""
        return self._counts[what]

    async def until(self, what: str, count: int) -> int:
        """Return when it was seen so often."""
        while self._counts[what] < count:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        return self._counts[what]


class Counting:
    """Counts the requests that were begun, and those whose answer was handed to uvicorn whole."""

    def __init__(self, app: App, seen: Seen) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._seen.note("answered")

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._seen.note("begun")
        await self._app(scope, receive, counted)


class Limited:
    """Cancels the handler of a request that asks for it, `x-limit-s: 1.5`, when its time is up."""

    def __init__(self, app: App, seen: Seen) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        limits = [float(value) for name, value in scope.get("headers", ()) if name == b"x-limit-s"]
        try:
            async with asyncio.timeout(limits[0] if limits else None):
                await self._app(scope, receive, send)
        except TimeoutError:
            self._seen.note("cancelled")
            await send({"type": "http.response.start", "status": 504, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})


class Attentive:
    """Cancels the handler of a request that asks for it, `x-attentive: 1`, when its client goes away."""

    def __init__(self, app: App, seen: Seen) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (b"x-attentive", b"1") not in scope["headers"]:
            await self._app(scope, receive, send)
            return
        body = [await receive()]
        while body[-1].get("more_body"):
            body.append(await receive())
        gone = asyncio.ensure_future(receive())  # after the body, the one message left is the disconnect

        async def replay() -> Message:
            return body.pop(0) if body else await asyncio.shield(gone)

        handler = asyncio.ensure_future(self._app(scope, replay, send))
        try:
            await asyncio.wait((handler, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (handler, gone):
                task.cancel()
            (outcome, _) = await asyncio.gather(handler, gone, return_exceptions=True)
        if isinstance(outcome, asyncio.CancelledError):
            self._seen.note("cancelled")
        elif isinstance(outcome, BaseException):
            raise outcome
