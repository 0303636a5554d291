"""Promise 3: conservation. Acquired is released plus held at every step, and at rest nothing is held.

The accounts record their messages, so that they are folded here a second time; and who holds what is compared with
what the actors say that they hold.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from changeover.core.ledger import Account, RecordingAccount
from changeover.core.messages import Acquire, Message, RefId
from changeover_sim.oracles.base import Oracle
from changeover_sim.simulate.calls import Call

if TYPE_CHECKING:
    from changeover_sim.simulate.life import Left, Life
    from changeover_sim.simulate.run import Run

_NAMED = ("lease", "async lease", "lease_many", "reference")
"""The kinds of calls that hold under an id of their own: the kind and the call's number."""


@attrs.define(eq=False)
class Fold:
    """The running fold over the messages of one account, made by the oracle."""

    last: Message | None = None
    """The last message that is in it."""
    held: dict[RefId, str] = attrs.field(factory=dict[RefId, str])
    acquired: int = 0
    released: int = 0
    over: int = 0

    def add(self, message: Message) -> str | None:
        """Take in one message; return what is wrong with it."""
        self.last = message
        if isinstance(message, Acquire):
            self.acquired += 1
            if message.ref in self.held:
                return f"{message.ref!r} was taken twice"
            self.held[message.ref] = message.kind
        elif message.was_held:
            self.released += 1
            if self.held.pop(message.ref, None) is None:
                return f"{message.ref!r} was given back, and not held"
        else:
            self.over += 1
            if message.ref in self.held:
                return f"{message.ref!r} was held, and its release refused"
        return None


@attrs.define
class Held:
    """Who holds what, by `model/version`."""

    ids: dict[str, list[str]] = attrs.field(factory=dict[str, list[str]])
    streams: Counter[str] = attrs.field(factory=Counter[str])
    """How many; they have no ids."""


class Promise03Conserved(Oracle):
    """Keeps books of its own beside those of the engine."""

    promise = 3
    says = "acquired = released + held at every step, and at rest nothing is held"

    def __init__(self, run: Run) -> None:
        """Keep no books yet."""
        super().__init__(run)
        self._folds: dict[int, Fold] = {}
        """By number of the incarnation."""
        self._twice = 0
        """How often an actor has given back on purpose what it did not hold."""
        self._holding: dict[int, Call] = {}
        """By their numbers, the calls that hold something."""

    def life_began(self, life: Life) -> None:
        """Begin new books."""
        self._folds, self._twice, self._holding = {}, 0, {}

    # --- at every step ------------------------------------------------------------------------------------------------

    def step(self, life: Life) -> None:
        """Look at the accounts that have a message which was not there before.

        The accounts are looked at inside: the audit says the same, and takes a hundred times as long.
        """
        folds = self._folds
        for number, loaded in life.engine._host._living.items():
            log = loaded.account.log  # type: ignore[attr-defined]  # every life records
            if log:
                fold = folds.get(number)
                if fold is None:
                    fold = folds[number] = Fold()
                if log[-1] is not fold.last:
                    self._fold(str(loaded.key), loaded.account, fold)

    def _fold(self, name: str, account: Account, fold: Fold) -> None:
        """Fold what is new, and compare."""
        self.judged += 1
        assert isinstance(account, RecordingAccount)
        new: list[Message] = []
        for message in reversed(account.log):
            if message is fold.last:
                break
            new.append(message)
        for message in reversed(new):
            wrong = fold.add(message)
            if wrong is not None:
                self.broken(f"{name}: {wrong}: {message}")
        balance = account.balance()
        if not balance.conserved:
            self.broken(f"{name}: {balance.acquired} taken, {balance.released} given back, {balance.held} held")
        counted = (fold.acquired, fold.released, len(fold.held), fold.over)
        if counted != (balance.acquired, balance.released, balance.held, balance.over_releases):
            self.broken(f"{name}: the messages say {counted}, and the account {balance}")
        if fold.held.keys() != account.held.keys():
            self.broken(
                f"{name}: the messages say that {list(fold.held)} are held, and the account {list(account.held)}"
            )

    # --- who holds what -----------------------------------------------------------------------------------------------

    def took(self, call: Call, name: str) -> None:
        """Note who holds something."""
        self._holding[call.number] = call

    def gave_back(self, call: Call, name: str) -> None:
        """Note who holds nothing any more."""
        if not call.held:
            self._holding.pop(call.number, None)

    def ended(self, call: Call) -> None:
        """Compare what is held under the ids of actors with what they say."""
        if type(call.error).__name__ == "ReferenceNotHeld":
            self._twice += 1
        self._compare(call.life)

    def _compare(self, life: Life) -> None:
        """Compare every id that is held with the actors' words, and count the streams."""
        self.judged += 1
        said, found = self._said(), self._found(life)
        for name in dict.fromkeys((*said.ids, *found.ids)):
            ids = sorted(said.ids.get(name, ())), sorted(found.ids.get(name, ()))
            if ids[0] != ids[1]:
                self.broken(f"{name}: actors say that they hold {ids[0]}, and the account {ids[1]}")
        for name, count in said.streams.items():
            if found.streams[name] < count:  # the account may hold more: those whose readers have not begun, or left
                self.broken(f"{name}: {count} streams are read, and {found.streams[name]} are held")

    def _said(self) -> Held:
        """Return what actors say that they hold."""
        held = Held()
        for call in self._holding.values():
            for name in call.held:
                if call.kind in _NAMED:
                    held.ids.setdefault(name, []).append(f"{call.kind} {call.number}")
                elif call.kind == "stream" and not call.scope.cancel_called:
                    held.streams[name] += 1  # one that is called off is let go of before its reader hears of it
        return held

    @staticmethod
    def _found(life: Life) -> Held:
        """Return what the accounts say."""
        held = Held()
        for (model, version), accounts in life.engine._host.books.accounts.items():
            name = f"{model}/{version}"
            for account in accounts:
                for kind, _, request_id, _ in account.held.values():
                    if request_id is not None:
                        held.ids.setdefault(name, []).append(request_id)
                    elif kind == "stream":
                        held.streams[name] += 1
        return held

    # --- the end ------------------------------------------------------------------------------------------------------

    def stuck(self, life: Life, left: Left) -> None:
        """Look for references that nobody gives back."""
        if left.holders and not left.calls and not left.threads:
            self.broken(f"held for ever: {'; '.join(left.holders)}")

    def at_rest(self, life: Life) -> None:
        """Look whether all was given back."""
        self._compare(life)
        self._look_at_end(life)

    def life_over(self, life: Life) -> None:
        """Do the same, of the engine that is closed."""
        self._look_at_end(life)

    def _look_at_end(self, life: Life) -> None:
        self.judged += 1
        audit = life.engine.audit()
        if not audit.clean:
            self.broken(f"at rest the audit is not clean: {audit.total}; {dict(audit.holders)}")
        if audit.total.over_releases > self._twice:
            self.broken(f"{audit.total.over_releases} were given back and not held, by actors only {self._twice}")
