"""Orders of steps: those that the explorer makes, told by the program itself, and those that there are, by brute force.

The brute force knows nothing of the explorer: it permutes, merges, and plays queues of letters.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import trio
from trio.lowlevel import checkpoint

from changeover_sim import Exhaustive, Result, explore

Say = Callable[[str], None]
Body = Callable[[Say], Awaitable[object]]

EVERYTHING = Exhaustive(None)
"""Every schedule that there is."""
IN_ORDER = Exhaustive(0)
"""Every option and every moment of a cancellation, and no other order than first-in-first-out."""


def orders_of(body: Body, **how: Any) -> tuple[Result, list[str]]:
    """Explore `body`, all of it unless told otherwise; return the result and what was said in each run, in order.

    Some schedules are run twice on purpose, so an order may stand there twice.
    """
    told: list[str] = []

    async def program() -> None:
        said: list[str] = []
        await body(said.append)
        told.append("".join(said))

    return explore(program, **{"policy": EVERYTHING, **how}), told


def assert_exactly(body: Body, expected: Sequence[str], **how: Any) -> None:
    """Every expected order is made by one schedule, and there is no other schedule."""
    assert len(set(expected)) == len(expected), "the expectation itself names an order twice"
    result, told = orders_of(body, **how)
    assert result.failure is None, result
    assert set(told) == set(expected)
    assert result.schedules_run == len(expected)
    assert result.exhausted


def must_pass(program: Any, **how: Any) -> None:
    """A program that checks itself goes well under every schedule."""
    result = explore(program, **{"policy": Exhaustive(2), "schedules": 500, **how})
    assert result.failure is None, result


def every(program: Any, **how: Any) -> int:
    """Run a program at every moment; return how many schedules that were."""
    result = explore(program, **{"policy": IN_ORDER, **how})
    assert result.failure is None, result
    assert result.exhausted or "schedules" in how
    return result.schedules_run


def side_by_side(checkpoints: dict[str, int]) -> Body:
    """Return a body with one task per letter, all ready at once; each says its letter once in every step."""

    async def body(say: Say) -> None:
        async def task(letter: str, count: int) -> None:
            say(letter)
            for _ in range(count):
                await checkpoint()
                say(letter)

        async with trio.open_nursery() as nursery:
            for letter, count in checkpoints.items():
                nursery.start_soon(task, letter, count)

    return body


# --- brute force ------------------------------------------------------------------------------------------------------


def merges(*sequences: str) -> list[str]:
    """Return every distinct word that has these sequences inside it, each in its own order, and nothing else."""
    if not any(sequences):
        return [""]
    found: list[str] = []
    for at, sequence in enumerate(sequences):
        if sequence:
            rest = [*sequences[:at], sequence[1:], *sequences[at + 1 :]]
            found += [sequence[0] + word for word in merges(*rest)]
    return sorted(set(found))


def extensions(events: str, before: str) -> list[str]:
    """Return the permutations of `events` that keep each pair of `before`, written `ab` for a before b."""
    pairs = before.split()
    permuted = map("".join, itertools.permutations(events))
    return [word for word in permuted if all(word.index(a) < word.index(b) for a, b in pairs)]


def delayed(checkpoints: dict[str, int], delays: int) -> list[str]:
    """Play a queue of letters: the order of every play that passes over at most `delays` that stood before."""

    def play(queue: tuple[str, ...], left: dict[str, int], budget: int) -> Iterator[str]:
        if not queue:
            yield ""
        for at, letter in enumerate(queue[: budget + 1]):
            again = (letter,) if left[letter] else ()
            after = {**left, letter: left[letter] - 1}
            for rest in play((*queue[:at], *queue[at + 1 :], *again), after, budget - at):
                yield letter + rest

    return list(play(tuple(checkpoints), checkpoints, delays))


def batches(*each: str) -> list[str]:
    """Return the words that consist of one permutation of the first, then one of the second, and so on."""
    permuted = [sorted({"".join(p) for p in itertools.permutations(batch)}) for batch in each]
    return ["".join(words) for words in itertools.product(*permuted)]
