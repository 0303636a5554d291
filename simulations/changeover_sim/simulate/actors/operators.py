"""Operators: they swap, load, unload, warm up and register, without knowing of each other.

What is refused is refused; the oracles know what may be.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

from changeover.errors import EngineClosed
from changeover_sim.simulate import behind
from changeover_sim.simulate.actors import chance as draw
from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.cast import WARM_UP, inputs_of
from changeover_sim.simulate.life import Life


async def swapper(life: Life, chance: Random) -> None:
    """Swap one model after the other to any of its versions."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        model = draw.model(life, chance)
        order = draw.order(life, chance)
        on_cancel = chance.choice(("abort", "detach"))

        async def work(call: Call) -> Any:
            asked = {name: value for name, value in call.options.items() if name != "names"}
            assert call.model is not None
            assert call.version is not None
            return await life.engine.swap(call.model, call.version, **asked)

        version = draw.other_version(life, chance, model)
        await life.call("swap", work, model=model, version=version, options={**order, "on_cancel": on_cancel})


async def group_swapper(life: Life, chance: Random) -> None:
    """Swap several models as one."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        models = life.run.shape.models
        if len(models) > 1:
            group = tuple(sorted(chance.sample(models, chance.randint(2, len(models)))))
            to = {model: draw.other_version(life, chance, model) for model in group}
            order = draw.order(life, chance)

            async def work(call: Call) -> Any:
                asked = {name: value for name, value in call.options.items() if name not in ("names", "to")}
                return await life.engine.swap_group(call.options["to"], **asked)

            await life.call("swap_group", work, models=group, options={**order, "to": to})


async def loader(life: Life, chance: Random) -> None:
    """Load versions, gladly or on condition that they are not."""
    while life.goes_on:
        await draw.pause(life, chance)
        model = draw.model(life, chance)
        kind = chance.choice(("load", "ensure_loaded"))

        async def work(call: Call) -> Any:
            return await getattr(life.engine, call.kind)(call.model, call.version)

        await life.call(kind, work, model=model, version=draw.version(life, chance, model))


async def unloader(life: Life, chance: Random) -> None:
    """Unload versions, the last one only by force."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        model = draw.model(life, chance)
        name, _ = draw.drain(life, chance)
        force = chance.random() < life.run.shape.traits.get("force", 0.15)
        await _unload(life, model, draw.version(life, chance, model), name, force=force)


async def hasty_unloader(life: Life, chance: Random) -> None:
    """Unload a version that has no time at all, and in the next moment be out of patience with those who hold it."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        model = draw.model(life, chance)
        version = draw.version(life, chance, model)
        for drain in ("none", "cancel at once"):
            life.start(partial(_unload, force=True), life, model, version, drain)
            await draw.pause(life, chance, 0.25)


async def _unload(life: Life, model: str, version: str, drain: str, *, force: bool) -> None:
    async def work(call: Call) -> Any:
        asked = {name: value for name, value in call.options.items() if name != "names"}
        return await life.engine.unload(model, version, **asked)

    options = {"drain": draw.DRAINS[drain], "force": force, "names": (drain,)}
    await life.call("unload", work, model=model, version=version, options=options)


async def warmer(life: Life, chance: Random) -> None:
    """Warm versions up that serve already."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        model = draw.model(life, chance)
        many = chance.randint(1, 3)

        async def work(call: Call, many: int = many) -> None:
            assert call.model is not None
            assert call.version is not None
            await life.engine.warm_up(call.model, call.version, [inputs_of(WARM_UP)] * many)

        await life.call("warm_up", work, model=model, version=draw.version(life, chance, model))


async def registrar(life: Life, chance: Random) -> None:
    """Forget versions and register them anew."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        model = draw.model(life, chance)
        version = draw.version(life, chance, model)

        async def work(call: Call) -> None:
            assert call.model is not None
            assert call.version is not None
            await life.engine.unregister(call.model, call.version)

        call = await life.call("unregister", work, model=model, version=version)
        known = life.run.shape.parts
        if not (life.closing or life.dead):
            part = next(part for part in known if (part.model, part.version) == (model, version))
            if call.end == "returned" or not behind.is_known(life.engine, model, version):
                with suppress(EngineClosed):  # just now
                    life.register(part)
