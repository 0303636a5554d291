"""An async lease that is revoked in asyncio: the block ends, tells why, and leaves no cancellation behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from changeover import Drain, DrainOutcome
from changeover.errors import LeaseRevoked, WrongLoop
from tests.support.faces import ON_ASYNCIO, Face
from tests.support.threads import PATIENCE_S

on_asyncio = pytest.mark.parametrize("face", ON_ASYNCIO, ids=lambda face: face.name)


@asynccontextmanager
async def served(face: Face, *models: str) -> AsyncGenerator[Any, None]:
    """Open an engine with ready models."""
    async with face.opened(strict_references=True) as engine:
        for model in models or ("m",):
            engine.register(model, "1", "s", loader="scripted")
            await engine.load(model, "1")
        yield engine


def drain(engine: Any, model: str = "m", *, grace_s: float = PATIENCE_S) -> asyncio.Future[DrainOutcome]:
    """Begin to drain a model, out of time from the start."""
    return asyncio.ensure_future(engine.unload(model, "1", force=True, drain=Drain(0.0, "cancel", grace_s)))


async def forever() -> None:
    """Wait for what never comes."""
    await asyncio.Event().wait()


def me() -> asyncio.Task[Any]:
    """Return the task that this is called in."""
    task = asyncio.current_task()
    assert task is not None
    return task


async def nothing_is_pending(count: int = 0) -> None:
    """Pass if no cancellation hits the next steps of this task, nor is counted in it."""
    assert me().cancelling() == count
    for _ in range(3):
        await asyncio.sleep(0)


@on_asyncio
def test_a_revoked_block_ends(face: Face) -> None:
    """The block ends where it waits, `LeaseRevoked` says why and may be tried again, and the version is drained."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            with pytest.raises(LeaseRevoked, match="m/1") as caught:  # noqa: PT012 - the block is what is tested
                async with engine.lease("m"):
                    draining = drain(engine)
                    await forever()
            assert caught.value.retryable
            await nothing_is_pending()
            assert (await draining).result == "drained"
            assert engine.audit().clean

    face.play(scenario)


@on_asyncio
def test_a_block_that_ends_in_the_moment_of_revocation(face: Face) -> None:
    """Whoever has left when the revocation arrives is not hit by it, in whatever step of the loop that is."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            for steps in range(12):
                revoked = False
                draining = None
                try:
                    async with engine.lease("m") as lease:
                        lease._stay.revoke()
                        lease._stay.revoke()
                        for _ in range(steps % 3):
                            await asyncio.sleep(0)
                        if steps > 2:
                            draining = drain(engine)
                            for _ in range(steps):
                                await asyncio.sleep(0)
                except LeaseRevoked:
                    revoked = True
                await nothing_is_pending()
                assert revoked == (steps % 3 > 0 or steps > 2)
                if draining is not None:
                    assert (await draining).result == "drained"
                    await engine.load("m", "1")

    face.play(scenario)


@on_asyncio
def test_a_body_that_swallows_the_cancellation(face: Face) -> None:
    """A body that catches the cancellation and ends well ends well, with nothing pending behind it."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            async with engine.lease("m"):
                draining = drain(engine)
                try:
                    await forever()
                except asyncio.CancelledError:
                    await asyncio.sleep(0)
            await nothing_is_pending()
            assert (await draining).result == "drained"

    face.play(scenario)


