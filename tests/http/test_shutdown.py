"""SIGTERM in the middle of it all: uvicorn drains, then the engine closes every model, then the process ends."""

from __future__ import annotations

import signal
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.http.server import LOOPS, Clients, Gate, Lives, Server, asked

pytestmark = pytest.mark.slow

ASKED = ("/predict/fast", "/lease/fast", "/thread/fast", "/predict/slow")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Return a gate of this test's own."""
    return Gate(tmp_path / "gate")


def is_answered(client: HTTPConnection) -> bool:
    """Return whether a request that was sent is answered well, all of it."""
    response = client.getresponse()
    return response.status == 200 and response.read() != b""


@pytest.mark.parametrize("loop", LOOPS)
def test_sigterm_in_the_middle(tmp_path: Path, gate: Gate, loop: str) -> None:
    """Whoever was accepted is answered, also the slowest; what stood on a ramp is undone; every model is closed."""
    with (
        Server(tmp_path / "witness", "--loop", loop) as server,
        Clients(server, *ASKED) as first,
        Clients(server, *ASKED) as second,
        asked(server, "/predict/slow", {"gate": gate.path}) as slow,
    ):
        server.post("/order/fast/2?plan=endless")
        while server.post("/predict/fast").headers["x-version"] != "2":  # until it is on its ramp
            pass
        gate.wait_for_a_model()
        server.client.close()
        server.terminate()
        server.line("Shutting down")
        for clients in (first, second):
            clients.line('"answered"')  # they end by themselves: they are refused
        gate.open()
        assert is_answered(slow)
        lives = server.stopped()
        seen = [first.summary(), second.summary()]
    assert [client["wrong"] for client in seen] == [[], []]
    answered = sum(sum(client["answered"].values()) for client in seen) + server.answered + 1
    assert lives.counts == {"begun": answered, "answered": answered}
    assert (lives.open, lives.wrongs) == ([], [])


@pytest.mark.parametrize("loop", LOOPS)
def test_the_exit_code_is_uvicorns(tmp_path: Path, loop: str) -> None:
    """With an engine the process ends by the signal just as it does without one."""
    ends: list[int] = []
    for app in ("app", "bare"):
        with Server(tmp_path / app, "--loop", loop, app=f"tests.http.app:{app}") as server:
            server.terminate()
            ends.append(server.ended())
    assert ends == [-signal.SIGTERM, -signal.SIGTERM]


def test_a_request_that_hangs(tmp_path: Path, gate: Gate) -> None:
    """Where uvicorn gives up waiting, the engine does too: what hangs in a model keeps that one open, and nothing else.

    The process ends all the same.
    """
    options = ("--timeout-graceful-shutdown", "1")
    with (
        Server(tmp_path / "witness", *options, CLOSE_TIMEOUT_S="0.1") as server,
        asked(server, "/predict/slow", {"gate": gate.path}),
    ):
        gate.wait_for_a_model()
        server.terminate()
        assert server.ended() == -signal.SIGTERM
        assert "timeout graceful shutdown exceeded" in server.output
        lives = Lives.of(server.witness)
    assert (lives.open, lives.wrongs) == (["slow/1"], [])


def test_the_engine_crashes(tmp_path: Path, gate: Gate) -> None:
    """Every request is told so, also the one in flight, and none hangs; SIGTERM ends the process as ever."""
    with (
        Server(tmp_path / "witness") as server,
        asked(server, "/predict/slow", {"gate": gate.path}) as slow,
    ):
        gate.wait_for_a_model()
        server.post("/crash")
        while server.post("/predict/fast").status_code in {200, 503}:  # until it is down: it may still answer, and
            pass  # while it goes down one may try again, as always
        told = [server.post(path) for path in ("/predict/fast", "/lease/fast", "/swap/fast/2?plan=at-once")]
        assert [(answer.status_code, answer.json()) for answer in told] == [(500, {"error": "EngineFailed"})] * 3
        assert slow.getresponse().status == 503  # its thread hangs; whether the model ran to its end is unknown
        gate.open()
        server.terminate()
        assert server.ended() == -signal.SIGTERM
        assert "EngineFailed" in server.output
