"""The models of a run: they do what their parts say, fail where a fault strikes, and tell the judge all that is done.

A `Cast` owns every model that was made in one life of the engine, like the memory of its process. Spawns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import trio

from changeover.plugin import API_VERSION, FatalModelError, Signature, Source, TensorSpec

if TYPE_CHECKING:
    from changeover_sim.simulate.life import Life

LOADER = "simulated"
"""The name of the loader in the specs of simulated versions."""
WARM_UP = -1
"""The number of a request that is warm-up data."""
_RAISES = 0.25
"""How likely a load raises, where it may."""
CHUNKS = 3
"""So many chunks has a streamed answer."""
BAD, POISON = 1.0, 2.0
"""What the second number of a request does to its model: make it raise, put it beyond use."""

UNCHECKED = Signature(checked=False)
BATCHED = Signature((TensorSpec("x", "float64", ("batch", 2)),), (TensorSpec("y", "float64", ("batch",)),))


class Broken(Exception):
    """What a simulated model or loader raises."""


@attrs.frozen
class Part:
    """What one version is like."""

    model: str
    version: str
    execution: str = "inline"
    workers: int = 1
    batched: bool = False
    queue_limit: int = 1024
    memory: int = 10
    """Bytes that are reserved before it is loaded."""
    found: int | None = None
    """Bytes that it says that it occupies once it is loaded; None: as many as were reserved."""
    errors_in_a_row_max: int | None = None
    warm_ups: int = 0
    """So many requests of warm-up data."""
    load_timeout_s: float = 4.0
    load_s: tuple[float, ...] = (0.0,)
    """How long its loads may take; one is drawn each time."""
    warm_s: tuple[float, ...] = (0.0,)
    predict_s: tuple[float, ...] = (0.0,)
    close_s: tuple[float, ...] = (0.0,)
    bad: float = 0.0
    """How likely it is to fail on a request that others can answer, while faults are on."""
    bystander: bool = False
    """True: no fault ever strikes it, and nothing is ordered of it; it is there to be disturbed."""

    @property
    def name(self) -> str:
        """`model/version`."""
        return f"{self.model}/{self.version}"


class Made:
    """A model that was made: what the engine holds, and what was done to it."""

    def __init__(self, cast: Cast, part: Part, number: int) -> None:
        """Be open."""
        self.life = cast.life
        self.part = part
        self.name = part.name
        self.number = number
        """Counted through the whole run."""
        self.signature = BATCHED if part.batched else UNCHECKED
        self.thread_safe = True
        self.made_s = trio.current_time()
        self.closes = 0
        self.failed: set[int] = set()
        """The requests on which it has raised, when it ran each of them last."""
        self.uses = 0
        self.streams = 0
        """How many streamed answers are being made just now."""
        self._cast = cast

    def __str__(self) -> str:
        """Name it and say which of its kind it is."""
        return f"{self.name} ({self.number})"

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer with the numbers that were asked, or fail."""
        numbers = numbers_of(inputs)
        self._use(numbers)
        self.failed.update(numbers)
        self._fail_on(inputs, numbers)
        self.failed.difference_update(numbers)
        return {"y": inputs["x"][:, 0]}

    def predict_stream(self, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Answer the same in some chunks; each one that is being made is a use."""
        numbers = numbers_of(inputs)
        self.streams += 1
        try:
            for chunk in range(CHUNKS):
                self._use(numbers)
                if chunk == numbers[0] % CHUNKS:  # behind the first one nobody can fall back any more
                    self._fail_on(inputs, numbers)
                yield {"y": inputs["x"][:, 0]}
        finally:
            self.streams -= 1

    def memory_bytes(self) -> int:
        """Return what its part says."""
        return self.part.memory if self.part.found is None else self.part.found

    def close(self) -> None:
        """Note it, and perhaps raise."""
        self.closes += 1
        self.life.run.judge.closed(self)
        if self._faults and self._cast.faults.strikes("close-raises", 0.3):
            raise Broken(f"{self} cannot be closed properly")

    @property
    def _faults(self) -> bool:
        return not self.part.bystander

    def _use(self, numbers: tuple[int, ...]) -> None:
        self.uses += 1
        self.life.run.judge.used(self, numbers)

    def _fail_on(self, inputs: Mapping[str, Any], numbers: tuple[int, ...]) -> None:
        """Raise where a request is bad, or this version is."""
        faults = self._cast.faults
        if not self._faults:
            return
        does = [float(what) for what in inputs["x"][:, 1]]
        if WARM_UP in numbers:
            if faults.strikes("warm-up-raises", 0.2):
                raise Broken(f"{self} cannot be warmed up")
        elif POISON in does and faults.strikes("model-beyond-use", 0.7):
            raise FatalModelError(f"{self} is beyond use")
        elif (BAD in does and faults.strikes("predict-raises")) or (
            self.part.bad and faults.strikes("predict-raises", self.part.bad)
        ):
            raise Broken(f"{self} cannot answer {numbers}")


def numbers_of(inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the numbers of the requests that are in some inputs."""
    return tuple(int(number) for number in inputs["x"][:, 0])


def inputs_of(number: int, does: str = "good") -> dict[str, Any]:
    """Return the inputs of a request."""
    import numpy as np  # noqa: PLC0415 - the engine has no use for it, only models have

    return {"x": np.array([[float(number), {"good": 0.0, "bad": BAD, "poison": POISON}[does]]])}


class Cast:
    """All models of one life, and the loader that makes them."""

    def __init__(self, life: Life) -> None:
        """Have made nothing yet."""
        self.life = life
        self.faults = life.run.faults
        self.parts: dict[str, Part] = {}
        self.made: list[Made] = []
        cast = self

        class SimulatedLoader:
            api_version: ClassVar[int] = API_VERSION
            executes_code_on_load: ClassVar[bool] = False

            def load(self, source: Source) -> Any:
                return cast.load(source)

        self.loader = SimulatedLoader

    def load(self, source: Source) -> Made:
        """Make a model, unless a fault strikes."""
        part = self.parts[f"{source.model}/{source.version}"]
        if not part.bystander:
            rotten = self.life.run.shape.traits.get("rotten", _RAISES) if self.life.number else _RAISES
            if self.faults.strikes("load-raises", rotten):
                raise Broken(f"{part.name} cannot be loaded")
            if self.faults.strikes("load-leaks", 0.15):
                raise Broken(f"{part.name} was loaded in part")
        made = Made(self, part, self.life.run.count_made())
        self.made.append(made)
        self.life.run.judge.loaded(made)
        return made

    def open(self) -> list[Made]:
        """Return the models that are not closed."""
        return [made for made in self.made if not made.closes]
