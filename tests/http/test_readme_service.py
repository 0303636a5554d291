"""The README's FastAPI application does under a real uvicorn what the README says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.readme import README, blocks
from tests.http.server import Server

pytestmark = pytest.mark.slow


def test_the_readme_can_be_served(tmp_path: Path) -> None:
    """It answers, changes over, answers by the new version, and ends on SIGTERM without a complaint."""
    (tmp_path / "witness").touch()
    for block in blocks(README.read_text()):
        if block.language == "python":
            (tmp_path / block.file).write_text(block.text)
    with Server(tmp_path / "witness", app="service:app", cwd=tmp_path) as server:
        before = server.post("/length", {"feet": 10.0}).json()
        changed = server.client.put("/version/2").json()
        after = server.post("/length", {"feet": 10.0}).json()
        server.stop()
    assert (before, changed, after) == ({"length": pytest.approx(3.048)}, "completed", {"length": pytest.approx(304.8)})
