"""`changeover demo`: train, open an engine on what was trained, play the acts under traffic, show and draw the run.

It owns the temporary repository, the engine and the tasks of clients and screen, and ends all of them, also on Ctrl-C.
Exit status 1 where anything was lost, leaked, or answered by a closed model.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import signal
import tempfile
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from changeover import Engine, Events, open_engine
from changeover.errors import ChangeoverError, InvalidValue
from changeover_plugins.demo import screen as screens
from changeover_plugins.demo.acts import ACTS, OPENING
from changeover_plugins.demo.clients import Traffic
from changeover_plugins.demo.digits import HeldOut
from changeover_plugins.demo.picture import DEFAULT, Picture
from changeover_plugins.demo.recording import Recorder
from changeover_plugins.demo.report import ActRow, AtEnd, Report, collect
from changeover_plugins.demo.repository import HANG_S, Repository
from changeover_plugins.demo.screen import Screen
from changeover_plugins.demo.stage import Act, ActFailed, Stage
from changeover_plugins.demo.tables import tables
from changeover_plugins.demo.witness import Ledger, WitnessLoader

ACT_S = 30.0
"""How long an act may take before it has failed."""
HANG_END_S = 2 * HANG_S
"""How long to wait, behind the acts, for the load that hangs."""
TICK_S = 0.5
"""How often a live screen is drawn."""

_GOOD = "Nothing was lost, nothing leaked, and nothing was answered by a model whose close() had run."


@attrs.frozen
class Settings:
    """What the command line says."""

    clients: int
    window_s: float
    """The length of each window at rest, and the least of each act, in seconds."""
    keep: Path | None = None
    """Where the repository stays; None: it is removed."""
    picture: Picture | None = None
    """Where the picture goes; None: nothing is drawn."""


class DemoCommand:
    """The command object that the entry point names."""

    help: str = "train two digit classifiers and swap them under load; needs the extra changeover[demo]"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""
        parser.add_argument("--clients", type=int, default=32, metavar="N", help="how many clients ask (32)")
        text = "the length of each window at rest, and the least of each act, in seconds (1.5)"
        parser.add_argument("--seconds", type=float, default=1.5, metavar="S", help=text)
        text = (
            "print one JSON document and nothing else: verdict, acts, tables, and the series behind the picture; "
            "draws only where --picture says so"
        )
        parser.add_argument("--json", action="store_true", help=text)
        picture = parser.add_mutually_exclusive_group()
        text = (
            f"draw the run into FILE, which ends in .png or .svg; without an ending, into both ({DEFAULT}.png and "
            f"{DEFAULT}.svg in the current folder)"
        )
        picture.add_argument("--picture", type=Path, metavar="FILE", help=text)
        picture.add_argument("--no-picture", action="store_true", help="draw nothing")
        parser.add_argument("--keep", type=Path, metavar="DIR", help="write the model repository to DIR and leave it")

    def run(self, arguments: argparse.Namespace) -> int:
        """Play it and return 0, or 1 where anything was wrong.

        Raises InvalidValue for arguments that make no sense, LoaderNotInstalled without the extra, KeyboardInterrupt,
        and BrokenPipeError where nobody reads; by then everything is closed.
        """
        settings = _settings(arguments)
        screen = screens.choose(silent=arguments.json)
        report: Report | None = None
        stopped: BaseException | None = None
        try:
            report = trio.run(_until_ctrl_c, settings, screen)
        except* (KeyboardInterrupt, BrokenPipeError) as group:
            stopped = _first(group)  # out of the nurseries' groups, for whoever waits for a bare Ctrl-C
        if report is None:
            raise stopped or KeyboardInterrupt
        return _show(report, screen, settings.picture, as_json=arguments.json)


command = DemoCommand()


async def perform(
    settings: Settings, repository: Repository, held_out: HeldOut, screen: Screen, acts: Sequence[Act] = ACTS
) -> Report:
    """Play acts on a repository that holds versions 1 and 2, and return what it came to."""
    began_s = trio.current_time()
    ledger = WitnessLoader.ledger = Ledger()
    played: list[ActRow] = []
    async with (
        trio.open_nursery() as nursery,  # around the engine: the recorder hears of all that happens till it has closed
        open_engine(repository=repository.root) as engine,
        engine.events() as events,
    ):
        traffic = Traffic(engine, held_out, settings.clients)
        recorder = Recorder(traffic)
        await nursery.start(recorder.listen, engine)
        stage = Stage(engine, traffic, ledger, repository)
        screen.follow(traffic)
        try:
            opened = await _play(stage, 0, OPENING)
            if opened.ok:
                await _play_all(stage, acts, settings.window_s, screen, recorder, played)
            else:
                played.append(opened)
            await _until_no_load_hangs(engine, events)
            at_end = AtEnd(engine.audit(), engine.statistics().stuck_loads, stage.fallbacks)
        finally:
            ledger.let_go()
    # Only now every model is closed, so only now loads and closes can be compared.
    total_s = trio.current_time() - began_s
    return collect(settings.clients, played, traffic, ledger, at_end, total_s, recorder.series())


async def _until_ctrl_c(settings: Settings, screen: Screen) -> Report | None:
    """Demonstrate, or return None on Ctrl-C.

    A `KeyboardInterrupt` comes between any two steps, also between a call and its `await`, of which Python then says
    that it was never awaited; a cancellation comes at a checkpoint.
    """
    report: Report | None = None
    error: Exception | None = None
    with trio.open_signal_receiver(signal.SIGINT) as presses:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on, presses, nursery.cancel_scope)
            try:
                report = await _demonstrate(settings, screen)
            except Exception as raised:  # noqa: BLE001 - it is raised again below, outside of the nursery's group
                error = raised
            nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    return report


async def _cancel_on(presses: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in presses:
        scope.cancel()


async def _demonstrate(settings: Settings, screen: Screen) -> Report:
    began_s = trio.current_time()
    with _folder(settings.keep) as root, screen:
        repository = Repository(root)
        screen.say("Training two classifiers on the handwritten digits of scikit-learn.")
        held_out = await trio.to_thread.run_sync(repository.fill)
        # What training has left in memory is none of the engine's; each full collection that walks through it would
        # stop all clients for 50-200 ms.
        gc.collect()
        gc.freeze()
        screen.say(
            f"Took {trio.current_time() - began_s:.1f} s. From now on {settings.clients} clients ask for "
            f"{len(held_out.labels)} images that no version has seen, one each, without a pause."
        )
        report = await perform(settings, repository, held_out, screen)
    return attrs.evolve(report, total_s=trio.current_time() - began_s)


async def _play_all(
    stage: Stage, acts: Sequence[Act], window_s: float, screen: Screen, recorder: Recorder, played: list[ActRow]
) -> None:
    """Play act after act with a rest before and behind each, until one fails; the clients ask all the time."""
    traffic = stage.traffic
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.look)
        await nursery.start(traffic.run)
        nursery.start_soon(_keep_drawing, screen, traffic)
        await _rest(traffic, window_s)
        for number, act in enumerate(acts, 1):
            screen.act_begins(number, act.title)
            with traffic.window(f"{number}. {act.name}", at_rest=False) as window:
                row = await _play(stage, number, act)
                window.order_ended()
                screen.act_ended(row)
                await traffic.let_pass(max(0.0, window.began_s + window_s - trio.current_time()))
            played.append(row)
            if not row.ok:
                break
            await _rest(traffic, window_s)
        traffic.stop()


async def _play(stage: Stage, number: int, act: Act) -> ActRow:
    """Play an act; whatever goes wrong in it is how it went."""
    said = wrong = ""
    try:
        with trio.fail_after(ACT_S):
            said = await act.play(stage)
    except* trio.TooSlowError:
        wrong = f"it took longer than {ACT_S:g} s"
    except* (ActFailed, ChangeoverError) as group:
        wrong = str(_first(group)) or type(_first(group)).__name__
    return ActRow(number, act.title, not wrong, wrong or said)


async def _rest(traffic: Traffic, window_s: float) -> None:
    with traffic.window("at rest", at_rest=True):
        await traffic.let_pass(window_s)


async def _keep_drawing(screen: Screen, traffic: Traffic) -> None:
    while not await traffic.ended_within(TICK_S):
        screen.tick()


async def _until_no_load_hangs(engine: Engine, events: Events) -> None:
    """Look again after every event; out of time, the report says that one hangs still."""
    with trio.move_on_after(HANG_END_S):
        while engine.statistics().stuck_loads:
            await anext(events)


def _first(error: BaseException) -> BaseException:
    """Return the first error in a group of groups."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - narrowing loses the group's type


