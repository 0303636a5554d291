"""The demo: the real one in a short form, and what it says when something is lost, leaked or used too late.

Faults are planted in the figures, and for real in a run of one act.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from changeover import Shift, open_engine
from changeover.cli import main
from changeover.errors import LoadFailed
from changeover.plugin import Signature, Source
from changeover_plugins.demo import acts, command, repository, screen, trials
from changeover_plugins.demo.acts import ACTS
from changeover_plugins.demo.clients import Traffic, percentile
from changeover_plugins.demo.digits import MODEL, HeldOut
from changeover_plugins.demo.report import ActRow, AtEnd, Report, VersionRow, WindowRow, collect
from changeover_plugins.demo.repository import KINDS, LINEAR, NETWORK, RAISE_TIMES, Repository
from changeover_plugins.demo.stage import Act, ActFailed, Stage, expect, swap
from changeover_plugins.demo.tables import Table, tables
from changeover_plugins.demo.witness import Ledger, WitnessLoader, WitnessModel

pytest.importorskip("numpy")
pytest.importorskip("onnxruntime")

DEMO = [sys.executable, "-c", "import sys; from changeover.cli import main; sys.exit(main())", "demo"]
"""A process of its own, as a newcomer starts it."""
LIMIT_S = 90
SHORT = command.Settings(clients=4, window_s=0.05)

Play = Callable[..., Awaitable[Report]]


# --- the real one ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Run the whole demo once, with short windows, and return what it prints for machines."""
    pytest.importorskip("skl2onnx")
    done = subprocess.run(
        [*DEMO, "--seconds", "0.05", "--json"], check=False, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_nothing_is_lost_leaked_or_used_too_late(shown: dict[str, Any]) -> None:
    """32 clients go through all acts: none loses a request, no reference stays, no closed model answers."""
    assert (shown["ok"], shown["faults"], shown["clients"]) == (True, [], 32)
    assert (shown["lost"], shown["held"], shown["used_after_close"]) == (0, 0, 0)
    assert shown["sent"] == shown["answered"] > 1000


def test_every_act_is_played_and_holds(shown: dict[str, Any]) -> None:
    """All eight acts are played in order, and every expectation of theirs holds."""
    assert [(act["number"], act["title"], act["ok"]) for act in shown["acts"]] == [
        (number, act.title, True) for number, act in enumerate(ACTS, 1)
    ]


def test_each_version_did_what_it_is_there_for(shown: dict[str, Any]) -> None:
    """1, 2, 5 and 7 answered, 6 only raised; 3 was never loaded, 4 came back from its hang; all loads were closed."""
    rows = {row["version"]: row for row in shown["versions"]}
    assert {version: row["answered"] > 0 for version, row in rows.items()} == {
        "1": True, "2": True, "3": False, "4": False, "5": True, "6": False, "7": True
    }  # fmt: skip
    counts = {version: (row["loaded"], row["closed"]) for version, row in rows.items()}
    assert counts == {"1": (2, 2), "2": (3, 3), "3": (0, 0), "4": (1, 1), "5": (2, 2), "6": (1, 1), "7": (1, 1)}


def test_the_new_version_answers_better(shown: dict[str, Any]) -> None:
    """Accuracy is counted by version from what clients got: version 2 beats version 1."""
    accuracy = {row["version"]: row["accuracy"] for row in shown["versions"]}
    assert 0.9 < accuracy["1"] < accuracy["2"]
    assert accuracy["3"] is accuracy["4"] is None


def test_every_error_of_a_bad_update_was_kept_from_the_clients(shown: dict[str, Any]) -> None:
    """Each request on which version 6 raised was answered by version 2; engine and clients count alike."""
    rows = {row["version"]: row for row in shown["versions"]}
    assert 0 < rows["6"]["raised"] <= RAISE_TIMES
    assert rows["6"]["raised"] == rows["2"]["stood_in"] == shown["fell_back"] == shown["fallbacks"]
    assert shown["reasons"] == {}


def test_references_are_those_of_the_requests(shown: dict[str, Any]) -> None:
    """The engine took and gave back one reference for each request, and others only while a version was on trial."""
    rows = {row["version"]: row for row in shown["versions"]}
    assert all(row["acquired"] == row["released"] >= row["sent"] for row in rows.values())
    assert rows["5"]["acquired"] == rows["5"]["sent"]
    assert rows["6"]["acquired"] >= rows["6"]["raised"]


def test_latencies_are_given_at_rest_and_for_each_act(shown: dict[str, Any]) -> None:
    """Each act lies between two windows at rest, and each window has its p50 and p99."""
    windows = shown["windows"]
    assert [window["at_rest"] for window in windows] == [True, *[False, True] * len(ACTS)]
    assert all(0 < window["p50_ms"] <= window["p99_ms"] <= window["max_ms"] for window in windows)
    assert [window["order_s"] is None for window in windows] == [True, *[False, True] * len(ACTS)]


@pytest.mark.slow
def test_whole_demo_in_a_file(tmp_path: Path) -> None:
    """As a newcomer runs it, into a file: 0 within a minute, three tables, a verdict and the picture's two files."""
    done = subprocess.run(DEMO, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"changeover-demo.png", "changeover-demo.svg"}
    assert done.stdout.count("   ok: ") == len(ACTS)
    for said in ("Requests of 32 clients", "References", "Latency", "Nothing was lost"):
        assert said in done.stdout


@pytest.mark.slow
def test_demo_in_a_terminal() -> None:
    """In a terminal the counts are redrawn in place, the cursor is given back, and the verdict is the same."""
    code, text = in_terminal([*DEMO, "--seconds", "0.05", "--no-picture"])
    assert code == 0, text
    assert "answered" in text
    assert "Nothing was lost" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.slow
def test_ctrl_c_ends_cleanly(tmp_path: Path) -> None:
    """Ctrl-C under full traffic: one line on stderr, exit status 130, no traceback, no folder or file left behind."""
    demo = subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert demo.stdout is not None
    while not demo.stdout.readline().startswith("1. "):
        assert demo.poll() is None
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=LIMIT_S)
    assert (demo.returncode, errors) == (130, "changeover: interrupted\n")
    assert [path for path in tmp_path.iterdir() if "changeover" in path.name] == []


