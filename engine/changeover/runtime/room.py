"""Room under the memory budget: who wants bytes stands in line, and idle versions go to make room for the first.

It owns the line. Belongs to the loop; it spawns nothing, and closes nothing itself: it orders evictions, and looks
again whenever bytes may have come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from changeover.core.store import Store
from changeover.runtime import sites


@attrs.frozen(eq=False)
class Want:
    """Somebody who wants bytes."""

    bytes: Callable[[], int]
    """How many more than are reserved for it now."""
    take: Callable[[], bool]
    """Reserves them; False, and no change, where there is no room."""
    granted: Callable[[], None]
    """Called once when they are reserved ..."""
    refused: Callable[[], None]
    """... or once there is nothing left that would make room."""


class Room:
    """The line before the budget; first come, first served."""

    def __init__(
        self,
        store: Store[int],
        *,
        last_used: Callable[[int], float | None],
        is_leaving: Callable[[int], bool],
        evict: Callable[[int], None],
    ) -> None:
        """Reserve in `store`; `evict` orders that an idle model goes, which is leaving from then on."""
        self._store = store
        self._last_used = last_used
        self._is_leaving = is_leaving
        self._evict = evict
        self._line: deque[Want] = deque()
        self._is_looking = False

    def __contains__(self, want: object) -> bool:
        """Return whether somebody stands in line."""
        return want in self._line

    def ask(self, want: Want, *, first: bool = False) -> None:
        """Stand in line; answered at once where there is room, or never can be. `first`: it has the bytes already."""
        if first:
            self._line.appendleft(want)
        else:
            self._line.append(want)
        self.look()

    def leave(self, want: Want) -> None:
        """Leave the line without an answer."""
        self._line.remove(want)
        self.look()

    def look(self) -> None:
        """Serve the line from its head, as far as there is room: bytes may have come back."""
        if self._is_looking:
            return  # who was just answered has asked for more, or let go of some: the loop below sees it
        self._is_looking = True
        try:
            while self._line and self._serve(self._line[0]):
                pass
        finally:
            self._is_looking = False

    def _serve(self, want: Want) -> bool:
        """Answer the head of the line; False where it has to wait for bytes that are on their way back."""
        if want.take():
            self._line.popleft()
            want.granted()
            return True
        victims = self._victims(want.bytes())
        if sites.ON and victims and sites.buggify("one-more-evicted"):
            victims = self._victims(2 * want.bytes()) or victims
        if victims is None:
            if sites.ON:
                sites.sometimes("no-room-to-be-made")
            self._line.popleft()
            want.refused()
            return True
        for number in victims:
            self._evict(number)
        return False

    def _victims(self, wanted: int) -> tuple[int, ...] | None:
        """Return who has to go so that there is room for so many more bytes; None where nobody's going helps."""
        return self._store.victims(wanted, last_used=self._last_used, is_leaving=self._is_leaving)
