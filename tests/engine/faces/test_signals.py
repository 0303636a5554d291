"""Ctrl-C and SIGTERM leave the blocks of a real process, on every face: the engine drains, then the process ends."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from changeover import drain_on_sigterm
from changeover.errors import WrongLoop
from tests.support.programs import Program

OPENING = """
import asyncio, contextlib, signal, sys, time
import changeover, changeover.aio, changeover.threads
from tests.support.models import Cast

cast = Cast()
cast.script("m", "1").on_close = lambda: print("closed", flush=True)
sigterm = changeover.drain_on_sigterm() if "sigterm" in sys.argv else contextlib.nullcontext()
if "ignored" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

def prepare(engine):
    engine._host.loaders.add("scripted", cast.loader)
    engine.register("m", "1", "s", loader="scripted")
"""

BODIES = {
    "asyncio": """
async def main():
    async with changeover.aio.open_engine() as engine:
        prepare(engine)
        await engine.load("m", "1")
        with engine.lease("m"):
            print("ready", flush=True)
            await asyncio.sleep(60)
with sigterm:
    asyncio.run(main())
""",
    "uvloop": """
import uvloop
async def main():
    async with changeover.aio.open_engine() as engine:
        prepare(engine)
        await engine.load("m", "1")
        print("ready", flush=True)
        await asyncio.sleep(60)
with sigterm:
    uvloop.run(main())
""",
    "trio": """
import trio
async def main():
    async with changeover.open_engine() as engine:
        prepare(engine)
        await engine.load("m", "1")
        print("ready", flush=True)
        await trio.sleep(60)
with sigterm:
    trio.run(main)
""",
    "threads": """
with sigterm, changeover.threads.open_engine() as engine:
    prepare(engine)
    engine.load("m", "1")
    print("ready", flush=True)
    time.sleep(60)
""",
    "a call that waits": """
import threading
go = threading.Event()
cast.script("m", "2").on_load = lambda: (print("ready", flush=True), go.wait())
with sigterm, changeover.threads.open_engine(close_timeout_s=0.1) as engine:
    prepare(engine)
    engine.load("m", "1")
    engine.register("m", "2", "s", loader="scripted")
    engine.load("m", "2")
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("face", BODIES)
def test_a_signal_drains(face: str, how: str) -> None:
    """The process closes its model and ends as one that was interrupted."""
    arguments = ["sigterm"] if how == "SIGTERM" else []
    with Program(OPENING + BODIES[face], *arguments) as program:
        program.says("ready")
        program.send([signal.Signals[how]])
        status, out, err = program.ends()
    assert out.strip() == "closed"
    assert status == -signal.SIGINT, err
    assert "KeyboardInterrupt" in err
    assert "ResourceWarning" not in err


@pytest.mark.slow
@pytest.mark.parametrize("face", ["asyncio", "threads"])
def test_a_process_that_ignores_ctrl_c_is_drained_by_sigterm(face: str) -> None:
    """A process in the background, which ignores Ctrl-C, drains all the same when it is told to end."""
    with Program(OPENING + BODIES[face], "sigterm", "ignored") as program:
        program.says("ready")
        program.send([signal.SIGTERM])
        _status, out, err = program.ends()
    assert out.strip() == "closed", err


def test_the_old_handler_comes_back() -> None:
    """Behind its block, SIGTERM does what it did before; in it, it interrupts the main thread."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), drain_on_sigterm():
            signal.raise_signal(signal.SIGTERM)
        assert seen == []
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_inside_a_loop() -> None:
    """Entered inside a running loop, it cancels the loop's main task as Ctrl-C does."""

    async def main() -> None:
        with drain_on_sigterm():
            try:
                signal.raise_signal(signal.SIGTERM)
                await asyncio.Event().wait()
            finally:
                ended.append("drained")

    ended: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert ended == ["drained"]


def test_signals_belong_to_the_main_thread() -> None:
    """In another thread it is refused, in words."""
    refused: list[str] = []

    def enter() -> None:
        try:
            with drain_on_sigterm():
                raise AssertionError
        except WrongLoop as error:
            refused.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert "main thread" in refused[0]