def in_terminal(typed: list[str]) -> tuple[int, str]:
    """Run a command in a pseudo-terminal; return its exit status and all that it wrote."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(typed, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # how Linux says that the other side was closed
        pass
    finally:
        os.close(ours)
    return running.wait(LIMIT_S), written.decode()


# --- the verdict ----------------------------------------------------------------------------------------------------

VERSION = VersionRow("1", "linear", answered=10, right=9, lost=0, stood_in=0, raised=0, acquired=10,
                     released=10, held=0, over_released=0,
                     loaded=1, closed=1, used_after_close=0)  # fmt: skip
WINDOW = WindowRow("at rest", True, 10, 1.0, 0.5, 1.0, 1.5, None, None)
GOOD = Report(clients=2, sent=10, answered=10, reasons={}, acts=(ActRow(1, "an act", True, "fine"),),
              versions=(VERSION,), windows=(WINDOW,), balanced=True, stuck_loads=0, total_s=1.0)  # fmt: skip


def with_version(**counts: int) -> Report:
    """Return the good report with other counts of its version."""
    return attrs.evolve(GOOD, versions=(attrs.evolve(VERSION, **counts),))


FAULTY: dict[str, tuple[Report, str]] = {
    "lost": (attrs.evolve(GOOD, sent=11, reasons={"NotReady: no": 1}), "1 of 11 requests were lost: NotReady: no"),
    "lost without an error": (attrs.evolve(GOOD, sent=11), "lost: no answer within"),
    "nothing answered": (attrs.evolve(GOOD, sent=0, answered=0), "no request was answered"),
    "answered by whom": (attrs.evolve(GOOD, fell_back=2, fallbacks=1), "came from a fallback, and the engine counts 1"),
    "leaked": (attrs.evolve(with_version(held=1, released=9), balanced=False), "1 are still held"),
    "given back twice": (with_version(over_released=1), "given back twice"),
    "used after close": (with_version(used_after_close=1), "version 1 was used 1 times after its close()"),
    "not closed": (with_version(closed=0), "loaded 1 times and closed 0 times"),
    "closed twice": (with_version(closed=2), "loaded 1 times and closed 2 times"),
    "still hanging": (attrs.evolve(GOOD, stuck_loads=1), "1 loads still hang"),
    "failed act": (attrs.evolve(GOOD, acts=(ActRow(3, "an act", False, "expected: x"),)), "act 3, an act: expected: x"),
}
"""Every kind of fault, and what must be said of it."""


def run_with(report: Report, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command with the acting left out, and return its exit status."""

    async def performed(*_: object) -> Report:
        return report

    monkeypatch.setattr(command, "perform", performed)
    monkeypatch.setattr(command.gc, "freeze", lambda: None)
    monkeypatch.setattr(Repository, "fill", lambda self: HeldOut(None, ()))
    return main(["demo", "--no-picture"])


