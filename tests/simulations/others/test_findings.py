"""The table of what was found, made of the records that the tests are about; and the patterns, which must be sharp."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import files

import pytest
import trio

from changeover_sim.explorer import token
from tests.house.readme import README
from tests.simulations.others import findings, patterns
from tests.simulations.others.record import TOKENS, Finding, Program, assert_well


def test_each_finding_has_a_schedule_and_each_schedule_a_finding() -> None:
    """What is kept is for the program that it is kept for, in the mode in which it is said to happen."""
    found = findings.found()
    assert sorted(json.loads(TOKENS.read_text())) == sorted(each.name for each in found)
    for each in found:
        made = token.decode(each.token)
        assert (made.program, made.rules.mode) == (token.name_of(each.program), each.mode)


def test_a_finding_stands_once_in_the_table() -> None:
    """A row for each, with the sentence that it contradicts, or that there is none."""
    found = findings.found()
    rows = list(findings.table(found))[2:]
    assert len(rows) == len(found) == len({each.name for each in found})
    for row, each in zip(rows, found, strict=True):
        assert row.count("|") == 8, row
        assert each.library in row
        assert (each.against or "nothing") in row


@pytest.mark.parametrize("finding", [each for each in findings.found() if each.against], ids=str)
def test_what_a_bug_contradicts_is_written_there(finding: Finding) -> None:
    """The sentence stands in a docstring of the library, or in its README, but for markup and line breaks."""
    parts = files(finding.library.partition("==")[0]) or ()
    texts = (path.read_text() for path in parts if path.suffix == ".py" or path.name == "METADATA")
    assert any(finding.against in plain(text) for text in texts)


def plain(text: str) -> str:
    """Return a text without the markup of documentation."""
    return " ".join(re.sub(r":\w+:(?=`)|[`*]", "", text).split())


def test_a_finding_that_is_gone_is_not_renewed() -> None:
    """A program that goes well, or fails in another way, gets no new token."""

    async def well() -> None:
        pass

    with pytest.raises(ValueError, match="'deadlock' and now is 'nothing'"):
        findings.renewed(Finding("trio==0", "none", well, "nothing", "", "deadlock"), schedules=10)


# --- patterns that nothing breaks would prove nothing -----------------------------------------------------------------


@contextmanager
def forgetful() -> Generator[patterns.Ends, None, None]:
    """Make a queue that forgets an item when the task that has it handed over is cancelled a step later."""
    send, receive = trio.open_memory_channel[int](1)

    async def get() -> int:
        item = await receive.receive()
        await trio.lowlevel.checkpoint()
        return item

    with send, receive:
        yield send.send, get, receive.receive_nowait


@pytest.mark.parametrize(
    "program",
    [
        patterns.mutual_exclusion("lock for two", lambda: trio.Semaphore(2)),
        patterns.nothing_lost("forgetful queue", forgetful, trio.WouldBlock),
    ],
    ids=lambda program: program.__name__,
)
def test_a_pattern_finds_what_breaks_it(program: Program) -> None:
    """A lock that lets two in and a queue that loses an item are found; the third is found in Trio's `Condition`."""
    with pytest.raises(pytest.fail.Exception, match="AssertionError"):
        assert_well(program, part=1)


def test_the_readme_tells_how_many_there_are() -> None:
    """Library by library, in the versions in which they were found, and how many contradict what is written."""
    told = README.read_text().partition("## Run it on other people's code")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z][^|]*\d) \| (\d+) \|", told, re.MULTILINE)
    found = findings.found()
    counts = Counter(each.library.replace("==", " ") for each in found)
    assert {libraries: int(count) for libraries, count in rows} == {
        libraries: sum(counts.pop(library, 0) for library in libraries.split(", ")) for libraries, _ in rows
    }
    assert not counts
    assert (len(found), sum(each.verdict == "bug" for each in found)) == (30, 18)
    assert "Thirty findings" in told
    assert "eighteen contradict" in told
