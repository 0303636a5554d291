"""A process that forks while an engine is open: the child is refused, leaves the blocks at once, and harms nobody."""

from __future__ import annotations

import pytest

from tests.support.programs import Program

OPENING = """
import asyncio, os, sys, time, warnings
import changeover, changeover.aio, changeover.threads
from changeover.errors import EngineClosed
from tests.support.models import Cast

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads
cast = Cast()
cast.script("m", "1").on_close = lambda: print("closed in", "child" if child else "parent", flush=True)
child = None
began = 0.0

def prepare(engine):
    engine._host.loaders.add("scripted", cast.loader)
    engine.register("m", "1", "s", loader="scripted", execution="worker")

def fork():
    global child, began
    sys.stdout.flush()
    child = os.fork() == 0
    began = time.monotonic()
    return child

def refused(call):
    try:
        call()
    except EngineClosed as error:
        assert "forked" in str(error), error
        return
    raise AssertionError(call)

async def refused_async(call):
    try:
        await call()
    except EngineClosed as error:
        assert "forked" in str(error), error
        return
    raise AssertionError(call)

def check(engine):
    refused(lambda: engine.lease("m").__enter__())
    refused(lambda: engine.register("n", "1", "s", loader="scripted"))
    refused(lambda: engine.start_swap("m", "1"))
    held.release()

def left():
    if child:
        assert time.monotonic() - began < 2, "the block was not left at once"
        print("left", flush=True)
        os._exit(0)
    pid, status = os.wait()
    print("child ended with", status, flush=True)
"""

BODIES = {
    "trio": """
import trio
async def main():
    global held
    async with changeover.open_engine(strict_references=True) as engine:
        prepare(engine)
        await engine.load("m", "1")
        held = engine.lease("m").__enter__()
        if fork():
            check(engine)
            await refused_async(lambda: engine.infer("m", {}))
            await refused_async(lambda: engine.load("m", "1"))
        else:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert (await engine.infer("m", {})).version == "1"
            held.release()
    left()
trio.run(main)
""",
    "asyncio": """
async def main():
    global held
    async with changeover.aio.open_engine(strict_references=True) as engine:
        prepare(engine)
        await engine.load("m", "1")
        held = engine.lease("m").__enter__()
        if fork():
            asyncio._set_running_loop(loop)  # the child goes on in the parent's coroutine, which nobody should do
            check(engine)
            await refused_async(lambda: engine.infer("m", {}))
            await refused_async(lambda: engine.load("m", "1"))
        else:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert (await engine.infer("m", {})).version == "1"
            held.release()
    left()
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
""",
    "threads": """
with changeover.threads.open_engine(strict_references=True, debug_references=True) as engine:
    prepare(engine)
    engine.load("m", "1")
    held = engine.lease("m").__enter__()
    if fork():
        check(engine)
        refused(lambda: engine.infer("m", {}))
        refused(lambda: engine.load("m", "1"))
        with changeover.threads.open_engine() as another:
            another._host.loaders.add("scripted", cast.loader)
            another.register("n", "1", "s", loader="scripted")
            another.load("n", "1")
            assert another.infer("n", {}).version == "1"
    else:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert engine.infer("m", {}).version == "1"
        held.release()
left()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("face", BODIES)
def test_a_forked_child_is_refused(face: str) -> None:
    """In the child every call says what to do instead, and the block is left at once; the parent serves on."""
    with Program(OPENING + BODIES[face]) as program:
        status, out, err = program.ends()
    assert (status, out.split("\n")) == (0, ["left", "closed in parent", "child ended with 0", ""]), err
