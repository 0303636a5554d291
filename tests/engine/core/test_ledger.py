"""The account of a loaded model is the fold over its messages, whoever posts them, from whichever thread.

The races are in test_ledger_interleavings.py. Owns nothing; the threads of one test end in it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from changeover.core.ledger import Account, RecordingAccount, Use
from changeover.core.messages import Acquire, RefId, Release, fold
from changeover.core.snapshots import Balance, Holder
from changeover.errors import AlreadyHeld, ReferenceNotHeld

KINDS = st.sampled_from(["request", "lease", "stream", "warmup"])
NAMES = st.sampled_from(["a", "b", "c"])


def use(kind: str = "request", name: str | None = None, at_s: float = 0.0, where: str | None = None) -> Use:
    """Make a use."""
    return (kind, at_s, name, where)


def use_once(account: Account) -> None:
    """Acquire and release."""
    ref = account.acquire(use())
    assert ref is not None
    account.release(ref)


@pytest.fixture(params=[Account, RecordingAccount])
def account(request: pytest.FixtureRequest) -> Account:
    """An account of either kind, open and empty."""
    made: Account = request.param()
    return made


class Watcher:
    """Counts how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


# --- one at a time --------------------------------------------------------------------------------------------------


def test_an_acquire_gives_a_fresh_reference_each_time(account: Account) -> None:
    """References are never given out twice, not even after their release."""
    refs = []
    for _ in range(3):
        ref = account.acquire(use())
        assert ref is not None
        refs.append(ref)
        account.release(ref)
    assert len(set(refs)) == 3
    assert account.balance() == Balance(acquired=3, released=3, held=0)


def test_a_request_id_is_its_own_reference(account: Account) -> None:
    """A use that names a request id is held and released under it, and the id can be used again afterwards."""
    for _ in range(2):
        assert account.acquire(use(name="mine")) == "mine"
        account.release("mine")
    assert account.balance() == Balance(acquired=2, released=2, held=0)


def test_the_same_request_id_twice_is_already_held(account: Account) -> None:
    """A second acquire under an id that is held raises, names the id and changes nothing."""
    account.acquire(use("lease", "mine", 1.0))
    before = account.balance(), account.holders(2.0)
    with pytest.raises(AlreadyHeld, match="'mine'"):
        account.acquire(use("request", "mine", 2.0))
    assert (account.balance(), account.holders(2.0)) == before


@pytest.mark.parametrize("wrong", ["never", 7, None])
def test_an_over_release_raises_and_is_counted(account: Account, wrong: RefId) -> None:
    """Releasing what is not held raises, names it, changes nothing else and is counted each time."""
    kept = account.acquire(use())
    for times in (1, 2):
        with pytest.raises(ReferenceNotHeld, match=f"{wrong!r} is not held"):
            account.release(wrong)
        assert account.balance() == Balance(acquired=1, released=0, held=1, over_releases=times)
    assert list(account.held) == [kept]


def test_a_second_release_is_an_over_release(account: Account) -> None:
    """Releasing the same reference twice raises and does not count as a release, nor does it wake anybody."""
    ref = account.acquire(use())
    assert ref is not None
    account.release(ref)
    other = account.acquire(use())
    watcher = Watcher()
    account.watch(watcher)
    with pytest.raises(ReferenceNotHeld):
        account.release(ref)
    assert account.balance() == Balance(acquired=2, released=1, held=1, over_releases=1)
    assert list(account.held) == [other]
    assert watcher.calls == 0


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_shut_account_refuses_and_keeps_nothing(account: Account, name: str | None) -> None:
    """Behind a shut gate an acquire returns None, holds nothing, and the balance still adds up."""
    account.shut()
    assert account.acquire(use(name=name)) is None
    assert not account.held
    assert account.balance().conserved
    assert account.balance().held == 0


def test_what_is_held_stays_held_behind_a_shut_gate(account: Account) -> None:
    """Shutting ends no reference; reopening lets new ones be taken."""
    ref = account.acquire(use())
    assert ref is not None
    account.shut()
    assert list(account.held) == [ref]
    account.reopen()
    assert account.acquire(use()) is not None
    account.release(ref)
    assert account.balance().held == 1


def test_an_account_can_begin_shut() -> None:
    """An account made with `is_open=False` refuses until it is opened, and knows its owner from the start."""
    owner = object()
    for kind in (Account, RecordingAccount):
        account = kind(owner, is_open=False)
        assert account.acquire(use()) is None
        account.reopen()
        assert account.acquire(use()) is not None
        assert account.owner is owner


def test_holders_are_named_oldest_first(account: Account) -> None:
    """Each holder has its kind, its request id or number, its age and its line; an age is never negative."""
    account.acquire(use("lease", None, 1.0, "app.py:7"))
    account.acquire(use("request", "mine", 2.5))
    account.acquire(use("warmup", None, 9.0))
    thread = "MainThread" if isinstance(account, RecordingAccount) else None
    assert account.holders(4.0) == (
        Holder("lease", "#0", 3.0, "app.py:7", thread),
        Holder("request", "mine", 1.5, None, thread),
        Holder("warmup", "#2", 0.0, None, thread),
    )
    assert str(attrs.evolve(account.holders(4.0)[0], thread=None)) == "lease #0 (3.0 s, taken at app.py:7)"


