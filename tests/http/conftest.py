"""One server for the tests of a module that leave it as it was; it is stopped behind them, and must be content then."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.http.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server, None, None]:
    """Serve the application; behind the tests everything is given back and every model is closed."""
    with Server(tmp_path_factory.mktemp("server") / "witness") as server:
        yield server
        assert server.get("/status")["clean"]
        lives = server.stop()
        assert (lives.open, lives.wrongs) == ([], [])
