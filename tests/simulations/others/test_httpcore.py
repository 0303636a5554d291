"""httpcore 1.0.9: its connection pool, over a network that is one task and answers when it is chosen."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpcore
import pytest
import trio

from changeover_sim import cancel_anywhere
from tests.simulations.others.record import Finding, Program, assert_fails_again, assert_found, assert_well, checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpcore:ResourceWarning")
"""A cancelled request leaves the generator of its body to the garbage collector, of which Trio warns."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
PATIENT = {"timeout": {"pool": 5.0}}


class Stream(httpcore.AsyncNetworkStream):
    """A connection to a server that answers each request."""

    def __init__(self) -> None:
        self.is_open = True
        self._inbox = b""

    async def read(self, max_bytes: int, **_: object) -> bytes:
        await checkpoint()
        if not self.is_open:
            raise httpcore.ReadError("closed")
        data, self._inbox = self._inbox[:max_bytes], self._inbox[max_bytes:]
        return data

    async def write(self, buffer: bytes, **_: object) -> None:
        await checkpoint()
        if not self.is_open:
            raise httpcore.WriteError("closed")
        if buffer.endswith(b"\r\n\r\n"):
            self._inbox += ANSWER

    async def aclose(self) -> None:
        self.is_open = False
        await checkpoint()

    def get_extra_info(self, info: str) -> Any:
        return None


class Network(httpcore.AsyncNetworkBackend):
    """Opens connections, each when its task says so: that is when the operating system would."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self._calls, self._calling = trio.open_memory_channel[trio.Event](100)

    async def run(self) -> None:
        """Answer whoever wants a connection."""
        async for call in self._calling:
            call.set()

    async def connect_tcp(self, *_: object, **__: object) -> Stream:
        opened = trio.Event()
        self._calls.send_nowait(opened)
        await opened.wait()
        self.streams.append(Stream())
        return self.streams[-1]


@asynccontextmanager
async def open_pool(**options: Any) -> AsyncGenerator[tuple[httpcore.AsyncConnectionPool, Network], None]:
    """Open a pool with a network of its own; afterwards every connection must be closed."""
    network = Network()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run)
        async with httpcore.AsyncConnectionPool(network_backend=network, **options) as pool:
            yield pool, network
        nursery.cancel_scope.cancel()
    assert not any(stream.is_open for stream in network.streams), "a connection is left open"


async def cancelled_request() -> None:
    """A request that was cancelled, wherever, leaves its place in the pool to the next."""
    async with open_pool(max_connections=1) as (pool, _):
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await pool.request("GET", "http://one/")
        assert (await pool.request("GET", "http://one/", extensions=PATIENT)).content == b"hi"


async def keep_alive() -> None:
    """As many idle connections are kept as may be."""
    async with open_pool(max_connections=2, max_keepalive_connections=1) as (pool, network):
        async with pool.stream("GET", "http://one/"):
            await pool.request("GET", "http://other/")
            await pool.request("GET", "http://other/")
        assert len(network.streams) == 2, "the only idle connection was closed"


async def closed_while_connecting() -> None:
    """A pool that is closed has no connection open, and opens none."""
    async with open_pool() as (pool, _):

        async def request() -> None:
            with suppress(httpcore.ReadError, httpcore.WriteError):
                await pool.request("GET", "http://one/")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            nursery.start_soon(pool.aclose)


FOUND = (
    Finding(
        "httpcore==1.0.9",
        "AsyncConnectionPool",
        cancelled_request,
        "a request that is cancelled when its connection is open and has sent nothing yet leaks its place in the pool "
        "for good: the connection stays `NEW` (`_async/http11.py`, cancelled at `_state_lock`), which "
        "`_assign_requests_to_connections` neither closes nor uses",
        "Any attempt to send a request on a pool that would exceed this amount will block until a connection is "
        "available",
        "PoolTimeout",
        known="other ways to the same leak: encode/httpcore#1093, #658, #830",
    ),
    Finding(
        "httpcore==1.0.9",
        "AsyncConnectionPool(max_keepalive_connections=)",
        keep_alive,
        "idle connections are closed although fewer than the limit are idle: `_async/connection_pool.py` counts "
        "`len([connection.is_idle() for connection in ...])`, which is all of them",
        "The maximum number of idle HTTP connections that will be maintained in the pool",
        "AssertionError: the only idle connection was closed",
        known="encode/httpcore#1000, open",
    ),
    Finding(
        "httpcore==1.0.9",
        "AsyncConnectionPool.aclose",
        closed_while_connecting,
        "a connection that is being opened when the pool is closed is opened all the same, answers its request, and "
        "is never closed: `aclose` in `_async/connection_pool.py` forgets it, and `_async/connection.py` closes only "
        "what is open",
        "",
        "AssertionError: a connection is left open",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def shared() -> None:
    """More requests than connections, to several hosts: each is answered, nobody's connection is closed under it."""
    async with open_pool(max_connections=2, max_keepalive_connections=1) as (pool, _):

        async def request(host: str) -> None:
            assert (await pool.request("GET", f"http://{host}/")).content == b"hi"
            assert len(pool.connections) <= 2

        async with trio.open_nursery() as nursery:
            for host in ("one", "other", "one", "third"):
                nursery.start_soon(request, host)


async def closed_behind_cancellation() -> None:
    """A pool that is closed after a cancelled request has no connection open."""
    async with open_pool() as (pool, _):
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await pool.request("GET", "http://one/")


WELL = (shared, closed_behind_cancellation)


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
