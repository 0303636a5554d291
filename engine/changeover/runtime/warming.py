"""A warm-up: runs requests through a model, counts them, tells how far it is, and stops once the model goes.

A `WarmUp` is one run, in a thread that somebody else started and that holds the model. It spawns nothing; what it
tells is told on the loop. It never closes a model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from changeover.core.values import WarmUpData
from changeover.errors import WarmUpFailed
from changeover.runtime.loaded import LoadedModel, Progress
from changeover.runtime.samples import Sample, samples, say

PROGRESS_MOST = 20
"""So many times a warm-up says how far it is, at most."""

Soon = Callable[[Callable[[], None]], object]
"""Has something called on the loop."""


def next_told(done: int, total: int | None, left: int) -> int:
    """Return after how many requests progress is told next, where `left` more times are left before the last one."""
    if total is None:
        return max(1, 2 * done)
    return done + max(1, -(-(total - done) // (left + 1)))


class WarmUp:
    """One run of warm-up data; `run` is called in a thread, all else on the loop."""

    def __init__(
        self, loaded: LoadedModel, data: WarmUpData, soon: Soon, tell: Callable[[int, int | None], None]
    ) -> None:
        """Begin nothing yet; `tell` is called on the loop with how many requests are done, and of how many."""
        self.progress = Progress((0, len(data) if isinstance(data, tuple) else None))
        self._loaded = loaded
        self._data: WarmUpData = data
        self._soon = soon
        self._tell = tell
        self._untold: deque[tuple[int, int | None]] = deque()
        self._told: tuple[int, int | None] | None = None
        self._left = PROGRESS_MOST - 1
        self._next = 0

    def run(self) -> None:
        """Run everything, in order; raises `WarmUpFailed`, which names the request and where it stands."""
        self._plan(*self.progress.at)
        for sample in self._samples():
            self._answer(sample)
            self._count()
        done, _ = self.progress.at
        self.progress.at = done, done

    def end(self) -> None:
        """Tell how far it came, where that was not told."""
        self._flush()
        if self._told != self.progress.at:
            self._told = self.progress.at
            self._tell(*self._told)

    def _samples(self) -> Iterator[Sample]:
        """Yield what is to be run; before each one, and before its file is read, look whether the model is wanted."""
        source = samples(self._data, self._loaded.spec, self._loaded.signature)
        while True:
            self._check_open()
            try:
                sample = next(source, None)
            except Exception as error:
                done, _ = self.progress.at
                raise self._failed(f"{say(error)}{f' (after {done} requests)' if done else ''}") from error
            if sample is None:
                return
            self._check_open()
            yield sample

    def _check_open(self) -> None:
        if self._loaded.lane.halted or not self._loaded.account.open:
            done, total = self.progress.at
            of = "" if total is None else f" of {total}"
            what = "was beyond use" if self._loaded.lane.halted else "was taken out of use"
            raise self._failed(f"it {what} after {done}{of} requests")

    def _answer(self, sample: Sample) -> None:
        done, total = self.progress.at
        if sample.total != total:
            self.progress.at = done, sample.total
        try:
            inputs = sample.make()
            self._loaded.check(inputs)
            self._loaded.predict_unless_halted(inputs)
        except BaseException as error:  # a model that calls sys.exit() ends its own warm-up and nothing else
            of = "" if sample.total is None else f" of {sample.total}"
            where = f" ({sample.where})" if sample.where else ""
            raise self._failed(f"request {done + 1}{of}{where}: {say(error)}") from error

    def _count(self) -> None:
        done, total = self.progress.at
        done += 1
        self.progress.at = done, total
        if done >= self._next and self._left > 0 and done != total:
            self._left -= 1
            self._untold.append((done, total))
            self._soon(self._flush)
            self._plan(done, total)

    def _plan(self, done: int, total: int | None) -> None:
        self._next = next_told(done, total, self._left)

    def _flush(self) -> None:
        while self._untold:
            self._told = self._untold.popleft()
            self._tell(*self._told)

    def _failed(self, what: str) -> WarmUpFailed:
        key = self._loaded.key
        return WarmUpFailed(f"{key} failed its warm-up: {what}", model=key.model, version=key.version)
