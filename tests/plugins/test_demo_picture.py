"""The demo's picture: what is recorded for it, what is drawn from that, and which files it may go to."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import attrs
import pytest
import trio

from changeover import Event, open_engine
from changeover.cli import main
from changeover.errors import InvalidValue
from changeover_plugins.demo import command, drawing, picture
from changeover_plugins.demo.clients import Traffic
from changeover_plugins.demo.digits import MODEL, HeldOut
from changeover_plugins.demo.drawing import COLOURS, FELL_BACK, INK, Caption, draw
from changeover_plugins.demo.picture import Picture
from changeover_plugins.demo.recording import BIN_S, Recorder
from changeover_plugins.demo.series import Series, ShareChange, StepSpan, Stretch

SERIES = Series(
    edges_s=(0.0, 0.1, 0.2, 0.3),
    answered={"1": (10, 5, 0), "2": (0, 5, 0)},
    fell_back=(0, 2, 0),
    lost=(0, 0, 1),
    p50_ms=(1.0, 1.5, None),
    p99_ms=(2.0, 30.0, None),
    shares=(ShareChange(0.1, {"1": 0.5, "2": 0.5}),),
    steps=(StepSpan(1, "2", "load", 0.1, 0.25, "failed"), StepSpan(1, "2", "load", 0.25, 0.25, "undone")),
    acts=(Stretch("1. bad update", 0.1, 0.2),),
)
CAPTION = Caption("a title", {"1": "linear"})


# --- recording ------------------------------------------------------------------------------------------------------


def swap_step(at_s: float, step: str, outcome: str, swap_id: str) -> Event:
    """Return what the engine says of a step."""
    return Event(at_s, "swap_step", MODEL, "2", swap_id, {"step": step, "outcome": outcome})


@pytest.fixture
def traffic(digits_repository: tuple[Path, HeldOut]) -> Traffic:
    """Return clients that do not ask."""
    return Traffic(None, digits_repository[1], 1)


async def test_each_answer_is_in_one_bin(traffic: Traffic, autojump_clock: trio.testing.MockClock) -> None:
    """What was counted between two looks is one bin, with the percentiles of just these answers; one may be empty."""
    recorder = Recorder(traffic)

    def answer(version: str, *latencies_ms: float) -> None:
        traffic.answered[version] += len(latencies_ms)
        traffic.latencies_ms.extend(latencies_ms)

    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.look)
        answer("1", 1.0, 3.0)
        await trio.sleep(1.5 * BIN_S)
        answer("2", 5.0)
        await trio.sleep(2 * BIN_S)
        traffic.fell_back["1"] += 1
        traffic.lost["2"] += 1
        traffic._clients = 0
        await traffic.run()
    series = recorder.series()
    assert series.edges_s == pytest.approx((0.0, 0.1, 0.2, 0.3, 0.35))
    assert series.answered == {"1": (2, 0, 0, 0), "2": (0, 1, 0, 0)}
    assert (series.p50_ms, series.p99_ms) == ((1.0, 5.0, None, None), (3.0, 5.0, None, None))
    assert (series.fell_back, series.lost) == ((0, 0, 0, 1), (0, 0, 0, 1))


async def test_steps_are_spans(traffic: Traffic, autojump_clock: trio.testing.MockClock) -> None:
    """A step begins and ends with its events, in each swap for itself; one that is undone is a moment of its own.

    However late an event was heard, it stands where it happened; what came before the clients is left out.
    """
    recorder = Recorder(traffic)
    traffic._clients = 0
    await traffic.run()
    await recorder.look()
    told = [("load", "running", "s1"), ("load", "running", "s2"), ("load", "done", "s1"), ("load", "failed", "s2"),
            ("load", "undone", "s2"), ("shift", "running", "s1")]  # fmt: skip
    began_s = trio.current_time()
    recorder.note(swap_step(999.0, "validate", "done", "s0"), began_s - 1)
    for at_s, (step, outcome, swap_id) in enumerate(told):
        recorder.note(swap_step(1000.0 + at_s, step, outcome, swap_id), began_s + at_s + 0.5 * (at_s % 2))
    spans = recorder.series().steps
    assert [(s.swap, s.step, round(s.began_s, 6), round(s.ended_s, 6), s.outcome) for s in spans] == [
        (1, "load", 0.0, 2.0, "done"),
        (2, "load", 1.0, 3.0, "failed"),
        (2, "load", 4.0, 4.0, "undone"),
        (1, "shift", 5.0, 5.0, "open"),
    ]


def test_clients_that_never_began_give_an_empty_series(traffic: Traffic) -> None:
    """A run that ends before its clients begin has nothing to draw, and is drawn all the same."""
    assert Recorder(traffic).series() == Series()
    assert draw(Series(), CAPTION, ["svg"])["svg"].startswith(b"<?xml")


async def test_a_swap_is_recorded_as_it_happened(digits_repository: tuple[Path, HeldOut]) -> None:
    """With a real engine: six steps done one after the other, and shares that go from the old to the new version."""
    root, held_out = digits_repository
    async with trio.open_nursery() as around, open_engine(repository=root) as engine:
        await engine.load(MODEL, "1")
        traffic = Traffic(engine, held_out, 2)
        recorder = Recorder(traffic)
        await around.start(recorder.listen, engine)
        async with trio.open_nursery() as nursery:
            await nursery.start(recorder.look)
            await nursery.start(traffic.run)
            with traffic.window("1. swap", at_rest=False):
                await engine.swap(MODEL, "2")
                watch = traffic.watch("2")
                await watch.seen.wait()
            traffic.stop()
    series = recorder.series()
    assert [(span.step, span.outcome) for span in series.steps] == [
        (step, "done") for step in ("validate", "load", "warm", "shift", "drain", "unload")
    ]
    assert all(a.ended_s <= b.began_s for a, b in zip(series.steps, series.steps[1:], strict=False))
    assert [change.shares for change in series.shares] == [{"2": 1.0}]
    assert {version: sum(counts) for version, counts in series.answered.items()} == dict(traffic.answered)
    assert [act.name for act in series.acts] == ["1. swap"]


# --- drawing --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    """Draw the series in both formats."""
    pytest.importorskip("matplotlib")
    return draw(SERIES, CAPTION, ["png", "svg"])


def test_png_is_wide_enough_to_read(drawn: dict[str, bytes]) -> None:
    """The PNG is one, and 1800 pixels wide."""
    assert drawn["png"].startswith(b"\x89PNG")
    assert struct.unpack(">I", drawn["png"][16:20]) == (1800,)


def test_svg_holds_what_was_recorded(drawn: dict[str, bytes]) -> None:
    """The SVG is one, on an opaque ground, with every version's colour, the fallback's and that of lost requests."""
    root = ET.fromstring(drawn["svg"])  # our own file
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = drawn["svg"].decode()
    assert all(f"fill: {colour}" in text for colour in ("#ffffff", *COLOURS[:2], FELL_BACK, INK))


def test_errors_kept_from_clients_and_seen_by_them_are_told_apart() -> None:
    """The two kinds of errors are bars of two colours, each as high as it was counted."""
    bars = drawing._figure(SERIES, CAPTION).axes[2].containers
    hexed = pytest.importorskip("matplotlib.colors").to_hex
    assert [(hexed(bar[0].get_facecolor()), [part.get_height() for part in bar]) for bar in bars] == [
        (FELL_BACK, [0, 2, 0]),
        (INK, [0, 0, 1]),
    ]


def test_same_run_gives_the_same_file(drawn: dict[str, bytes]) -> None:
    """Drawn twice, a run gives the same bytes: no date, no chance."""
    assert draw(SERIES, CAPTION, ["svg"])["svg"] == drawn["svg"]


def test_drawing_opens_no_window_and_leaves_no_trace_in_matplotlib() -> None:
    """A program that embeds this keeps its own pyplot: it is not imported, and no setting is left changed."""
    code = (
        "import sys, matplotlib; look = lambda: [matplotlib.rcParams[k] for k in ('font.size', 'text.color')]\n"
        "before = look()\n"
        "from changeover_plugins.demo.drawing import Caption, draw\n"
        "from changeover_plugins.demo.series import Series\n"
        "draw(Series(), Caption('', {}), ['png'])\n"
        "assert 'matplotlib.pyplot' not in sys.modules and look() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_nothing_is_imported_before_it_is_drawn() -> None:
    """The command can be listed and asked for help without matplotlib or NumPy being imported."""
    code = (
        "import sys, changeover_plugins.demo.command; print([n for n in ('matplotlib', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ("a/run.png", ["a/run.png"]),
        ("run.SVG", ["run.SVG"]),
        ("a/run", ["a/run.png", "a/run.svg"]),
        (".hidden", [".hidden.png", ".hidden.svg"]),
    ],
)
def test_the_ending_says_which_files(given: str, files: list[str]) -> None:
    """A name with an ending is one file; one without is two."""
    assert [str(path) for path in Picture.at(Path(given)).files] == files


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list in which it is noted that a run began, and let none begin."""
    begun: list[str] = []
    monkeypatch.setattr(command.trio, "run", lambda *_: begun.append("run"))
    return begun


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("run.pdf", "must end in .png, in .svg, or in neither"),
        ("nowhere/run.png", "cannot be written to {}: No such file or directory"),
        ("folder.png", "is a folder"),
        ("file/run", "cannot be written to {}.png: Not a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_run(
    given: str, said: str, tmp_path: Path, untrained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what is wrong, nothing is trained, and nothing is left behind."""
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    assert main(["demo", "--picture", str(tmp_path / given)]) == 1
    error = capsys.readouterr().err
    assert said.format(tmp_path / given) in error
    assert error.count("\n") == 1
    assert untrained == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_without_matplotlib_the_run_does_not_begin(
    untrained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the extra, and how to do without."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(picture.importlib.util, "find_spec", lambda name: None)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert 'pip install "changeover[demo]"' in error
    assert "--no-picture" in error
    assert untrained == []


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ([], ("changeover-demo.png", "changeover-demo.svg")),
        (["--no-picture"], ()),
        (["--json"], ()),
        (["--json", "--picture", "run.svg"], ("run.svg",)),
    ],
)
def test_who_asks_for_json_finds_no_file_that_it_did_not_name(
    arguments: list[str], files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is drawn unless it is declined; beside JSON only where it is asked for."""
    monkeypatch.chdir(tmp_path)
    taken: list[command.Settings] = []

    def ran(_: object, settings: command.Settings, *rest: object) -> None:
        taken.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(command.trio, "run", ran)
    assert main(["demo", *arguments]) == 130
    chosen = taken[0].picture
    assert (tuple(map(str, chosen.files)) if chosen else ()) == files
    assert list(tmp_path.iterdir()) == []


def test_picture_and_no_picture_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Both at once is a mistake in typing, and is said to be one."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--picture", "x", "--no-picture"])
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_disk_that_fills_up_meanwhile_costs_the_picture_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that can no longer be written is an error with a sentence, and no half file is left."""

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picture, "write_whole", full)
    monkeypatch.setattr(picture, "title", lambda report: "a title")
    with pytest.raises(InvalidValue, match="No space left on device"):
        Picture.at(tmp_path / "run").write(attrs.make_class("Run", {"series": attrs.field(default=SERIES)})())
    assert list(tmp_path.iterdir()) == []


def test_series_survive_json() -> None:
    """The series are plain numbers and words: JSON gives back what went in."""
    whole: dict[str, Any] = attrs.asdict(SERIES)
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole | {
        name: list(value) if isinstance(value, tuple) else value for name, value in whole.items()
    } | {"answered": {"1": [10, 5, 0], "2": [0, 5, 0]}}
