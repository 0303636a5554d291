"""A test with @given as Hypothesis runs it, with a function in the test's place that gets each example as a program.

Owns what stands in the test's place, and puts the test back. The names of Hypothesis's that are not public are here.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from ast import literal_eval
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, reproduce_failure, settings
from hypothesis.errors import DidNotReproduce
from hypothesis.reporting import with_reporter
from hypothesis.strategies import DataObject

from changeover_sim.pytest_plugin import fail
from changeover_sim.pytest_run import Program

_SETTINGS = "_hypothesis_internal_use_settings"
_REPRODUCED = "_hypothesis_internal_use_reproduce_failure"
"""Where Hypothesis keeps what its decorators say of a test; its own plugin for pytest reads and writes there, too."""
_BLOB = re.compile(r"@reproduce_failure\(('[^']*'), (b'[^']*')\)")
_EXPLICIT = "explicit"

_NO_DATA = (
    "st.data() draws while the test runs, and every schedule would draw anew; draw in @given, or let "
    "changeover_sim.choose() decide inside the test: its decisions are explored, too"
)


class Ends(BaseException):
    """Ends the search at whatever example it is: Hypothesis does not catch it, and looks for no smaller example."""

    def __init__(self, end: Callable[[], object]) -> None:
        """`end` is called outside of Hypothesis and raises what the test ends with."""
        super().__init__(end)
        self.end = end


class _Ran(Exception):
    """The example that was asked for has been run."""


class DrawnProgram(Program):
    """A test with its fixtures and one example."""

    def __init__(
        self, item: pytest.Function, test: Callable[..., Any], fixtures: Mapping[str, Any], inputs: dict[str, Any]
    ) -> None:
        """Give every schedule a copy of the inputs, which it may change; what cannot be copied is shared by all."""
        super().__init__(item, test, fixtures)
        self.inputs = inputs
        self._is_copied = True
        try:
            copy.deepcopy(inputs)
        except Exception:  # noqa: BLE001 - whatever the class of an input raises
            self._is_copied = False

    def _with_inputs(self) -> Callable[..., Any]:
        return functools.partial(self._call, **(copy.deepcopy(self.inputs) if self._is_copied else self.inputs))

    # A line of this file would stand in the recorded schedule; a line of no file does not.
    _with_inputs.__code__ = _with_inputs.__code__.replace(co_filename="<inputs>")
    __call__: Any = property(_with_inputs)


class Given:
    """A test that Hypothesis calls with one example after the other."""

    def __init__(self, item: pytest.Function, test: Callable[..., Any], fixtures: Mapping[str, Any]) -> None:
        """`test` is the async function inside @given, `fixtures` what pytest calls it with."""
        self._item = item
        self._test = test
        self._fixtures = fixtures
        self._wrapped: Any = getattr(item.obj, "__func__", item.obj)
        self._said: dict[str, Any] = self._wrapped.__dict__
        """What decorators have said of the test."""

    @property
    def _settings(self) -> settings:
        return cast("settings", self._said.get(_SETTINGS, settings.default))

    @property
    def is_reproduced(self) -> bool:
        """Whether the test itself says which example it takes, by @reproduce_failure."""
        return self._said.get(_REPRODUCED) is not None

    def call(self, action: Callable[[DrawnProgram], None], **changes: Any) -> None:
        """Have Hypothesis call the test, and `action` instead of it, for example after example."""

        def explored(*args: Any, **kwargs: Any) -> None:
            action(self._program(args, kwargs))

        with self._instead(explored):
            self._said[_SETTINGS] = settings(self._settings, **(_fitting(self._settings) | changes))
            self._item.obj(**self._fixtures)

    def again(self, pin: str, action: Callable[[DrawnProgram], None]) -> str:
        """Call `action` with one example, and return the example as Hypothesis shows it.

        Raises what `action` raises, and ValueError where the test no longer has this example.
        """
        kind, _, rest = pin.partition(":")
        number = int(rest) if kind == _EXPLICIT else 0
        said: list[str] = []
        ran = _Ran()
        raised: list[BaseException] = []
        calls = iter(range(1 << 40))

        def chosen(program: DrawnProgram) -> None:
            if next(calls) != number:
                return
            try:
                action(program)
            except BaseException as error:  # noqa: BLE001 - raised below: Hypothesis would take it for the test's
                raised.append(error)
            raised.append(ran)
            raise ran

        phases = {"phases": [Phase.explicit]} if kind == _EXPLICIT else {}
        with self._reproduced(pin if kind != _EXPLICIT else ""), with_reporter(lambda text: said.append(str(text))):
            try:
                self.call(chosen, verbosity=Verbosity.normal, report_multiple_bugs=True, **phases)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - most often `ran` itself
                if not raised:
                    raise _no_such(pin, error) from None
        if not raised:
            raise _no_such(pin, DidNotReproduce("there is no such example"))
        if raised[0] is not ran:
            raise raised[0]
        return "\n".join([*said, *getattr(ran, "__notes__", [])][:1])

    def pin(self, number: int, notes: Sequence[str]) -> str | None:
        """Return the word by which the example of this number is found again; empty where none is needed.

        `notes` are those that Hypothesis wrote; None: it did not say how.
        """
        if self.is_reproduced:
            return ""
        explicit = len(getattr(self._wrapped, "hypothesis_explicit_examples", ()))
        if number < explicit and Phase.explicit in self._settings.phases:
            return f"{_EXPLICIT}:{number}"
        found = _BLOB.search("\n".join(notes))
        if found is None:
            return None
        return f"{literal_eval(found[1])}:{literal_eval(found[2]).decode()}"

    def _program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DrawnProgram:
        names = inspect.signature(self._wrapped).parameters
        inputs = {name: value for name, value in kwargs.items() if name not in names}
        others = {name: value for name, value in kwargs.items() if name in names}
        if any(isinstance(value, DataObject) for value in inputs.values()):
            raise Ends(functools.partial(fail, self._item, _NO_DATA))
        return DrawnProgram(self._item, functools.partial(self._test, *args), others, inputs)

    @contextmanager
    def _instead(self, explored: Callable[..., None]) -> Generator[None, None, None]:
        """Put a function in the place of the test's, and put back what was there."""
        handle = self._wrapped.hypothesis
        # Hypothesis makes the key in its database of the source, the name and what its own plugin has written on the
        # function that stands here: with all these of the test's the key is the test's, and no other test's.
        explored.__dict__.update(handle.inner_test.__dict__)
        functools.update_wrapper(explored, self._test)
        handle.inner_test = explored
        try:
            with self._restored():
                yield
        finally:
            handle.inner_test = self._test

    @contextmanager
    def _reproduced(self, pin: str) -> Generator[None, None, None]:
        """Decorate the test for as long as it takes to run the example of a pin."""
        with self._restored():
            if pin:
                version, _, blob = pin.partition(":")
                reproduce_failure(version, blob.encode())(self._wrapped)
            yield

    @contextmanager
    def _restored(self) -> Generator[None, None, None]:
        """Put back what decorators have said of the test."""
        before = dict(self._said)
        try:
            yield
        finally:
            self._said.clear()
            self._said.update(before)


def deaf(text: object) -> None:
    """Drop what a test notes: it does so in every schedule."""


def _fitting(mine: settings) -> dict[str, Any]:
    """Return those settings that a test of many schedules has, whatever its own are.

    A deadline would be the explorer's. Which lines ran says little where the order decides, and to find out slows every
    schedule down. What shrinks schedules may use Hypothesis, too, inside of an example.
    """
    nested = getattr(HealthCheck, "nested_given", None)  # which older ones do not have
    return {
        "deadline": None,
        "print_blob": True,
        "suppress_health_check": [*mine.suppress_health_check, *([nested] if nested else [])],
        "phases": [phase for phase in mine.phases if phase is not Phase.explain],
    }


def _no_such(pin: str, error: BaseException) -> ValueError:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return ValueError(f"the inputs {pin!r} cannot be had from this test ({reason}); explore it again to get new ones")
