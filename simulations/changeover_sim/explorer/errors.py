"""What the explorer raises when it cannot do what it was asked for; a bug that it found is a result, never an error."""

from __future__ import annotations


class ExplorerError(Exception):
    """The base of all errors of the explorer; its text says what to do."""


class TrioNotSupported(ExplorerError):
    """The installed Trio lacks something inside that the explorer needs."""


class BadProgram(ExplorerError):
    """What was handed over is no async callable without arguments, or calls `trio.run` itself."""


class BadPolicy(ExplorerError):
    """A policy decided something that is no decision."""


class Uncontrolled(ExplorerError):
    """The program used something real, a socket, a thread or a process, whose timing cannot be controlled."""


class Stalled(ExplorerError):
    """The program did not reach a checkpoint in time: it blocks for real, or it never yields."""


class TokenError(ExplorerError):
    """A token is damaged, of another version or for another program."""


class NotExploring(ExplorerError):
    """`choose` or `cancel_anywhere` was called outside an exploration."""


class Abandoned(BaseException):
    """Raised at every checkpoint of a schedule that is given up, so that its tasks end; not for programs to catch."""
