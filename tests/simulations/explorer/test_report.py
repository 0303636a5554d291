"""What people read of a failure: the text of each verdict, that it is short, and that nothing is lost with `full`."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.lowlevel import checkpoint

from changeover_sim import Failure, RandomWalk, Result, choose, explore
from changeover_sim.explorer.compare import parting
from changeover_sim.explorer.places import Place
from changeover_sim.explorer.report import failure_text
from changeover_sim.explorer.telling.folding import Fold, folded
from changeover_sim.explorer.trace import Step
from tests.simulations.explorer import told
from tests.simulations.explorer.test_any_program import program_of, tasks

LINES_MAX = 59
"""The promise: less than 60."""


def failure_of(program: Any, **how: Any) -> Failure:
    """Return how a program fails."""
    failure = explore(program, **{"schedules": 200, "policy": RandomWalk(), **how}).failure
    assert failure is not None
    return failure


def texts_of(failure: Failure) -> list[str]:
    """Return the lines of the report as they come out of an exploration, with everything that stands around it."""
    notes = tuple(f"note {number}" for number in range(50))
    text = str(Result(failure, 1, 1.0, exhausted=False, policy="RandomWalk()", seed=0, notes=notes))
    return text.splitlines()


# --- as it reads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", told.PICKS, ids=lambda program: program.__name__)
def test_the_text_of_each_verdict(program: Any) -> None:
    """Word for word what people read; `python -m tests.simulations.explorer.told` writes it anew."""
    golden = (told.GOLDEN / f"{program.__name__}.txt").read_text(encoding="utf-8")
    assert told.text_of(program) == golden


def test_there_is_a_text_for_each_program() -> None:
    """No golden file is left over."""
    assert {file.stem for file in told.GOLDEN.iterdir()} == {program.__name__ for program in told.PICKS}


def test_nurseries_alone_make_no_graph() -> None:
    """Who waits for its own children is said once; the graph is for what is not seen from the lines above it."""
    failure, _ = told.told(told.cancel, told.PICKS[told.cancel])
    assert "waits in a nursery for patient" in str(failure)
    assert "who waits for whom" not in str(failure)


def test_the_circle_is_told_first_and_marked() -> None:
    """Three that wait for each other stand in one line, in the order of their waiting."""

    async def program() -> None:
        locks = [trio.Lock() for _ in range(3)]

        async def philosopher(number: int) -> None:
            async with locks[number]:
                await trio.sleep(1)
                async with locks[(number + 1) % 3]:
                    pass

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(philosopher, number)

    lines = str(failure_of(program)).splitlines()
    at = lines.index("who waits for whom:")
    circle, rest, blank = lines[at + 1 : at + 4]
    names = [link.split(" (")[0].strip() for link in circle.removesuffix(": a cycle").split("->")]
    assert names[0] == names[-1]
    assert sorted(names[1:]) == ["philosopher", "philosopher 2", "philosopher 3"]
    assert circle.endswith(" (trio.Lock): a cycle")
    assert (rest, blank) == ("  program -> philosopher, philosopher 2, philosopher 3 (a nursery)", "")


def test_a_task_of_a_lambda_is_told() -> None:
    """Names that begin with `<` are not Trio's alone: who races is in the table, and so are the deviations."""

    async def program() -> None:
        done = list[str]()

        async def note(name: str, checkpoints: int) -> None:
            for _ in range(checkpoints):
                await checkpoint()
            done.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: note("slow", 2))
            nursery.start_soon(lambda: note("fast", 1))
        assert done == ["fast", "slow"]

    failure = failure_of(program)
    assert {step.task for step in failure.trace} == {"program", "<lambda>", "<lambda> 2"}
    assert "First-in-first-out throughout" not in str(failure)


def test_two_tasks_never_have_one_name() -> None:
    """Who is called like another's number has another number."""

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            for name in ("w", "w", "w 2"):
                nursery.start_soon(trio.sleep_forever, name=name)

    names = [wait.task for wait in failure_of(program).waiting]
    assert len(names) == len(set(names)) == 4


