"""Tokens are words that people copy: what is whole comes back; what is damaged is refused, and cheaply."""

from __future__ import annotations

import base64
import functools
import json
import random
import string
import tracemalloc
import zlib
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.lowlevel import checkpoint

from changeover_sim import ExplorerError, TokenError, explore, replay, shrink
from changeover_sim.explorer import token
from changeover_sim.explorer.schedule import Rules
from changeover_sim.explorer.tape import Played, picks_of
from tests.simulations.explorer.busy import busy

MEMORY_MAX = 150_000_000
MESSAGE_MAX = 1_000
NUMBERS = st.integers(0, (1 << 63) - 1)
PICKS = st.lists(st.integers(0, (1 << 35) - 1) | st.integers(0, 3), max_size=200).map(tuple)


@functools.cache
def real() -> str:
    """Return a token as explorations make them."""
    failure = explore(busy, seed=7).failure
    assert failure is not None
    return failure.token


def decoded(text: Any) -> token.Token | None:
    """Return what a text says, None where it is refused; anything but a TokenError of a readable length is an error."""
    try:
        return token.decode(text)
    except TokenError as error:
        said = str(error)
    assert len(said) < MESSAGE_MAX
    return None


def packed(raw: bytes) -> str:
    """Return bytes as a token has them, whatever they are."""
    return "sx1-" + base64.urlsafe_b64encode(zlib.compress(raw, 9)).decode().rstrip("=")


def fields() -> tuple[list[Any], bytes]:
    """Return what stands in the real token: its fields and its picks."""
    body = real().removeprefix("sx1-")
    raw = zlib.decompress(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    head, _, picks = raw.partition(b"\0")
    return json.loads(head), picks


# --- round trips ------------------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None)
@given(
    made=st.builds(
        token.Token,
        program=st.text(),
        rules=st.builds(
            Rules,
            mode=st.sampled_from(["any-runnable", "trio-batch"]),
            timeouts=st.sampled_from(["when-idle", "any-time"]),
            steps_max=st.integers(1, 1 << 30),
            stall_s=st.floats(1, 80_000) | st.integers(1, 80_000),
        ),
        chance=st.integers(0, (1 << 32) - 1),
        picks=PICKS,
        policy=st.text(),
        seed=NUMBERS,
        index=NUMBERS,
        steps=st.integers(0, 1 << 30),
        print=st.integers(0, (1 << 32) - 1),
        trio=st.text(),
        python=st.text(),
    )
)
def test_what_is_encoded_is_decoded(made: token.Token) -> None:
    """Every field comes back, and the text is one printable word that survives being pasted with blanks around it."""
    text = token.encode(made)
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")
    assert token.decode(text) == made
    assert token.decode(f"  {text}\n") == made


@settings(derandomize=True, deadline=None)
@given(tape=st.lists(st.tuples(st.integers(0, 2), st.integers(2, 9), st.integers(0, 8)), max_size=60))
def test_a_tape_is_played_as_it_was_recorded(tape: list[tuple[int, int, int]]) -> None:
    """Zeros at the end are left out of the picks, and the player returns them all the same."""
    whole = [(kind, width if kind != 2 else 2, taken % (width if kind != 2 else 2)) for kind, width, taken in tape]
    picks = picks_of(whole)
    assert not picks or picks[-1]
    player = Played(picks)
    asks = (lambda width: player.pick(range(width)), player.value, lambda width: int(player.cancel(0, 0)))
    again = [asks[kind](width) for kind, width, _ in whole]
    assert again == [taken for _, _, taken in whole]
    assert player.pick("abc") == 0


def test_a_long_schedule_has_a_token_that_can_be_read() -> None:
    """Two hundred thousand decisions among a hundred tasks: what the explorer hands out it takes back."""
    picks = tuple(random.Random(1).choices(range(100), k=200_000))
    long = attrs.evolve(token.decode(real()), picks=picks)
    assert token.decode(token.encode(long)) == long


# --- damage -----------------------------------------------------------------------------------------------------------


def test_every_single_character_matters() -> None:
    """Any character replaced by any of some others: refused, or it means the same."""
    whole = token.decode(real())
    for at, right in enumerate(real()):
        for other in {*"A0z_-=.\u00e9\u0660", right.swapcase(), chr(ord(right) ^ 1)} - {right}:
            assert decoded(real()[:at] + other + real()[at + 1 :]) in (None, whole)


def test_every_truncation_is_refused() -> None:
    """Cut off anywhere, in front or behind: nothing but the whole is a token."""
    for length in range(len(real())):
        assert decoded(real()[:length]) is None
        assert decoded(real()[length + 1 :]) is None


def test_what_is_too_much_is_refused() -> None:
    """Doubled, or with something behind it."""
    whole = token.decode(real())
    for text in (real() + real(), real() + "A", real() + "AAAA", real() + real()[4:], real().replace("-", "--", 1)):
        assert decoded(text) in (None, whole)
    assert decoded(real() + real()) is None


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=st.text() | st.text(string.printable) | st.binary() | st.none() | st.integers())
def test_any_text_is_refused(text: Any) -> None:
    """Whatever it is."""
    assert decoded(text) is None


