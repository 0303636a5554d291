"""What is real cannot be controlled: sockets, threads, processes, files, the clock, and what never yields."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio._core import _thread_cache
from trio.lowlevel import checkpoint

from changeover_sim import BadProgram, ExplorerError, Stalled, Uncontrolled, explore
from changeover_sim.explorer.schedule import Rules
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import Played
from tests.simulations.explorer import must_not
from tests.simulations.explorer.steady import nothing_left

SHORT_S = 0.15


@pytest.fixture(autouse=True)
def _as_before() -> Generator[None, None, None]:
    """Behind each of these everything is as it was."""
    with nothing_left():
        yield


# --- what never yields ------------------------------------------------------------------------------------------------


async def spins_without_yielding() -> None:
    """Never come to a checkpoint."""
    await checkpoint()
    while True:
        pass


async def takes_a_lock_twice() -> None:
    """Wait for oneself, with a lock of threads."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


async def waits_in_a_thread() -> None:
    """Wait for nobody in a worker thread, and with it everything waits."""
    event = threading.Event()
    _waited_for.append(event)
    await trio.to_thread.run_sync(event.wait)


_waited_for: list[threading.Event] = []

BLOCKING = {
    spins_without_yielding: "spins_without_yielding",
    takes_a_lock_twice: "takes_a_lock_twice",
    waits_in_a_thread: "in the thread .*waits_in_a_thread|in the thread .*wait",
}


@pytest.mark.parametrize("program", BLOCKING)
def test_what_blocks_for_real_is_interrupted(program: Any) -> None:
    """It made no step for a while: the error says where it stood and what to do."""
    try:
        with pytest.raises(Stalled, match="made no step") as caught:
            explore(program, stall_s=SHORT_S)
        assert caught.match(BLOCKING[program])
    finally:
        for event in _waited_for:
            event.set()


def test_what_blocks_in_a_process_is_interrupted_too() -> None:
    """The error comes out of the process as it is."""
    with pytest.raises(Stalled, match="takes_a_lock_twice"):
        explore(takes_a_lock_twice, stall_s=SHORT_S, jobs=2)


STUBBORN = """
    import trio
    from changeover_sim import Stalled, explore

    async def program():
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass

    try:
        explore(program, stall_s=0.1)
    except Stalled:
        print("stalled")
"""


def test_what_catches_its_interruption_is_interrupted_all_the_same() -> None:
    """A loop that swallows everything and never yields ends too; in a process of its own, for if it does not."""
    code = [sys.executable, "-c", textwrap.dedent(STUBBORN)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() == "stalled", done.stderr


def test_nothing_is_said_when_the_process_ends() -> None:
    """What was left of schedules that could not be ended is no matter of whoever reads the output."""
    explored = "from tests.simulations.explorer import must_fail; explore(must_fail.catches_everything_in_children)"
    code = f"from changeover_sim import explore; {explored}; explore(must_fail.breaks_trio); print('well')"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("well\n", "")


def test_steps_are_counted_over_all_schedules() -> None:
    """The alarm compares how many steps were made in all: two short schedules in a row are no standstill."""
    with Stage(Rules(), 0).open() as stage:
        total = 0
        for _ in range(3):
            total += stage.play(must_not.lock, Played(()), 0).steps
            assert stage.steps == total


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda number, frame: None])
def test_the_alarm_of_others_is_left_alone(handler: Any) -> None:
    """Whoever handles SIGALRM, or ignores it, does so afterwards; without the alarm the exploration goes well."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        assert explore(must_not.lock, schedules=3).failure is None
        assert signal.getsignal(signal.SIGALRM) == handler
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_timer_that_runs_already_goes_on() -> None:
    """An alarm that somebody has set far ahead is neither moved nor taken over."""
    signal.setitimer(signal.ITIMER_REAL, 5_000)
    try:
        assert explore(must_not.lock, schedules=3).failure is None
        assert 4_000 < signal.getitimer(signal.ITIMER_REAL)[0] <= 5_000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_outside_the_main_thread_it_works_without_the_alarm() -> None:
    """Signals belong to the main thread; exploring does not."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(explore, must_not.lock, schedules=20).result()
    assert result.failure is None
    assert "a program that blocks would not be noticed" in str(result)


def test_two_threads_can_explore_at_the_same_time_or_are_told_that_they_cannot() -> None:
    """Both go well, or the second is refused; when both have ended all is as before, whoever was first."""
    entered, leave = threading.Event(), threading.Event()

    async def first() -> None:
        entered.set()
        leave.wait(10)

    async def second() -> None:
        leave.set()
        outer.result(10)

    with ThreadPoolExecutor(1) as pool:
        outer = pool.submit(explore, first, schedules=1)
        entered.wait(10)
        try:
            assert explore(second, schedules=1).failure is None
        except ExplorerError as refused:
            leave.set()
            assert "thread" in str(refused)  # noqa: PT017 - both outcomes are right
        assert outer.result(10).failure is None


