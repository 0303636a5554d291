"""A failing schedule as one printable word, from which it can be run again.

Pure functions. What comes back is hostile until decoded: it is text that somebody pasted.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs

from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.errors import TokenError
from changeover_sim.explorer.queue import Mode, Timeouts
from changeover_sim.explorer.schedule import SEED_MAX, Rules, limits_hold
from changeover_sim.explorer.tape import Picks

VERSION = 1
_PREFIX = "sx"
_TEXT_MAX = 8_000_000
_BYTES_MAX = 32_000_000
_MORE = 0x80
"""The bit of a byte that says that its number goes on in the next."""
_SHIFT_MAX = 35
_SHOWN = 120


@attrs.frozen
class Token:
    """All that decides a schedule."""

    program: str
    """`module:qualified.name`."""
    rules: Rules
    chance: int
    """The seed of the program's own draws from `random`."""
    picks: Picks
    """The alternatives taken, decision by decision."""
    policy: str
    """Which policy found it; it is not needed to run it again."""
    seed: int
    """The seed of the exploration; the same."""
    index: int
    """The number of the schedule in the exploration; the same."""
    steps: int
    """How many steps the schedule has."""
    print: int
    """A checksum of the schedule's steps: says whether the program still does the same."""
    trio: str
    python: str


def name_of(program: Callable[..., Any]) -> str:
    """Return `module:qualified.name`; of what has no name, that of its type."""
    inner: Any = program
    while isinstance(inner, functools.partial):
        inner = cast("Any", inner).func
    named: Any = inner if hasattr(inner, "__qualname__") else cast("Any", type(inner))
    return f"{_module(named.__module__)}:{named.__qualname__}"


def _module(name: str) -> str:
    """Return a module's name; of a script, the one that it can be imported by from its own folder."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).stem if name == "__main__" and file else name


def encode(token: Token) -> str:
    """Return the token as text: letters, digits, `-` and `_`."""
    rules = token.rules
    head = [token.program, rules.mode, rules.timeouts, rules.steps_max, rules.stall_s, token.chance]
    tail = [token.policy, token.seed, token.index, token.steps, token.print, token.trio, token.python]
    raw = json.dumps([*head, *tail], separators=(",", ":")).encode() + b"\0" + _varints(token.picks)
    text = base64.urlsafe_b64encode(zlib.compress(raw, 9)).decode().rstrip("=")
    return f"{_PREFIX}{VERSION}-{text}"


def decode(text: object) -> Token:
    """Return what a token says; raises `TokenError` for what is damaged, too long or of another version."""
    if not isinstance(text, str):
        raise TokenError(f"a token is a string, not {type(text).__name__}")
    text = text.strip()
    version, dash, body = text.removeprefix(_PREFIX).partition("-")
    if not text.startswith(_PREFIX) or not dash or not (version.isdecimal()) or len(text) > _TEXT_MAX:
        raise TokenError(f"{_shown(text)} is no token; one begins with {_PREFIX}{VERSION}- and stands on one line")
    if version != str(VERSION):
        raise TokenError(
            f"the token is of version {version[:_SHOWN]}, and this explorer reads version {VERSION}: "
            "explore the program again to get a new one"
        )
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True), _BYTES_MAX)
        return _token(raw, complete=unpacker.eof and not unpacker.unused_data)
    except (ValueError, TypeError, binascii.Error, zlib.error, RecursionError) as error:
        raise TokenError(f"the token {_shown(text)} is damaged ({error}); copy the whole of it") from error


def _token(raw: bytes, *, complete: bool) -> Token:
    if not complete:
        raise ValueError("too short or too long")
    head, _, rest = raw.partition(b"\0")
    picks = _unvarints(rest)
    program, mode, timeouts, steps_max, stall_s, chance, policy, seed, index, steps, print_, trio, python = json.loads(
        head
    )
    if mode not in {"any-runnable", "trio-batch"} or timeouts not in {"when-idle", "any-time"}:
        raise ValueError("an unknown mode")
    for number in (steps_max, chance, seed, index, steps, print_):
        if type(number) is not int:
            raise ValueError("not a number where one should be")
    if not 0 <= seed < SEED_MAX or not 0 <= chance < SEED_MAX or index < 0 or steps < 0:
        raise ValueError("a number out of range")
    texts = [program, policy, trio, python]
    if not all(type(text) is str for text in texts):
        raise ValueError("not a text where one should be")
    rules = Rules(cast("Mode", mode), cast("Timeouts", timeouts), steps_max, stall_s)
    if not limits_hold(rules):
        raise ValueError("a limit out of range")
    return Token(texts[0], rules, chance, picks, texts[1], seed, index, steps, print_, texts[2], texts[3])


def versions_note(token: Token) -> str:
    """Return a sentence about the versions that the token was made with, where they differ from those here."""
    trio, python = inside_trio.versions()
    if (trio, python) == (token.trio, token.python):
        return ""
    return f"it was made with Trio {token.trio} and Python {token.python}, and here are {trio} and {python}"


def _varints(numbers: Picks) -> bytes:
    out = bytearray()
    for number in numbers:
        rest = number
        while rest >= _MORE:
            out.append(rest % _MORE | _MORE)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def _unvarints(raw: bytes) -> Picks:
    numbers: list[int] = []
    number = shift = 0
    for byte in raw:
        number |= (byte % _MORE) << shift
        shift += 7
        if byte < _MORE:
            numbers.append(number)
            number = shift = 0
        elif shift > _SHIFT_MAX:
            raise ValueError("a number out of range")
    if shift:
        raise ValueError("the last number is cut off")
    return tuple(numbers)


def for_another(made: Token, name: str) -> TokenError:
    """Return the error for a token that is for another program than this."""
    return TokenError(f"the token is for the program {_shown(made.program)}, and this is {name!r}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
