"""Isolation: what goes wrong in one version is not felt by its sibling, nor by another model, not by a moment.

Promise 7 has whole models beside each other; here the trouble is another version of the very same model. What versions
do not share is in `test_isolation_of_state.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from hypothesis import strategies as st

from changeover import Drain
from tests.support.examples import examined
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, open_rig, run_virtual, settle

QUIET = (("m", "1"), ("other", "1"))
"""The versions that must notice nothing: the sibling of all trouble, and another model."""
WORK_S = 0.25

# --- trouble --------------------------------------------------------------------------------------------------------


@attrs.define
class Trouble:
    """One version of m that gets it wrong in its own way, and what came of its requests and orders."""

    rig: Rig
    version: str
    hang: trio.Event
    """Set at the end of the run: whatever hangs comes back."""
    errors: list[str] = attrs.field(factory=list)

    def takes(self, work: str, duration: Any) -> None:
        """Say how long its work takes."""
        self.rig.takes(f"{work} m/{self.version}", duration)
        self.rig.takes(f"{work} m/{self.version} 0", duration)

    async def tries(self, call: Callable[..., Awaitable[Any]], *args: Any, **fields: Any) -> None:
        """Make a call and note its error."""
        outcome = Outcome(call, *args, **fields)
        await outcome.run()
        if outcome.error is not None:
            self.errors.append(type(outcome.error).__name__)

    async def load(self, **fields: Any) -> None:
        """Register the version and load it."""
        self.rig.add("m", self.version, **fields)
        await self.tries(self.rig.engine.load, "m", self.version)

    async def asks(self, count: int) -> None:
        """Ask so many requests at once."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(lambda: self.tries(self.rig.engine.infer, "m", {}, version=self.version))


async def floods(trouble: Trouble) -> None:
    """Get many more requests than fit into its queue."""
    trouble.takes("worker", 1.0)
    await trouble.load(execution="worker", queue_limit=4)
    for _ in range(5):
        await trouble.asks(30)


async def hangs(trouble: Trouble) -> None:
    """Answer nothing: all its workers hang."""
    trouble.takes("worker", trouble.hang)
    await trouble.load(execution="worker")
    await trouble.asks(5)


async def always_raises(trouble: Trouble) -> None:
    """Fail each request."""
    await trouble.load(raises=Broken("always"))
    for _ in range(20):
        await trouble.asks(1)
        await trio.sleep(0.1)


async def always_crashes(trouble: Trouble) -> None:
    """Be beyond use at each request, until it is given up."""
    await trouble.load(fatal_on=lambda _inputs: True, execution="worker")
    for _ in range(10):
        await trouble.asks(3)
        await trio.sleep(0.5)


async def closes_slowly(trouble: Trouble) -> None:
    """Come and go, and take long to go."""
    trouble.takes("close", 1.5)
    await trouble.load()
    for _ in range(3):
        await trouble.tries(trouble.rig.engine.unload, "m", trouble.version, force=True)
        await trouble.tries(trouble.rig.engine.load, "m", trouble.version)


async def never_closes(trouble: Trouble) -> None:
    """Go, and never be gone."""
    trouble.takes("close", trouble.hang)
    await trouble.load()
    await trouble.tries(trouble.rig.engine.unload, "m", trouble.version, force=True)


async def loads_for_ever(trouble: Trouble) -> None:
    """Never come."""
    trouble.takes("load", trouble.hang)
    await trouble.load(load_timeout_s=2.0)
    await trouble.tries(trouble.rig.engine.load, "m", trouble.version)


async def warms_for_ever(trouble: Trouble) -> None:
    """Come, and never be warm."""
    trouble.takes("warm", trouble.hang)
    await trouble.load(load_timeout_s=2.0, warmup=[{}])


async def fails_to_load(trouble: Trouble) -> None:
    """Fail to come, again and again."""
    trouble.takes("load", 0.25)
    await trouble.load(load_error=Broken("no good"))
    for _ in range(5):
        await trouble.tries(trouble.rig.engine.load, "m", trouble.version)


async def is_held(trouble: Trouble) -> None:
    """Be told to go while somebody holds it, who does not let go."""
    await trouble.load()
    with trouble.rig.engine.lease("m", version=trouble.version):
        await trouble.tries(trouble.rig.engine.unload, "m", trouble.version, drain=Drain(1.0))
        await trouble.hang.wait()


TROUBLES: tuple[tuple[Callable[[Trouble], Awaitable[None]], set[str]], ...] = (
    (floods, {"Overloaded"}),
    (hangs, set()),
    (always_raises, {"PredictFailed"}),
    (always_crashes, {"VersionCrashed", "NotReady"}),
    (closes_slowly, set()),
    (never_closes, set()),
    (loads_for_ever, {"LoadTimeout"}),
    (warms_for_ever, {"LoadTimeout"}),
    (fails_to_load, {"LoadFailed"}),
    (is_held, set()),
)


# --- one run --------------------------------------------------------------------------------------------------------

Ask = tuple[float, int, str]
"""When, of which quiet version, and whether by its name, as the active one, or by a lease."""