def test_a_use_is_named_with_the_thread_that_runs_it(account: Account) -> None:
    """Where a thread runs a use, its holder says so, also where another thread took the reference."""
    account.acquire(use("request", "mine"))
    account.running = lambda: {"mine": "worker 1"}
    assert str(account.holders(1.0)[0]) == "request mine (1.0 s, in thread worker 1)"


# --- watchers -------------------------------------------------------------------------------------------------------


def test_a_watcher_is_called_once_at_zero(account: Account) -> None:
    """A watcher is called by the release of the last reference, not before, and not at a later zero."""
    first, second = account.acquire(use()), account.acquire(use())
    watcher = Watcher()
    account.watch(watcher)
    assert first is not None
    account.release(first)
    assert watcher.calls == 0
    assert second is not None
    account.release(second)
    assert watcher.calls == 1
    use_once(account)
    assert watcher.calls == 1


def test_a_watcher_is_called_at_once_where_nothing_is_held(account: Account) -> None:
    """Where the balance is zero already, `watch` calls the watcher itself, once."""
    watcher = Watcher()
    account.watch(watcher)
    assert watcher.calls == 1
    use_once(account)
    assert watcher.calls == 1


def test_every_watcher_hears_of_the_same_zero(account: Account) -> None:
    """All watchers are called at zero, in the order in which they came."""
    heard: list[str] = []
    ref = account.acquire(use())
    assert ref is not None
    for name in "abc":
        account.watch(lambda name=name: heard.append(name))
    account.release(ref)
    assert heard == ["a", "b", "c"]


def test_a_watcher_that_was_forgotten_is_not_called(account: Account) -> None:
    """`unwatch` takes one watcher out and leaves the others; one that was called, or never came, is no mistake."""
    ref = account.acquire(use())
    assert ref is not None
    gone, stays = Watcher(), Watcher()
    account.watch(gone)
    account.watch(stays)
    account.unwatch(gone)
    account.release(ref)
    assert (gone.calls, stays.calls) == (0, 1)
    account.unwatch(stays)
    account.unwatch(Watcher())


def test_a_watcher_finds_the_release_done(account: Account) -> None:
    """A watcher that looks from within the last release finds it counted, and may take a reference."""
    found: list[Balance] = []

    def watcher() -> None:
        found.append(account.balance())
        account.acquire(use(name="from within"))

    ref = account.acquire(use())
    assert ref is not None
    account.watch(watcher)
    account.release(ref)
    assert found == [Balance(acquired=1, released=1, held=0)]
    assert list(account.held) == ["from within"]


def test_the_transition_to_zero_by_a_refused_acquire_is_heard(account: Account) -> None:
    """Who shuts the gate and watches hears of zero, although an acquire was refused in the meantime."""
    ref = account.acquire(use())
    assert ref is not None
    account.shut()
    watcher = Watcher()
    account.watch(watcher)
    assert account.acquire(use()) is None
    assert watcher.calls == 0
    account.release(ref)
    assert watcher.calls == 1


# --- the log --------------------------------------------------------------------------------------------------------


def test_the_fold_of_no_messages_is_zero() -> None:
    """An empty log holds nothing."""
    assert fold([]) == (Balance(0, 0, 0), {})


def test_the_fold_counts_what_makes_no_sense_and_goes_on() -> None:
    """A release of what is not held is counted, a second acquire of an id is not; neither changes what is held."""
    log = [Release(1), Acquire(1, "lease"), Acquire(1, "request"), Release(1), Release(1), Acquire("x", "stream")]
    assert fold(log) == (Balance(acquired=2, released=1, held=1, over_releases=2), {"x": "stream"})


def test_a_recording_account_writes_down_every_message() -> None:
    """The log has each acquire and each release in order, refused and wrong ones included."""
    account = RecordingAccount()
    account.acquire(use("lease"))
    account.release(0)
    with pytest.raises(ReferenceNotHeld):
        account.release("x")
    account.acquire(use("request", "mine"))
    with pytest.raises(AlreadyHeld):
        account.acquire(use("request", "mine"))
    account.shut()
    account.acquire(use("stream", "refused"))
    assert [attrs.evolve(message, thread=None) for message in account.messages()] == [
        Acquire(0, "lease"), Release(0), Release("x", was_held=False), Acquire("mine", "request"),
        Acquire("refused", "stream"), Release("refused"),
    ]  # fmt: skip
    assert {message.thread for message in account.messages()} == {"MainThread"}


def test_a_recording_account_keeps_only_its_last_messages() -> None:
    """The log is bounded by `keep`."""
    account = RecordingAccount(keep=3)
    for _ in range(5):
        use_once(account)
    assert len(account.log) == 3
    assert account.log[-1] == Release(4, thread="MainThread")


