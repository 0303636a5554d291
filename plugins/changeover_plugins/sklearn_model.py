"""A fitted scikit-learn estimator as a model: what it is asked, what it answers, and what it says of both.

A `SklearnModel` owns its estimator until `close`. It spawns nothing of its own (an estimator's `n_jobs` may) and reads
no file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from changeover.plugin import BATCH, Signature, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUT = "X"
"""The one input of every model: what scikit-learn's own `predict` calls it."""

_PARTS = frozenset({"estimator", "estimators", "n_estimators", "transformers", "transformer_list"})
"""What an estimator calls the parts that it is made of."""

_WITHOUT_DTYPE = "USO"  # NumPy gives each length of string a dtype of its own (`<U5`); objects have none to speak of


class Asker:
    """Puts one array to an estimator and names what comes back."""

    def __init__(self, estimator: Any, label: str, *, probabilities: bool, frame: Callable[[Any], Any]) -> None:
        """Take over the estimator; `frame` makes of an array what it was fitted on."""
        self.label = label
        self._estimator = estimator
        self._probabilities: Callable[[Any], Any] | None = (
            getattr(estimator, "predict_proba", None) if probabilities else None
        )
        self._frame = frame

    @property
    def gives_probabilities(self) -> bool:
        """Whether the answer holds probabilities."""
        return self._probabilities is not None

    def __call__(self, array: Any) -> dict[str, Any]:
        """Return the outputs by name; raises what the estimator raises."""
        framed = self._frame(array)
        outputs = {self.label: _dense(self._estimator.predict(framed))}
        if self._probabilities is not None:
            found = self._probabilities(framed)
            # Of several outputs, scikit-learn gives a list of arrays.
            outputs |= {"probabilities": _dense(found)} if hasattr(found, "shape") else _numbered(found)
        return outputs


class SklearnModel:
    """One fitted estimator."""

    def __init__(self, ask: Asker, signature: Signature, unpacked_bytes: int, *, thread_safe: bool) -> None:
        """Take over what asks the estimator; nobody else may keep it."""
        self.signature = signature
        self.thread_safe = thread_safe
        self._ask: Asker | None = ask
        self._unpacked_bytes = unpacked_bytes

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return what the estimator's `predict` and `predict_proba` answer to the array "X", by name.

        Raises RuntimeError after `close`, and what scikit-learn raises on values that it cannot use (NaN, say).
        """
        ask = self._ask
        if ask is None:
            raise RuntimeError("this scikit-learn model was closed; predict may not be called after close")
        return ask(inputs[INPUT])

    def memory_bytes(self) -> int:
        """Return what the file unpacks to: arrays dominate both."""
        return self._unpacked_bytes

    def close(self) -> None:
        """Let go of the estimator; a `predict` that another thread is in ends first."""
        self._ask = None


def check_estimator(estimator: Any, where: str) -> None:
    """Raise ValueError for what is no estimator, was not fitted or predicts nothing; `where` is where it came from."""
    kind = type(estimator).__name__
    if not hasattr(estimator, "fit"):
        raise ValueError(f"{where} holds a {kind} and no estimator; dump the fitted estimator itself")
    validation = importlib.import_module("sklearn.utils.validation")
    exceptions = importlib.import_module("sklearn.exceptions")
    try:
        validation.check_is_fitted(estimator)
    except exceptions.NotFittedError as error:
        raise ValueError(f"{where} holds a {kind} that was not fitted; call fit before skops.io.dump") from error
    except (AttributeError, TypeError) as error:  # a class, or nothing made from scikit-learn's BaseEstimator
        raise ValueError(
            f"{where} holds a {kind}, which scikit-learn does not take for an estimator: {error}"
        ) from error
    if not hasattr(estimator, "predict"):
        raise ValueError(f"{where} holds a {kind}, which has no predict for new rows, and only that can be served")


def changes_filters(estimator: Any) -> bool:
    """Return whether its predictions go through scikit-learn's `Parallel`, as those of forests and other ensembles do.

    That sets the warning filters of the whole process around each part, on whichever thread: two that predict at once
    leave them in pieces, and a process that makes errors of warnings loses requests.
    """
    try:
        return any(_runs_in_parts(part) for part in (estimator, *estimator.get_params(deep=True).values()))
    except AttributeError:  # saved by a version that did not know all of the settings of this one: it cannot be told
        return True


def _runs_in_parts(part: Any) -> bool:
    if not hasattr(part, "get_params"):
        return False
    names: set[str] = set(part.get_params(deep=False))
    return "n_jobs" in names and not names.isdisjoint(_PARTS)


def read_signature(estimator: Any, ask: Asker, dtype: str) -> Signature:
    """Return the signature; the outputs are what the estimator answers to one row of zeros or, failing that, a guess.

    Asking is the one way that holds for pipelines, several outputs and indicator matrices alike.
    """
    if _takes_text(estimator):
        spec = TensorSpec(INPUT, "", (BATCH,))
    else:
        spec = TensorSpec(INPUT, dtype, (BATCH, getattr(estimator, "n_features_in_", None)))
    numpy = importlib.import_module("numpy")
    row = numpy.array([""]) if spec.shape == (BATCH,) else numpy.zeros((1, spec.shape[1] or 1), dtype)
    try:
        answered: dict[str, Any] = ask(row)
    except Exception:  # noqa: BLE001 - zeros may be no row for it: a category that it does not know, say
        return Signature((spec,), _guessed(estimator, ask))
    return Signature((spec,), tuple(_spec(name, array) for name, array in answered.items()))


def _takes_text(estimator: Any) -> bool:
    """Return whether the estimator, or the first step of a pipeline, takes plain strings."""
    while steps := getattr(estimator, "steps", None):
        estimator = steps[0][1]
    tags = estimator.__sklearn_tags__().input_tags if hasattr(estimator, "__sklearn_tags__") else None
    return tags is not None and tags.string and not tags.two_d_array


def _guessed(estimator: Any, ask: Asker) -> tuple[TensorSpec, ...]:
    """Return the outputs of an estimator with one answer per row."""
    classes: Any = getattr(estimator, "classes_", None)
    label = TensorSpec(ask.label, "", (BATCH,))
    if not ask.gives_probabilities or not hasattr(classes, "shape"):
        return (label,)
    return label, TensorSpec("probabilities", "float64", (BATCH, *classes.shape))


def _spec(name: str, array: Any) -> TensorSpec:
    """Return the spec of an answer to one row."""
    dtype = "" if array.dtype.kind in _WITHOUT_DTYPE else str(array.dtype)
    return TensorSpec(name, dtype, (BATCH, *array.shape[1:]))


def _dense(found: Any) -> Any:
    """Return an answer as an array: trained on a sparse indicator matrix, an estimator answers with one."""
    return found.toarray() if hasattr(found, "toarray") else found


def _numbered(found: Sequence[Any]) -> dict[str, Any]:
    """Return the probabilities of several outputs, which scikit-learn keeps in a list, by name."""
    return {f"probabilities_{index}": _dense(one) for index, one in enumerate(found)}
