"""A loader that watches: it wraps the ONNX loader and counts loads, closes, and predictions on a closed model.

The counts are a `Ledger`, the one that `WitnessLoader.ledger` named when a model was loaded. It spawns nothing; with
the option `hang_s` a load blocks its thread, as one that waits for a dead file server would; with `raise_times` a model
raises on so many requests.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from changeover.plugin import API_VERSION, Model, Signature, Source
from changeover_plugins.onnx_loader import OnnxLoader

LOADER = "demo-onnx"
"""The entry-point name of this loader."""


class Ledger:
    """What became of every model of one run, by version; may be written and read from any thread."""

    def __init__(self) -> None:
        """Begin with nothing loaded."""
        self.loaded: Counter[str] = Counter()
        """Loads that brought a model."""
        self.closed: Counter[str] = Counter()
        """Calls of `close()`."""
        self.used_after_close: Counter[str] = Counter()
        """Calls of `predict` that began, or were still running, when `close()` had been called."""
        self.raised: Counter[str] = Counter()
        """Requests on which a model raised because it was told to."""
        self.hanging: Counter[str] = Counter()
        """Loads that hang at this moment."""
        self._lock = threading.Lock()
        self._let_go = threading.Event()

    def count(self, counter: Counter[str], version: str, by: int = 1) -> None:
        """Add to one of the counters; two threads may do so at once."""
        with self._lock:
            counter[version] += by

    def raises_once_more(self, version: str, times: int) -> bool:
        """Return whether a model of this version has yet to raise, and count it if so."""
        with self._lock:
            still = self.raised[version] < times
            self.raised[version] += still
            return still

    def living(self, version: str) -> int:
        """Return how many models of a version are loaded and not closed."""
        with self._lock:
            return self.loaded[version] - self.closed[version]

    def hang(self, version: str, hang_s: float) -> None:
        """Block this thread for so long, or until `let_go`."""
        self.count(self.hanging, version)
        try:
            self._let_go.wait(hang_s)
        finally:
            self.count(self.hanging, version, -1)

    def let_go(self) -> None:
        """End every hang, now and from now on: the run is over."""
        self._let_go.set()


class WitnessModel:
    """Another model, watched."""

    def __init__(
        self, model: Model, version: str, ledger: Ledger, *, raise_after: int = 0, raise_times: int = 0
    ) -> None:
        """Take over the model; what happens to it is counted in `ledger` under `version`.

        Behind its first `raise_after` calls it raises on `raise_times` requests.
        """
        self.signature: Signature = model.signature
        self.thread_safe = model.thread_safe
        self._model = model
        self._version = version
        self._ledger = ledger
        self._raise_after = raise_after
        self._raise_times = raise_times
        self._closed = False
        ledger.count(ledger.loaded, version)

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Pass on; raises what the model raises, and RuntimeError where it is told to."""
        try:
            if self._raise_times:
                self._raise_if_told(inputs)
            return self._model.predict(inputs)
        finally:
            # One look behind the call catches both: what is closed stays closed, so a call that began too late is
            # late here as well. A call that raised for being late is counted all the same.
            if self._closed:
                self._ledger.count(self._ledger.used_after_close, self._version)

    def _raise_if_told(self, inputs: Mapping[str, Any]) -> None:
        """Raise on single requests until it has done so often enough; a batch comes again request by request."""
        if self._raise_after:
            self._raise_after -= 1
            return
        single = all(len(values) == 1 for values in inputs.values())
        if single and not self._ledger.raises_once_more(self._version, self._raise_times):
            return
        if single or self._ledger.raised[self._version] < self._raise_times:
            raise RuntimeError("this version raises on its first requests")

    def memory_bytes(self) -> int | None:
        """Return what the model says."""
        return self._model.memory_bytes()

    def close(self) -> None:
        """Count, then pass on; a second call is counted too, and makes the sum of loads and closes wrong."""
        self._closed = True
        self._ledger.count(self._ledger.closed, self._version)
        self._model.close()


class WitnessLoader:
    """Loads `.onnx` files under watch.

    The options are `hang_s`, `raise_after` and `raise_times` (default 0), and those of the ONNX loader.
    """

    api_version: ClassVar[int] = API_VERSION
    executes_code_on_load: ClassVar[bool] = False

    ledger: ClassVar[Ledger] = Ledger()
    """Where the next load is counted; the engine makes a loader without arguments, so it stands here."""

    def load(self, source: Source) -> Model:
        """Hang if told to, then load as the ONNX loader does; raises what that raises, and TypeError for its own."""
        ledger = self.ledger
        options = dict(source.options)
        hang_s = _number(source, options, "hang_s")
        raises = {name: int(_number(source, options, name)) for name in ("raise_after", "raise_times")}
        if hang_s > 0:
            ledger.hang(source.version, hang_s)
        model = OnnxLoader().load(attrs.evolve(source, options=options))
        return WitnessModel(model, source.version, ledger, **raises)


def _number(source: Source, options: dict[str, Any], name: str) -> float:
    """Take a number out of the options, 0 where it is not there; raises TypeError for anything else."""
    number = options.pop(name, 0)
    if not isinstance(number, int | float):
        raise TypeError(f"option {name!r} of {source.model}/{source.version} is {number!r}; it must be a number")
    return number
