"""The shadow of a trial: copies of requests that the old version answered go to the new one, and are compared.

Owned by one saga; a version's own workers run the copies, no caller waits for one. It owns its counts, and spawns
nothing.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from changeover.core.inputs import copied
from changeover.core.ledger import Account
from changeover.core.operations import ShadowReport
from changeover.core.snapshots import Reply
from changeover.core.tally import peek
from changeover.errors import InvalidInput, LeaseRevoked, VersionCrashed
from changeover.runtime.host import Host
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.worker import Request

COPIES_MAX = 64
"""So many copies are on their way at once; what comes on top is skipped: shadowing must not become a queue."""

TOLERANCE = 1e-3
"""Floats that differ by less than this, relatively or absolutely, agree."""


class Shadow:
    """Where copies are sent from, and where their answers end."""

    def __init__(self, host: Host, now: Callable[[], float]) -> None:
        """Send copies through `host`."""
        self._host = host
        self._now = now
        self._flying: set[Request] = set()
        self._copied = itertools.count()
        self._agreed = itertools.count()
        self._differed = itertools.count()
        self._failed = itertools.count()
        self._skipped = itertools.count()
        self._withdrawn = itertools.count()

    @property
    def report(self) -> ShadowReport:
        """What became of the copies up to now."""
        agreed, differed, failed, withdrawn = map(peek, (self._agreed, self._differed, self._failed, self._withdrawn))
        return ShadowReport(peek(self._copied) - withdrawn, agreed, differed, failed, peek(self._skipped) + withdrawn)

    # --- any thread ---

    def send(self, account: Account, inputs: Mapping[str, Any], reply: Reply) -> None:
        """Send a copy of a request that `reply` answered, or count that it was not sent; never waits."""
        loaded: LoadedModel = account.owner
        now = self._now()
        ref = account.acquire(("shadow", now, None, None)) if len(self._flying) < COPIES_MAX else None
        if ref is None:
            next(self._skipped)
            return
        try:
            rows = loaded.check(inputs)
            request = Request(account, ref, copied(inputs), rows, now, self, copied(reply.outputs))
        except InvalidInput:  # the new version does not take what the old one takes
            account.release(ref)
            next(self._copied)
            self._end(loaded, now, failed=True)
            return
        except Exception:  # noqa: BLE001 - what cannot be copied is no trouble of the client's, who has its answer
            account.release(ref)
            next(self._skipped)
            return
        self._flying.add(request)
        if self._host.run_aside(loaded, request) if loaded.inline else loaded.lane.offer(request):
            next(self._copied)
            return
        self._flying.discard(request)
        account.release(ref)
        next(self._skipped)

    def take(self, request: Request) -> None:
        """Compare what a copy came to, in the thread of the worker that ran it."""
        self._flying.discard(request)
        if isinstance(request.error, LeaseRevoked | VersionCrashed) and request.error.ran == "no":  # it never saw it
            next(self._withdrawn)
            return
        self._end(request.account.owner, request.queued_at_s, failed=request.error is not None)
        if request.reply is not None:
            next(self._agreed if agree(request.waiter, request.reply.outputs) else self._differed)

    def knock(self) -> None:
        """Wake nobody: nobody waits for a copy."""

    def _end(self, loaded: LoadedModel, began_s: float, *, failed: bool) -> None:
        if failed:
            next(self._failed)
        meter = loaded.meter  # once: the saga may take it off at any moment
        if meter is not None:
            now = self._now()
            # A copy for an inline model runs in a thread of its own: its time says nothing of a call in the caller's.
            meter.note(now, None if loaded.inline else now - began_s, failed=failed)


def agree(expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether two answers have the same names and, but for the rounding of floats, the same values."""
    try:
        return expected.keys() == found.keys() and all(_same(expected[name], found[name]) for name in expected)
    except Exception:  # noqa: BLE001 - a model may return anything, and what cannot be compared does not agree
        return False


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))
    np: Any = sys.modules.get("numpy")  # who has arrays has imported it; nobody else needs it
    if np is None or not (hasattr(one, "dtype") or hasattr(other, "dtype")):
        return bool(one == other)
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "fc" and other.dtype.kind in "fc":
        return bool(np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
    return bool(np.array_equal(one, other))