def test_who_may_go_on_is_in_no_circle() -> None:
    """A limiter with a borrower who is still about keeps nobody for good: there is no circle, and no deadlock."""

    async def program() -> None:
        limiter, lock = trio.CapacityLimiter(2), trio.Lock()

        async def ticks() -> None:
            async with limiter:
                while True:  # noqa: ASYNC110 - it is what the test is about
                    await trio.sleep(1)

        async def one(outer: Any, inner: Any) -> None:
            async with outer:
                await trio.sleep(1)
                async with inner:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticks)
            nursery.start_soon(one, limiter, lock)
            nursery.start_soon(one, lock, limiter)

    failure = failure_of(program, steps_max=40)
    assert failure.verdict == "livelock"
    assert "cycle" not in str(failure)


def test_an_error_may_have_exceptions_of_its_own() -> None:
    """An attribute of that name does not make an error a group."""

    class BatchError(Exception):
        exceptions = 7

    async def program() -> None:
        await checkpoint()
        raise BatchError("all of them")

    assert "BatchError: all of them" in str(failure_of(program))


def test_a_loop_is_recorded_in_part() -> None:
    """Of a step with a hundred thousand lines the first and the last are kept, with the one that raised."""

    async def program() -> None:
        await checkpoint()
        total = 0
        for number in range(50_000):
            total += number
        raise ValueError(total)

    (*_, last) = failure_of(program, schedules=1).trace
    assert len(last.lines) == 2_000
    assert last.lines[-1].text == "raise ValueError(total)"


# --- how long it is ---------------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=40)
@given(all_moves=tasks, seed=st.integers(0, 1_000))
def test_no_report_is_long(all_moves: Any, seed: int) -> None:
    """Whatever fails, and however: less than 60 lines, and the command is the last of the report."""
    failure = explore(program_of(all_moves, []), schedules=12, steps_max=120, seed=seed, policy=RandomWalk()).failure
    if failure is not None:
        assert len(texts_of(failure)) <= LINES_MAX
        assert failure_text(failure).splitlines()[-1].endswith(failure.token)


async def many_locks() -> None:
    """Two hundred wait for one that waits for another, each for a name of its own that is far too long."""
    first, second = trio.Lock(), trio.Lock()

    async def stuck() -> None:
        async with first:
            await trio.sleep(1)
            async with second:
                pass

    async def holder() -> None:
        async with second:
            await trio.sleep(1)
            async with first:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stuck)
        nursery.start_soon(holder)
        await trio.sleep(0.5)
        for number in range(200):
            nursery.start_soon(first.acquire, name=f"{'task' * 60} {number}")


async def many_errors() -> None:
    """Thirty errors, each with a message of a hundred lines, from far down."""

    async def fails(depth: int) -> None:
        if depth:
            await fails(depth - 1)
        raise ValueError("\n".join(f"line {n} {'x' * 900}" for n in range(100)))

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(fails, 30)


async def many_steps() -> None:
    """Ten tasks with a hundred steps each, out of order nearly everywhere."""

    async def goes_on() -> None:
        for _ in range(100):
            await checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(goes_on)
    raise ValueError


@pytest.mark.parametrize("program", [many_locks, many_errors, many_steps])
def test_not_even_these_are_long(program: Any) -> None:
    """Much of everything: the report is short, its lines are, and it ends with how to run it again."""
    failure = failure_of(program, schedules=1)
    text = failure_text(failure)
    assert len(texts_of(failure)) <= LINES_MAX
    assert max(map(len, text.splitlines()[:-1])) <= 250
    assert text.endswith(failure.token)


@pytest.mark.parametrize("program", [many_locks, many_errors, many_steps])
def test_the_full_report_leaves_nothing_out(program: Any) -> None:
    """With `full` every step, every message and everybody who waits is there."""
    failure = failure_of(program, schedules=1)
    lines = failure_text(failure, full=True).splitlines()
    numbers = {int(line[:7].strip(" *")) for line in lines if line[:7].strip(" *").isdigit()}
    assert numbers >= {step.number for step in failure.trace}
    assert len(failure.trace) > 30
    assert sum("waits in" in line for line in lines) == len(failure.waiting)
    assert not any("... and" in line or "more lines" in line for line in lines)
    if program is many_errors:
        assert sum("line 99 " in line for line in lines) == 30


# --- which steps are shown --------------------------------------------------------------------------------------------


