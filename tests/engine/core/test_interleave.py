"""The explorer that the interleaving tests stand on runs each schedule once and misses none.

It is checked on programs whose schedules can be counted by hand. Owns no state but the explorers' threads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from changeover.core.ledger import Account
from tests.engine.core import interleave
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation


class Till:
    """A number that is raised in two steps."""

    def __init__(self) -> None:
        self.count = 0

    def pay(self) -> None:
        """Add one."""
        count = self.count
        self.count = count + 1

    def spin(self) -> None:
        """Never end."""
        while self.count == 0:
            pass


def letters(pauses: int, *, seen: Counter[str]) -> Make:
    """Make cases in which two threads write their letters, with pauses between them."""

    def make(pause: Pause) -> Case:
        text: list[str] = []

        def write(letter: str) -> None:
            text.append(letter)
            for _ in range(pauses):
                pause()
                text.append(letter)

        def check() -> Iterator[str]:
            seen["".join(text)] += 1
            return iter(())

        return Case([partial(write, "a"), partial(write, "b")], check)

    return make


def payments(pause: Pause) -> Case:
    """Make two threads pay into one till."""
    till = Till()
    return Case([till.pay, till.pay], lambda: [] if till.count == 2 else [f"{till.count} in the till"])


@pytest.mark.parametrize("pauses", [0, 1, 2, 3])
def test_every_interleaving_is_run_exactly_once(pauses: int) -> None:
    """Without a bound two threads of n stretches have (2n choose n) interleavings, and each is run once."""
    seen: Counter[str] = Counter()
    stretches = pauses + 1
    with Explorer(threads=2) as explorer:
        runs = explorer.explore(letters(pauses, seen=seen), preemptions=2 * stretches)
    assert runs == math.comb(2 * stretches, stretches)
    assert set(seen.values()) == {1}
    assert len(seen) == runs


@pytest.mark.parametrize(("preemptions", "texts"), [(0, {"aabb", "bbaa"}), (1, {"aabb", "bbaa", "abba", "baab"})])
def test_preemptions_are_bounded(preemptions: int, texts: set[str]) -> None:
    """No schedule interrupts a thread more often than it was asked for; the end of a thread is no interruption."""
    seen: Counter[str] = Counter()
    with Explorer(threads=2) as explorer:
        explorer.explore(letters(1, seen=seen), preemptions=preemptions)
    assert set(seen) == texts


def test_three_threads_end_in_every_order() -> None:
    """With no preemption at all three threads run in each of the six orders."""
    seen: Counter[str] = Counter()

    def make(pause: Pause) -> Case:
        text: list[str] = []
        programs = [partial(text.append, letter) for letter in "abc"]
        return Case(programs, lambda: seen.update(["".join(text)]) or ())

    with Explorer() as explorer:
        assert explorer.explore(make, preemptions=0) == 6
    assert seen == Counter(["abc", "acb", "bac", "bca", "cab", "cba"])


@pytest.mark.parametrize("every", [False, True])
def test_a_lost_update_is_found_and_can_be_replayed(every: bool) -> None:
    """A race that needs one preemption is found with one, not with none, and its schedule shows it again."""
    with Explorer(Till, threads=2, every=every) as explorer:
        assert explorer.explore(payments, preemptions=0) == 2
        with pytest.raises(Violation, match="1 in the till") as found:
            explorer.explore(payments, preemptions=1)
        with pytest.raises(Violation, match=r"before STORE_ATTR in Till\.pay|before .* in Till\.pay"):
            explorer.replay(payments, found.value.schedule)


def test_code_that_is_not_traced_is_one_step() -> None:
    """Threads are not interrupted outside the traced code."""
    with Explorer(Account, threads=2) as explorer:
        assert explorer.explore(payments, preemptions=9) == 2


def test_an_exception_and_a_loop_without_end_are_violations() -> None:
    """What leaves a program is reported with its thread, and the explorer works on."""

    def raising(pause: Pause) -> Case:
        return Case([{}.popitem], tuple)

    def spinning(pause: Pause) -> Case:
        return Case([Till().spin], tuple)

    with Explorer(Till, threads=2) as explorer:
        with pytest.raises(Violation, match="thread 0 raised KeyError"):
            explorer.replay(raising)
        with pytest.raises(Violation, match="thread 0 raised RuntimeError: no end"):
            explorer.replay(spinning)
        with pytest.raises(Violation, match="1 in the till"):
            explorer.explore(payments, preemptions=1)


class Watchful(Explorer):
    """Looks at every step of every run."""

    def _is_decided(self) -> bool:
        return False


@pytest.mark.parametrize("preemptions", [0, 1, 2])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_run_is_missed_where_nobody_looks_any_more(threads: int, preemptions: int) -> None:
    """A search that counts steps only while there is something to choose runs the same schedules to the same ends."""

    def searched(kind: type[Explorer]) -> Counter[str]:
        seen: Counter[str] = Counter()

        def make(pause: Pause) -> Case:
            till, text = Till(), list[str]()

            def pay(name: str) -> None:
                till.pay()
                text.append(f"{name} sees {till.count}")

            return Case([partial(pay, "abc"[n]) for n in range(threads)], lambda: seen.update([", ".join(text)]) or ())

        with kind(Till) as explorer:
            assert explorer.explore(make, preemptions=preemptions) == seen.total()
        return seen

    seen = searched(Watchful)
    assert searched(Explorer) == seen
    assert seen.total() >= math.factorial(threads)


def test_a_loop_without_end_is_a_violation_where_nobody_looks_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that waits for one that can only go on after it is broken off, and the explorer works on."""
    monkeypatch.setattr(interleave, "_PATIENCE_S", 0.01)

    def waiting(pause: Pause) -> Case:
        till = Till()
        return Case([till.spin, till.pay], tuple)

    with Explorer(Till, threads=2) as explorer:
        with pytest.raises(Violation, match="thread 0 raised NoEnd"):
            explorer.explore(waiting, preemptions=0)
        monkeypatch.undo()
        with pytest.raises(Violation, match="1 in the till"):
            explorer.explore(payments, preemptions=1)


def test_instructions_that_touch_only_their_frame_need_no_switch() -> None:
    """To switch only before instructions that others can see reaches every end that every instruction reaches."""

    def outcomes(*, every: bool) -> Counter[str]:
        seen: Counter[str] = Counter()

        def make(pause: Pause) -> Case:
            account = Account()
            story: list[str] = []

            def use() -> None:
                ref = account.acquire(("lease", 0.0, None, None))
                story.append(f"held {ref}")
                if ref is not None:
                    account.release(ref)
                    story.append("released")

            def drain() -> None:
                account.watch(lambda: story.append(f"zero, open: {account.open}"))
                account.shut()
                story.append("shut")

            return Case([use, drain], lambda: seen.update([", ".join(story)]) or ())

        with Explorer(Account, threads=2, every=every) as explorer:
            explorer.explore(make, preemptions=2)
        return seen

    few, all_of_them = outcomes(every=False), outcomes(every=True)
    assert few.keys() == all_of_them.keys()
    assert few.total() < all_of_them.total()
    assert len(few) > 5