@attrs.define
class Run:
    """What the quiet versions saw and what was written down of them, and the errors of each trouble."""

    seen: list[Any] = attrs.field(factory=list)
    books: list[Any] = attrs.field(factory=list)
    errors: list[list[str]] = attrs.field(factory=list)


async def ask(rig: Rig, run: Run, number: int, wish: Ask) -> None:
    """Be one client of a quiet version."""
    at_s, which, how = wish
    model, version = QUIET[which]
    await trio.sleep_until(10.0 + at_s + 0.001 * number)  # no two of them in the same moment
    began_s = trio.current_time()
    if how == "lease":
        with rig.engine.lease(model) as lease:
            answer = (lease.version, lease.infer({"n": number})["n"])
    else:
        reply = await rig.engine.infer(model, {"n": number}, version=version if how == "named" else None)
        answer = (reply.version, reply.outputs["n"])
    run.seen.append((number, answer, round(trio.current_time() - began_s, 6)))


def books_of(rig: Rig) -> list[Any]:
    """Return what the engine counts of the quiet versions."""
    counts = rig.engine.statistics().versions
    infos = [rig.engine.load_info(*key) for key in QUIET]
    return [
        (one.state, one.references, one.queued, one.predictions, one.errors, info.error, info.request_count)
        for one, info in zip([counts[key] for key in QUIET], infos, strict=True)
    ] + [rig.engine.who_holds(*key) for key in QUIET]


async def play(wishes: tuple[Ask, ...], troubles: tuple[tuple[int, float], ...]) -> Run:
    """Ask the quiet versions, with trouble beside them: which, and when each begins."""
    run, hang = Run(), trio.Event()
    async with open_rig(stuck_loads_max=50, memory_budget_bytes=10_000) as rig:
        for model, version in QUIET:
            rig.takes(f"worker {model}/{version} 0", WORK_S)
            await rig.ready(model, version, execution="worker")
        assert rig.engine.is_active("m", "1")
        async with trio.open_nursery() as clients, trio.open_nursery() as noise:
            for number, (which, at_s) in enumerate(troubles):
                trouble = Trouble(rig, f"bad{number}", hang)
                run.errors.append(trouble.errors)
                noise.start_soon(_begin, TROUBLES[which][0], trouble, 10.0 + at_s)
            for number, wish in enumerate(wishes):
                clients.start_soon(ask, rig, run, number, wish)
            await trio.sleep_until(60.0)
            run.books = books_of(rig)
            hang.set()
        await nothing_is_left(rig)
    run.seen.sort()
    return run


async def _begin(make: Callable[[Trouble], Awaitable[None]], trouble: Trouble, at_s: float) -> None:
    await trio.sleep_until(at_s)
    await make(trouble)


async def nothing_is_left(rig: Rig) -> None:
    """Take down what made trouble and still stands; then only the quiet ones are loaded, held or reserved."""
    await trio.sleep(20.0)
    for version in rig.engine.loaded_versions("m"):
        if version != "1":
            await rig.engine.unload("m", version)
    await settle()
    counts = rig.engine.statistics()
    assert sorted(made.name for made in rig.cast.made if not made.closed) == ["m/1", "other/1"]
    assert (counts.reserved_bytes, counts.stuck_loads, rig.engine.audit().clean) == (20, 0, True)
    assert (dict(rig.engine._host.jobs), len(rig.engine._host.living())) == ({}, 2)


ASKS: st.SearchStrategy[Any] = st.lists(
    st.tuples(
        st.integers(0, 32).map(lambda n: n / 4), st.integers(0, 1), st.sampled_from(["named", "active", "lease"])
    ),
    min_size=5,
    max_size=30,
).map(tuple)
MIXES: st.SearchStrategy[Any] = st.lists(
    st.tuples(st.integers(0, len(TROUBLES) - 1), st.integers(0, 32).map(lambda n: n / 4)), min_size=1, max_size=6
).map(tuple)


@examined(80, wishes=ASKS, troubles=MIXES)
def test_a_version_is_as_fast_beside_its_bad_siblings_as_alone(
    wishes: tuple[Ask, ...], troubles: tuple[tuple[int, float], ...]
) -> None:
    """Whatever mix of trouble: every answer, every latency, every count is exactly what it is without."""
    alone, together = run_virtual(play, wishes, ()), run_virtual(play, wishes, troubles)
    assert together.seen == alone.seen
    assert together.books == alone.books
    assert len(alone.seen) == len(wishes)


STEADY: tuple[Ask, ...] = tuple((n / 4, n % 2, ["named", "active", "lease"][n % 3]) for n in range(40))


@pytest.mark.parametrize("which", range(len(TROUBLES)), ids=[make.__name__ for make, _ in TROUBLES])
def test_each_trouble_is_its_versions_own(which: int) -> None:
    """Three versions in the same trouble: it is really there, with its own errors, and a steady load beside it is."""
    alone, together = (
        run_virtual(play, STEADY, ()),
        run_virtual(play, STEADY, ((which, 0.1), (which, 1.1), (which, 2.1))),
    )
    assert (together.seen, together.books) == (alone.seen, alone.books)
    given_up = {"VersionNotLoaded"}  # what those hear who ask once more
    assert [set(errors) - given_up for errors in together.errors] == [TROUBLES[which][1]] * 3