@settings(derandomize=True, deadline=None, max_examples=300)
@given(body=st.text(string.ascii_letters + string.digits + "-_="), version=st.sampled_from(["1", "01", "2", "", "x"]))
def test_any_text_that_begins_like_a_token_is_refused(body: str, version: str) -> None:
    """What looks like one and is none."""
    assert decoded(f"sx{version}-{body}") is None


@settings(derandomize=True, deadline=None, max_examples=300)
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_refused_or_are_a_token(raw: bytes) -> None:
    """Packed as a token is, with any content, and with the real fields in front of any picks."""
    assert decoded(packed(raw)) is None
    head = json.dumps(fields()[0]).encode()
    found = decoded(packed(head + b"\0" + raw))
    assert found is None or token.decode(token.encode(found)) == found


@pytest.mark.parametrize("version", ["0", "2", "10", "\u0661\u0660", "9" * 100, "9" * 5_000])
def test_another_version_is_refused_as_such(version: str) -> None:
    """The error says which version it is, however long, and what to do."""
    with pytest.raises(TokenError, match="version") as refused:
        token.decode(f"sx{version}-{real()[4:]}")
    assert len(str(refused.value)) < MESSAGE_MAX


JUNK: list[Any] = [
    None,
    True,
    "x",
    "",
    -1,
    0,
    1.5,
    1e300,
    1 << 63,
    1 << 64,
    10**4_000,
    [],
    {},
    [1],
    "\ud800",
    "x" * 10_000,
]


@pytest.mark.parametrize("field", range(13))
def test_a_field_of_junk_is_refused_or_harmless(field: int) -> None:
    """Any field replaced by junk, well packed: a TokenError, at once or when it is run; or it runs."""
    for junk in JUNK:
        values, picks = fields()
        values[field] = junk
        text = packed(json.dumps(values).encode() + b"\0" + picks)
        found = decoded(text)
        if found is None:
            continue
        assert decoded(token.encode(found)) == found
        for use in (replay, lambda program, text: shrink(program, text, runs=3)):
            said = ""
            try:
                use(busy, text)
            except TokenError as error:
                said = str(error)
            assert len(said) < MESSAGE_MAX


def test_fields_that_are_missing_or_too_many_are_refused() -> None:
    """There are thirteen."""
    values, picks = fields()
    assert len(values) == 13
    for wrong in (values[:-1], [*values, 1], {}, 5, None, [values], dict(enumerate(values))):
        assert decoded(packed(json.dumps(wrong).encode() + b"\0" + picks)) is None


BOMBS = {
    "zeros": lambda: b"\0" * 100_000_000,
    "brackets": lambda: b"[" * 50_000_000,
    "nothing but picks": lambda: json.dumps(fields()[0]).encode() + b"\0" + b"\1" * 100_000_000,
    "a number without an end": lambda: json.dumps(fields()[0]).encode() + b"\0" + b"\xff" * 100_000,
    "digits": lambda: b"[" + b"9" * 3_000_000 + b"]\0",
    "deep": lambda: b"[" * 100_000 + b"]" * 100_000 + b"\0",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_token_cannot_become_large(name: str) -> None:
    """What unpacks to a hundred megabytes is refused before it is unpacked."""
    text = packed(BOMBS[name]())
    tracemalloc.start()
    try:
        assert decoded(text) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_MAX


@pytest.mark.parametrize("text", ["sx1-" + "A" * 30_000_000, "x" * 30_000_000, "sx" + "1" * 30_000_000 + "-A"])
def test_a_huge_text_is_refused_at_once(text: str) -> None:
    """It is not even unpacked, and not repeated in the error."""
    tracemalloc.start()
    try:
        assert decoded(text) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_MAX


def test_a_token_never_runs_more_than_its_schedule() -> None:
    """A tape that is too long, or has alternatives that do not exist, is played as far as it goes."""
    calls: list[None] = []

    async def program() -> None:
        calls.append(None)
        await checkpoint()
        assert len(calls) < 2

    explored = explore(program).failure
    assert explored is not None
    odd = attrs.evolve(token.decode(explored.token), picks=(1 << 34,) * 1_000)
    calls.clear()
    assert replay(program, token.encode(odd)).failure is None
    assert len(calls) == 1


def test_every_refusal_is_an_error_of_the_explorer() -> None:
    """Who catches ExplorerError has caught them all."""
    assert issubclass(TokenError, ExplorerError)
