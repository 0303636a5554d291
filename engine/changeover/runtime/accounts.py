"""Makes accounts: plain ones, or in debug mode ones that record their messages and tell the log of each.

The log is `changeover.references`, at debug level; every line begins with one of three constant names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from changeover.core.ledger import Account, RecordingAccount
from changeover.core.messages import Acquire, Message, Release, name_of
from changeover.core.values import VersionKey

logger = logging.getLogger("changeover.references")


def make_account(key: VersionKey, now: Callable[[], float], *, record: bool) -> Account:
    """Make the account of one incarnation of a version, which measures by the clock `now`."""
    return RecordingAccount(now=now, tell=partial(_log, key)) if record else Account(now=now)


def _log(key: VersionKey, message: Message) -> None:
    """Write one message into the log; the thread is the one that made it."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    match message:
        case Acquire(ref, kind, _, where):
            logger.debug("reference_acquired %s kind=%s ref=%s where=%s", key, kind, name_of(ref), where)
        case Release(ref, was_held=True):
            logger.debug("reference_released %s ref=%s", key, name_of(ref))
        case Release(ref):
            logger.debug("reference_not_held %s ref=%s", key, name_of(ref))