def steps(count: int, deviating: set[int]) -> list[Step]:
    """Return steps of one task that differ from each other."""
    places = [Place("a.py", n + 1, "f") for n in range(count)]
    return [
        Step("t", 0.0, None, (place,), place, "", int(n in deviating), number=n + 1) for n, place in enumerate(places)
    ]


@given(
    heights=st.lists(st.integers(1, 7), min_size=1, max_size=80),
    deviating=st.sets(st.integers(0, 79)),
    marked=st.sets(st.integers(1, 80), max_size=1),
    lines_max=st.integers(12, 60),
)
def test_what_is_shown_fits(heights: list[int], deviating: set[int], marked: set[int], lines_max: int) -> None:
    """Steps in order, folds for all others, no more lines than allowed; and what is marked and the last are there."""
    trace = steps(len(heights), deviating)
    rows = folded(trace, heights, lines_max, marked)
    shown = [row for row in rows if isinstance(row, int)]
    folds = [row for row in rows if isinstance(row, Fold)]
    assert shown == sorted(set(shown))
    assert len(shown) + sum(fold.count for fold in folds) == len(trace)
    assert sum(step.deviates for step in trace) == sum(trace[n].deviates for n in shown) + sum(
        fold.deviating for fold in folds
    )
    assert sum(heights[n] for n in shown) + len(folds) <= lines_max
    if len(heights) > 1 and sum(heights) > lines_max and max(heights) <= 3:
        assert {number - 1 for number in marked if number <= len(trace)} <= set(shown)
        assert len(trace) - 1 in shown


def test_deviations_are_shown_with_their_neighbours() -> None:
    """Of 300 steps in order but for two, these are shown with what stands beside them, and the end."""
    rows = folded(steps(300, {99, 199}), [2] * 300, 21)
    shown = [row if isinstance(row, int) else row.count for row in rows]
    assert shown == [98, *(98, 99, 100), 97, *(198, 199, 200), 96, *(297, 298, 299)]


def test_what_is_only_done_again_is_folded() -> None:
    """A loop that goes round a thousand times is shown twice: its last rounds, although there is room for more."""
    failure, _ = told.told(told.livelock, ())
    rows = folded(failure.trace, [2] * len(failure.trace), 40)
    assert [row for row in rows if isinstance(row, Fold)] == [Fold(110, 0)]


# --- who writes it ----------------------------------------------------------------------------------------------------


def test_nothing_unprintable_comes_through() -> None:
    """What a program, its tasks, its errors and a token are called cannot move the cursor."""

    async def program() -> None:
        lock = trio.Lock()

        async def holder() -> None:
            async with lock:
                await trio.Event().wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder, name="\x1b[2Jred\r\nnext")
            await trio.sleep(1)
            nursery.start_soon(lock.acquire, name="\u202egnihton")

    async def raises() -> None:
        await checkpoint()
        raise ValueError("\x1b[31m\ttab \ud800 \u2028")

    for each in (program, raises):
        failure = attrs.evolve(failure_of(each), program="m:\x1b[2Jf", policy="P\n()")
        for text in (failure_text(failure), failure_text(failure, full=True)):
            assert all(letter.isprintable() or letter == "\n" for letter in text)
            text.encode()
    assert r"\x1b[31m" in failure_text(failure_of(raises))


def test_a_failure_without_steps_is_told_too() -> None:
    """Nothing recorded is no reason to fail."""
    failure = attrs.evolve(failure_of(told.leftover), trace=())
    assert "(no step was recorded)" in str(failure)


def test_the_first_difference_is_shown_wherever_it_is() -> None:
    """The step where it parts from what passes is in the table, although hundreds of deviations come behind it."""

    async def program() -> None:
        is_bad = choose([False, True])

        async def goes_on() -> None:
            for _ in range(40):
                await checkpoint()

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(goes_on)
        assert not is_bad

    failure = failure_of(program)
    assert sum(step.deviates for step in failure.trace) > 100
    found = parting(program, failure.token)
    assert found is not None
    assert (found.number, found.kind) == (1, "choice")
    text = failure_text(failure, parting=found)
    assert "[choose: option 2]" in text
    assert "[choose: option 2]" not in failure_text(failure)
    assert " of them out of order ..." in text
