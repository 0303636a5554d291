"""The application that bench_http measures: one handler three times, with and without the engine.

`uvicorn http_app:serve` opens the engine for its lifespan. The model is the least there can be: what is measured is all
that stands round it. Each handler has an application of its own, because the second route of one costs more to find.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from models import trivial

from changeover import aio


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Keep a model as an application without the engine would, and the same one in an engine."""
    async with aio.open_engine() as engine:
        engine.register("m", "1", "models:trivial", loader="callable", allow_code=True)
        await engine.load("m", "1")
        for each in APPS.values():
            each.state.engine = engine
            each.state.model = trivial()
        yield


attribute, lease, infer = (FastAPI(lifespan=lifespan, openapi_url=None) for _ in range(3))
APPS = {"/attribute": attribute, "/lease": lease, "/infer": infer}


async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Be the application that uvicorn is given."""
    await APPS.get(scope.get("path", ""), attribute)(scope, receive, send)


@attribute.post("/attribute")
async def by_attribute(inputs: dict[str, float]) -> Mapping[str, Any]:
    """Answer by a model that is kept as an attribute, and cannot be changed over."""
    outputs: Mapping[str, Any] = attribute.state.model.predict(inputs)
    return outputs


@lease.post("/lease")
async def by_lease(inputs: dict[str, float]) -> Mapping[str, Any]:
    """Answer by a leased model."""
    with lease.state.engine.lease("m") as held:
        outputs: Mapping[str, Any] = held.model.predict(inputs)
        return outputs


@infer.post("/infer")
async def by_infer(inputs: dict[str, float]) -> Mapping[str, Any]:
    """Answer by the engine."""
    outputs: Mapping[str, Any] = (await infer.state.engine.infer("m", inputs)).outputs
    return outputs
