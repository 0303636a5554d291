"""What each session has seen of each model, and whether the version that it saw has gone back.

Owns what was seen in one life. A session may go back where something has upset its model since: a version of it came
or went, a swap was turned round, or another one has begun to shift.
"""

from __future__ import annotations

from collections import deque

import attrs

_KEPT = 8
"""So many answers of one session are remembered: more are never on their way at once."""


@attrs.frozen
class Seen:
    """One answer."""

    number: int
    """Of the call."""
    version: str
    began: int
    """When it was asked, and ..."""
    ended: int
    """... when it was answered, in moments of its life."""


class Sessions:
    """All sessions of one life."""

    def __init__(self) -> None:
        """Have seen nothing."""
        self._seen: dict[tuple[str, str], deque[Seen]] = {}
        self._upset: dict[str, int] = {}
        self._ways: dict[str, tuple[str, str]] = {}
        self._loose: dict[str, int] = {}

    def upset(self, model: str, moment: int) -> None:
        """Hear that sessions may go back."""
        self._upset[model] = moment

    def shifts(self, model: str, old: str, new: str, moment: int) -> None:
        """Hear that a swap begins to move the traffic."""
        self._ways[model] = (old, new)
        self.upset(model, moment)

    def is_loose(self, model: str, moment: int) -> None:
        """Hear that keys mean nothing just now."""
        self._loose[model] = moment

    def take(self, model: str, key: str, seen: Seen) -> str | None:
        """Add an answer; return how it goes back behind the one before it, in words."""
        answers = self._seen.setdefault((model, key), deque(maxlen=_KEPT))
        before = max((one for one in answers if one.ended < seen.began), key=lambda one: one.began, default=None)
        answers.append(seen)
        if before is None or before.version == seen.version:
            return None
        excuse = max(self._upset.get(model, -1), self._loose.get(model, -1))
        if excuse >= before.began or self._ways.get(model) == (before.version, seen.version):
            return None
        way = "without a swap" if model not in self._ways else "in a swap from {} to {}".format(*self._ways[model])
        return (
            f"session {key} of {model} saw {before.version} in call {before.number} and then {seen.version} "
            f"in call {seen.number}, {way}"
        )
