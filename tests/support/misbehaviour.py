"""Plugins that misbehave, and what must be true of an engine after each of them.

Owns the errors that plugins raise, a plain model to be spoilt, and the look at what was left behind. Spawns nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Never

import pytest
import trio

from changeover import VersionState
from changeover.errors import EngineClosed, NotReady, Overloaded, VersionNotLoaded
from changeover.plugin import API_VERSION, Source
from tests.support.models import UNCHECKED, Broken
from tests.support.rig import Rig, open_rig, run_virtual
from tests.support.threads import PATIENCE_S

# --- errors ---------------------------------------------------------------------------------------------------------


class Halt(BaseException):
    """No `Exception`."""


class Mute(Exception):
    """Has no text, and no error either: asking for its text raises another one like it."""

    def __str__(self) -> str:
        raise Mute


class MuteHalt(BaseException):
    """The same, and no `Exception`."""

    def __str__(self) -> str:
        raise MuteHalt


class Exiting(Exception):
    """Ends the program where it is asked for its text."""

    def __str__(self) -> str:
        raise SystemExit("the text")


class Bare(Exception):
    """Takes no arguments, so that it cannot be made again from another's."""

    def __init__(self) -> None:
        super().__init__()


class Fussy(Exception):
    """Is no key of a dictionary, equals nothing, and takes no notes."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ValueError("do not compare me")

    def add_note(self, note: str) -> None:
        raise ValueError("do not note me")


EXCEPTIONS: tuple[Callable[[], Exception], ...] = (
    lambda: Broken("no good"),
    Bare,
    Mute,
    Exiting,
    Fussy,
    lambda: ExceptionGroup("several", [Broken("one"), Broken("two")]),
    lambda: StopIteration(5),
    lambda: RecursionError("too deep"),
    lambda: MemoryError("too much"),
    lambda: UserWarning("a warning made an error"),
    lambda: EngineClosed("a lie"),
    lambda: Overloaded("another lie"),
)
HALTS: tuple[Callable[[], BaseException], ...] = (
    lambda: Halt("no good"),
    MuteHalt,
    lambda: SystemExit(3),
    KeyboardInterrupt,
    lambda: GeneratorExit("no good"),
    asyncio.CancelledError,
    lambda: BaseExceptionGroup("several", [SystemExit(1), Broken("two")]),
)
ERRORS = (*EXCEPTIONS, *HALTS)
FEW = (EXCEPTIONS[0], Mute, Exiting, Halt, MuteHalt, HALTS[2])
"""One of each kind."""


def name_of(make: Callable[[], BaseException]) -> str:
    """Return the name of an error's class, for the name of a test."""
    return type(make()).__name__


def throw(error: BaseException) -> Never:
    """Raise where only an expression fits."""
    raise error


# --- plugins --------------------------------------------------------------------------------------------------------


class Plain:
    """A model as it should be; each misbehaviour spoils one thing of it."""

    signature: Any = UNCHECKED
    thread_safe: Any = True

    def __init__(self, **spoilt: Any) -> None:
        self.closed = 0
        for name, value in spoilt.items():
            setattr(self, name, value)

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        return {"y": 1}

    def memory_bytes(self) -> Any:
        return 5

    def close(self) -> Any:
        self.closed += 1


class Bad:
    """What a bad loader class has that the engine looks at before it is made."""

    api_version: ClassVar[int] = API_VERSION
    executes_code_on_load: ClassVar[bool] = False


def loads(make: Callable[[], Any]) -> type[Any]:
    """Return a loader class whose `load` returns, or raises, what `make` does; `made` has all that it returned."""

    class Loader(Bad):
        made: ClassVar[list[Any]] = []

        def load(self, source: Source) -> Any:
            self.made.append(make())
            return self.made[-1]

    return Loader


# --- what must be true ----------------------------------------------------------------------------------------------


def play(real: bool, check: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Run a check on the real machine, or where time is virtual; in a thread, so that one that hangs fails instead."""
    ends = list[BaseException | None]()

    def run() -> None:
        try:
            (trio.run if real else run_virtual)(check, *args)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            ends.append(error)
        else:
            ends.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the check hangs"
    if ends[0] is not None:
        raise ends[0]


@asynccontextmanager
async def stage(*, real: bool, **options: Any) -> AsyncGenerator[Rig, None]:
    """Open a rig with a budget, and with another model that serves."""
    async with open_rig(real=real, memory_budget_bytes=1_000, **options) as rig:
        await set_the_stage(rig)
        yield rig


async def set_the_stage(rig: Rig) -> None:
    """Make another model that serves, of ten bytes."""
    await rig.ready("other", "1", execution="worker")
    assert reserved(rig) == 10


def reserved(rig: Rig) -> int:
    """Return the bytes that are reserved."""
    return rig.engine.statistics().reserved_bytes


async def serves_on(rig: Rig) -> None:
    """See another model answer, the very one of before."""
    assert (await rig.engine.infer("other", {"n": 1})).outputs == {"version": "1", "n": 1}
    assert [made.closed for made in rig.cast.of("other", "1")] == [0]


async def nothing_is_left(rig: Rig, *, reserved_bytes: int = 10) -> None:
    """See that nothing of m/1 is loaded, reserved, held, routed or at work."""
    engine = rig.engine
    counts = engine.statistics()
    assert engine.load_info("m", "1").status in {VersionState.FAILED, VersionState.UNLOADED, VersionState.REGISTERED}
    assert (engine.loaded_versions("m"), engine.is_loaded("m", "1"), engine.is_active("m", "1")) == ((), False, False)
    assert (counts.reserved_bytes, counts.stuck_loads) == (reserved_bytes, 0)
    assert (engine.audit().clean, engine.who_holds("m", "1")) == (True, ())
    assert (dict(engine._host.jobs), [str(loaded.key) for loaded in engine._host.living()]) == ({}, ["other/1"])
    assert counts.children_restarted == 0
    with pytest.raises(NotReady, match="m has no version"):
        await engine.infer("m", {})
    with pytest.raises(VersionNotLoaded, match="m/1"):
        await engine.unload("m", "1", force=True)


async def a_good_one_loads(rig: Rig, version: str = "2") -> None:
    """Load a version that behaves, have it answer, and unload it."""
    if version == "2":
        rig.add("m", version)
    await rig.engine.load("m", version)
    assert (await rig.engine.infer("m", {})).version == version
    await rig.engine.unload("m", version, force=True)


async def all_is_well(rig: Rig) -> None:
    """See that the engine is as if m/1 had never been there, and that another version of m has its chance."""
    await serves_on(rig)
    await nothing_is_left(rig)
    await a_good_one_loads(rig)
    await serves_on(rig)
    assert (reserved(rig), rig.engine.audit().clean) == (10, True)


async def goes_on(rig: Rig) -> None:
    """See m/1 answer again, the very same model; then unload it, and find nothing left."""
    assert rig.engine.load_info("m", "1").status is VersionState.READY
    assert (rig.engine.audit().clean, reserved(rig)) == (True, 20)
    assert (await rig.engine.infer("m", {"n": 1})).outputs == {"version": "1", "n": 1}
    await rig.engine.unload("m", "1", force=True)
    assert [made.closed for made in rig.cast.of("m", "1")] == [1]
    await all_is_well(rig)
