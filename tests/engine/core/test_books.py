"""The books: accounts by version, what is left of closed ones, and the audit with its age limits for each kind."""

from __future__ import annotations

from typing import Any

import pytest

from changeover.core.books import AGE_LIMITS_S, DRAINS_KEPT, Books, age_limit
from changeover.core.ledger import MESSAGES_KEPT, Account, RecordingAccount
from changeover.core.messages import RefId, Release, fold
from changeover.core.snapshots import Balance, ReferenceStatistics
from changeover.core.values import VersionKey
from changeover.errors import InvalidValue, ReferenceLeakError
from tests.support.trackers import HandClock

ONE, TWO = VersionKey("m", "1"), VersionKey("m", "2")


@pytest.fixture
def clock() -> HandClock:
    """Make a clock that stands still."""
    return HandClock()


@pytest.fixture
def books() -> Books:
    """Make empty books."""
    return Books()


def open_account(books: Books, clock: HandClock, key: VersionKey = ONE, kind: type[Account] = Account) -> Account:
    """Enter a fresh account."""
    account = kind(now=clock.now)
    books.enter(key, account)
    return account


def take(account: Account, name: str | None = None, kind: str = "request", at_s: float = 0.0) -> RefId:
    """Take a reference."""
    ref = account.acquire((kind, at_s, name, None))
    assert ref is not None
    return ref


def strike(books: Books, account: Account, key: VersionKey = ONE) -> None:
    """Shut an account, and take it out of the books."""
    account.shut()
    books.strike(key, account)


# --- accounts -------------------------------------------------------------------------------------------------------


def test_empty_books_have_nothing(books: Books) -> None:
    """No version, no holder, no message; and they are clean."""
    assert (books.balances(), books.statistics(), books.of("m", "1")) == ({}, {}, ())
    assert (books.holders("m", "1", 0.0), books.messages("m", "1")) == ((), ())
    assert books.audit(0.0).clean


def test_incarnations_of_a_version_stand_side_by_side(books: Books, clock: HandClock) -> None:
    """Both are listed, the older one first, and their balances and holders are those of the version."""
    old, new = open_account(books, clock), open_account(books, clock)
    take(old, "old")
    take(new, "new")
    assert books.of("m", "1") == (old, new)
    assert [holder.holder for holder in books.holders("m", "1", 1.0)] == ["old", "new"]
    assert books.balances() == {ONE: Balance(2, 0, 2)}


def test_what_is_struck_out_leaves_its_sums(books: Books, clock: HandClock) -> None:
    """The account is gone; what it counted stays, and that of the next incarnation is added."""
    for _ in range(3):
        account = open_account(books, clock)
        account.release(take(account))
        with pytest.raises(Exception, match="not held"):
            account.release("never")
        strike(books, account)
        assert books.accounts == {}
    assert books.balances() == {ONE: Balance(3, 3, 0, over_releases=3)}
    assert books.audit(0.0).clean


def test_only_the_one_account_is_struck_out(books: Books, clock: HandClock) -> None:
    """The other incarnation and other versions stay."""
    old, new, other = open_account(books, clock), open_account(books, clock), open_account(books, clock, TWO)
    strike(books, old)
    assert (books.of("m", "1"), books.of("m", "2")) == ((new,), (other,))


def test_cleared_books_have_no_accounts(books: Books, clock: HandClock) -> None:
    """In a forked process every account belongs to the other one."""
    take(open_account(books, clock))
    books.orphan()
    assert (books.of("m", "1"), books.balances()) == ((), {})


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_go_over_all_incarnations(books: Books, clock: HandClock) -> None:
    """Peak is the highest; the average is over all the time that the version had an account."""
    for uses, lives_s in ((3, 10.0), (1, 30.0)):
        account = open_account(books, clock)
        refs = [take(account, at_s=clock.now_s) for _ in range(uses)]
        clock.now_s += 2.0
        for ref in refs:
            account.release(ref)
        clock.now_s += lives_s - 2.0
        strike(books, account)
        clock.now_s += 1_000.0  # nothing is loaded, and this time does not count
    assert books.statistics() == {ONE: ReferenceStatistics(0, 3, 8.0 / 40.0, 4, 0, ())}


def test_figures_are_those_of_each_version(books: Books, clock: HandClock) -> None:
    """What one version is used for says nothing of another."""
    one, two = open_account(books, clock), open_account(books, clock, TWO)
    for _ in range(3):
        take(one)
    two.release(take(two))
    assert {key: (found.current, found.peak, found.acquired) for key, found in books.statistics().items()} == {
        ONE: (3, 3, 3),
        TWO: (0, 1, 1),
    }