def test_good_run_exits_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A run in which nothing is wrong exits 0 and says so in its last lines."""
    assert GOOD.faults() == ()
    assert run_with(GOOD, monkeypatch) == 0
    assert "Nothing was lost, nothing leaked" in capsys.readouterr().out


@pytest.mark.parametrize("kind", FAULTY)
def test_any_fault_exits_1(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of fault alone makes the exit status 1, with a line that names it."""
    report, said = FAULTY[kind]
    assert run_with(report, monkeypatch) == 1
    printed = capsys.readouterr().out
    assert any(line.startswith("FAILED: ") and said in line for line in printed.splitlines()), printed
    assert "Nothing was lost" not in printed


def test_json_carries_the_verdict() -> None:
    """What is printed for machines says whether the run was good, and why not."""
    report, said = FAULTY["used after close"]
    printed = json.loads(json.dumps(report.as_json()))
    assert printed["ok"] is False
    assert said in printed["faults"][0]
    assert json.loads(json.dumps(GOOD.as_json()))["ok"] is True


@pytest.mark.parametrize("arguments", [["--clients", "0"], ["--seconds", "0"], ["--seconds", "nan"]])
def test_senseless_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No clients or no time is refused in one line before anything is trained."""
    assert main(["demo", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"changeover: {arguments[0]} is ")
    assert error.count("\n") == 1


def test_kept_folder_must_be_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that holds something is not written to."""
    (tmp_path / "mine").touch()
    assert main(["demo", "--keep", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 2), (0.51, 3), (0.99, 4), (1.0, 4)])
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    """A percentile is a value that was measured, the smallest that enough of them do not exceed."""
    assert percentile([1, 2, 3, 4], share) == expected


def test_plain_table_is_aligned() -> None:
    """In a file, every line of a table is as wide as its columns, words left and numbers right."""
    table = Table("a title", ("word", "number"), (("a", "1"), ("longer", "1,000")), words=1, note="a note")
    assert screen.aligned(table).splitlines() == [
        "a title",
        "word    number",
        "------  ------",
        "a            1",
        "longer   1,000",
        "a note",
    ]


def test_tables_add_up() -> None:
    """Each table of counts ends with the sums over all versions."""
    requests, references, _ = tables(attrs.evolve(GOOD, versions=(VERSION, attrs.evolve(VERSION, version="2"))))
    assert requests.rows[-1] == ("all", "", "10", "10", "0", "0", "180.0%")
    assert references.rows[-1] == ("all", "20", "20", "0", "2", "2", "0", "0")


# --- the witness ----------------------------------------------------------------------------------------------------


