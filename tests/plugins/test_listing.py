"""`changeover plugins`: what is installed, where it comes from, and what is missing."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint, version
from typing import Any

import pytest

from changeover.cli import main
from changeover_plugins import listing

ORIGIN = f"changeover {version('changeover')}"


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """Return the rows that are printed for machines, by name; a loader and a command of one name do not occur here."""
    assert main(["plugins", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    return {row["name"]: row for row in printed["loaders"] + printed["commands"]}


def test_loaders_and_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Every loader and command stands in a line with its package, and a loader with whether it runs code."""
    pytest.importorskip("onnxruntime")
    assert main(["plugins"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"callable {ORIGIN} yes ready" in lines
    assert f"onnx {ORIGIN} no ready" in lines
    assert any(line.startswith(f"demo {ORIGIN} train two digit classifiers") for line in lines)


def test_missing_extra_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A loader whose package is missing is listed with what to install; the others are not affected."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    rows = listed(capsys)
    assert 'pip install "changeover[onnx]"' in rows["onnx"]["missing"]
    assert rows["callable"] == {"name": "callable", "origin": ORIGIN, "runs_code": True, "missing": None}


@pytest.mark.parametrize("group", [listing.LOADERS, listing.COMMANDS])
def test_plugin_that_cannot_be_imported_is_listed(
    group: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plugin whose module is gone is listed with the reason, and hides no other."""
    real = listing.entry_points
    gone = EntryPoint("gone", "no_such_module:thing", group)
    monkeypatch.setattr(
        listing, "entry_points", lambda group: [*real(group=group), *([gone] if group == gone.group else [])]
    )
    rows = listed(capsys)
    assert "No module named 'no_such_module'" in rows["gone"]["missing"]
    assert rows["gone"]["origin"] == "unknown"
    assert rows["callable"]["missing"] is rows["demo"]["missing"] is None


def test_loader_that_runs_code_is_not_asked_to_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Listing runs nobody's code: only a loader that runs none is given a file to try."""
    from changeover_plugins.callable_loader import CallableLoader

    monkeypatch.setattr(CallableLoader, "load", lambda self, source: pytest.fail("it was asked to load"))
    assert listed(capsys)["callable"]["missing"] is None
