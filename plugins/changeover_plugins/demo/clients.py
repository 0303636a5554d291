"""The demo's clients: each asks for one held-out image after the other and compares the answer with the truth.

Owns the counts of what was sent, answered and lost, all latencies, and the windows on them. `Traffic.run` is the
clients' task; a client never stops for an error, it counts it. Belongs to the loop.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from changeover import Engine
from changeover_plugins.demo.digits import MODEL, HeldOut

FINISH_S = 10.0
"""How long a request may still take when the clients are told to stop; what is unanswered then is lost."""

_STRIDE = 17  # no two clients ask for the same image at the same time


@attrs.define(eq=False)
class Window:
    """A stretch of the run, with the latency of every request that was answered in it."""

    name: str
    at_rest: bool
    """True where nobody ordered anything in it."""
    began_s: float
    _all_ms: array[float]
    """The latencies of the whole run."""
    _first: int
    """Where this window begins among them."""
    _behind: int | None = None
    """Where it has ended among them; None: it has not."""
    ended_s: float = 0.0
    order_s: float | None = None
    """How long what was ordered at its beginning took; None: nothing was ordered, or it has not ended."""
    answered_by_then: int = 0
    """How many answers had come when the order had ended."""

    @property
    def latencies_ms(self) -> array[float]:
        """A copy, in the order in which the answers came."""
        return self._all_ms[self._first : self._behind]

    def order_ended(self) -> None:
        """Note that what was ordered has ended; the window goes on."""
        self.order_s = trio.current_time() - self.began_s
        self.answered_by_then = len(self._all_ms) - self._first

    def end(self) -> None:
        """Note that it is over."""
        self.ended_s = trio.current_time()
        self._behind = len(self._all_ms)


@attrs.define(eq=False)
class Watch:
    """Looks out for the first answer of a version."""

    version: str
    began_s: float
    after_ms: float | None = None
    """How long after the watch began it came; None: not yet."""
    seen: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class SlowRequest:
    """What became of the one request that takes its time."""

    look: Callable[[], object]
    """Called at its end, while it still holds its version."""
    saw: object = None
    """What `look` returned then."""
    version: str = ""
    """Who answered it."""
    held_s: float = 0.0
    """How long it held that version; 0: it was not answered."""
    begun: trio.Event = attrs.field(factory=trio.Event)
    """Set once it holds a version, or was refused one."""


class Traffic:
    """All clients, and what they saw."""

    def __init__(self, engine: Engine, held_out: HeldOut, clients: int) -> None:
        """Prepare one request per image, so that a client does nothing but ask."""
        self.sent = 0
        self.answered: Counter[str] = Counter()
        """Answers by the version that gave them."""
        self.right: Counter[str] = Counter()
        """Those that named the digit that the image shows."""
        self.fell_back: Counter[str] = Counter()
        """Those that stood in for a new version that had raised, by the old version that gave them."""
        self.lost: Counter[str | None] = Counter()
        """Requests that ended in an error, by the version that the error names."""
        self.reasons: Counter[str] = Counter()
        """The same, by what the error says."""
        self.latencies_ms: array[float] = array("d")
        """How long each answer took, in the order in which they came."""
        self.windows: list[Window] = []
        self.latest = ""
        """The version that gave the last answer."""
        self._engine = engine
        self._clients = clients
        self._inputs: list[Mapping[str, Any]] = [
            {"image": held_out.images[i : i + 1]} for i in range(len(held_out.labels))
        ]
        self._labels: list[int] = held_out.labels.tolist()
        self._watch: Watch | None = None
        self._lost_one = trio.Event()
        self._scope = trio.CancelScope()
        self._stopping = False
        self._ended = trio.Event()

    @property
    def answered_count(self) -> int:
        """How many requests were answered."""
        return self.answered.total()

    @property
    def lost_count(self) -> int:
        """How many were sent and not answered; while clients ask, those under way are among them."""
        return self.sent - self.answered_count

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be all clients until `stop`; raises nothing of what they see."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for number in range(self._clients):
                        nursery.start_soon(self._client, number)
                    task_status.started()
        finally:
            self._ended.set()

    def stop(self) -> None:
        """Let every client finish the request that it is in, within `FINISH_S`."""
        self._stopping = True
        self._scope.deadline = trio.current_time() + FINISH_S

    async def let_pass(self, seconds: float) -> None:
        """Let the clients ask for so long; a lost request cuts it short, for there is nothing left to show then."""
        with trio.move_on_after(seconds):
            await self._lost_one.wait()

    async def ended_within(self, seconds: float) -> bool:
        """Wait for the last client to end, for so long at most; return whether it has."""
        with trio.move_on_after(seconds):
            await self._ended.wait()
        return self._ended.is_set()

    @contextmanager
    def window(self, name: str, *, at_rest: bool) -> Generator[Window]:
        """Collect the latencies of what is answered inside of the block."""
        window = Window(name, at_rest, trio.current_time(), self.latencies_ms, len(self.latencies_ms))
        try:
            yield window
        finally:
            window.end()
            self.windows.append(window)

    def watch(self, version: str) -> Watch:
        """Look out, from now on, for the first answer of a version."""
        self._watch = Watch(version, trio.current_time())
        return self._watch

    async def ask_slowly(self, slow: SlowRequest, hold_s: float) -> None:
        """Be one request more that holds its version for so long and uses it at both ends of that time."""
        self.sent += 1
        began_s = trio.current_time()
        try:
            async with self._engine.lease(MODEL) as lease:
                slow.version = lease.version
                slow.begun.set()
                lease.infer(self._inputs[0])
                await self.let_pass(hold_s)
                outputs = lease.infer(self._inputs[0])
                slow.saw = slow.look()
                slow.held_s = trio.current_time() - began_s
        except Exception as error:  # noqa: BLE001 - whatever a client sees instead of an answer is a lost request
            self._note_lost(error)
        else:
            self._note_answer(slow.version, outputs, 0)
        finally:
            slow.begun.set()

    async def _client(self, number: int) -> None:
        index = number * _STRIDE
        while not self._stopping:
            index = (index + 1) % len(self._inputs)
            began_s = trio.current_time()
            self.sent += 1
            try:
                reply = await self._engine.infer(MODEL, self._inputs[index])
            except Exception as error:  # noqa: BLE001 - whatever a client sees instead of an answer is a lost request
                self._note_lost(error)
            else:
                self.latencies_ms.append((trio.current_time() - began_s) * 1000)
                self._note_answer(reply.version, reply.outputs, index)
                if reply.fell_back:
                    self.fell_back[reply.version] += 1

    def _note_answer(self, version: str, outputs: Mapping[str, Any], index: int) -> None:
        self.answered[version] += 1
        self.latest = version
        if int(outputs["label"][0]) == self._labels[index]:
            self.right[version] += 1
        watch = self._watch
        if watch is not None and watch.version == version:
            watch.after_ms = (trio.current_time() - watch.began_s) * 1000
            watch.seen.set()
            self._watch = None

    def _note_lost(self, error: Exception) -> None:
        self.lost[getattr(error, "version", None)] += 1
        self.reasons[f"{type(error).__name__}: {error}"] += 1
        self._lost_one.set()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted values that so large a share of them does not exceed (the nearest rank)."""
    return values[max(0, math.ceil(share * len(values)) - 1)]
