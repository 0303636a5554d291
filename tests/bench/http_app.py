"""The application that bench_http measures: one handler three times, with and without the engine.

`uvicorn http_app:app` opens the engine for its lifespan. The model is the least there can be: what is measured is all
that stands round it.
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
    app.state.model = trivial()
    async with aio.open_engine() as app.state.engine:
        app.state.engine.register("m", "1", "models:trivial", loader="callable", allow_code=True)
        await app.state.engine.load("m", "1")
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/attribute")
async def by_attribute(inputs: dict[str, float]) -> Mapping[str, Any]:
    """Answer by a model that is kept as an attribute, and cannot be changed over."""
    outputs: Mapping[str, Any] = app.state.model.predict(inputs)
    return outputs


@app.post("/lease")
async def by_lease(inputs: dict[str, float]) -> Mapping[str, Any]:
    """Answer by a leased model."""
    with app.state.engine.lease("m") as lease:
        outputs: Mapping[str, Any] = lease.model.predict(inputs)
        return outputs


@app.post("/infer")
async def by_infer(inputs: dict[str, float]) -> Mapping[str, Any]:
    """Answer by the engine."""
    outputs: Mapping[str, Any] = (await app.state.engine.infer("m", inputs)).outputs
    return outputs
