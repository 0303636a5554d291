"""What is decided about swaps and models that an earlier process has left behind."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.core.operations import Member, SwapOperation
from changeover.core.plan import ORDER, PIVOT, Progress, Step
from changeover.core.records import DesiredVersion, SwapRecord
from changeover.core.recovery import mismatch, units
from changeover.core.values import Drain, SwapState, Timeouts, VersionSpec


def record(swap_id: str, progress: Progress, *moves: tuple[str, str, str]) -> SwapRecord:
    """Return a swap that had not ended; each move is a model, its old and its new version."""
    members = tuple(Member(*move) for move in moves)
    names = ("+".join(move[place] for move in moves) for place in range(3))
    operation = SwapOperation(swap_id, *names, SwapState.TRANSITIONING, 1.0, members=members)
    return SwapRecord(operation, progress, Drain(), Timeouts())


def wanted(**versions: str) -> dict[str, DesiredVersion]:
    """Return what shall be active."""
    return {model: DesiredVersion(model, version, "loader", "source", None) for model, version in versions.items()}


@pytest.mark.parametrize("step", Step)
def test_a_swap_is_finished_behind_its_pivot_and_undone_before(step: Step) -> None:
    """What is written down decides: the step that was begun."""
    (unit,) = units([record("a", Progress(step), ("m", "1", "2"))], wanted(m="1"))
    past = ORDER.index(step) > ORDER.index(PIVOT)
    assert unit.swaps[0].end is (SwapState.COMPLETED if past else SwapState.FAILED)
    assert f"in its {step.value} step" in unit.swaps[0].why


@pytest.mark.parametrize("end", [SwapState.ROLLED_BACK, SwapState.CANCELLED, SwapState.SUPERSEDED, SwapState.FAILED])
@pytest.mark.parametrize("step", list(Step)[:5])
def test_what_was_being_undone_ends_as_it_was_to_end(step: Step, end: SwapState) -> None:
    """Also behind the pivot."""
    (unit,) = units([record("a", Progress(step, forward=False, end=end), ("m", "1", "2"))], wanted(m="1"))
    assert (unit.swaps[0].end, unit.instead) == (end, ())


def test_models_of_one_group_are_recovered_together() -> None:
    """Also where two groups share a model; others by themselves, also without a swap."""
    groups = [
        record("x", Progress(Step.LOAD), ("a", "1", "2"), ("b", "1", "2")),
        record("y", Progress(Step.DRAIN), ("b", "0", "1"), ("c", "0", "1")),
        record("z", Progress(Step.LOAD), ("e", "1", "2")),
    ]
    found = units(groups, wanted(a="1", b="1", c="1", d="1", e="1"))
    assert [unit.models for unit in found] == [("a", "b", "c"), ("d",), ("e",)]
    assert [[swap.record.operation.id for swap in unit.swaps] for unit in found] == [["x", "y"], [], ["z"]]


def test_there_is_a_way_back_from_what_was_to_be_finished() -> None:
    """To the old versions, where all models of the unit have one; from what is undone there is none."""
    done = record("x", Progress(Step.DRAIN), ("a", "1", "2"), ("b", "1", "2"))
    (unit,) = units([done], wanted(a="2", b="2"))
    assert unit.instead == ({"a": "1", "b": "1"},)
    other = record("y", Progress(Step.LOAD), ("b", "2", "3"), ("c", "5", "6"))
    (unit,) = units([done, other], wanted(a="2", b="2", c="5"))
    assert unit.instead == ()


def test_the_way_back_takes_swaps_back_whole_and_the_youngest_first() -> None:
    """Each set has once served as it is; and it ends where every model has another version than the wanted one."""
    group = record("x", Progress(Step.DRAIN), ("a", "1", "2"), ("b", "1", "2"))
    alone = record("y", Progress(Step.DRAIN), ("a", "2", "3"))
    (unit,) = units([group, alone], wanted(a="3", b="2"))
    assert unit.instead == ({"a": "2", "b": "2"}, {"a": "1", "b": "1"})
    assert {f"{key}" for key in unit.keys} == {"a/1", "a/2", "a/3", "b/1", "b/2"}
    (unit,) = units([record("x", Progress(Step.DRAIN), ("a", "1", "2")), alone], wanted(a="3"))
    assert unit.instead == ({"a": "2"},)


def test_there_is_no_way_back_from_where_no_swap_has_led() -> None:
    """The traffic of a model has gone elsewhere since: what the swap had replaced belongs to another time."""
    group = record("x", Progress(Step.DRAIN), ("a", "1", "2"), ("b", "1", "2"))
    (unit,) = units([group], wanted(a="3", b="2"))
    assert unit.instead == ()


def test_a_swap_whose_model_is_unknown_is_recovered_by_what_it_says() -> None:
    """Nothing is checked of a version of which only the name was kept."""
    for step, version in ((Step.LOAD, "1"), (Step.DRAIN, "2")):
        (unit,) = units([record("a", Progress(step), ("m", "1", "2"))], {})
        assert unit.wanted["m"].version == version
        assert mismatch(unit.wanted["m"], VersionSpec("m", version, "anything", loader="any")) is None


MODELS = st.sampled_from("abcdef")


@given(
    groups=st.lists(st.lists(MODELS, min_size=1, max_size=3, unique=True), max_size=5),
    active=st.sets(MODELS),
)
def test_every_model_and_every_swap_is_in_one_unit(groups: list[list[str]], active: set[str]) -> None:
    """No model is in two, and all models of a swap are in the same one."""
    swaps = [
        record(str(n), Progress(Step.LOAD), *((model, "1", "2") for model in group)) for n, group in enumerate(groups)
    ]
    found = units(swaps, wanted(**dict.fromkeys(sorted(active), "1")))
    models = [model for unit in found for model in unit.models]
    assert sorted(models) == sorted(active.union(*groups))
    ids = [swap.record.operation.id for unit in found for swap in unit.swaps]
    assert sorted(ids) == sorted(map(str, range(len(swaps))))
    for unit in found:
        for swap in unit.swaps:
            assert {member.model for member in swap.record.operation.members} <= set(unit.models)


def test_a_file_may_move_and_must_not_change() -> None:
    """Another path is the same version; another loader or another digest is not; a missing digest proves nothing."""
    before = DesiredVersion("m", "2", "onnx", "/old/m.onnx", "a" * 64)
    spec = VersionSpec("m", "2", "/new/m.onnx", loader="onnx", sha256="a" * 64)
    assert mismatch(before, spec) is None
    assert mismatch(before, attrs.evolve(spec, sha256=None)) is None
    assert mismatch(attrs.evolve(before, sha256=None), spec) is None
    assert "with the loader 'other'" in str(mismatch(before, attrs.evolve(spec, loader="other")))
    assert "with the digest bbb" in str(mismatch(before, attrs.evolve(spec, sha256="b" * 64)))
