"""What an exploration lets pass and notes, and what it leaves alone."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import explore
from tests.simulations.explorer import must_not
from tests.simulations.explorer.must_fail import CASES, Case
from tests.simulations.explorer.steady import nothing_frozen, nothing_left


@pytest.fixture(autouse=True)
def _as_before() -> Generator[None, None, None]:
    """Behind each of these everything is as it was."""
    with nothing_left():
        yield


def test_files_that_are_written_are_noted_once_each(tmp_path: Path) -> None:
    """They outlive the schedule, so the next one can see them; reading is no matter."""
    (tmp_path / "read").write_text("x")

    async def program() -> None:
        (tmp_path / "read").read_text()
        with (tmp_path / "plain").open("w") as file:
            file.write("x")
        await trio.Path(tmp_path / "by trio").write_text("x")
        async with await trio.open_file(tmp_path / "appended", "a") as file:
            await file.write("x")
        os.close(os.open(tmp_path / "low", os.O_CREAT | os.O_WRONLY))

    result = explore(program, schedules=5)
    assert result.failure is None
    named = [Path(note.split("the file ")[1].split(",")[0]).name for note in result.notes]
    assert sorted(named) == ["appended", "by trio", "low", "plain"]
    assert all(note in str(result) for note in result.notes)


def test_folders_that_are_made_are_noted(tmp_path: Path) -> None:
    """They outlive the schedule as files do, and so do names that are taken away."""

    async def program() -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        await trio.Path(folder).rename(tmp_path / "renamed")
        (tmp_path / "renamed").rmdir()

    result = explore(program, schedules=2)
    assert result.failure is None
    noted = "\n".join(result.notes)
    for said in ("makes the folder", "renames the file", "removes the folder"):
        assert said in noted


def test_a_worker_thread_that_sleeps_for_real_is_noted() -> None:
    """It only takes time, so it is no error."""

    async def program() -> None:
        await trio.to_thread.run_sync(time.sleep, 0.0001)

    result = explore(program, schedules=2)
    assert result.failure is None
    (note,) = result.notes
    assert "sleeps for real" in note


def test_to_sleep_for_no_time_is_no_matter() -> None:
    """`time.sleep(0)` blocks nothing."""

    async def program() -> None:
        time.sleep(0)  # noqa: ASYNC251 - on purpose

    result = explore(program, schedules=2)
    assert (result.failure, result.notes) == (None, ())


def test_real_sleep_and_real_threads_work_behind_an_exploration() -> None:
    """What was refused inside is as it was outside."""
    explore(must_not.lock, schedules=2)
    time.sleep(0.0001)
    thread = threading.Thread(target=list)
    thread.start()
    thread.join()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_on_if_it_was_on(enabled: bool) -> None:
    """It is off inside; behind it is as the user had it, and looks at what it looked at."""
    inside: list[bool] = []

    async def program() -> None:
        inside.append(gc.isenabled())

    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        explore(program, schedules=2)
        assert gc.isenabled() is enabled
        assert not any(inside)
    finally:
        (gc.enable if was else gc.disable)()


def test_the_collector_looks_at_what_it_looked_at() -> None:
    """However a program ends, behind it nothing is kept from the collector, unless the user does so himself."""
    with nothing_frozen():
        for case in (*CASES, *(Case(program, "") for program in must_not.EVERY.values())):
            explore(case.program, **{"schedules": 2, **case.how})
            assert gc.get_freeze_count() == 0, case
        gc.freeze()
        explore(must_not.lock, schedules=2)
        assert gc.get_freeze_count() > 0


def test_the_users_own_chance_goes_on_where_it_was() -> None:
    """The `random` module is seeded inside, anew for each schedule, and goes on outside as if nothing was drawn."""
    drawn: list[float] = []

    async def program() -> None:
        drawn.append(random.random())

    state = random.getstate()
    expected = random.random()
    random.setstate(state)
    explore(program, schedules=10)
    assert random.random() == expected
    assert len(set(drawn)) == 10
    random.setstate(state)


def test_a_trace_function_of_the_user_stays() -> None:
    """A debugger or a coverage tool traces behind a failure as before it."""

    def trace(frame: Any, event: str, argument: Any) -> None:
        return None

    async def program() -> None:
        await checkpoint()
        raise ValueError

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert explore(program).failure is not None
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
