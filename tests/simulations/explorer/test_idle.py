"""Those who wait until all other tasks are blocked do not wait for worker threads, as on a real machine."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from changeover_sim import PCT, Exhaustive, RandomWalk, explore


@pytest.mark.parametrize(
    "how",
    [{"policy": Exhaustive(None)}, {"policy": RandomWalk()}, {"policy": PCT(3), "mode": "trio-batch"}],
    ids=str,
)
def test_idle_may_come_before_between_and_behind_threads(how: dict[str, Any]) -> None:
    """Of two threads none, one or both may be done when all tasks are found blocked, and both in the end."""
    seen: set[int] = set()

    async def program() -> None:
        done: list[int] = []
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(trio.to_thread.run_sync, done.append, number)
            await trio.testing.wait_all_tasks_blocked()
            seen.add(len(done))
        assert sorted(done) == [0, 1]

    result = explore(program, schedules=400, **how)
    assert result.failure is None, str(result.failure)
    assert seen == {0, 1, 2}