class Echo:
    """A model that returns its inputs, and does something meanwhile."""

    signature = Signature(checked=False)
    thread_safe = True

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.closes = 0

    def predict(self, inputs: Any) -> Any:
        self.meanwhile()
        return inputs

    def memory_bytes(self) -> int | None:
        return 7

    def close(self) -> None:
        self.closes += 1


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Return a fresh ledger, in which the next loads are counted."""
    fresh = Ledger()
    monkeypatch.setattr(WitnessLoader, "ledger", fresh)
    return fresh


def test_use_before_close_is_not_counted(ledger: Ledger) -> None:
    """A prediction that ends before `close()` is passed on and not counted."""
    model = WitnessModel(Echo(), "1", ledger)
    assert model.predict({"x": 1}) == {"x": 1}
    model.close()
    assert ledger.used_after_close["1"] == 0
    assert (ledger.loaded["1"], ledger.closed["1"], ledger.living("1")) == (1, 1, 0)


def test_use_across_close_is_counted(ledger: Ledger) -> None:
    """A prediction that is still running when `close()` is called is counted, though it ends well."""
    echo = Echo()
    model = WitnessModel(echo, "1", ledger)
    echo.meanwhile = model.close
    assert model.predict({"x": 1}) == {"x": 1}
    assert ledger.used_after_close["1"] == 1


def test_use_after_close_is_counted(digits_repository: tuple[Path, HeldOut], ledger: Ledger) -> None:
    """A prediction on a real model that was closed is counted, and still raises what the model raises."""
    root, held_out = digits_repository
    model = WitnessLoader().load(Source(MODEL, "1", str(root / MODEL / "1" / "model.onnx")))
    assert "label" in model.predict({"image": held_out.images[:1]})
    model.close()
    with pytest.raises(RuntimeError, match="was closed"):
        model.predict({"image": held_out.images[:1]})
    assert ledger.used_after_close["1"] == 1


def test_second_close_is_counted_and_passed_on(ledger: Ledger) -> None:
    """Closing twice is seen: the witness does not hide it from the model, and its sums no longer agree."""
    echo = Echo()
    model = WitnessModel(echo, "1", ledger)
    model.close()
    model.close()
    assert (echo.closes, ledger.living("1")) == (2, -1)


def test_hang_ends_when_it_is_let_go(digits_repository: tuple[Path, HeldOut], ledger: Ledger) -> None:
    """A load that is told to hang ends when the run is over, and then brings its model."""
    path = digits_repository[0] / MODEL / "1" / "model.onnx"
    ledger.let_go()
    WitnessLoader().load(Source(MODEL, "1", str(path), {"hang_s": 3600})).close()
    assert (ledger.hanging["1"], ledger.loaded["1"]) == (0, 1)


def test_told_to_raise_it_raises_so_many_times(ledger: Ledger) -> None:
    """Behind its warm-up it raises on so many requests and then answers; until then every batch fails whole."""
    model = WitnessModel(Echo(), "1", ledger, raise_after=1, raise_times=2)
    answered = [fares(model, rows) for rows in ([0], [1], [2, 3], [2], [3], [4, 5])]
    assert answered == [True, False, False, False, True, True]
    assert ledger.raised["1"] == 2


def fares(model: WitnessModel, rows: list[int]) -> bool:
    """Tell whether the model answers a batch."""
    try:
        model.predict({"x": rows})
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"hang_s": "long"}, TypeError, "must be a number"),
        ({"raise_times": "no"}, TypeError, "must be a number"),
        ({"hang_z": 1}, ValueError, "unknown option 'hang_z'"),
    ],
)
def test_options_are_checked(
    digits_repository: tuple[Path, HeldOut], options: dict[str, Any], error: type[Exception], said: str
) -> None:
    """The witness takes its own options and leaves the others to the ONNX loader, which refuses what it lacks."""
    path = digits_repository[0] / MODEL / "1" / "model.onnx"
    with pytest.raises(error, match=said):
        WitnessLoader().load(Source(MODEL, "1", str(path), options))


# --- faults planted for real ----------------------------------------------------------------------------------------


@pytest.fixture
def play(
    digits_repository: tuple[Path, HeldOut], ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Play:
    """Return a function that performs a play of one's own on a repository of one's own."""
    root, held_out = digits_repository

    def copied(to: Path) -> HeldOut:
        shutil.copytree(root, to, dirs_exist_ok=True)
        return held_out

    monkeypatch.setattr(repository, "write_repository", copied)
    mine = Repository(tmp_path / "repository")

    def perform(*plays: Callable[[Stage], Awaitable[str]]) -> Awaitable[Report]:
        planted = [Act("planted", "planted", play) for play in plays]
        return command.perform(SHORT, mine, mine.fill(), screen.Silent(), planted)

    return perform


async def test_run_of_no_act_is_good(play: Play) -> None:
    """Clients that ask while nothing is ordered lose nothing: the runs below fail for what is planted in them."""
    report = await play()
    assert report.faults() == ()
    assert report.answered > 0


async def test_model_closed_under_its_users_is_found(play: Play) -> None:
    """A model that is closed while requests go to it: they are lost, and counted as used after close."""

    async def close_too_early(stage: Stage) -> str:
        with stage.engine.lease(MODEL) as lease:
            lease.model.close()
        return "closed"

    report = await play(close_too_early)
    assert report.lost > 0
    assert report.used_after_close > 0
    faults = "\n".join(report.faults())
    assert "requests were lost: PredictFailed" in faults
    assert "after its close()" in faults
    assert "loaded 1 times and closed 2 times" in faults


async def test_failed_expectation_ends_the_play(play: Play) -> None:
    """An expectation that does not hold is named in the report, and the acts behind it are not played."""

    async def fails(stage: Stage) -> str:
        expect(stage.engine.is_active(MODEL, NETWORK), f"{NETWORK} is active", "it is not")
        return "never"

    async def never(stage: Stage) -> str:
        raise AssertionError("it must not be played")

    report = await play(fails, never)
    assert [(act.ok, act.said) for act in report.acts] == [(False, "expected: 2 is active; instead: it is not")]
    assert report.faults() == ("act 1, planted: expected: 2 is active; instead: it is not",)
    assert report.lost == 0


async def test_error_of_the_engine_fails_the_act(play: Play) -> None:
    """What the engine raises in an act, in a nursery or not, is how the act went, and no crash of the demo."""

    async def asks_for_nonsense(stage: Stage) -> str:
        async with trio.open_nursery():
            await stage.engine.swap(MODEL, LINEAR)
        return "never"

    report = await play(asks_for_nonsense)
    assert "active already" in report.acts[0].said
    assert len(report.faults()) == 1


async def test_bad_update_without_fallback_is_found(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the old version does not answer for the new one, clients see its errors, and the act says so."""
    monkeypatch.setattr(trials, "Shift", SimpleNamespace(canary=partial(Shift.canary, fallback=False)))
    report = await play(acts.changeover, trials.bad_update)
    assert report.acts[1].said.startswith("expected: no client sees an error; instead: ")
    assert report.lost > 0
    assert any("requests were lost: PredictFailed" in fault for fault in report.faults())