@on_asyncio
def test_a_body_that_raises_something_else(face: Face) -> None:
    """What the body raises when it is revoked stays what it is."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
                async with engine.lease("m"):
                    draining = drain(engine)
                    try:
                        await forever()
                    finally:
                        raise ZeroDivisionError
            await nothing_is_pending()
            await draining

    face.play(scenario)


@on_asyncio
@pytest.mark.parametrize("which", ["inner", "outer", "both"])
def test_nested_leases(face: Face, which: str) -> None:
    """Of nested leases, the one that is revoked says so; where both are, the outer one has the last word."""

    async def scenario(face: Face) -> None:
        async with served(face, "inner", "outer") as engine:
            ended: list[str] = []
            drains: list[Any] = []
            try:
                async with engine.lease("outer"):
                    try:
                        async with engine.lease("inner"):
                            drains += [drain(engine, model) for model in ("inner", "outer") if which in (model, "both")]
                            await forever()
                    except LeaseRevoked as error:
                        ended.append(error.model or "")
                        await nothing_is_pending()
                        raise
            except LeaseRevoked as error:
                ended.append(error.model or "")
            await nothing_is_pending()
            await asyncio.gather(*drains)
            assert ended in {"inner": [["inner", "inner"]], "outer": [["outer"]]}.get(
                which, [["outer"], ["inner", "inner"], ["inner", "outer"]]
            )

    face.play(scenario)


@on_asyncio
@pytest.mark.parametrize("revoked", [False, True])
def test_a_cancellation_from_outside(face: Face, revoked: bool) -> None:
    """A cancellation of the task stays one, also where the lease is revoked in the same moment."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            inside = asyncio.Event()
            stays: list[Any] = []

            async def use() -> None:
                async with engine.lease("m") as lease:
                    stays.append(lease._stay)
                    inside.set()
                    await forever()

            task = asyncio.ensure_future(use())
            await inside.wait()
            if revoked:
                stays[0]._cancel()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert engine.audit().clean

    face.play(scenario)


@on_asyncio
@pytest.mark.parametrize("order", ["revoked first", "late first", "only revoked", "only late"])
@pytest.mark.parametrize("limit", ["outside", "inside"])
def test_in_a_time_limit(face: Face, order: str, limit: str) -> None:
    """With `asyncio.timeout` around it or in it, each cancellation finds its own block."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            late = asyncio.timeout(None)

            def happen(stay: Any) -> None:
                both = {
                    "revoked first": [stay._cancel, late._on_timeout],
                    "late first": [late._on_timeout, stay._cancel],
                }
                alone = {"only revoked": [stay._cancel], "only late": [late._on_timeout]}
                for event in (both | alone)[order]:
                    event()

            raised: BaseException | None = None
            try:
                if limit == "outside":
                    async with late, engine.lease("m") as lease:
                        asyncio.get_running_loop().call_soon(happen, lease._stay)
                        await forever()
                else:
                    async with engine.lease("m") as lease, late:
                        asyncio.get_running_loop().call_soon(happen, lease._stay)
                        await forever()
            except (TimeoutError, LeaseRevoked) as error:
                raised = error
            await nothing_is_pending()
            if order.startswith("only"):
                assert isinstance(raised, LeaseRevoked if order == "only revoked" else TimeoutError)
            else:
                assert isinstance(raised, TimeoutError if limit == "outside" else LeaseRevoked)

    face.play(scenario)


@on_asyncio
@pytest.mark.parametrize("failing", [False, True])
def test_around_a_task_group(face: Face, failing: bool) -> None:
    """A revocation ends a task group in the block, with its tasks; a task that failed meanwhile is not hidden."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:

            async def child() -> None:
                try:
                    await forever()
                finally:
                    if failing:
                        raise ZeroDivisionError

            with pytest.raises(BaseExceptionGroup if failing else LeaseRevoked):  # noqa: PT012 - the block is tested
                async with engine.lease("m"), asyncio.TaskGroup() as group:
                    group.create_task(child())
                    draining = drain(engine)
                    await asyncio.sleep(0)
            await nothing_is_pending()
            await draining

    face.play(scenario)