def _settings(arguments: argparse.Namespace) -> Settings:
    """Return the arguments, checked; raises InvalidValue."""
    if arguments.clients < 1:
        raise InvalidValue(f"--clients is {arguments.clients}; it must be 1 or more")
    if not (math.isfinite(arguments.seconds) and arguments.seconds > 0):
        raise InvalidValue(f"--seconds is {arguments.seconds:g}; it must be a number above 0")
    picture = _picture(arguments)
    if picture is not None:
        picture.check()
    return Settings(arguments.clients, arguments.seconds, arguments.keep, picture)


def _picture(arguments: argparse.Namespace) -> Picture | None:
    """Return where to draw; who asks for JSON is a machine, and finds no file that it did not name."""
    if arguments.no_picture or (arguments.json and arguments.picture is None):
        return None
    return Picture.at(arguments.picture or DEFAULT)


@contextmanager
def _folder(keep: Path | None) -> Generator[Path]:
    """Make a folder for the repository, and remove it afterwards unless it is to be kept; raises InvalidValue."""
    if keep is None:
        # What a thread that was left behind still reads may be gone when it looks: that is its own failure, not ours.
        with tempfile.TemporaryDirectory(prefix="changeover-demo-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        empty = not any(keep.iterdir())
    except OSError as error:
        raise InvalidValue(f"--keep cannot write to {keep}: {error.strerror}") from error
    if not empty:
        raise InvalidValue(f"--keep {keep} is not empty; name a folder that is new")
    yield keep.resolve()


def _show(report: Report, screen: Screen, picture: Picture | None, *, as_json: bool) -> int:
    """Show the report, draw it, and return the exit status that it comes to.

    Raises InvalidValue where the picture cannot be written any more; what is said has been said by then.
    """
    faults = report.faults()
    if as_json:
        print(json.dumps(report.as_json(), allow_nan=False))
    verdict = "\n".join(f"FAILED: {fault}" for fault in faults) or _GOOD
    screen.close_with(tables(report), f"{verdict}\nThe whole run took {report.total_s:.0f} s.", good=not faults)
    if picture is not None:
        picture.write(report)
        screen.say(f"The picture of it is in {' and '.join(map(str, picture.files))}.")
    return 1 if faults else 0