class Ledger(RuleBasedStateMachine):
    """Both kinds of account beside a model of what is held; every step is done to all three."""

    refs: Bundle[RefId] = Bundle("refs")

    def __init__(self) -> None:
        super().__init__()
        self.plain = Account()
        self.recording = RecordingAccount()
        self.held: dict[RefId, str] = {}
        self.is_open = True
        self.over = 0
        self.watchers: list[tuple[Watcher, Watcher]] = []
        self.gone: list[tuple[Watcher, Watcher, int]] = []

    @initialize(is_open=st.booleans())
    def begin(self, is_open: bool) -> None:
        """Begin open or shut."""
        if not is_open:
            self.shut()

    @rule(target=refs, kind=KINDS, name=st.none() | NAMES)
    def acquire(self, kind: str, name: str | None) -> object:
        """Acquire, perhaps under a name that is held or behind a shut gate."""
        if name in self.held:
            for account in (self.plain, self.recording):
                with pytest.raises(AlreadyHeld):
                    account.acquire(use(kind, name))
            return multiple()
        ref = self.plain.acquire(use(kind, name))
        assert self.recording.acquire(use(kind, name)) == ref
        assert (ref is not None) == self.is_open
        if ref is None:
            return multiple()
        assert name in (None, ref)
        self.held[ref] = kind
        return ref

    @rule(ref=consumes(refs) | NAMES | st.integers(-1, 3))
    def release(self, ref: RefId) -> None:
        """Release what is held, was released before, or was never there."""
        if ref not in self.held:
            self.over += 1
            for account in (self.plain, self.recording):
                with pytest.raises(ReferenceNotHeld):
                    account.release(ref)
            return
        del self.held[ref]
        self.plain.release(ref)
        self.recording.release(ref)
        self.expect_calls()

    @rule()
    def shut(self) -> None:
        """Shut the gate."""
        self.is_open = False
        self.plain.shut()
        self.recording.shut()

    @rule()
    def reopen(self) -> None:
        """Open the gate."""
        self.is_open = True
        self.plain.reopen()
        self.recording.reopen()

    @rule()
    def watch(self) -> None:
        """Watch for zero."""
        pair = Watcher(), Watcher()
        self.watchers.append(pair)
        self.plain.watch(pair[0])
        self.recording.watch(pair[1])
        self.expect_calls()

    @rule(data=st.data())
    def unwatch(self, data: st.DataObject) -> None:
        """Forget a watcher, called or not."""
        known = self.watchers + [(a, b) for a, b, _ in self.gone]
        if not known:
            return
        pair = data.draw(st.sampled_from(known))
        self.plain.unwatch(pair[0])
        self.recording.unwatch(pair[1])
        if pair in self.watchers:
            self.watchers.remove(pair)
            self.gone.append((*pair, 0))

    def expect_calls(self) -> None:
        """At zero every watcher has had its call."""
        if not self.held:
            self.gone += [(a, b, 1) for a, b in self.watchers]
            self.watchers.clear()

    @invariant()
    def fold_is_the_balance(self) -> None:
        """The fold over the log is the balance and the held kinds, of both accounts and of the model."""
        balance, held = fold(self.recording.log)
        assert held == self.held
        assert balance == self.recording.balance() == self.plain.balance()
        assert balance.conserved
        assert balance.over_releases == self.over
        for account in (self.plain, self.recording):
            assert {ref: kind for ref, (kind, *_) in account.held.items()} == self.held

    @invariant()
    def watchers_are_called_exactly_at_zero(self) -> None:
        """No watcher is called early, late or twice."""
        assert all(watcher.calls == 0 for pair in self.watchers for watcher in pair)
        assert all((a.calls, b.calls) == (calls, calls) for a, b, calls in self.gone)


Ledger.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


class TestLedger(Ledger.TestCase):
    """Whatever is done to it, an account is the fold over its messages."""


# --- many at a time -------------------------------------------------------------------------------------------------


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads interrupt each other as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def hammer(account: Account, closed: threading.Event, halfway: Callable[[], object]) -> list[str]:
    """Use the account until it refuses; call `halfway` after a while, and return what went wrong."""
    wrong: list[str] = []
    uses = 0
    while (ref := account.acquire(use())) is not None:
        if closed.is_set():
            wrong.append("acquired after the close")
        account.release(ref)
        uses += 1
        if uses == 200:
            halfway()
    return wrong


@pytest.mark.usefixtures("restless")
def test_eight_threads_and_a_drain_in_their_midst(account: Account) -> None:
    """Eight threads take and give back until a drain shuts the gate: it sees the one zero, and the balance adds up."""
    closed, ready = threading.Event(), threading.Semaphore(0)
    wrong: list[str] = []
    calls: list[bool] = []

    def close() -> None:
        calls.append(bool(account.held))
        closed.set()

    threads = [
        threading.Thread(target=lambda: wrong.extend(hammer(account, closed, ready.release)), daemon=True)
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert ready.acquire(timeout=60), "a thread did not come to its 200th use"
    account.shut()
    account.watch(close)
    for thread in threads:
        thread.join(60)
    assert closed.wait(60)
    assert not wrong
    assert len(calls) == 1
    balance = account.balance()
    assert balance.conserved
    assert balance.held == 0
    assert balance.acquired >= 8 * 200
    assert not account.held