async def test_bad_update_without_guard_is_found(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody takes it back, the bad version stays, and the act says so."""
    unwatched = partial(Shift.canary, confirm_s=0.0, guard=None)
    monkeypatch.setattr(trials, "Shift", SimpleNamespace(canary=unwatched))
    monkeypatch.setattr(trials, "HOLD_S", 0.01)
    report = await play(acts.changeover, trials.bad_update)
    assert report.acts[1].said == "expected: the update to 6 is rolled back; instead: it is completed"


async def test_order_that_waits_its_turn_overtakes_nothing(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the newer order is refused because the older one runs, the act says so."""

    async def refused(*given: Any, on_busy: str) -> Any:
        return await swap(*given)

    monkeypatch.setattr(trials, "HOLD_S", 0.01)
    monkeypatch.setattr(trials, "swap", refused)
    report = await play(acts.changeover, trials.overtaken)
    assert not report.acts[1].ok
    assert report.lost == 0


async def test_act_out_of_time_has_failed(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """An act that does not come to its end is given up and named."""

    async def waits(stage: Stage) -> str:
        await trio.Event().wait()
        return "never"

    monkeypatch.setattr(command, "ACT_S", 0.05)
    report = await play(waits)
    assert report.faults() == ("act 1, planted: it took longer than 0.05 s",)


async def test_reference_that_is_not_given_back_is_found(
    digits_repository: tuple[Path, HeldOut], ledger: Ledger
) -> None:
    """A lease that is still held when the clients have ended is reported as a leak."""
    root, held_out = digits_repository
    async with open_engine() as engine:
        engine.register(MODEL, "1", root / MODEL / "1" / "model.onnx", loader="demo-onnx")
        await engine.load(MODEL, "1")
        traffic = Traffic(engine, held_out, 1)
        with engine.lease(MODEL):
            report = collect(1, [], traffic, ledger, AtEnd(engine.audit(), 0), 1.0)
    assert report.held == 1
    assert any("references leaked: 1 are still held" in fault for fault in report.faults())


async def test_first_load_that_fails_ends_the_play(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the first version loads, the report says so, and no act is played."""

    def refuse(self: WitnessLoader, source: Source) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(WitnessLoader, "load", refuse)
    report = await play()
    assert [(act.number, act.ok) for act in report.acts] == [(0, False)]
    assert "OSError: no disk" in report.faults()[0]


async def test_error_that_clients_see_is_a_lost_request(digits_repository: tuple[Path, HeldOut]) -> None:
    """A client that gets an error instead of an answer counts it, with what it says, and asks on."""

    class Refusing:
        calls = 0

        async def infer(self, model: str, inputs: Any) -> Any:
            await trio.lowlevel.checkpoint()
            self.calls += 1
            if self.calls == 3:
                traffic.stop()
            raise LoadFailed("not today", version="1")

    refusing = Refusing()
    traffic = Traffic(refusing, digits_repository[1], clients=1)
    await traffic.run()
    assert (traffic.sent, traffic.answered_count, traffic.lost_count) == (3, 0, 3)
    assert traffic.lost == {"1": 3}
    assert traffic.reasons == {"LoadFailed: not today": 3}


async def test_request_that_is_never_answered_is_lost(
    digits_repository: tuple[Path, HeldOut], autojump_clock: trio.testing.MockClock
) -> None:
    """A client whose answer never comes is given up after the end, and its request is lost."""

    class Silence:
        async def infer(self, model: str, inputs: Any) -> Any:
            await trio.Event().wait()

    traffic = Traffic(Silence(), digits_repository[1], clients=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(traffic.run)
        await trio.testing.wait_all_tasks_blocked()
        traffic.stop()
    assert (traffic.sent, traffic.lost_count) == (2, 2)


def test_expectation_that_holds_says_nothing() -> None:
    """Only an expectation that does not hold raises, with what was there instead."""
    expect(holds=True, expectation="x", instead="y")
    with pytest.raises(ActFailed, match="expected: x; instead: y"):
        expect(holds=False, expectation="x", instead="y")


def test_every_version_has_a_name() -> None:
    """The versions that the acts speak of are those of the tables."""
    assert list(KINDS) == ["1", "2", "3", "4", "5", "6", "7"]
