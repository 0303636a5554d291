"""SIGTERM in the middle of it all: uvicorn drains, then the engine closes every model, then the process ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.http.server import Clients, Gate, Lives, Server, asked
from tests.house.readme import README, blocks

pytestmark = pytest.mark.slow

LOOPS = ["asyncio", "uvloop"]


@pytest.mark.parametrize("loop", LOOPS)
def test_sigterm_in_the_middle(tmp_path: Path, loop: str) -> None:
    """Whoever was accepted is answered, the slowest too; a ramp is undone, and every model is closed, after its use."""
    gate = Gate(tmp_path / "gate")
    paths = ("/predict/fast", "/lease/fast", "/thread/fast", "/predict/slow")
    with (
        Server(tmp_path / "witness", "--loop", loop) as server,
        Clients(server, *paths) as first,
        Clients(server, *paths) as second,
        asked(server, "/predict/slow", {"gate": gate.path}) as slow,
        asked(server, "/swap/fast/2?plan=endless", {}) as ordered,
    ):
        gate.wait_for_a_model()
        while server.post("/predict/fast").headers["x-version"] != "2":  # until it is on its ramp
            pass
        server.client.close()
        server.terminate()
        server.line("Shutting down")
        for clients in (first, second):
            clients.line('"answered"')  # they end by themselves: they are refused
        gate.open()
        assert slow.getresponse().status == 200
        server.post if False else None
        lives = server.stopped()
        seen = [first.summary(), second.summary()]
    assert [client["wrong"] for client in seen] == [[], []]
    answered = sum(sum(client["answered"].values()) for client in seen)
    assert lives.counts["begun"] == lives.counts["answered"] == answered + server.answered + 2
    assert (lives.open, lives.wrongs) == ([], [])