# --- sockets, threads, processes --------------------------------------------------------------------------------------


async def connects() -> None:
    """Open a connection."""
    with trio.socket.socket() as sock:
        await sock.connect(("127.0.0.1", 9))


async def listens() -> None:
    """Serve."""
    await trio.serve_tcp(print, 0, host="127.0.0.1")


async def resolves() -> None:
    """Ask for an address."""
    await trio.socket.getaddrinfo("example.invalid", 80)


async def waits_for_a_pipe() -> None:
    """Wait for the operating system."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await trio.lowlevel.wait_readable(ours)


async def starts_a_thread() -> None:
    """Start a thread that nobody controls."""
    threading.Thread(target=list).start()


async def uses_a_pool() -> None:
    """Start threads by way of a pool."""
    with ThreadPoolExecutor() as pool:
        pool.submit(list)


async def starts_a_process() -> None:
    """Start a process."""
    await trio.run_process([sys.executable, "-c", ""])


async def starts_a_plain_process() -> None:
    """Start a process, past Trio."""
    subprocess.run([sys.executable, "-c", ""], check=True)  # noqa: ASYNC221 - on purpose


async def forks() -> None:
    """Become two."""
    os.fork()


async def shells() -> None:
    """Ask a shell."""
    os.system("true")  # noqa: ASYNC221 - on purpose


async def sleeps() -> None:
    """Sleep for real."""
    time.sleep(1)  # noqa: ASYNC251 - on purpose


async def thread_connects() -> None:
    """Open a connection in a worker thread."""

    def work() -> None:
        with socket.socket() as sock:
            sock.connect(("127.0.0.1", 9))

    await trio.to_thread.run_sync(work)


REAL = {
    connects: "connection",
    listens: "socket|name server",
    resolves: "name server",
    waits_for_a_pipe: "real I/O",
    starts_a_thread: "thread",
    uses_a_pool: "thread",
    starts_a_process: "process",
    starts_a_plain_process: "process",
    forks: "fork",
    shells: "process",
    sleeps: "trio.sleep",
    thread_connects: "connection",
}


@pytest.mark.parametrize("program", REAL)
def test_what_is_real_is_refused(program: Any) -> None:
    """The error names what was used, and what to use instead where there is something."""
    with pytest.raises(Uncontrolled, match=REAL[program]):
        explore(program)


@pytest.mark.parametrize("program", REAL)
def test_what_is_real_is_refused_although_the_program_catches_it(program: Any) -> None:
    """A program that hides the error would go on with something that is not controlled."""

    async def hides() -> None:
        with suppress(BaseException):
            await program()

    with pytest.raises(Uncontrolled, match=REAL[program]):
        explore(hides)


class Hasty:
    """Stands for Trio's cache of threads on a busy machine: the work is done before whoever asked for it goes on."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._idle_workers = real._idle_workers

    def start_thread_soon(self, work: Any, deliver: Any, name: Any = None) -> None:
        """Have it done, and wait for that."""
        done = threading.Event()

        def all_of_it() -> None:
            work()
            done.set()

        self._real.start_thread_soon(all_of_it, deliver, name)
        assert done.wait(10)


def test_a_worker_thread_is_watched_from_its_first_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does is refused, however early it does it."""
    with monkeypatch.context() as patch:
        patch.setattr(_thread_cache, "THREAD_CACHE", Hasty(_thread_cache.THREAD_CACHE))
        with pytest.raises(Uncontrolled, match="connection"):
            explore(thread_connects)


def test_what_is_real_is_refused_in_a_process_too() -> None:
    """The error comes out of the process as it is."""
    with pytest.raises(Uncontrolled, match="connection"):
        explore(connects, jobs=2)


def test_a_process_that_dies_is_told() -> None:
    """The program ends its process at once: the exploration does not wait for an answer for ever."""

    async def dies() -> None:
        os._exit(7)

    with pytest.raises(ExplorerError, match="7"):
        explore(dies, jobs=2)


def test_a_misuse_comes_out_of_a_process() -> None:
    """So does BadProgram."""
    with pytest.raises(BadProgram):
        explore(lambda: None, jobs=2)


def test_a_thread_of_others_that_reaches_in_is_seen() -> None:
    """A thread from before the exploration calls into the run: when it does so nobody controls."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(list).result()  # its thread has been started

        async def program() -> None:
            token = trio.lowlevel.current_trio_token()
            pool.submit(token.run_sync_soon, list).result()
            await checkpoint()

        with pytest.raises(Uncontrolled, match="not controlled"):
            explore(program)
