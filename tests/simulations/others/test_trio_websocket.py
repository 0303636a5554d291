"""trio-websocket 0.12.2: a client and a server over memory streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream, wrap_server_stream

from changeover_sim import cancel_anywhere
from tests.simulations.others.record import Finding, Program, assert_fails_again, assert_found, assert_well, at_rest

LONG_S = 1_000


@attrs.frozen
class Link:
    """A client and a server that are connected."""

    client: WebSocketConnection
    server: WebSocketConnection
    near: trio.abc.Stream
    """The client's end of what lies beneath."""
    far: trio.abc.Stream
    """The server's end; closed, the connection is broken."""
    serving: trio.CancelScope
    """Cancelled, the server's host stands still and answers nothing."""


@asynccontextmanager
async def connected() -> AsyncGenerator[Link, None]:
    """Connect a client with a server."""
    near, far = trio.testing.memory_stream_pair()
    hosts = list[tuple[WebSocketConnection, trio.CancelScope]]()

    async def host(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, far)
            hosts.append((await request.accept(), nursery.cancel_scope))
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(host)
        client = await wrap_client_stream(nursery, near, "host", "/")
        await at_rest()
        yield Link(client, hosts[0][0], near, far, hosts[0][1])
        nursery.cancel_scope.cancel()


async def ping_of_lost_connection() -> None:
    """A ping that is on its way when the connection breaks is told so."""
    async with connected() as link:
        ended: list[str] = []

        async def ping() -> None:
            try:
                await link.client.ping(b"payload")
            except ConnectionClosed:
                ended.append("closed")

        link.serving.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping)
            await at_rest()
            await link.far.aclose()
            await at_rest()
            assert link.client.closed
            assert ended, "the ping waits for ever"


async def ping_again() -> None:
    """A ping that was cancelled can be made again."""
    async with connected() as link:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await link.client.ping(b"payload")
        await link.client.ping(b"payload")
        assert not link.server.closed


async def ping_while_closing() -> None:
    """A ping that arrives while this side closes does no harm."""
    async with connected() as link:

        async def ping() -> None:
            with suppress(ConnectionClosed), trio.move_on_after(LONG_S):
                await link.server.ping(b"payload")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping)
            nursery.start_soon(link.client.aclose)


async def close_twice() -> None:
    """Whoever closes, returns when it is closed."""
    async with connected() as link:
        ends: list[bool] = []

        async def close() -> None:
            await link.client.aclose()
            ends.append(link.client._close_handshake.is_set())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            nursery.start_soon(close)
        assert all(ends), "one of them returned while it was still open"


async def close_after_peer() -> None:
    """Who closes a connection that is broken has closed what lies beneath."""
    async with connected() as link:
        link.serving.cancel()
        await link.far.aclose()
        await at_rest()
        await link.client.aclose()
        with suppress(trio.ClosedResourceError):
            await link.near.receive_some()
            raise AssertionError("closed, and the stream is open")


FOUND = (
    Finding(
        "trio-websocket==0.12.2",
        "WebSocketConnection.ping",
        ping_of_lost_connection,
        "a ping waits for ever when the connection breaks before its pong: nothing wakes the events in `_pings` "
        "(`_impl.py`, neither `_abort_web_socket` nor `_close_web_socket`)",
        "raises ConnectionClosed: if connection is closed",
        "AssertionError: the ping waits for ever",
    ),
    Finding(
        "trio-websocket==0.12.2",
        "WebSocketConnection.ping",
        ping_again,
        "a ping that was cancelled keeps its payload: the next with the same one is refused as in flight (`_impl.py`, "
        "`ping` never takes its entry back)",
        "raises ValueError: if payload is identical to another in-flight ping",
        "ValueError: Payload value b'payload' is already in flight.",
    ),
    Finding(
        "trio-websocket==0.12.2",
        "WebSocketConnection.aclose",
        ping_while_closing,
        "a ping that arrives while this side closes ends the reader task, and the caller's nursery with it, by an "
        "error of the protocol library: `_handle_ping_event` in `_impl.py` answers whatever the state",
        "",
        "LocalProtocolError: Event Pong(payload=b'payload') cannot be sent in state ConnectionState.LOCAL_CLOSING.",
        known="python-trio/trio-websocket#184, open",
    ),
    Finding(
        "trio-websocket==0.12.2",
        "WebSocketConnection.aclose",
        close_twice,
        "the second of two tasks that close returns at once, while the connection is open: `_aclose` in `_impl.py` "
        "returns as soon as there is a reason, which the first has set",
        "This sends a closing frame and suspends until the connection is closed",
        "AssertionError: one of them returned while it was still open",
    ),
    Finding(
        "trio-websocket==0.12.2",
        "WebSocketConnection.aclose",
        close_after_peer,
        "when the peer has broken the connection, the stream is never closed on this side: `_abort_web_socket` in "
        "`_impl.py` sets the reason, with which `_aclose` returns at once",
        "",
        "AssertionError: closed, and the stream is open",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def close_both() -> None:
    """Both sides may close at once."""
    async with connected() as link, trio.open_nursery() as nursery:
        nursery.start_soon(link.client.aclose)
        nursery.start_soon(link.server.aclose)


async def all_messages() -> None:
    """What was sent before the close is received, in order."""
    async with connected() as link:
        got: list[str | bytes] = []

        async def receive() -> None:
            with suppress(ConnectionClosed):
                while True:
                    got.append(await link.server.get_message())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await link.client.send_message("one")
            await link.client.send_message("two")
            await link.client.aclose()
        assert got == ["one", "two"]


async def cancelled_send() -> None:
    """A message whose sender was cancelled spoils no other."""
    async with connected() as link:
        got: list[str | bytes] = []

        async def impatient() -> None:
            with trio.CancelScope() as scope:
                cancel_anywhere(scope)
                await link.client.send_message("perhaps")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            nursery.start_soon(link.client.send_message, "surely")
        await link.client.send_message("end")
        while (message := await link.server.get_message()) != "end":
            got.append(message)
        assert sorted(got) in (["surely"], ["perhaps", "surely"])


WELL = (close_both, all_messages, cancelled_send)


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
