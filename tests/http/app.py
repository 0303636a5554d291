"""An application as somebody would write it who embeds the engine in FastAPI; uvicorn serves it in its own process.

`app` owns the engine for its lifespan; `bare` is the same without one. Models: `fast` is called in the handler, `slow`
by two workers, `one` by one; version 4 raises on its first 100 requests. Counts go into the witness's file at the end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import attrs
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from changeover import Drain, Shift, Stage, SwapOperation, aio
from changeover.errors import ChangeoverError, SwapNotDone
from tests.http.middleware import Attentive, Counting, Limited, Seen
from tests.http.served import note

MODELS = {
    "fast": {"execution": "inline"},
    "slow": {"execution": "worker", "workers": 2},
    "one": {"execution": "worker", "workers": 1},
}
VERSIONS = ("1", "2", "3", "4")
FAILS = 100
"""So many requests fail on version 4 first."""

PLANS = {
    "at-once": Shift.at_once(),
    "confirmed": Shift.at_once(confirm_samples=2 * FAILS, guard=None),
    "guarded": Shift.at_once(confirm_samples=1_000_000),
    "canary": Shift.canary((Stage(0.25, 0.0, 20), Stage(0.5, 0.0, 40)), confirm_s=0.0, confirm_samples=40, guard=None),
    "endless": Shift.canary((Stage(0.25, 0.0, 1_000_000),), confirm_s=0.0, guard=None),
}
"""They go by what was answered and not by the clock: a test waits for nothing but the traffic itself."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    """Open the engine before the first request, close it after the last."""
    async with aio.open_engine(close_timeout_s=float(os.environ.get("CLOSE_TIMEOUT_S", "10"))) as engine:
        app.state.engine = engine
        for model, fields in MODELS.items():
            for version in VERSIONS:
                options = {"name": f"{model}/{version}", "fails": FAILS if version == "4" else 0}
                engine.register(
                    model, version, "tests.http.served:make",
                    loader="callable", allow_code=True, options=options, **fields,
                )  # fmt: skip
            await engine.load(model, "1")
        yield
    note(f"begun {SEEN.count('begun')}")
    note(f"answered {SEEN.count('answered')}")


SEEN = Seen()
app = FastAPI(lifespan=lifespan)
bare = FastAPI()


@app.middleware("http")
async def named(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Stand between as most middleware does: Starlette runs the handler behind it in a task group of AnyIO."""
    response = await call_next(request)
    response.headers["x-served-by"] = "changeover"
    return response


app.add_middleware(Attentive, seen=SEEN)
app.add_middleware(Limited, seen=SEEN)
app.add_middleware(Counting, seen=SEEN)  # the last one is the outermost


@app.exception_handler(ChangeoverError)
async def refuse(_request: Request, error: ChangeoverError) -> JSONResponse:
    """Say what happened, and whether to try again."""
    return JSONResponse({"error": type(error).__name__}, 503 if error.retryable else 500)


@app.exception_handler(SwapNotDone)
async def not_done(_request: Request, error: SwapNotDone) -> JSONResponse:
    """Say what became of a swap that did not happen."""
    return JSONResponse(as_json(error.operation), 409)


# --- requests ---


@app.post("/predict/{model}")
async def predict(model: str, inputs: dict[str, Any], response: Response, key: str | None = None) -> dict[str, Any]:
    """Answer one request."""
    reply = await app.state.engine.infer(model, inputs, key=key)
    response.headers["x-version"] = reply.version
    response.headers["x-fell-back"] = str(reply.fell_back)
    return dict(reply.outputs)


@app.post("/lease/{model}")
async def lease(model: str, inputs: dict[str, Any], response: Response) -> dict[str, Any]:
    """Answer one request on the event loop, by the model itself."""
    with app.state.engine.lease(model) as held:
        response.headers["x-version"] = held.version
        return dict(held.model.predict(inputs))


