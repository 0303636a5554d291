"""What a caller hands in checks itself: a bad value is refused where it is written, by the name of its field.

Owns no state.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from changeover.core.shift import Guard, Shift, Stage
from changeover.core.values import (
    Batching,
    Drain,
    SwapState,
    Timeouts,
    VersionKey,
    VersionSpec,
    VersionState,
    as_data,
)
from changeover.errors import InvalidValue

NO_SECONDS: tuple[Any, ...] = (-1, math.nan, math.inf, -math.inf, True, "1", [])
NO_COUNTS: tuple[Any, ...] = (-1, 1.5, math.nan, True, "1", [])
NO_NAMES: tuple[Any, ...] = ("", "../x", "a/b", ".", "..", "a b", 1, None)
NO_FLAGS: tuple[Any, ...] = (0, 1, "yes", None)
NO_RATIOS: tuple[Any, ...] = (0, -1, math.nan, -math.inf, True, "1", [])
NO_RATES: tuple[Any, ...] = (*NO_RATIOS, None, 1.01, math.inf)

SPEC: dict[str, Any] = {"model": "digits", "version": "1", "source": "digits.onnx", "loader": "onnx"}

KINDS = (VersionSpec, Batching, Drain, Guard, Stage, Shift, Timeouts)

BAD: dict[tuple[type, str], tuple[Any, ...]] = {
    (VersionSpec, "model"): NO_NAMES,
    (VersionSpec, "version"): NO_NAMES,
    (VersionSpec, "source"): (None, 1, b"digits.onnx", ["digits.onnx"]),
    (VersionSpec, "loader"): NO_NAMES,
    (VersionSpec, "options"): (None, [], "threads=1", {"threads"}),
    (VersionSpec, "isolation"): ("process", "thread", "", None, []),
    (VersionSpec, "execution"): ("process", "", None, True),
    (VersionSpec, "workers"): (*NO_COUNTS, 0, None),
    (VersionSpec, "batching"): (32, {"max_batch": 32}, True),
    (VersionSpec, "queue_limit"): (*NO_COUNTS, 0, None),
    (VersionSpec, "pinned"): NO_FLAGS,
    (VersionSpec, "allow_code"): NO_FLAGS,
    (VersionSpec, "sha256"): (1, b"00", True),
    (VersionSpec, "memory_hint_bytes"): NO_COUNTS,
    (VersionSpec, "load_timeout_s"): (*NO_SECONDS, 0, None),
    (VersionSpec, "load_retries"): (-1, 1.5, True, "1", None),
    (VersionSpec, "errors_in_a_row_max"): (*NO_COUNTS, 0),
    (Batching, "max_batch"): (*NO_COUNTS, 0, None),
    (Batching, "max_delay_s"): (*NO_SECONDS, None),
    (Drain, "deadline_s"): (*NO_SECONDS, None),
    (Drain, "then"): ("close", "", None),
    (Drain, "grace_s"): (*NO_SECONDS, None),
    (Drain, "stream_deadline_s"): NO_SECONDS,
    (Guard, "max_error_rate"): NO_RATES,
    (Guard, "max_error_rate_ratio"): (*NO_RATIOS, None),
    (Guard, "max_latency_ratio"): (*NO_RATIOS, None),
    (Guard, "quantile"): NO_RATES,
    (Guard, "window_s"): (*NO_SECONDS, 0, None),
    (Guard, "min_samples"): (*NO_COUNTS, 0, None),
    (Guard, "min_errors"): (*NO_COUNTS, 0, None),
    (Guard, "latency_slack_s"): (*NO_SECONDS, None),
    (Stage, "share"): NO_RATES,
    (Stage, "hold_s"): (*NO_SECONDS, None),
    (Stage, "samples"): (*NO_COUNTS, None),
    (Shift, "kind"): ("ramp", "", None),
    (Shift, "stages"): (None, 5, "0.5"),
    (Shift, "confirm_s"): (*NO_SECONDS, None),
    (Shift, "confirm_samples"): (*NO_COUNTS, None),
    (Shift, "sticky"): NO_FLAGS,
    (Shift, "shadow"): NO_FLAGS,
    (Shift, "fallback"): NO_FLAGS,
    (Shift, "guard"): (True, "strict", {"window_s": 5.0}),
    (Timeouts, "shift_s"): (*NO_SECONDS, 0),
    (Timeouts, "load_s"): (*NO_SECONDS, 0),
    (Timeouts, "unload_s"): (*NO_SECONDS, 0, None),
    (Timeouts, "total_s"): (*NO_SECONDS, 0),
}
"""Every field, and what it must refuse; the field of `warmup` has its own tests below."""

GOOD: dict[tuple[type, str], tuple[Any, ...]] = {
    (VersionSpec, "model"): ("a", "größe-2", "a..b"),
    (VersionSpec, "version"): ("1", "2024-06-01", "v1.2+cpu"),
    (VersionSpec, "source"): ("module:function", Path("digits.onnx")),
    (VersionSpec, "loader"): ("callable",),
    (VersionSpec, "options"): ({}, {"threads": 1}),
    (VersionSpec, "isolation"): ("inline",),
    (VersionSpec, "execution"): ("inline", "worker"),
    (VersionSpec, "workers"): (1, 64),
    (VersionSpec, "batching"): (None, Batching()),
    (VersionSpec, "queue_limit"): (1, 10**6),
    (VersionSpec, "pinned"): (True, False),
    (VersionSpec, "allow_code"): (True, False),
    (VersionSpec, "sha256"): (None, "0" * 64),
    (VersionSpec, "memory_hint_bytes"): (None, 0, 10**12),
    (VersionSpec, "load_timeout_s"): (0.001, 60),
    (VersionSpec, "load_retries"): (0, 3),
    (VersionSpec, "errors_in_a_row_max"): (None, 1, 10**6),
    (Batching, "max_batch"): (1, 32),
    (Batching, "max_delay_s"): (0, 0.5),
    (Drain, "deadline_s"): (0, 30.0),
    (Drain, "then"): ("quarantine", "wait", "cancel", "rollback"),
    (Drain, "grace_s"): (0, 5.0),
    (Drain, "stream_deadline_s"): (None, 0, 30.0),
    (Guard, "max_error_rate"): (0.001, 1),
    (Guard, "max_error_rate_ratio"): (0.5, 3, math.inf),
    (Guard, "max_latency_ratio"): (1, 1.5, math.inf),
    (Guard, "quantile"): (0.5, 0.999, 1),
    (Guard, "window_s"): (0.1, 60),
    (Guard, "min_samples"): (1, 1000),
    (Guard, "min_errors"): (1, 50),
    (Guard, "latency_slack_s"): (0, 0.1),
    (Stage, "share"): (1e-6, 0.5, 1),
    (Stage, "hold_s"): (0, 60),
    (Stage, "samples"): (0, 100),
    (Shift, "kind"): ("at_once", "canary"),
    (Shift, "stages"): ((), (Stage(0.5, 1.0),)),
    (Shift, "confirm_s"): (0, 5.0),
    (Shift, "confirm_samples"): (0, 100),
    (Shift, "sticky"): (True, False),
    (Shift, "shadow"): (True, False),
    (Shift, "fallback"): (True, False),
    (Shift, "guard"): (None, Guard()),
    (Timeouts, "shift_s"): (None, 60),
    (Timeouts, "load_s"): (None, 0.5),
    (Timeouts, "unload_s"): (0.5, 30),
    (Timeouts, "total_s"): (None, 60),
}
"""Every field, and what it must let in."""


def make(kind: type, /, **fields: Any) -> Any:
    """Make a value of a class with good fields but for those given."""
    needed = {VersionSpec: SPEC, Stage: {"share": 0.5, "hold_s": 1.0}}.get(kind, {})
    return kind(**(needed | fields))


def cases(table: dict[tuple[type, str], tuple[Any, ...]]) -> list[Any]:
    """Return each field with each of its values."""
    return [
        pytest.param(kind, name, value, id=f"{kind.__name__}.{name}={value!r}")
        for (kind, name), values in table.items()
        for value in values
    ]


def test_the_tables_cover_every_field() -> None:
    """No field of what a caller hands in is left out of these tests."""
    fields = {(kind, field.name) for kind in KINDS for field in attrs.fields(kind)}
    assert BAD.keys() == GOOD.keys() == fields - {(VersionSpec, "warmup")}


@pytest.mark.parametrize(("kind", "name", "value"), cases(BAD))
def test_a_bad_value_is_refused_by_name(kind: type, name: str, value: Any) -> None:
    """The error names the field and shows the value."""
    with pytest.raises(InvalidValue) as caught:
        make(kind, **{name: value})
    assert re.match(rf"{name}\b", str(caught.value)), caught.value
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("kind", "name", "value"), cases(GOOD))
def test_a_good_value_is_kept(kind: type, name: str, value: Any) -> None:
    """What is let in is what the field holds."""
    assert getattr(make(kind, **{name: value}), name) == value


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_frozen(kind: type) -> None:
    """No field can be written to once the value was made."""
    value = make(kind)
    for field in attrs.fields(kind):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))


def test_a_change_is_checked_too() -> None:
    """`attrs.evolve` makes a new value and checks it."""
    spec = VersionSpec(**SPEC)
    assert attrs.evolve(spec, version="2").key == VersionKey("digits", "2")
    assert spec.version == "1"
    with pytest.raises(InvalidValue, match="workers"):
        attrs.evolve(spec, workers=0)


def test_only_the_first_three_fields_of_a_spec_are_positional() -> None:
    """Model, version and source may be given by place; the rest by name, so that it can grow."""
    assert VersionSpec("digits", "1", "digits.onnx", loader="onnx") == VersionSpec(**SPEC)
    with pytest.raises(TypeError):
        VersionSpec("digits", "1", "digits.onnx", "onnx")  # type: ignore[misc]


def test_what_is_planned_is_named() -> None:
    """A choice that is not built yet says so."""
    with pytest.raises(InvalidValue, match='"process" is planned and not built yet'):
        VersionSpec(**SPEC, isolation="process")


# --- warm-up data ---------------------------------------------------------------------------------------------------


def test_warm_up_data_is_one_request_or_several() -> None:
    """A single mapping is one request; any iterable of mappings becomes a tuple."""
    assert as_data({"x": 1}) == ({"x": 1},)
    assert as_data([{"x": 1}, {"x": 2}]) == ({"x": 1}, {"x": 2})
    assert as_data({"x": n} for n in range(2)) == ({"x": 0}, {"x": 1})
    assert as_data(()) == ()
    assert VersionSpec(**SPEC, warmup={"x": 1}).warmup == ({"x": 1},)


def test_warm_up_data_may_be_made_up_or_lie_in_a_file() -> None:
    """The word "signature" stays a word; the name of a JSON or NPZ file becomes a path, and any path stays one."""
    assert as_data("signature") == "signature"
    assert as_data("in/w.json") == Path("in/w.json")
    assert as_data("W.NPZ") == Path("W.NPZ")
    assert as_data(Path("folder")) == Path("folder")
    assert VersionSpec(**SPEC, warmup="signature").warmup == "signature"


@pytest.mark.parametrize(
    "data",
    ["abc", "", "folder/", "w.json.txt", b"w.json", [Path("w.json")], [1], [{"x": 1}, None], [["x", 1]], 5, None, True],
)
def test_warm_up_data_of_the_wrong_kind_is_refused(data: Any) -> None:
    """What holds anything but mappings, or holds nothing at all, is refused as every bad value is."""
    with pytest.raises(InvalidValue, match="warm"):
        VersionSpec(**SPEC, warmup=data)


# --- keys and states ------------------------------------------------------------------------------------------------


def test_a_key_prints_as_model_and_version() -> None:
    """A key is a pair that prints as `model/version`, alone, formatted and in a join."""
    key = VersionSpec(**SPEC).key
    assert str(key) == f"{key}" == ", ".join(map(str, [key])) == "digits/1"
    assert key == ("digits", "1")
    assert {key: 1}["digits", "1"] == 1


def test_a_swap_has_ended_in_its_five_ends() -> None:
    """`ended` is true for the states that nothing follows."""
    ends = {state for state in SwapState if state.ended}
    assert {state.name for state in ends} == {"COMPLETED", "FAILED", "ROLLED_BACK", "CANCELLED", "SUPERSEDED"}


@pytest.mark.parametrize("states", [VersionState, SwapState])
def test_states_read_as_their_names(states: type[VersionState | SwapState]) -> None:
    """The value of a state, which is what logs and journals hold, is its name in small letters."""
    assert [state.value for state in states] == [state.name.lower() for state in states]


def test_the_shift_at_once_is_the_default() -> None:
    """`Shift.at_once()` and `Shift()` are equal."""
    assert Shift.at_once() == Shift() == Shift(kind="at_once")


# --- ramps ----------------------------------------------------------------------------------------------------------


def test_a_canary_is_a_ramp_and_a_confirmation() -> None:
    """Pairs of share and seconds become stages; the confirmation comes after them, with all of the traffic."""
    plan = Shift.canary(stages=[(0.1, 1), (0.5, 2.0)], confirm_s=3.0, confirm_samples=7)
    assert plan.stages == (Stage(0.1, 1), Stage(0.5, 2.0))
    assert plan.confirmation == Stage(1.0, 3.0, 7)
    assert (plan.sticky, plan.shadow, plan.fallback, plan.guard) == (True, False, True, Guard())


def test_at_once_has_no_stage_of_its_own() -> None:
    """All in one step, with a confirmation only where one is asked for."""
    assert Shift.at_once().confirmation is None
    assert Shift.at_once(confirm_s=2.0).confirmation == Stage(1.0, 2.0)
    assert Shift.at_once(confirm_samples=5).confirmation == Stage(1.0, 0.0, 5)


@pytest.mark.parametrize(
    ("stages", "culprit"),
    [
        ([], "a stage or more"),
        ([(0.5, 1), (0.5, 1)], "must rise; 0.5 comes after 0.5"),
        ([(0.5, 1), (0.1, 1)], "must rise; 0.1 comes after 0.5"),
        ([(math.nan, 1)], "share must be a number, not nan"),
        ([(-0.1, 1)], "share must be above 0 and at most 1, not -0.1"),
        ([(0, 1)], "share must be above 0 and at most 1, not 0"),
        ([(1.5, 1)], "share must be above 0 and at most 1, not 1.5"),
        ([(0.5, -1)], "hold_s"),
        ([(0.5, math.nan)], "hold_s"),
        ([0.5], "a pair of share and seconds"),
        ([(0.5, 1, 2, 3)], "a pair of share and seconds"),
        ("0.5", "pairs of share and seconds"),
    ],
)
def test_a_ramp_that_makes_no_sense_is_refused(stages: Any, culprit: str) -> None:
    """Shares that are NaN, negative, do not rise or exceed 1 are refused, and the error shows the culprit."""
    with pytest.raises(InvalidValue, match=re.escape(culprit)):
        Shift.canary(stages=stages)
