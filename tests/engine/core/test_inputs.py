"""Inputs that do not fit are refused by name, with what was wrong and the way out; the rest go through.

Each case is tried with NumPy arrays and with a class that only has a shape and a dtype. Owns no state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import pytest

from changeover.core.inputs import check_inputs
from changeover.core.values import VersionKey
from changeover.errors import InvalidInput
from changeover.plugin import BATCH, Signature, TensorSpec

KEY = VersionKey("digits", "2")
Make = Callable[..., Any]

SCALED = Signature(
    inputs=(
        TensorSpec("pixels", "float32", (BATCH, 4)),
        TensorSpec("scale", "float64", ()),
        TensorSpec("mask", "bool", (BATCH, None, "width")),
    )
)
"""Two batched inputs and one that is not."""


@attrs.frozen
class Duck:
    """As much of an array as the engine looks at."""

    shape: tuple[int, ...]
    dtype: str


def numpy_array(dtype: str, *shape: int) -> Any:
    """Make a NumPy array of zeros."""
    return pytest.importorskip("numpy").zeros(shape, dtype)


def duck(dtype: str, *shape: int) -> Duck:
    """Make a duck."""
    return Duck(shape, dtype)


@pytest.fixture(params=[numpy_array, duck], ids=["numpy", "duck"])
def array(request: pytest.FixtureRequest) -> Make:
    """Make arrays of one kind, by dtype and shape."""
    make: Make = request.param
    return make


def scaled(array: Make, rows: int = 3, **others: Any) -> dict[str, Any]:
    """Make inputs that fit `SCALED`, but for those given."""
    fitting = {"pixels": array("float32", rows, 4), "scale": array("float64"), "mask": array("bool", rows, 5, 6)}
    return fitting | others


def refusal(inputs: Any, signature: Signature = SCALED) -> str:
    """Return the message with which inputs are refused; it begins with the version."""
    with pytest.raises(InvalidInput) as caught:
        check_inputs(signature, inputs, KEY)
    message = str(caught.value)
    assert message.startswith("digits/2: ")
    return message


# --- what fits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_inputs_that_fit_return_their_rows(array: Make, rows: int) -> None:
    """The answer is the size of the batch dimension; free dimensions and unbatched inputs are as they like."""
    assert check_inputs(SCALED, scaled(array, rows), KEY) == rows


def test_any_mapping_will_do(array: Make) -> None:
    """Inputs need not be a dict."""
    assert check_inputs(SCALED, MappingProxyType(scaled(array)), KEY) == 3


def test_without_a_batch_dimension_there_is_one_row(array: Make) -> None:
    """A model that cannot be batched counts one row for each request, whatever its shapes."""
    signature = Signature(inputs=(TensorSpec("x", "float32", ("n", 4)),))
    assert check_inputs(signature, {"x": array("float32", 9, 4)}, KEY) == 1
    assert check_inputs(signature, {"x": array("float32", 0, 4)}, KEY) == 1


def test_only_the_first_dimension_is_a_batch(array: Make) -> None:
    """A dimension called batch that does not come first is a free one like others."""
    signature = Signature(inputs=(TensorSpec("x", "float32", (4, BATCH)),))
    assert check_inputs(signature, {"x": array("float32", 4, 9)}, KEY) == 1


def test_an_empty_dtype_accepts_any(array: Make) -> None:
    """Where the signature names no dtype every dtype fits."""
    signature = Signature(inputs=(TensorSpec("x", "", (BATCH,)),))
    for dtype in ("float32", "int64", "bool"):
        assert check_inputs(signature, {"x": array(dtype, 2)}, KEY) == 2


def test_a_model_without_inputs_takes_none() -> None:
    """An empty mapping fits an empty signature, and nothing else does."""
    assert check_inputs(Signature(), {}, KEY) == 1
    assert "unknown 'x'" in refusal({"x": 1}, Signature())


@pytest.mark.parametrize("inputs", [{}, {"x": 1}, {"anything": object(), "else": None}])
def test_an_unchecked_model_takes_what_comes(inputs: Mapping[str, Any]) -> None:
    """A model that says nothing of its inputs is handed any mapping, as one row."""
    assert check_inputs(Signature(checked=False), inputs, KEY) == 1


# --- what does not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", [SCALED, Signature(checked=False)])
@pytest.mark.parametrize("inputs", [None, [], [("x", 1)], "x", 1, {"x"}])
def test_inputs_must_be_a_mapping(inputs: Any, signature: Signature) -> None:
    """What is no mapping is refused by its type, also by a model that checks nothing else."""
    assert f"must be a mapping of names to arrays, not {type(inputs).__name__}" in refusal(inputs, signature)


def test_a_missing_input_is_named(array: Make) -> None:
    """The message names what is missing and what the model takes."""
    inputs = scaled(array)
    del inputs["scale"]
    assert refusal(inputs).endswith("missing 'scale'; unknown none; the model takes 'pixels', 'scale', 'mask'")


def test_an_unknown_input_is_named(array: Make) -> None:
    """The message names what the model does not know, whether or not something is missing."""
    assert "missing none; unknown 'depth'" in refusal(scaled(array, depth=array("float32")))
    wrong = scaled(array, depth=array("float32"))
    del wrong["pixels"]
    assert "missing 'pixels'; unknown 'depth'" in refusal(wrong)


def test_names_need_not_be_texts() -> None:
    """A key that is no text is unknown, like any other."""
    assert "unknown 1" in refusal({1: None}, Signature(inputs=(TensorSpec("x", "", ()),)))


def test_nothing_in_place_of_an_array_is_named(array: Make) -> None:
    """An input that is there and None is refused by its name, not as a wrong name."""
    message = refusal(scaled(array, scale=None))
    assert "'scale'" in message
    assert "missing none; unknown none" not in message


@pytest.mark.parametrize("value", [[1.0, 2.0], 1.0, "text", {"shape": (1,)}])
def test_what_is_no_array_is_refused_with_the_way_out(array: Make, value: Any) -> None:
    """A list or a number is refused by its type, and the message says how to make an array of it."""
    message = refusal(scaled(array, pixels=value))
    assert f"input 'pixels' must be a float32 array, not {type(value).__name__}" in message
    assert "numpy.asarray" in message


def test_a_wrong_dtype_is_refused_with_the_way_out(array: Make) -> None:
    """The message has both dtypes, and says how to convert."""
    message = refusal(scaled(array, pixels=array("float64", 3, 4)))
    assert "input 'pixels' must be float32, not float64" in message
    assert "numpy.astype" in message


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 1), (4, 3), ()])
def test_a_wrong_shape_is_refused_with_both_shapes(array: Make, shape: tuple[int, ...]) -> None:
    """A fixed dimension must be met and their number too; the message has the shape that is wanted and the one sent."""
    message = refusal(scaled(array, pixels=array("float32", *shape)))
    assert f"input 'pixels' must have the shape (batch, 4), not {shape}" in message


def test_a_free_dimension_is_shown_by_its_name(array: Make) -> None:
    """In the message a dimension without a name is `any`."""
    assert "(batch, any, width), not (3, 5)" in refusal(scaled(array, mask=array("bool", 3, 5)))


def test_an_empty_batch_is_refused_with_the_way_out(array: Make) -> None:
    """A batch of no rows is refused, and the message says to send one."""
    assert "input 'pixels' has no rows; send at least one" in refusal(scaled(array, rows=0))


def test_batched_inputs_must_have_as_many_rows(array: Make) -> None:
    """Two inputs that disagree about the batch are refused with both numbers."""
    message = refusal(scaled(array, mask=array("bool", 2, 5, 6)))
    assert "input 'mask' has 2 rows where another input has 3" in message


def test_the_inputs_stay_as_they_are(array: Make) -> None:
    """To check inputs changes nothing in them."""
    inputs = scaled(array)
    before = dict(inputs)
    check_inputs(SCALED, inputs, KEY)
    assert inputs.keys() == before.keys()
    assert all(inputs[name] is value for name, value in before.items())
