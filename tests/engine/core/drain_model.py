"""A router, two versions, who requests them and who drains one: the model whose every state test_statespace.py visits.

The router, the accounts and the table of a version's life are the real ones; the `World` does what runtime/version.py
does with them, and says of each state what is wrong with it. As a command it prints how many states there are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from changeover.core import lifecycle
from changeover.core.ledger import Account
from changeover.core.lifecycle import Action, Event
from changeover.core.messages import RefId
from changeover.core.tally import peek
from changeover.core.usage import Usage
from changeover.core.values import VersionKey, VersionState
from changeover.errors import AlreadyHeld, NotReady
from changeover.runtime.router import Router
from tests.engine.core.graph import Model
from tests.engine.core.statespace import Make, Walker


class Loaded:
    """As much of a loaded model as a router asks for, and what became of it."""

    def __init__(self, version: str, account: type[Account]) -> None:
        self.key = VersionKey("m", version)
        self.account = account(self)
        self.state = VersionState.READY
        self.users: list[RefId] = []
        self.shut = False
        self.given_back = 0
        """How often it was asked to make room, and did not."""
        self.owed = 0
        """How often it was watched and the watcher not called yet."""
        self.closed = 0


class Silence:
    """A bus that nobody listens to, and chance that never varies."""

    def emit(self, kind: str, **detail: object) -> None:
        """Tell nobody."""

    def random(self) -> float:
        """Return the same number every time."""
        return 0.5


class World:
    """A router with version 1 in use and version 2 ready.

    Whatever a program does here between two steps of the engine's code happens at once.
    """

    def __init__(self, walker: Walker, account: type[Account]) -> None:
        self.walker = walker
        self.silence: Any = Silence()
        self.router = Router(self.silence, self.silence, lambda model, version: NotReady(f"{model}/{version}"))
        self.old: Any = Loaded("1", account)
        self.new: Any = Loaded("2", account)
        self.swapped = False
        self.routed = True
        self.evicting = False
        """True from the moment in which version 1 is asked to make room, until it is given back."""
        self.inside = 0
        """How many threads are in the middle of an acquire or a release."""
        self.wrong: list[str] = []
        for loaded in (self.old, self.new):
            self.router.opened(loaded)

    # --- who requests ---

    def request(self, version: str | None = None, name: str | None = None) -> None:
        """Pin, use, release."""
        swapped, shut, evicting, given_back = self.swapped, self.old.shut, self.evicting, self.old.given_back
        self.inside += 1
        try:
            account, ref = self.router.pin(("request", 0.0, name, None), "m", version)
        except NotReady:
            self.inside -= 1
            if version is None and not (evicting or self.evicting or self.old.given_back != given_back):
                self.wrong.append("a request was refused while version 2 took requests")
            return
        except AlreadyHeld:
            self.inside -= 1
            return
        self.inside -= 1
        loaded: Loaded = account.owner
        if loaded is self.old and shut and given_back == self.old.given_back:
            self.wrong.append("a request that came after the gate was shut was let in")
        if loaded is self.old and swapped and version is None:
            self.wrong.append("a request that came after the swap reached the old version")
        self.use(loaded, ref)

    def acquire(self, name: str | None = None) -> None:
        """Take a reference to version 1 as a lease does that has it already, use it, release it."""
        shut, given_back, was_open = self.old.shut, self.old.given_back, self.old.account.open
        self.inside += 1
        try:
            ref = self.old.account.acquire(("lease", 0.0, name, None))
        except AlreadyHeld:
            self.inside -= 1
            return
        self.inside -= 1
        if ref is None:
            if was_open and self.old.account.open and given_back == self.old.given_back:
                self.wrong.append("an acquire was refused while the gate was open")
            return
        if shut and given_back == self.old.given_back:
            self.wrong.append("an acquire that came after the gate was shut was let in")
        self.use(self.old, ref)

    def use(self, loaded: Loaded, ref: RefId) -> None:
        """Use what is held, then give it back."""
        if ref in loaded.users:
            self.wrong.append(f"{ref!r} is held twice")
        loaded.users.append(ref)
        self.walker.pause()
        self.give_back(loaded, ref)

    def give_back(self, loaded: Any, ref: RefId) -> None:
        """Release; from here on the version must not be used under this reference."""
        loaded.users.remove(ref)
        self.inside += 1
        loaded.account.release(ref)
        self.inside -= 1

    # --- who drains ---

    def swap(self) -> None:
        """Move the traffic to version 2, then drain version 1."""
        self.router.shift({"m": "2"})
        self.swapped = True
        self.drain()

    def drain(self) -> None:
        """Take version 1 out of service: `Version._shut`, then its `_on_zero` and `_close`."""
        self.begin_drain()
        self.end_drain()

    def begin_drain(self) -> None:
        """Let nobody in any more, then watch for zero."""
        self.advance(Event.DRAIN, Action.SHUT)
        if self.routed:
            self.router.shut(self.old)
        self.shut()
        self.watch()

    def end_drain(self) -> None:
        """Close version 1 once the news of zero has come."""
        self.hear_of_zero()
        while self.old.account.held:  # an acquire that is about to be refused; the version watches once more
            self.watch()
            self.hear_of_zero()
        self.close()

    def close(self, event: Event = Event.CLOSED) -> None:
        """Close version 1."""
        self.advance(Event.ZERO, Action.CLOSE)
        self.old.account.shut()
        self.walker.pause()
        self.old.closed += 1
        self.walker.pause()
        self.advance(event)

    # --- who needs room ---

    def evict(self) -> None:
        """Have version 1 make room, if nobody uses it: `Version._on_evict`."""
        self.advance(Event.EVICT, Action.PARK)
        self.park()
        self.walker.pause()
        self.end_eviction(bool(self.old.account.held))

    def park(self) -> None:
        """Leave version 1 its traffic and let nobody in: `Version._park`."""
        self.evicting = True
        self.router.park(self.old)
        self.shut()

    def end_eviction(self, is_held: bool) -> None:
        """Close version 1, or open it again: `Version._open`."""
        if not is_held:
            self.close(Event.CLOSED_EVICTED)
            return
        self.advance(Event.GIVE_BACK, Action.OPEN)
        self.old.shut = False
        self.old.given_back += 1
        self.old.account.reopen()
        self.router.opened(self.old)
        self.evicting = False

    def shut(self) -> None:
        """Shut the gate of version 1."""
        self.old.account.shut()
        self.old.shut = True

    def watch(self) -> None:
        """Wait for zero once more."""
        self.old.owed += 1
        self.old.account.watch(self.tell)

    def tell(self) -> None:
        """Be the watcher."""
        self.old.owed -= 1
        if self.old.account.open:
            self.wrong.append("told of zero while the gate was open")
        if self.old.users:
            self.wrong.append(f"told of zero while {self.old.users} used it")

    def hear_of_zero(self) -> None:
        """Wait until the watcher was called as often as it was asked to be."""
        self.walker.wait(lambda: self.old.owed <= 0)

    def advance(self, event: Event, action: Action | None = None) -> None:
        """Make a transition, which orders this and nothing else."""
        transition = lifecycle.step(self.old.state, event)
        self.old.state = transition.state
        assert transition.actions == ((action,) if action else ())

    # --- what is wrong with a state ---

    def look(self, ended: bool) -> Iterator[str]:
        """Yield what must not be, in the middle of a step of any thread as well."""
        yield from self.wrong
        for loaded in (self.old, self.new):
            yield from (f"version {loaded.key.version}: {fault}" for fault in self.faults(loaded))
        if ended:
            yield from self.at_rest()

    def faults(self, loaded: Loaded) -> Iterator[str]:
        """Yield what is wrong with one version."""
        account, held = loaded.account, loaded.account.held
        if loaded.closed and loaded.users:
            yield f"closed while {loaded.users} used it"
        if not held.keys() >= set(loaded.users):
            yield f"{loaded.users} used it, and {list(held)} is all that was held"
        if len(held) - len(loaded.users) > self.inside:
            yield f"{list(held)} was held, {loaded.users} used it and {self.inside} were on the way"
        # Between the entry in `held` and its count a thread is counted once too often or once too little.
        gap = peek(account._acquires) - peek(account._releases) - len(held)
        if abs(gap) > self.inside:
            yield f"acquired and not released are {gap} more than held, with {self.inside} on the way"
        if loaded.shut and account.open:
            yield "open after it was shut"
        routed = self.router._open.get(loaded.key) is account or account in self.router.direct.values()
        if routed and not account.open:
            yield "routed to with its gate shut"
        if loaded.owed < 0:
            yield "told of zero once more than it was watched for"
        may_be = {VersionState.UNLOADED: 1, VersionState.EVICTED: 1, VersionState.UNLOADING: min(loaded.closed, 1)}
        if loaded.closed != may_be.get(loaded.state, 0):
            yield f"closed {loaded.closed} times in state {loaded.state.name}"
        share = self.router.share(loaded.key)
        if share and not self.router.takes_requests(loaded.key) and not (self.evicting and loaded is self.old):
            yield f"{share:.0%} of the traffic of what takes no requests"

    def at_rest(self) -> Iterator[str]:
        """Yield what is wrong when all have ended."""
        for loaded, closed in ((self.old, self.old.shut), (self.new, False)):
            balance = loaded.account.balance()
            if not balance.conserved or balance.held or balance.over_releases or loaded.account._watchers:
                yield f"at rest version {loaded.key.version} has {balance} and {len(loaded.account._watchers)} watchers"
            if loaded.owed:
                yield f"the watcher was called {-loaded.owed} times too often"
            if loaded.closed != closed or (loaded.state in GONE) is not closed:
                yield f"at rest version {loaded.key.version} is {loaded.state.name}, closed {loaded.closed} times"


GONE = {VersionState.UNLOADED, VersionState.EVICTED}
Program = Callable[[World], None]


def world(*programs: Program, held: int = 0, routed: bool = True, account: type[Account] = Account) -> Make:
    """Make models: every program runs in a thread of its own.

    References 0, 1, ... of version 1 are held before; `routed`: whether the router knows it, or only those who hold it.
    """

    def make(walker: Walker) -> Model:
        it = World(walker, account)
        it.old.users += [it.old.account.acquire(("lease", 0.0, None, None)) for _ in range(held)]
        if not routed:
            it.routed = False
            it.router.shut(it.old)
        shared = (
            it,
            it.silence,
            it.router,
            *(part for v in (it.old, it.new) for part in (v, v.account, v.account.usage)),
        )
        return Model([partial(program, it) for program in programs], shared, it.look, [it.router])

    return make


def request_old(it: World) -> None:
    """Ask for version 1 by its name, which may be gone."""
    it.request("1")


def request_as_id(it: World) -> None:
    """Ask under a request id that somebody else may have."""
    it.request(name="id")


def acquire_as_id(it: World) -> None:
    """Acquire under a request id that somebody else may have."""
    it.acquire("id")


def leave_first(it: World) -> None:
    """Give back the reference that was taken first."""
    it.give_back(it.old, 0)


def leave_second(it: World) -> None:
    """Give back the reference that was taken second."""
    it.give_back(it.old, 1)


BESIDE = (World, request_old, request_as_id, acquire_as_id, leave_first, leave_second)

RACES: Mapping[str, Make] = {
    "a request, a swap": world(World.request, World.swap),
    "a request, a drain": world(World.request, World.drain),
    "a request by name, a swap": world(request_old, World.swap),
    "an acquire, a drain": world(World.acquire, World.drain),
    "two releases, a drain": world(leave_first, leave_second, World.drain, held=2, routed=False),
    "an acquire, a release, a drain": world(World.acquire, leave_first, World.drain, held=1, routed=False),
    "a request, an eviction": world(World.request, World.evict),
    "a request by name, an eviction": world(request_old, World.evict),
    "a release, an eviction": world(leave_first, World.evict, held=1),
}
"""Two threads, or three with little to do."""

RACES_OF_THREE: Mapping[str, Make] = {
    "two acquires, a drain": world(World.acquire, World.acquire, World.drain, routed=False),
    "two acquires as one id, a drain": world(acquire_as_id, acquire_as_id, World.drain, routed=False),
    "a request, a release, a drain": world(World.request, leave_first, World.drain, held=1),
}
"""A minute each, on a slow machine."""

LARGEST: Mapping[str, Make] = {
    "an acquire, a release, an eviction": world(World.acquire, leave_first, World.evict, held=1),
    "two requests, a drain": world(World.request, World.request, World.drain),
    "two requests, a swap": world(World.request, World.request, World.swap),
    "two requests, an eviction": world(World.request, World.request, World.evict),
    "a request, a release, an eviction": world(World.request, leave_first, World.evict, held=1),
    "a request and one by name, a swap": world(World.request, request_old, World.swap),
}
"""Too long for a test: for the command, with the word `all`."""

PURE = ("Shifted", "VersionGone", "VersionKey", "VersionReady", "decide", "range", "touched")
"""What the router calls that looks at nothing but its arguments."""

CALM = ("BINARY_SUBSCR", "_mask", "_peak", "_timed")
"""What only decides whether a use is counted, and the subscript, which is of the use: a tuple."""


def walker(*kinds: type, beside: Sequence[Any] = ()) -> Walker:
    """Make a walker over the real classes, or over planted ones, and programs, as well."""
    names = ("_apply", "_tell", "_whole_routes", "active", "opened", "park", "shift", "shut")
    loop = [getattr(Router, name) for name in names]
    # How much a model is used is counted by the way, and decides nothing.
    whole = [Usage, Account._note]
    beside = [*BESIDE, *beside]
    return Walker(Router, Account, *kinds, beside=beside, solo=loop, whole=whole, pure=PURE, calm=CALM)


def main() -> None:
    """Print how many states each race has; with `all`, of the largest as well."""
    sys.stdout.write("program | states | transitions | depth | seconds\n")
    races = {**RACES, **RACES_OF_THREE, **(LARGEST if "all" in sys.argv else {})}
    with walker() as walks:
        for name, make in races.items():
            found = walks.walk(make)
            sizes = f"{found.states:,} | {found.transitions:,} | {found.depth} | {found.seconds:.1f}"
            sys.stdout.write(f"{name} | {sizes}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
