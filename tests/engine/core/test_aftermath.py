"""What is told of a swap that could not be undone; that its remedies help is tried in test_rollback_any_time.py."""

from __future__ import annotations

import attrs
import pytest

from changeover.core.aftermath import Facts, tell
from changeover.core.values import VersionKey, VersionState

FACTS = Facts(
    VersionKey("m", "1"), VersionKey("m", "2"), "1", VersionState.READY, VersionState.UNLOADED, was_loaded=False
)


def test_what_stands_is_told_of_every_model() -> None:
    """Who has the traffic, and the states of both versions."""
    other = Facts(
        VersionKey("n", "3"), VersionKey("n", "4"), None, VersionState.FAILED, VersionState.QUARANTINED, was_loaded=True
    )
    assert tell([FACTS, other], ["x"]).stands == (
        "m/1 has the traffic", "m/1 is ready", "m/2 is unloaded",
        "nobody has the traffic of n", "n/3 is failed", "n/4 is quarantined",
    )  # fmt: skip


def test_what_does_not_stand_is_told_as_it_failed() -> None:
    """In the order of the failures."""
    assert tell([FACTS], ["first", "second"]).does_not == ("first", "second")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"active": None}, 'await engine.load("m", "1") brings m/1 back; its events say why it went'),
        ({"active": "2"}, 'm/2 serves on until await engine.swap("m", "1") brings m/1 back'),
        ({"new_state": VersionState.QUARANTINED}, 'engine.who_holds("m", "2") names them'),
        ({"new_state": VersionState.UNLOADING}, "m/2 goes when its close() returns"),
        ({"new_state": VersionState.READY}, 'await engine.unload("m", "2") frees what m/2 occupies'),
        ({}, "nothing: all is as it was before"),
        ({"new_state": VersionState.READY, "was_loaded": True}, "nothing: all is as it was before"),
        ({"active": "3"}, "nothing: all is as it was before"),
    ],
)
def test_what_an_operator_can_do_is_told_as_a_call(changes: dict[str, object], remedy: str) -> None:
    """One line for what is wrong; none for what was so before the swap, or is somebody else's."""
    (line,) = tell([attrs.evolve(FACTS, **changes)], ["x"]).remedies  # type: ignore[arg-type]  # evolve checks them
    assert line.endswith(remedy)