def test_the_last_drains_are_remembered(books: Books, clock: HandClock) -> None:
    """How long they took, oldest first, and not more than a hundred of them."""
    open_account(books, clock)
    for second in range(DRAINS_KEPT + 5):
        books.note_drain(ONE, float(second))
    assert books.statistics()[ONE].drains_s == tuple(float(s) for s in range(5, DRAINS_KEPT + 5))


# --- messages -------------------------------------------------------------------------------------------------------


def test_messages_of_closed_accounts_come_first(books: Books, clock: HandClock) -> None:
    """Over all incarnations they fold to the balance of the version."""
    for name in ("first", "second"):
        account = open_account(books, clock, kind=RecordingAccount)
        account.release(take(account, name))
        strike(books, account)
    account = open_account(books, clock, kind=RecordingAccount)
    take(account, "third")
    messages = books.messages("m", "1")
    assert [message.ref for message in messages] == ["first", "first", "second", "second", "third"]
    assert fold(messages) == (books.balances()[ONE], {"third": "request"})


def test_messages_are_kept_in_a_ring(books: Books, clock: HandClock) -> None:
    """10,000 for each version, over its incarnations together; the oldest go."""
    for _ in range(2):
        account = open_account(books, clock, kind=RecordingAccount)
        for _ in range(MESSAGES_KEPT // 2 - 1):
            account.release(take(account))
        take(account, "last")
        account.release("last")
        account.shut()
        books.strike(ONE, account)
        assert len(books.messages("m", "1")) == MESSAGES_KEPT
    account = open_account(books, clock, kind=RecordingAccount)
    take(account, "the newest")
    messages = books.messages("m", "1")
    assert (len(messages), messages[-1].ref) == (MESSAGES_KEPT, "the newest")
    assert isinstance(messages[0], Release)  # the acquire before it made room


# --- audit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", AGE_LIMITS_S)
def test_each_kind_has_an_age_limit_of_its_own(books: Books, clock: HandClock, kind: str) -> None:
    """It is suspected a moment after its limit, and not at it."""
    take(open_account(books, clock), "x", kind)
    limit_s = AGE_LIMITS_S[kind]
    assert books.audit(limit_s).suspected == ()
    assert [(key, holder.holder) for key, holder in books.audit(limit_s + 0.001).suspected] == [(ONE, "x")]


def test_one_limit_is_for_every_kind(books: Books, clock: HandClock) -> None:
    """A number is the limit of streams as well as of requests."""
    account = open_account(books, clock)
    for kind in AGE_LIMITS_S:
        take(account, kind, kind)
    assert books.audit(5.0, 5.0).suspected == ()
    assert [holder.kind for _, holder in books.audit(5.1, 5.0).suspected] == list(AGE_LIMITS_S)


def test_limits_by_kind_leave_the_other_kinds_alone(books: Books, clock: HandClock) -> None:
    """Those that are not named keep their usual limit."""
    account = open_account(books, clock)
    for kind in ("request", "lease", "stream"):
        take(account, kind, kind)
    limits = {"lease": 1.0, "request": 1e6}
    assert [holder.kind for _, holder in books.audit(90.0, limits).suspected] == ["lease"]
    assert [holder.kind for _, holder in books.audit(3_601.0, limits).suspected] == ["lease", "stream"]


@pytest.mark.parametrize(
    ("limits", "culprit"),
    [
        (-1.0, "suspect_after_s must"),
        (float("nan"), "suspect_after_s must"),
        ("soon", "suspect_after_s must"),
        (True, "suspect_after_s must"),
        ({"leese": 1.0}, "'leese'"),
        ({1: 1.0}, "no kind 1"),
        ({"lease": None}, r"suspect_after_s\['lease'\]"),
        ({"request": 1.0, "stream": -1.0}, r"suspect_after_s\['stream'\]"),
        ({"request": float("inf")}, r"suspect_after_s\['request'\]"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(limits: Any, culprit: str) -> None:
    """The error names the argument, the kind and what is allowed."""
    with pytest.raises(InvalidValue, match=culprit):
        age_limit(limits)


def test_an_audit_is_of_one_moment(books: Books, clock: HandClock) -> None:
    """What is taken or given back behind it does not change it."""
    account = open_account(books, clock)
    ref = take(account, "x")
    audit = books.audit(100.0)
    account.release(ref)
    assert (audit.clean, audit.total.held, len(audit.suspected)) == (False, 1, 1)
    with pytest.raises(ReferenceLeakError, match=r"1 reference\(s\) still held: m/1: request x \(100.0 s\)"):
        audit.raise_for_leaks()
    books.audit(100.0).raise_for_leaks()
