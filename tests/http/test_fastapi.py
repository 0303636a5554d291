"""Changeovers under a real uvicorn, while processes of clients ask without a pause: none of them notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.http.app import FAILS
from tests.http.server import LOOPS, Clients, Gate, Server, asked

ASKED_IN_EVERY_WAY = ("/predict/fast", "/lease/fast", "/thread/fast", "/predict/slow")
FALLING_BACK = ("/predict/fast", "/predict/fast", "/predict/slow", "/predict/slow")


def test_end_to_end(tmp_path: Path) -> None:
    """Through a changeover at once, a canary and SIGTERM, every request that is accepted is answered, and rightly."""
    with Server(tmp_path / "witness") as server, Clients(server, *ASKED_IN_EVERY_WAY) as clients:
        for path in ("slow/2?plan=at-once", "fast/2?plan=canary"):
            assert server.post(f"/swap/{path}").json()["state"] == "completed"
        lives = server.stop()
        seen = clients.summary()
    assert seen["wrong"] == []
    assert {"1", "2"} <= set(seen["answered"])
    assert lives.counts["begun"] == lives.counts["answered"] == sum(seen["answered"].values()) + server.answered
    assert (lives.open, lives.wrongs) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_no_client_notices(tmp_path: Path, loop: str) -> None:
    """Twelve changeovers of every kind, of models of every kind: each of them happens, and no client sees an error."""
    with Server(tmp_path / "witness", "--loop", loop) as server:
        with Clients(server, *ASKED_IN_EVERY_WAY) as first, Clients(server, *ASKED_IN_EVERY_WAY) as second:
            for turn in range(6):
                to, plan = ("1", "2", "3")[(turn + 1) % 3], ("at-once", "canary", "confirmed")[turn % 3]
                for model in ("fast", "slow"):
                    done = server.post(f"/swap/{model}/{to}?plan={plan}")
                    assert (done.status_code, done.json()["state"]) == (200, "completed"), done.text
            seen = [first.summary(), second.summary()]
        assert [client["wrong"] for client in seen] == [[], []]
        assert [client["dropped"] for client in seen] == [0, 0]
        assert all(set(client["answered"]) == {"1", "2", "3"} for client in seen)
        assert server.get("/status")["clean"]
        lives = server.stop()
    assert (lives.open, lives.wrongs) == ([], [])


@pytest.mark.slow
def test_a_slow_request_keeps_its_version(tmp_path: Path) -> None:
    """A version stays open for the request that it computes, while the next one answers everybody else."""
    gate = Gate(tmp_path / "gate")
    with Server(tmp_path / "witness") as server, asked(server, "/predict/slow", {"gate": gate.path}) as slow:
        gate.wait_for_a_model()
        swap_id = server.post("/order/slow/2?plan=at-once").json()
        with Clients(server, "/predict/slow", "/predict/slow") as clients:
            while server.post("/predict/slow").headers["x-version"] != "2":
                pass
            assert server.get("/status")["holders"]["slow/1"] == ["request"]
            gate.open()
            assert server.get(f"/swaps/{swap_id}")["state"] == "completed"
            answer = slow.getresponse()
            assert (answer.status, answer.headers["x-version"]) == (200, "1")
            assert clients.summary()["wrong"] == []
        lives = server.stop()
    assert (lives.open, lives.wrongs) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["fast", "slow"])
def test_a_version_that_raises_at_first(tmp_path: Path, model: str) -> None:
    """It raises on 100 requests; the version before answers exactly those, and says so; no client sees an error."""
    with Server(tmp_path / "witness") as server:
        with Clients(server, *[f"/predict/{model}"] * 4) as clients:
            done = server.post(f"/swap/{model}/4?plan=confirmed").json()
            seen = clients.summary()
        assert (done["state"], done["fallbacks"]) == ("completed", FAILS)
        assert seen["wrong"] == []
        assert (seen["fell_back"], seen["dropped"]) == (FAILS, 0)
        assert seen["answered"]["4"] > 0
        assert server.stop().open == []


@pytest.mark.slow
def test_a_version_that_raises_is_taken_back(tmp_path: Path) -> None:
    """Its guard takes it back; who asked is told the verdict, and the clients had an answer to every request."""
    with Server(tmp_path / "witness") as server:
        with Clients(server, *FALLING_BACK) as clients:
            for model in ("fast", "slow"):
                told = server.post(f"/swap/{model}/4?plan=guarded")
                assert (told.status_code, told.json()["state"]) == (409, "rolled_back")
                assert "requests failed" in told.json()["guard"]["reason"]
                assert server.get("/status")["active"][model] == ["1"]
            seen = clients.summary()
        assert seen["wrong"] == []
        assert set(seen["answered"]) == {"1"}
        assert seen["fell_back"] > 0
        lives = server.stop()
    assert (lives.open, lives.wrongs) == ([], [])


@pytest.mark.slow
def test_an_order_is_superseded(tmp_path: Path) -> None:
    """A newer order takes the place of one on its ramp, whose caller is told so; no client sees an error."""
    with Server(tmp_path / "witness") as server:
        with Clients(server, *ASKED_IN_EVERY_WAY) as clients, asked(server, "/swap/fast/2?plan=endless", {}) as older:
            while server.post("/predict/fast").headers["x-version"] != "2":  # until it is on its ramp
                pass
            newer = server.post("/swap/fast/3?plan=confirmed&on_busy=supersede").json()
            told = older.getresponse()
            assert (told.status, newer["state"]) == (409, "completed")
            assert f'"superseded_by":"{newer["id"]}"'.encode() in told.read()
            assert server.get("/status")["loaded"]["fast"] == ["3"]
            seen = clients.summary()
        assert seen["wrong"] == []
        assert {"1", "3"} <= set(seen["answered"])
        lives = server.stop()
    assert (lives.open, lives.wrongs) == ([], [])