@on_asyncio
def test_in_a_task_of_a_task_group(face: Face) -> None:
    """A revocation in one task of a group is that task's error, and the group's own doing stays apart from it."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:

            async def use() -> None:
                async with engine.lease("m"):
                    await forever()

            with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the block is what is tested
                async with asyncio.TaskGroup() as group:
                    group.create_task(use())
                    other = group.create_task(forever())
                    await asyncio.sleep(0)
                    await drain(engine)
                    await forever()
            assert [type(error) for error in caught.value.exceptions] == [LeaseRevoked]
            assert other.cancelled()
            await nothing_is_pending()

    face.play(scenario)


@on_asyncio
@pytest.mark.parametrize("order", ["revoked first", "cancelled first", "only revoked", "only cancelled"])
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_with_anyio_scopes(face: Face, order: str, place: str) -> None:
    """With an AnyIO scope around it or in it, each cancellation finds its own block, and none is left over."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            scope = anyio.CancelScope()

            def happen(stay: Any) -> None:
                events = {
                    "revoked first": [stay._cancel, scope.cancel],
                    "cancelled first": [scope.cancel, stay._cancel],
                }
                alone = {"only revoked": [stay._cancel], "only cancelled": [scope.cancel]}
                for event in (events | alone)[order]:
                    event()

            raised: LeaseRevoked | None = None
            try:
                if place == "outside":
                    with scope:
                        async with engine.lease("m") as lease:
                            asyncio.get_running_loop().call_soon(happen, lease._stay)
                            await forever()
                else:
                    async with engine.lease("m") as lease:
                        with scope:
                            asyncio.get_running_loop().call_soon(happen, lease._stay)
                            await forever()
            except LeaseRevoked as error:
                raised = error
            await nothing_is_pending()
            if order == "only cancelled":
                assert raised is None
                assert scope.cancelled_caught
            elif order == "only revoked":
                assert raised is not None
                assert not scope.cancelled_caught

    face.play(scenario)


@on_asyncio
def test_in_anyio_time_limits(face: Face) -> None:
    """`anyio.move_on_after` around a lease ends it as ever; the lease gives its reference back and raises nothing."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            with anyio.move_on_after(0.01) as scope:
                async with engine.lease("m"):
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            await nothing_is_pending()
            assert engine.audit().clean

    face.play(scenario)


@on_asyncio
def test_whoever_does_not_let_go(face: Face) -> None:
    """A holder who ignores its revocation keeps the version in quarantine after the grace, and it is never closed."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            async with engine.lease("m") as lease:
                draining = drain(engine, grace_s=0.01)
                while not draining.done():
                    try:
                        await draining
                    except asyncio.CancelledError:
                        draining = drain(engine, grace_s=0.01) if draining.cancelled() else draining
                outcome = draining.result()
                assert (outcome.result, len(outcome.holders)) == ("quarantined", 1)
                assert lease.infer({"x": 1})["x"] == 1
            await nothing_is_pending()

    face.play(scenario)


@on_asyncio
def test_a_synchronous_lease_cannot_be_revoked(face: Face) -> None:
    """`with` on a lease is not touched by a revocation: the version waits in quarantine."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            with engine.lease("m"):
                assert (await drain(engine, grace_s=0.0)).result == "quarantined"
            await nothing_is_pending()

    face.play(scenario)


@on_asyncio
def test_given_back_while_it_is_revoked(face: Face) -> None:
    """A lease that is released inside its block is not revoked any more."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            lease = engine.lease("m")
            await lease.__aenter__()
            lease.release()
            assert (await drain(engine, grace_s=0.0)).result == "drained"
            await nothing_is_pending()

    face.play(scenario)


@on_asyncio
def test_left_in_another_task(face: Face) -> None:
    """A lease that is left in another task than entered it says so, and gives its reference back."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            lease = engine.lease("m")
            await asyncio.create_task(lease.__aenter__())
            with pytest.raises(WrongLoop, match="another"):
                await lease.__aexit__(None, None, None)
            assert engine.audit().clean

    face.play(scenario)


@on_asyncio
def test_a_lease_of_a_loop_that_is_closed(face: Face) -> None:
    """A lease taken in a loop that has closed cannot be revoked: the drain ends in quarantine."""

    async def scenario(face: Face) -> None:
        async with served(face) as engine:
            leases: list[Any] = []

            async def take() -> None:
                leases.append(engine.lease("m"))
                await leases[0].__aenter__()

            thread = threading.Thread(target=lambda: asyncio.run(take()))
            thread.start()
            thread.join()
            outcome = await drain(engine, grace_s=0.0)
            assert (outcome.result, [holder.kind for holder in outcome.holders]) == ("quarantined", ["lease"])
            leases[0].release()

    face.play(scenario)
