"""Every error says who can act, whether to try again and whether the model ran, also as a twin in another task.

Owns no state.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from changeover import errors
from changeover.core.operations import SwapOperation
from changeover.core.snapshots import Holder
from changeover.core.values import SwapState
from changeover.errors import (
    Actor,
    CallerError,
    ChangeoverError,
    DrainTimeout,
    InvalidInput,
    InvalidValue,
    ModelError,
    Ran,
    ResourceError,
    SwapNotDone,
    TryAgain,
)
from changeover.runtime.mailbox import twin

BRANCHES = (CallerError, ModelError, TryAgain, ResourceError, SwapNotDone)
ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BaseException)]
OPERATION = SwapOperation("a1b2", "digits", "1", "2", SwapState.FAILED, 0.0)
HOLDERS = (Holder("lease", "#0", 1.0, None), Holder("request", "mine", 2.0, "app.py:7"))


def made(kind: type[ChangeoverError], **culprit: Any) -> Any:
    """Make an error of any class."""
    if issubclass(kind, SwapNotDone):
        return kind("it went wrong", operation=OPERATION, **culprit)
    if issubclass(kind, DrainTimeout):
        return kind("it went wrong", holders=list(HOLDERS), **culprit)
    return kind("it went wrong", **culprit)


def raised(error: BaseException) -> BaseException:
    """Raise an error from a cause, and return it."""
    with pytest.raises(type(error)) as caught:
        raise error from OSError("cause")
    return caught.value


def ancestors(kind: type) -> Iterator[type]:
    """Yield the branches that a class belongs to."""
    return (branch for branch in BRANCHES if issubclass(kind, branch))


# --- the tree -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_in_the_tree(kind: type[ChangeoverError]) -> None:
    """Each class is under `ChangeoverError`, in exactly one branch, and explains itself in its docstring."""
    assert issubclass(kind, ChangeoverError)
    if kind is not ChangeoverError:
        assert len(list(ancestors(kind))) == 1
    assert inspect.cleandoc(kind.__doc__ or "").endswith(".")
    assert "__doc__" in vars(kind)


@pytest.mark.parametrize("kind", ALL)
def test_every_error_says_who_can_act_and_whether_to_try_again(kind: type[ChangeoverError]) -> None:
    """`acts` names somebody and `retryable` is yes or no, on the class, before any error is made."""
    assert kind.acts in get_args(Actor)
    assert kind.retryable is True or kind.retryable is False


@pytest.mark.parametrize("kind", ALL)
def test_every_error_keeps_its_culprit(kind: type[ChangeoverError]) -> None:
    """The message is what a person reads; model, version and whether it ran are there by name, also when unknown."""
    error = made(kind, model="digits", version="2", ran="unknown")
    assert str(error) == "it went wrong"
    assert (error.model, error.version, error.ran) == ("digits", "2", "unknown")
    plain = made(kind)
    assert (plain.model, plain.version, plain.ran) == (None, None, "no")
    assert plain.ran in get_args(Ran)


@pytest.mark.parametrize(
    ("branch", "acts", "retryable"),
    [(CallerError, "caller", False), (ModelError, "model", False), (TryAgain, "nobody", True),
     (ResourceError, "operator", False)],
)  # fmt: skip
def test_a_branch_says_who_can_act(branch: type[ChangeoverError], acts: Actor, retryable: bool) -> None:
    """Every class of a branch names the same actor; a call that was wrong never becomes right by repeating it."""
    assert branch.retryable is retryable
    for kind in ALL:
        if issubclass(kind, branch):
            assert kind.acts == acts
            if branch in (CallerError, TryAgain):
                assert kind.retryable is retryable


def test_wrong_values_are_value_errors() -> None:
    """Who expects Python's own error for a wrong value gets one."""
    assert [kind for kind in ALL if issubclass(kind, ValueError)] == [InvalidValue, InvalidInput]


def test_a_drain_timeout_keeps_its_holders() -> None:
    """The holders are a tuple, empty where nobody was named."""
    assert made(DrainTimeout).holders == HOLDERS
    assert DrainTimeout("late").holders == ()


def test_a_swap_that_was_not_done_needs_its_operation() -> None:
    """No error of a swap can be made without telling how far the swap came."""
    with pytest.raises(TypeError):
        SwapNotDone("no")  # type: ignore[call-arg]
    assert made(SwapNotDone).operation is OPERATION


# --- twins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_a_twin_is_a_copy(kind: type[ChangeoverError]) -> None:
    """A twin has the class, the message, every attribute and the cause of its original, and is another object."""
    error = raised(made(kind, model="digits", version="2", ran="yes"))
    copy = twin(error)
    assert copy is not error
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert copy.__cause__ is error.__cause__
    assert isinstance(copy.__cause__, OSError)
    assert copy.__traceback__ is None


def test_twins_are_raised_apart() -> None:
    """What happens to one twin, its traceback, its cause and its attributes, does not happen to the other."""
    error = made(InvalidValue, model="digits")
    one, other = twin(error), twin(error)
    raised(one)
    one.model = "changed"
    assert other.__traceback__ is None
    assert other.__cause__ is None
    assert (other.model, error.model) == ("digits", "digits")


def test_a_note_on_one_twin_is_not_on_the_other() -> None:
    """Notes that were there are copied; a note that is added to one twin is added to no other."""
    error = made(InvalidValue)
    error.add_note("before")
    one, other = twin(error), twin(error)
    one.add_note("after")
    assert one.__notes__ == ["before", "after"]
    assert other.__notes__ == ["before"]
    assert error.__notes__ == ["before"]


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), OSError(2, "no such file", "model.onnx"), ExceptionGroup("two", [ValueError(1), KeyError(2)]),
     RuntimeError(), ValueError(1, 2)],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_other_errors_have_twins_too(error: Exception) -> None:
    """An error that is none of ours, as a loader may raise it, has a twin that reads the same."""
    assert twin(error) is not error
    assert repr(twin(error)) == repr(error)
    assert str(twin(error)) == str(error)
