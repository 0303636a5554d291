"""Whether the inputs of a request fit a model's signature; pure, and by duck typing, because NumPy is not needed.

An array is anything with a `shape` and a `dtype` that compares equal to its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from changeover.core.values import VersionKey
from changeover.errors import InvalidInput
from changeover.plugin import BATCH, Signature, TensorSpec


def check_inputs(signature: Signature, inputs: Mapping[str, Any], key: VersionKey) -> int:
    """Return how many rows of a batch the inputs fill, 1 where there is no batch dimension.

    Raises `InvalidInput` with the name of the input, what it is and what it should be.
    """
    # The type is asked first: an instance check goes through the slow machinery of abstract classes.
    if inputs.__class__ is not dict and not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidInput(_text(key, f"inputs must be a mapping of names to arrays, not {type(inputs).__name__}"))
    if not signature.checked:
        return 1
    if len(inputs) != len(signature.inputs):
        _raise_for_names(signature, inputs, key)
    rows: int | None = None
    for spec in signature.inputs:
        if spec.name not in inputs:
            _raise_for_names(signature, inputs, key)
        batch = _check_array(spec, inputs[spec.name], key)
        if batch is not None and rows is not None and batch != rows:
            raise InvalidInput(_text(key, f"input {spec.name!r} has {batch} rows where another input has {rows}"))
        rows = rows if batch is None else batch
    return 1 if rows is None else rows


def _check_array(spec: TensorSpec, array: Any, key: VersionKey) -> int | None:
    """Return the size of the array's batch dimension, None where it has none."""
    shape = getattr(array, "shape", None)
    dtype = getattr(array, "dtype", None)
    if shape is None or dtype is None:
        kind = type(array).__name__
        wanted = f"a {spec.dtype} array" if spec.dtype else "an array"
        raise InvalidInput(
            _text(
                key,
                f"input {spec.name!r} must be {wanted}, not {kind}; see numpy.asarray",
            )
        )
    if spec.dtype and dtype != spec.dtype:
        raise InvalidInput(_text(key, f"input {spec.name!r} must be {spec.dtype}, not {dtype}; see numpy.astype"))
    fits = len(shape) == len(spec.shape)
    if not fits or any(isinstance(want, int) and want != got for want, got in zip(spec.shape, shape, strict=True)):
        wanted = "(" + ", ".join("any" if d is None else str(d) for d in spec.shape) + ")"
        raise InvalidInput(_text(key, f"input {spec.name!r} must have the shape {wanted}, not {tuple(shape)}"))
    if spec.shape[:1] != (BATCH,):
        return None
    if shape[0] == 0:
        raise InvalidInput(_text(key, f"input {spec.name!r} has no rows; send at least one"))
    return int(shape[0])


def _raise_for_names(signature: Signature, inputs: Mapping[str, Any], key: VersionKey) -> None:
    wanted = {spec.name for spec in signature.inputs}
    missing = ", ".join(sorted(map(repr, wanted - inputs.keys()))) or "none"
    unknown = ", ".join(sorted(map(repr, inputs.keys() - wanted))) or "none"
    takes = ", ".join(repr(spec.name) for spec in signature.inputs)
    raise InvalidInput(_text(key, f"wrong input names: missing {missing}; unknown {unknown}; the model takes {takes}"))


def _text(key: VersionKey, what: str) -> str:
    return f"{key}: {what}"


def copied(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of arrays by name: whoever gets them may change them, and their owner may reuse his buffers."""
    return {name: array.copy() if hasattr(array, "copy") else array for name, array in arrays.items()}
