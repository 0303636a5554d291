"""The processes of a fleet: each plays the runs that it is handed, one after the other.

Owns the processes, which are new ones, not forks: each has hashes of its own. All have ended when `made` is left.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.simulate.fleet import Item, OpenPlayer, Performer, Played

_AHEAD = 2
"""So many runs has a process in hand, so that it need not wait for the next."""


def made(chosen: Iterator[Item], jobs: int, open_player: OpenPlayer) -> Generator[Played, None, None]:
    """Yield each run as it is made; the second time of a run is made by another process than the first."""
    workers: list[_Worker] = []
    try:
        workers += [_Worker(open_player) for _ in range(jobs)]
        for worker in workers * _AHEAD:
            worker.take(next(chosen, None))
        while busy := {worker.pipe: worker for worker in workers if worker.in_hand}:
            for worker in [busy[pipe] for pipe in wait(list(busy))]:  # type: ignore[index]
                played = worker.answer()
                yield played
                workers[(workers.index(worker) + 1) % jobs].take(played[0].again(played[1]))
                worker.take(next(chosen, None))
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """One process, seen from the one that has started it."""

    def __init__(self, open_player: OpenPlayer) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.in_hand: deque[Item] = deque()
        self._process = context.Process(target=_work, args=(theirs, open_player), daemon=True)
        with _deaf_to_ctrl_c():
            self._process.start()
        theirs.close()

    def take(self, item: Item | None) -> None:
        """Hand it a run, if there is one."""
        if item is not None:
            self.in_hand.append(item)
            self.pipe.send(item)

    def answer(self) -> Played:
        """Return the run that it has made; raises `ExplorerError` where it could not."""
        item = self.in_hand.popleft()
        try:
            answer: Any = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            told = f"the process died, exit status {self._process.exitcode}"
            raise ExplorerError(f"{item.scenario}, seed {item.seed}, policy {item.policy}: {told}") from None
        if isinstance(answer, str):
            raise ExplorerError(f"{item.scenario}, seed {item.seed}, policy {item.policy}: {answer}")
        return item, answer

    def end(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


@contextmanager
def _deaf_to_ctrl_c() -> Generator[None, None, None]:
    """Have the processes that are started here never hear of Ctrl-C: who started them does, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(pipe: Connection, open_player: OpenPlayer) -> None:
    """Be one of the processes: play what comes, until nobody is there any more."""
    with Performer(open_player) as performer:
        while True:
            try:
                item = pipe.recv()
            except EOFError:
                return
            try:
                answer: Any = performer.perform(item)
            except Exception as error:  # noqa: BLE001 - told by whoever asked
                answer = f"{type(error).__name__}: {error}"
            pipe.send(answer)
