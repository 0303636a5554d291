"""Sets of leases and of requests on every face: they come to the same, and nothing is left of who goes away."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import trio

import changeover
from changeover import Drain
from changeover.core.routes import Trial
from changeover.errors import InvalidValue, LeaseRevoked, PredictFailed, RequestTimeout, VersionCrashed, WrongLoop
from tests.support.faces import ALL, ON_ASYNCIO, THREADS, Face, done
from tests.support.models import Broken, Cast
from tests.support.threads import PATIENCE_S, Crowd, patient

every_face = pytest.mark.parametrize("face", ALL, ids=lambda face: face.name)
on_asyncio = pytest.mark.parametrize("face", ON_ASYNCIO, ids=lambda face: face.name)
MODELS = ("a", "b", "c")
ASKED: dict[str, Any] = {model: {} for model in MODELS}
WAYS = {"a": "worker", "b": "inline", "c": "worker"}
GROUP = {version: dict.fromkeys(MODELS, version) for version in "12"}


async def load(engine: Any, versions: str = "12") -> None:
    """Load versions of three models; the first of each has the traffic."""
    for version in versions:
        for model in MODELS:
            engine.register(model, version, "s", loader="scripted", execution=WAYS[model])
            await done(engine.load(model, version))


def on_loop(engine: Any, call: Any) -> None:
    """Have the engine's own loop make a call."""
    engine._on_loop(call)


def wait_at(cast: Cast, key: str) -> tuple[threading.Event, threading.Event]:
    """Let a model wait in each request: return what says that one has begun, and what lets it go on."""
    began, go = threading.Event(), threading.Event()

    def wait(_inputs: object) -> None:
        began.set()
        assert patient(go)

    cast.script(*key.split("/")).on_predict = wait
    return began, go


def versions(replies: dict[str, Any]) -> str:
    """Return who answered, side by side."""
    return "".join(reply.version for reply in replies.values())


@every_face
def test_sets(face: Face) -> None:
    """A set of leases holds one of each in its block, a set of requests is answered in order; each by one moment."""

    async def scenario(face: Face) -> None:
        async with face.opened(strict_references=True) as engine:
            await load(engine)
            for version in "12":
                on_loop(engine, lambda version=version: engine._router.shift(GROUP[version]))
                with engine.lease_many(["b", "a"], request_id="r") as leases:
                    assert [(model, lease.version) for model, lease in leases.items()] == [
                        ("b", version),
                        ("a", version),
                    ]
                    assert leases["a"].infer({"n": 7}) == {"version": version, "n": 7}
                    assert engine.audit().total.held == 2
                if face is not THREADS:
                    async with engine.lease_many(MODELS, wait_s=1.0) as leases:
                        assert [lease.version for lease in leases.values()] == [version] * 3
                replies = await done(
                    engine.infer_many({"c": {"n": 1}, "b": {"n": 2}, "a": {}}, key="k", timeout_s=30.0)
                )
                assert (list(replies), versions(replies)) == (["c", "b", "a"], version * 3)
                assert [reply.outputs.get("n") for reply in replies.values()] == [1, 2, None]
            for bad in ([], ["a", "a"]):
                with pytest.raises(InvalidValue):
                    engine.lease_many(bad)
            with pytest.raises(InvalidValue):
                await done(engine.infer_many({}))
            assert engine.audit().clean

    face.play(scenario)


