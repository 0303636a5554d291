"""Plugins that take their time, meddle with the process, or cannot even be imported: the engine serves on."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Generator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from changeover.errors import LoaderNotInstalled, LoadFailed, LoadTimeout, TooManyStuckLoads
from changeover.runtime import loaders as loaders_module
from changeover.runtime.loaders import GROUP
from changeover.runtime.version import Version
from tests.support.misbehaviour import (
    EXCEPTIONS,
    a_good_one_loads,
    all_is_well,
    name_of,
    nothing_is_left,
    play,
    reserved,
    serves_on,
    set_the_stage,
    stage,
    throw,
)
from tests.support.models import Broken
from tests.support.rig import Rig, open_rig, settle
from tests.support.threads import patient

# --- a plugin that takes its time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["with a model", "with an error", "with SystemExit"])
async def test_a_load_that_hangs_is_left_behind_by_name(rig: Rig, ends: str, autojump_clock: Any) -> None:
    """It ends for its caller in time; its thread keeps its bytes until it comes back, and then nothing is left."""
    await set_the_stage(rig)
    hang = trio.Event()
    error = {"with an error": Broken("late"), "with SystemExit": SystemExit(1)}.get(ends)
    rig.add(load_error=error, load_timeout_s=5.0, memory_hint_bytes=100)
    rig.takes("load m/1", hang)
    with pytest.raises(LoadTimeout, match=r"m/1 .* 5 s"):
        await rig.engine.load("m", "1")
    assert (trio.current_time(), rig.engine.statistics().stuck_loads, reserved(rig)) == (5.0, 1, 110)
    await serves_on(rig)
    await a_good_one_loads(rig)
    hang.set()
    await settle()
    assert [made.closed for made in rig.cast.of("m", "1")] == ([] if error else [1])
    await nothing_is_left(rig)
    rig.script().load_error = None
    await a_good_one_loads(rig, "1")


async def test_hung_loads_are_refused_at_the_cap_by_name(autojump_clock: Any) -> None:
    """At the cap the next load is refused with the names of those that hang; one that comes back makes room."""
    async with open_rig(stuck_loads_max=2) as rig:
        await set_the_stage(rig)
        hangs = {version: trio.Event() for version in "12"}
        for version, hang in hangs.items():
            rig.add("stuck", version, load_timeout_s=1.0)
            rig.takes(f"load stuck/{version}", hang)
            with pytest.raises(LoadTimeout):
                await rig.engine.load("stuck", version)
        rig.add("m", "1")
        with pytest.raises(TooManyStuckLoads, match=r"m/1.*stuck/1, stuck/2"):
            await rig.engine.load("m", "1")
        await serves_on(rig)
        hangs["1"].set()
        await settle()
        await a_good_one_loads(rig, "1")
        hangs["2"].set()
        await settle()
        await nothing_is_left(rig)


# --- what a plugin does to the process ------------------------------------------------------------------------------


async def test_threads_that_a_plugin_starts_are_its_own() -> None:
    """A loader that starts threads that never end loads, serves and unloads as any other; nobody waits for them."""
    gate, left = threading.Event(), list[threading.Thread]()

    def start() -> None:
        left.append(threading.Thread(target=patient, args=[gate], daemon=True))
        left[-1].start()

    async with stage(real=True) as rig:
        rig.add(on_load=start)
        await a_good_one_loads(rig, "1")
        await all_is_well(rig)
    assert left[0].is_alive()
    gate.set()
    await trio.to_thread.run_sync(left[0].join)


@attrs.frozen
class Meddling:
    """Something that belongs to the whole process, and that a plugin changes."""

    name: str
    change: Callable[[Path], object]
    look: Callable[[], Any]
    restore: Callable[[Any], object]


MEDDLING = [
    Meddling("the working directory", os.chdir, os.getcwd, os.chdir),
    Meddling("the recursion limit", lambda _: sys.setrecursionlimit(5_000), sys.getrecursionlimit,
             sys.setrecursionlimit),
    Meddling("the sockets' time limit", lambda _: socket.setdefaulttimeout(0.001), socket.getdefaulttimeout,
             socket.setdefaulttimeout),
    Meddling("the switch interval", lambda _: sys.setswitchinterval(0.5), sys.getswitchinterval,
             sys.setswitchinterval),
    Meddling("the log level", lambda _: logging.disable(logging.CRITICAL), lambda: logging.root.manager.disable,
             logging.disable),
    Meddling("the warnings", lambda _: warnings.simplefilter("ignore"), lambda: warnings.filters[:],
             lambda before: warnings.filters.__setitem__(slice(None), before)),
]  # fmt: skip


@pytest.fixture
def restored(request: Any) -> Generator[Meddling, None, None]:
    """Put back what a plugin changes, whatever comes of the test."""
    before = request.param.look()
    yield request.param
    request.param.restore(before)


@pytest.mark.parametrize("restored", MEDDLING, ids=lambda it: it.name, indirect=True)
async def test_what_a_plugin_changes_in_the_process_stays_changed(restored: Meddling, tmp_path: Path) -> None:
    """The engine cannot undo it and does not try; it loads, serves, unloads and closes all the same."""
    before = restored.look()
    async with stage(real=True) as rig:
        rig.add(on_load=lambda: restored.change(tmp_path))
        await a_good_one_loads(rig, "1")
        await all_is_well(rig)
    assert restored.look() != before


async def test_a_plugin_cannot_change_signal_handlers() -> None:
    """Loads are not on the main thread, where alone that is possible: the load fails and says why."""
    before = signal.getsignal(signal.SIGTERM)
    async with stage(real=True) as rig:
        rig.add(on_load=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
        with pytest.raises(LoadFailed, match=r"m/1 .*'scripted': ValueError: signal only works in main thread"):
            await rig.engine.load("m", "1")
        await all_is_well(rig)
    assert signal.getsignal(signal.SIGTERM) is before


async def test_what_a_plugin_prints_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is swallowed, nothing is added, and printing harms nothing."""
    async with stage(real=True) as rig:
        rig.add(on_load=lambda: os.write(1, b"to stdout"), on_predict=lambda _: os.write(2, b"to stderr"))
        await a_good_one_loads(rig, "1")
        await all_is_well(rig)
    assert tuple(capfd.readouterr()) == ("to stdout", "to stderr")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_program_that_is_ended_inside_a_task_of_the_engine_ends(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C that lands in a version's own task, in the middle of a swap: the engine closes, and it comes out."""

    async def check() -> None:
        async with stage(real=False, close_timeout_s=1.0) as rig:
            await rig.ready("m", "1")
            rig.add("m", "2")
            monkeypatch.setattr(Version, "_handle", lambda _self, _message: throw(error("now")))
            await rig.engine.swap("m", "2")

    with pytest.raises(BaseException, check=lambda raised: reaches(raised, error)):  # noqa: B017 - the check says which
        play(False, check)


def reaches(raised: BaseException, error: type[BaseException]) -> bool:
    """Return whether an error is of a kind, was caused by one, or has one in its group."""
    inside = raised.exceptions if isinstance(raised, BaseExceptionGroup) else [raised.__cause__]
    return isinstance(raised, error) or any(reaches(one, error) for one in inside if one is not None)


# --- a plugin that cannot even be imported --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*EXCEPTIONS, lambda: SystemExit(3)], ids=name_of)
async def test_a_plugin_whose_import_raises_is_not_installed(
    rig: Rig, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """Whatever a plugin's module raises when it is imported: nothing is registered, and who asked is told why."""
    await set_the_stage(rig)
    point = EntryPoint("crooked", "a.crooked.module:Loader", GROUP)
    monkeypatch.setattr(loaders_module, "entry_points", lambda group: [point])
    monkeypatch.setattr(EntryPoint, "load", lambda _self: throw(make()))
    with pytest.raises(LoaderNotInstalled) as caught:
        rig.engine.register("m", "1", "nowhere", loader="crooked")
    assert all(text in str(caught.value) for text in ("m/1", "'crooked'", "a.crooked.module", name_of(make)))
    assert rig.engine.statistics().registered == 1
    await serves_on(rig)
