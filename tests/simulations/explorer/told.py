"""Programs that fail in one known way each, and the text that tells it; `python -m tests.simulations.explorer.told`.

The module's own lines stand in the golden files: what is written here is written anew with that command.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import trio
from trio.lowlevel import checkpoint

from changeover_sim import Failure, cancel_anywhere, choose, replay
from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.compare import Parting, parting
from changeover_sim.explorer.report import failure_text
from changeover_sim.explorer.schedule import Rules
from changeover_sim.explorer.tape import Picks
from changeover_sim.explorer.token import Token, encode, name_of

GOLDEN = Path(__file__).parents[2] / "golden" / "reports"
STEPS_MAX = 60


async def deadlock() -> None:
    """Each takes one lock and wants the other, which first-in-first-out lets them have one after the other."""
    left, right = trio.Lock(), trio.Lock()

    async def early() -> None:
        async with left, right:
            pass

    async def late() -> None:
        for _ in range(2):
            await checkpoint()
        async with right, left:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(early)
        nursery.start_soon(late)


async def exception() -> None:
    """The box is closed between the look and the use, but only where `writer` gets ahead of `reader`."""
    is_open = True

    async def reader() -> None:
        if is_open:
            await checkpoint()
            assert is_open, "closed under the reader's hands"

    async def writer() -> None:
        nonlocal is_open
        await checkpoint()
        is_open = False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        nursery.start_soon(writer)


async def livelock() -> None:
    """One holds the lock until the other has done what he needs the lock for."""
    is_done, lock = False, trio.Lock()

    async def impatient() -> None:
        async with lock:
            while not is_done:
                await checkpoint()

    async def doer() -> None:
        nonlocal is_done
        async with lock:
            is_done = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        nursery.start_soon(doer)


async def leftover() -> None:
    """Nobody ends the helper; with the other option none is started."""
    done = trio.Event()

    async def helper() -> None:
        await done.wait()

    if choose([False, True]):
        trio.lowlevel.spawn_system_task(helper, name="helper")
    await checkpoint()


async def cancel() -> None:
    """Whoever asks first loads for all, and tells nobody where he is cancelled meanwhile."""
    loaded: list[trio.Event] = []

    async def get() -> None:
        if not loaded:
            loaded.append(trio.Event())
            await trio.sleep(1)
            loaded[0].set()
        await loaded[0].wait()

    async def impatient() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await get()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        nursery.start_soon(get, name="patient")


PICKS: dict[Any, Picks] = {
    deadlock: (0, 0, 1, 1),
    exception: (0, 0, 1),
    livelock: (),
    leftover: (1,),
    cancel: (0, 1),
}
"""How each of them fails, whatever policies and shrinking come to; see `tape.Picks`."""


def token_of(program: Any, picks: Picks, **rules: Any) -> str:
    """Return the token of a schedule that nobody had to look for."""
    rules_ = Rules(**{"steps_max": STEPS_MAX, **rules})
    return encode(Token(name_of(program), rules_, 0, picks, "ByHand()", 0, 0, 0, 0, *inside_trio.versions()))


def told(program: Any, picks: Picks, **rules: Any) -> tuple[Failure, Parting | None]:
    """Return how a program fails in one schedule, and where that parts from what passes."""
    token = token_of(program, picks, **rules)
    failure = replay(program, token).failure
    assert failure is not None
    return failure, parting(program, token)


def text_of(program: Any) -> str:
    """Return what people read of a program's failure; the token, which has versions in it, is left out."""
    failure, parts = told(program, PICKS[program])
    return re.sub(r"sx1-\S+", "TOKEN", failure_text(failure, parting=parts)) + "\n"


def main() -> None:
    """Write the golden files."""
    GOLDEN.mkdir(exist_ok=True)
    for program in PICKS:
        (GOLDEN / f"{program.__name__}.txt").write_text(text_of(program), encoding="utf-8")


if __name__ == "__main__":
    main()