@every_face
def test_a_set_on_trial_falls_back_whole(face: Face) -> None:
    """Where one new version raises, every model of the swap is answered by its old one, and says so."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        async with face.opened(cast, strict_references=True) as engine:
            await load(engine)
            trial = Trial("2", "1", "salt", swap="swap")
            on_loop(engine, lambda: engine._router.try_out(dict.fromkeys("ab", trial), 1.0))
            assert versions(await done(engine.infer_many(ASKED))) == "221"
            for bad in "ab":
                cast.script(bad, "2").raises = Broken("new")
                replies = await done(engine.infer_many(ASKED))
                assert [(it.version, it.fell_back) for it in replies.values()] == [
                    ("1", True),
                    ("1", True),
                    ("1", False),
                ]
                cast.script(bad, "2").raises = None
            await done(engine.wait_for_drain("a", "1", PATIENCE_S))
            assert engine.audit().clean

    face.play(scenario)


@every_face
def test_a_failure(face: Face) -> None:
    """The first failure is the set's, with a note; the others end by themselves."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        async with face.opened(cast, strict_references=True) as engine:
            await load(engine, "1")
            began, go = wait_at(cast, "c/1")
            cast.script("a", "1").raises = Broken("no")
            with pytest.raises(PredictFailed, match="a/1 raised Broken: no") as caught:
                await done(engine.infer_many(ASKED))
            assert caught.value.__notes__ == ["it was asked of a in one set of a, b, c"]
            go.set()
            await done(engine.wait_for_drain("c", "1", PATIENCE_S))
            assert began.is_set() == (len(cast.of("c", "1")[0].calls) == 1)

    face.play(scenario)


@every_face
def test_a_late_set(face: Face) -> None:
    """Out of time it says who had not answered; what runs is given back when its thread is done."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        async with face.opened(cast, strict_references=True) as engine:
            await load(engine, "1")
            _began, go = wait_at(cast, "c/1")
            with pytest.raises(RequestTimeout, match=r"^(a/1, )?c/1 did not answer within 0\.05 s"):
                await done(engine.infer_many(ASKED, timeout_s=0.05))
            go.set()
            assert versions(await done(engine.infer_many(ASKED, timeout_s=PATIENCE_S))) == "111"
            await done(engine.wait_for_drain("c", "1", PATIENCE_S))

    face.play(scenario)


@every_face
def test_an_evicted_member(face: Face) -> None:
    """It is waited for by a set of requests, and by `async with`; the time limit holds."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        for model in MODELS:
            cast.script(model, "1").memory = 10
        async with face.opened(cast, memory_budget_bytes=25) as engine:
            for model in MODELS:
                engine.register(model, "1", "s", loader="scripted", memory_hint_bytes=10)
                await done(engine.load(model, "1"))
            assert versions(await done(engine.infer_many({"c": {}, "a": {}}))) == "11"
            assert versions(await done(engine.infer_many({"b": {}, "a": {}}, timeout_s=PATIENCE_S))) == "11"
            if face is not THREADS:
                async with engine.lease_many(["c", "b"], wait_s=PATIENCE_S) as leases:
                    assert [lease.version for lease in leases.values()] == ["1", "1"]
            assert engine.audit().clean

    face.play(scenario)


def test_an_engine_that_is_closed_under_a_thread() -> None:
    """A set whose model hangs is told so when the engine is closed, and its thread goes on."""

    async def scenario(face: Face) -> None:
        cast, errors = Cast(), list[BaseException]()
        began, go = wait_at(cast, "c/1")

        def ask(engine: Any) -> None:
            try:
                engine.infer_many(ASKED)
            except VersionCrashed as error:
                errors.append(error)

        async with face.opened(cast, close_timeout_s=0.05) as engine:
            await load(engine, "1")
            thread = threading.Thread(target=ask, args=(engine,))
            thread.start()
            assert patient(began)
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the caller hangs"
        go.set()
        assert [error.ran for error in errors if isinstance(error, VersionCrashed)] == ["unknown"]

    THREADS.play(scenario)


