"""The table for machines: the same figures as one object.

Pure.
"""

from __future__ import annotations

from typing import Any

import attrs

from changeover_sim.protocol import ranks
from changeover_sim.protocol.published import PUBLISHED, RANKED
from changeover_sim.protocol.view import Row, View


def as_json(view: View) -> dict[str, Any]:
    """Return a view as an object."""
    return {
        "trials": view.trials,
        "caps": {row.subject.name: row.subject.cap for row in view.rows},
        "made": [attrs.asdict(one) for one in view.made],
        "cells": [_cell(row, policy) for row in view.rows for policy in row.cells],
        "scores": [attrs.asdict(score) for score in view.scores()],
        "ranked": list(RANKED),
        "ranks": [found for row in view.buggy if (found := _ranks(row)) is not None],
        "arms": dict(view.arms("portfolio").most_common()) if "portfolio" in view.policies else {},
        "false_alarms": sum(1 for _ in view.false_alarms()),
        "not_its_bug": sum(1 for _ in view.strange()),
        "no_trial": sum(1 for _ in view.broken()),
    }


def _cell(row: Row, policy: str) -> dict[str, Any]:
    cell, said = row.cells[policy], PUBLISHED.get(row.subject.name, {}).get(policy)
    return {
        **attrs.asdict(cell.key),
        "done": cell.done,
        "found": len(cell.found),
        "mean": cell.mean,
        "deviation": cell.deviation,
        "expected": cell.expected,
        "out_of_time": cell.out_of_time,
        "old": policy in row.old,
        "always": cell.always,
        "seconds": round(sum(one.seconds for one in cell.trials), 3),
        "schedules": [one.schedules for one in cell.trials],
        "ended": [one.ended for one in cell.trials],
        "published": None if said is None else attrs.asdict(said),
    }


def _ranks(row: Row) -> dict[str, Any] | None:
    said, measured = ranks.published(row.subject.name), row.ranking
    if said is None or measured is None:
        return None
    return {
        "kernel": row.subject.name,
        "port": row.port,
        "published": said.ranks,
        "measured": measured.ranks,
        "spearman": ranks.spearman(said, measured),
        "clear_pairs": ranks.clear_pairs(said, measured),
    }
