"""Clients that go away in the middle, and requests that are given up: every reference is given back, none too early."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.http.server import PATIENCE_S, Gate, Server, asked

pytestmark = pytest.mark.slow

LOOKS_MAX = 10_000


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Return a gate of this test's own."""
    return Gate(tmp_path / "gate")


def cancelled(server: Server) -> int:
    """Return how many handlers were cancelled so far."""
    return int(server.get("/seen/cancelled/0"))


def held(server: Server) -> dict[str, list[str]]:
    """Return what is held, by version."""
    holders: dict[str, list[str]] = server.get("/status")["holders"]
    return holders


def test_a_client_goes_away(server: Server, gate: Gate) -> None:
    """A plain handler goes on without its client; its reference is held until the model is done, and no longer."""
    with asked(server, "/predict/slow", {"gate": gate.path}):
        gate.wait_for_a_model()
    assert held(server) == {"slow/1": ["request"]}
    gate.open()
    assert server.get("/rest/slow/1")["clean"]


def test_the_handler_is_cancelled_while_the_model_runs(server: Server, gate: Gate) -> None:
    """Where a middleware cancels the handler of a client that is gone, the reference stays until the thread is done."""
    before = cancelled(server)
    with asked(server, "/predict/slow", {"gate": gate.path}, x_attentive="1"):
        gate.wait_for_a_model()
    server.get(f"/seen/cancelled/{before + 1}")
    assert held(server) == {"slow/1": ["request"]}
    gate.open()
    assert server.get("/rest/slow/1")["clean"]


def test_the_handler_is_cancelled_in_the_queue(server: Server, gate: Gate, tmp_path: Path) -> None:
    """A request whose client went away before a worker took it never runs."""
    before, predictions = cancelled(server), server.get("/status")["predictions"]["one/1"]
    with asked(server, "/predict/one", {"gate": gate.path}) as first:
        gate.wait_for_a_model()
        with asked(server, "/predict/one", {"gate": str(tmp_path / "never")}, x_attentive="1"):
            assert any(server.get("/status")["queued"]["one/1"] == 1 for _ in range(LOOKS_MAX))
        server.get(f"/seen/cancelled/{before + 1}")
        status = server.get("/status")
        assert (status["queued"]["one/1"], status["holders"]) == (0, {"one/1": ["request"]})
        gate.open()
        assert first.getresponse().status == 200
    assert server.get("/rest/one/1")["predictions"]["one/1"] == predictions + 1


def test_a_held_version_is_given_back_at_once(server: Server, gate: Gate) -> None:
    """An async lease ends with its handler, whatever that was waiting for."""
    before = cancelled(server)
    with asked(server, "/hold/fast", {"gate": gate.path}, x_attentive="1"):
        gate.wait_for_a_model()
        assert held(server) == {"fast/1": ["lease"], "slow/1": ["request"]}
    server.get(f"/seen/cancelled/{before + 1}")
    assert held(server) == {"slow/1": ["request"]}
    gate.open()
    assert server.get("/rest/slow/1")["clean"]


def test_a_request_is_out_of_time(server: Server, gate: Gate) -> None:
    """Under a time limit of a Starlette middleware the client is told so, and the model is left to finish."""
    with asked(server, "/predict/slow", {"gate": gate.path}, x_limit_s="1") as client:
        gate.wait_for_a_model()
        assert client.getresponse().status == 504
    assert held(server) == {"slow/1": ["request"]}
    gate.open()
    assert server.get("/rest/slow/1")["clean"]


def test_a_stream_is_left(server: Server, gate: Gate) -> None:
    """A client that leaves a stream ends it: the model's own iterator is closed, and the version given back."""
    with asked(server, "/stream/slow", {"gate": gate.path}) as client:
        assert client.getresponse().readline() == b"first\n"
        gate.wait_for_a_model()
        assert held(server) == {"slow/1": ["stream"]}
    gate.open()
    assert server.get("/rest/slow/1")["clean"]
    assert "left slow/1" in server.witness.read_text().splitlines()


def test_a_stream_is_left_unread(server: Server, gate: Gate) -> None:
    """The same where the client does not read, and leaves when the server cannot send any more."""
    with asked(server, "/stream/slow", {"gate": gate.path, "large": 1_000}) as client:
        assert client.getresponse().readline() == b"first\n"
        assert held(server) == {"slow/1": ["stream"]}
    assert server.get("/rest/slow/1")["clean"]


def test_a_stream_is_read(server: Server, gate: Gate) -> None:
    """A client that stays gets all of it."""
    with asked(server, "/stream/slow", {"gate": gate.path}) as client:
        response = client.getresponse()
        gate.wait_for_a_model()
        gate.open()
        assert response.read() == b"first\nlast\n"
    assert server.get("/rest/slow/1")["clean"]


def test_an_order_is_out_of_time(server: Server) -> None:
    """A swap whose handler is cancelled before the pivot is undone, and its model is as it was."""
    assert server.post("/swap/fast/2?plan=endless", x_limit_s="1").status_code == 504
    told = server.client.get("/last/fast", timeout=PATIENCE_S)
    assert (told.status_code, told.json()["state"]) == (409, "cancelled")
    status = server.get("/status")
    assert (status["active"]["fast"], status["loaded"]["fast"]) == (["1"], ["1"])