def test_no_set_is_a_mix_for_threads() -> None:
    """Eight threads ask and lease sets while the group is flipped all the time: never a mix, and nothing is left."""

    async def scenario(face: Face) -> None:
        async with face.opened(strict_references=True) as engine:
            await load(engine)
            crowd, over, found = Crowd(), threading.Event(), list[str]()

            def flip() -> None:
                while not over.is_set():
                    for version in "21":
                        engine._seat.call(lambda version=version: engine._router.shift(GROUP[version]))

            def ask() -> None:
                for _ in range(60):
                    found.append(versions(engine.infer_many(ASKED, timeout_s=PATIENCE_S)))
                    with engine.lease_many(MODELS) as leases:
                        found.append(versions(leases))

            flipper = threading.Thread(target=flip)
            for _ in range(8):
                crowd.add(ask)
            flipper.start()
            crowd.start()
            crowd.join()
            over.set()
            flipper.join()
            assert (set(found), len(found)) == ({"111", "222"}, 8 * 60 * 2)
            assert not engine._home._expected
            assert engine.audit().clean

    THREADS.play(scenario)


def test_a_set_has_no_async_block_in_a_thread() -> None:
    """`async with` on a set of the thread face is refused, and holds nothing."""

    async def scenario(face: Face) -> None:
        async with face.opened(strict_references=True) as engine:
            await load(engine, "1")
            with pytest.raises(WrongLoop, match="with"):
                await engine.lease_many(MODELS).__aenter__()

    THREADS.play(scenario)


# --- asyncio --------------------------------------------------------------------------------------------------------


@on_asyncio
def test_a_task_that_is_cancelled_holds_nothing(face: Face) -> None:
    """In whatever step of the loop: the cancellation comes out, and every reference comes back."""

    async def scenario(face: Face) -> None:
        async with face.opened(strict_references=True) as engine:
            await load(engine, "1")
            ends = set[str]()
            for steps in range(12):
                task = asyncio.ensure_future(engine.infer_many(ASKED))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    ends.add(versions(await task))
                except asyncio.CancelledError:
                    ends.add("cancelled")
            assert "cancelled" in ends
            for model in MODELS:
                await engine.wait_for_drain(model, "1", PATIENCE_S)
            assert not engine._homes.of(asyncio.get_running_loop())._expected

    face.play(scenario)


@on_asyncio
@pytest.mark.parametrize("drained", MODELS)
def test_a_drain_of_any_member_ends_the_block(face: Face, drained: str) -> None:
    """`LeaseRevoked` names it, no cancellation is left pending, and all members are given back."""

    async def scenario(face: Face) -> None:
        async with face.opened(strict_references=True) as engine:
            await load(engine, "1")
            drain = Drain(0.0, "cancel", PATIENCE_S)
            with pytest.raises(LeaseRevoked, match=f"{drained}/1") as caught:  # noqa: PT012 - the block is tested
                async with engine.lease_many(MODELS):
                    unload = asyncio.ensure_future(engine.unload(drained, "1", force=True, drain=drain))
                    await asyncio.Event().wait()
            assert caught.value.model == drained
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(0)
            assert (await unload).result == "drained"
            assert engine.audit().clean

    face.play(scenario)


@on_asyncio
def test_a_limit_around_a_set_is_its_own(face: Face) -> None:
    """`asyncio.timeout` around a set ends it as a cancellation, and not as the set's own time."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        async with face.opened(cast, strict_references=True) as engine:
            await load(engine, "1")
            _began, go = wait_at(cast, "c/1")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await engine.infer_many(ASKED, timeout_s=PATIENCE_S)
            go.set()
            await engine.wait_for_drain("c", "1", PATIENCE_S)

    face.play(scenario)


def test_a_set_of_two_trio_tasks() -> None:
    """Many tasks ask sets at once on Trio, and each gets its own answers."""

    async def main() -> None:
        async with changeover.open_engine(strict_references=True) as engine:
            engine._host.loaders.add("scripted", Cast().loader)
            await load(engine, "1")
            found: dict[int, list[Any]] = {}

            async def ask(number: int) -> None:
                replies = await engine.infer_many({model: {"n": (model, number)} for model in MODELS})
                found[number] = [reply.outputs["n"] for reply in replies.values()]

            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(ask, number)
            assert found == {number: [(model, number) for model in MODELS] for number in range(100)}

    trio.run(main)
