"""Clients that hold versions: leases of every kind, references under their own ids, and those who wait for them to end.

What they hold they tell the judge, in the step in which they get it and before they let go.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import trio

from changeover.errors import ChangeoverError
from changeover_sim.simulate.actors import chance as draw
from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.cast import inputs_of
from changeover_sim.simulate.life import Life


def _named(life: Life, chance: Random, model: str) -> str | None:
    return draw.version(life, chance, model) if chance.random() < 0.15 else None  # noqa: PLR2004 - three in twenty


async def leaser(life: Life, chance: Random) -> None:
    """Hold a version for a while by `with`, and use it."""
    while life.goes_on:
        await draw.pause(life, chance)
        model, stays_s = draw.model(life, chance), chance.choice((0.0, 0.25, 0.5, 2.0))
        key = chance.choice(draw.KEYS) if chance.random() < 0.3 else None  # noqa: PLR2004 - three in ten
        version = None if key else _named(life, chance, model)
        await hold(life, model, stays_s, version=version, key=key)


async def hold(life: Life, model: str, stays_s: float, version: str | None = None, key: str | None = None) -> None:
    """Hold a version for some virtual seconds, and use it at the end."""

    async def work(call: Call) -> None:
        lease = life.engine.lease(model, version=version, key=key, request_id=f"lease {call.number}")
        with lease as held, _holding(life, call, f"{model}/{held.version}"):
            await life.sleep(stays_s)
            held.infer(inputs_of(call.number, call.does))

    await life.call("lease", work, model=model, version=version, key=key)


async def waiting_leaser(life: Life, chance: Random) -> None:
    """Hold a version by `async with`, which waits for what comes and can be revoked."""
    while life.goes_on:
        await draw.pause(life, chance)
        model, stays_s = draw.model(life, chance), chance.choice((0.0, 0.25, 1.0, 3.0))
        wait_s = chance.choice((None, 0.0, 0.5, 2.0))

        async def work(call: Call, model: str = model, stays_s: float = stays_s, wait_s: float | None = wait_s) -> None:
            lease = life.engine.lease(
                model, version=call.version, request_id=f"async lease {call.number}", wait_s=wait_s
            )
            async with lease as held:
                with _holding(life, call, f"{model}/{held.version}"):
                    await life.sleep(stays_s)
                    held.infer(inputs_of(call.number))

        version = _named(life, chance, model)
        await life.call("async lease", work, model=model, version=version, options={"wait_s": wait_s})


async def set_leaser(life: Life, chance: Random) -> None:
    """Hold several models at one moment of the traffic."""
    while life.goes_on:
        await draw.pause(life, chance)
        models = life.run.shape.models
        asked = tuple(sorted(chance.sample(models, chance.randint(1, len(models)))))
        stays_s, waits = chance.choice((0.0, 0.25, 1.0)), chance.random() < 0.5  # noqa: PLR2004 - half of them

        async def work(call: Call, stays_s: float = stays_s, *, waits: bool = waits) -> None:
            leases = life.engine.lease_many(call.models, key=call.key, request_id=f"lease_many {call.number}")
            if waits:
                async with leases as held:
                    await _stay(life, call, held, stays_s)
            else:
                with leases as held:
                    await _stay(life, call, held, stays_s)

        key = chance.choice(draw.KEYS) if chance.random() < 0.5 else None  # noqa: PLR2004 - half of them
        await life.call("lease_many", work, models=asked, key=key, options={"waits": waits})


async def _stay(life: Life, call: Call, held: Any, stays_s: float) -> None:
    names = [f"{model}/{held[model].version}" for model in call.models]
    judge = life.run.judge
    for name in names:
        judge.took(call, name)
    try:
        await life.sleep(stays_s)
        for model in call.models:
            held[model].infer(inputs_of(call.number))
    finally:
        for name in names:
            judge.gave_back(call, name)


async def thread(life: Life, chance: Random) -> None:
    """Be a plain thread: take a lease in one place, use it in a second, and let go of it in a third."""
    while life.goes_on:
        await draw.pause(life, chance)
        model = draw.model(life, chance)
        stays_s = chance.choice((0.0, 0.25, 1.0))

        async def work(call: Call, model: str = model, stays_s: float = stays_s) -> None:
            lease = life.engine.lease(model, request_id=f"lease {call.number}")
            held = lease.__enter__()
            name = f"{model}/{held.version}"
            life.run.judge.took(call, name)
            used = trio.Event()

            async def use() -> None:
                try:
                    await trio.lowlevel.checkpoint()
                    with suppress(ChangeoverError):
                        held.infer(inputs_of(call.number, call.does))
                finally:
                    used.set()

            async def give_back() -> None:
                try:
                    await used.wait()
                    await life.sleep(stays_s)
                finally:
                    life.run.judge.gave_back(call, name)
                    lease.release()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(use)
                nursery.start_soon(give_back)

        await life.call("lease", work, model=model)


async def tracker(life: Life, chance: Random) -> None:
    """Take references under ids of its own, and give each back once; now and then twice, which is refused."""
    while life.goes_on:
        await draw.pause(life, chance)
        model = draw.model(life, chance)
        stays_s, twice = chance.choice((0.0, 0.25, 1.0)), chance.random() < 0.1  # noqa: PLR2004 - one in ten

        async def work(call: Call, model: str = model, stays_s: float = stays_s, *, twice: bool = twice) -> None:
            references, taken = life.engine.references, f"reference {call.number}"
            assert call.version is not None
            references.acquire(model, call.version, taken)
            with _holding(life, call, f"{model}/{call.version}"):
                try:
                    await life.sleep(stays_s)
                finally:
                    references.release(model, call.version, taken)
            if twice:
                references.release(model, call.version, taken)

        version = draw.version(life, chance, model)
        await life.call("reference", work, model=model, version=version, options={"twice": twice})


async def waiter(life: Life, chance: Random) -> None:
    """Wait until nobody holds a version."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        model, limit_s = draw.model(life, chance), chance.choice((0.0, 1.0, 30.0))

        async def work(call: Call, model: str = model, limit_s: float = limit_s) -> Any:
            assert call.version is not None
            return await life.engine.wait_for_drain(model, call.version, limit_s)

        version = draw.version(life, chance, model)
        await life.call("wait_for_drain", work, model=model, version=version, timeout_s=limit_s)


async def reader(life: Life, chance: Random) -> None:
    """Read the engine's events, slowly."""

    async def work(_call: Call) -> int:
        count = 0
        with trio.move_on_after(2.0):
            async with life.engine.events(buffer=chance.choice((1, 10, 1000))) as events:
                async for _ in events:
                    count += 1
                    if not life.goes_on:
                        break
                    if chance.random() < 0.2:  # noqa: PLR2004 - one in five
                        await life.sleep(0.25)
        return count

    while life.goes_on:
        await life.call("events", work)
        await draw.pause(life, chance)


class _holding:  # noqa: N801 - used as `with _holding(...)`
    """Tells the judge that a call holds a version for the block; it is told of the end before the engine is."""

    def __init__(self, life: Life, call: Call, name: str) -> None:
        self._life, self._call, self._name = life, call, name

    def __enter__(self) -> None:
        self._life.run.judge.took(self._call, self._name)

    def __exit__(self, *_: object) -> None:
        self._life.run.judge.gave_back(self._call, self._name)