@app.post("/thread/{model}")
def in_a_thread(model: str, inputs: dict[str, Any], response: Response) -> dict[str, Any]:
    """Answer one request in a thread of Starlette's pool."""
    with app.state.engine.lease(model) as held:
        response.headers["x-version"] = held.version
        return dict(held.infer(inputs))


@app.post("/hold/{model}")
async def hold(model: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Hold a version in a block that can be cancelled."""
    async with app.state.engine.lease(model, request_id="hold"):
        return await asyncio.to_thread(dict, (await app.state.engine.infer("slow", inputs)).outputs)


async def opened_stream(model: str, inputs: dict[str, Any]) -> AsyncGenerator[aio.Chunks, None]:
    """Hold a version until the last chunk is sent, or the client is gone."""
    async with app.state.engine.infer_stream(model, inputs) as chunks:
        yield chunks


@app.post("/stream/{model}")
async def stream(chunks: Annotated[aio.Chunks, Depends(opened_stream)]) -> StreamingResponse:
    """Answer in chunks.

    The block is a dependency's: Starlette does not close a generator that it leaves in the middle of a slow send, and
    a block inside that would hold its version until Python's collector comes by.
    """
    return StreamingResponse((f"{reply.outputs['chunk']}\n" async for reply in chunks), media_type="text/plain")


# --- orders ---


@app.post("/swap/{model}/{to}")
async def swap(model: str, to: str, plan: str, on_busy: Any = "refuse") -> dict[str, Any]:
    """Change over, and answer when that is done."""
    return as_json(await app.state.engine.swap(model, to, plan=PLANS[plan], drain=Drain(), on_busy=on_busy))


@app.post("/order/{model}/{to}")
async def order(model: str, to: str, plan: str) -> str:
    """Begin to change over, and answer with the id of the swap."""
    return str(app.state.engine.start_swap(model, to, plan=PLANS[plan]))


@app.get("/swaps/{swap_id}")
async def ended(swap_id: str) -> dict[str, Any]:
    """Wait for a swap's end, and answer with what it came to."""
    return as_json(await app.state.engine.wait_for_swap(swap_id))


@app.get("/last/{model}")
async def last(model: str) -> dict[str, Any]:
    """Wait for the end of the last swap of a model."""
    return await ended(app.state.engine.swaps(model)[-1].id)


@app.post("/crash")
async def crash() -> None:
    """Have the engine meet a bug of its own."""
    from tests.support.faces import crash

    crash(app.state.engine)


# --- looking ---


@app.get("/status")
async def status() -> dict[str, Any]:
    """Say who holds what, and which versions are active."""
    engine = app.state.engine
    audit = engine.audit()
    return {
        "clean": audit.clean,
        "holders": {str(key): [holder.kind for holder in held] for key, held in audit.holders.items()},
        "active": {model: [v for v in VERSIONS if engine.is_active(model, v)] for model in MODELS},
        "loaded": {model: engine.loaded_versions(model) for model in MODELS},
        "queued": {str(key): counts.queued for key, counts in engine.statistics().versions.items()},
        "predictions": {str(key): counts.predictions for key, counts in engine.statistics().versions.items()},
    }


@app.get("/rest/{model}/{version}")
async def rest(model: str, version: str) -> dict[str, Any]:
    """Wait until nobody holds a version, and answer as `status` does."""
    await app.state.engine.references.wait_for_zero(model, version, 20.0)
    return await status()


@app.get("/seen/{what}/{count}")
async def seen(what: str, count: int) -> int:
    """Wait until something was seen so often."""
    return await SEEN.until(what, count)


def as_json(operation: SwapOperation) -> dict[str, Any]:
    """Return what a test wants to know of a swap."""
    return {
        "id": operation.id,
        "state": operation.state.value,
        "superseded_by": operation.superseded_by,
        "fallbacks": operation.fallbacks,
        "guard": None if operation.guard is None else attrs.asdict(operation.guard),
    }
