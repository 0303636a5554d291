"""Clients that ask models: single requests, sets, streams, and one whose model nobody touches.

Each call is one record of the run; nothing is held across two of them.
"""

from __future__ import annotations

from random import Random
from typing import Any

from changeover_sim.simulate.actors import chance as draw
from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.cast import inputs_of
from changeover_sim.simulate.life import Life


async def asker(life: Life, chance: Random) -> None:
    """Ask one model after the other, sometimes a version by its name, sometimes with little time."""
    pace_s = life.run.shape.traits.get("pace_s", 1.0)
    while life.goes_on:
        await draw.pause(life, chance, pace_s)
        model = draw.model(life, chance)
        named = draw.version(life, chance, model) if chance.random() < 0.1 else None  # noqa: PLR2004 - one in ten
        timeout_s = chance.choice((0.0, 0.25, 1.0)) if chance.random() < 0.1 else None  # noqa: PLR2004 - the same
        await ask(life, model=model, version=named, timeout_s=timeout_s, does=draw.does(life, chance))


async def keyed_asker(life: Life, chance: Random) -> None:
    """Ask within a session."""
    key = chance.choice(draw.KEYS)
    while life.goes_on:
        await draw.pause(life, chance, 0.5)
        await ask(life, model=draw.model(life, chance), key=key, does=draw.does(life, chance))


async def bystander(life: Life, chance: Random) -> None:
    """Ask a model that no fault ever strikes, whatever happens to the others."""
    models = tuple(dict.fromkeys(part.model for part in life.run.shape.parts if part.bystander))
    while life.goes_on and models:
        await draw.pause(life, chance, 0.5)
        await ask(life, model=chance.choice(models))


async def ask(life: Life, **fields: Any) -> Call:
    """Make one request."""

    async def work(call: Call) -> Any:
        assert call.model is not None
        return await life.engine.infer(
            call.model, inputs_of(call.number, call.does),
            version=call.version, key=call.key, timeout_s=call.timeout_s,
        )  # fmt: skip

    return await life.call("infer", work, **fields)


async def set_asker(life: Life, chance: Random) -> None:
    """Ask several models at one moment of the traffic; what goes wrong does so at one of them."""
    while life.goes_on:
        await draw.pause(life, chance)
        models = life.run.shape.models
        if len(models) > 1:
            asked = tuple(sorted(chance.sample(models, chance.randint(2, len(models)))))
            key = chance.choice(draw.KEYS) if chance.random() < 0.6 else None  # noqa: PLR2004 - three in five

            async def work(call: Call, worst: str = chance.choice(asked)) -> Any:
                does = {worst: call.does}
                requests = {model: inputs_of(call.number, does.get(model, "good")) for model in call.models}
                return await life.engine.infer_many(requests, key=call.key, timeout_s=call.timeout_s)

            await life.call("infer_many", work, models=asked, key=key, does=draw.does(life, chance))


async def streamer(life: Life, chance: Random) -> None:
    """Read answers in chunks, sometimes slowly, and sometimes not to their end."""
    while life.goes_on:
        await draw.pause(life, chance)
        leaves_after = chance.randint(0, 2) if life.run.faults.strikes("disconnect", 0.25) else None
        pauses = [chance.choice((0.0, 0.0, 0.25, 0.5)) for _ in range(4)]

        async def work(call: Call, leaves_after: int | None = leaves_after, pauses: list[float] = pauses) -> Any:
            return await _read(life, call, leaves_after, pauses)

        model = draw.model(life, chance)
        await life.call("stream", work, model=model, does=draw.does(life, chance), options={"leaves": leaves_after})


async def _read(life: Life, call: Call, leaves_after: int | None, pauses: list[float]) -> list[Any]:
    assert call.model is not None
    judge, replies = life.run.judge, list[Any]()
    name: str | None = None
    try:
        async with life.engine.infer_stream(call.model, inputs_of(call.number, call.does)) as chunks:
            async for reply in chunks:
                if name is None:
                    name = f"{call.model}/{reply.version}"
                    judge.took(call, name)
                replies.append(reply)
                if leaves_after is not None and len(replies) > leaves_after:
                    break
                await life.sleep(pauses[min(len(replies), len(pauses) - 1)])
            if name is not None:
                judge.gave_back(call, name)
                name = None
    finally:
        if name is not None:
            judge.gave_back(call, name)
    return replies
