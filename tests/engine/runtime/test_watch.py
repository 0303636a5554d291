"""An engine and its repository: what it takes at the start, with `scan()` and by watching, and what it outlives."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import changeover
from changeover import Engine, ModelPolicy, open_engine
from changeover.errors import InvalidValue
from changeover.runtime import calls
from changeover.runtime.repository import Found
from changeover_sim import open_world
from tests.support.repositories import publish, put, rule
from tests.support.rig import Rig, Watch, open_rig, settle

QUIET_S = 4.5
"""Two looks and a bit."""


@asynccontextmanager
async def watching(repository: Path, **options: Any) -> AsyncGenerator[tuple[Rig, Watch], None]:
    """Open a rig that watches a repository, and a reader of its events."""
    async with open_rig(repository=repository, **options) as rig, Watch(rig.engine) as watch:
        yield rig, watch


def tasks(word: str = "keeper") -> list[str]:
    """Return the names of the tasks that are called so."""
    todo, found = [trio.lowlevel.current_root_task()], []
    while todo:
        task = todo.pop()
        if task is not None:
            found += [task.name] if word in task.name else []
            todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


# --- at the start, and by hand --------------------------------------------------------------------------------------


async def test_an_engine_registers_what_its_repository_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """At the start and at each `scan` what is new is registered, nothing is loaded, and problems are logged."""
    put(tmp_path, version="1", toml='loader = "onnx"', model_onnx="x")
    put(tmp_path, version="2", toml="nonsense = 1", model_onnx="x")
    caplog.set_level(logging.WARNING)
    async with open_world() as world, open_engine(ports=world.ports, repository=tmp_path, watch_s=None) as engine:
        assert engine.statistics().registered == 1
        assert "nonsense" in caplog.text
        put(tmp_path, version="3", toml='loader = "onnx"', model_onnx="x")
        assert [found.version for found in await engine.scan()] == ["3"]
        assert await engine.scan() == ()
        assert engine.loaded_versions("m") == ()


async def test_a_version_whose_loader_is_missing_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """It is logged, and the rest is registered; a loader that runs code is not allowed to by a file."""
    async with watching(tmp_path, watch_s=None) as (rig, _):
        put(tmp_path, version="1", toml='loader = "nobody-has-this"', model_bin="x")
        put(tmp_path, version="2", toml='loader = "callable"', model_py="x")
        publish(tmp_path, "3")
        assert [found.version for found in await rig.engine.scan()] == ["3"]
    assert "nobody-has-this" in caplog.text
    assert "allow_code=True" in caplog.text


async def test_an_engine_without_a_repository_cannot_scan(engine: Engine) -> None:
    """The message says which argument is missing."""
    with pytest.raises(InvalidValue, match="repository="):
        await engine.scan()


async def test_a_repository_that_is_not_there_keeps_the_engine_closed(tmp_path: Path, autojump_clock: Any) -> None:
    """`open_engine` raises the plain error, and the body does not run."""
    ran = False
    async with open_world() as world:
        with pytest.raises(InvalidValue, match="nowhere"):
            async with open_engine(ports=world.ports, repository=tmp_path / "nowhere"):
                ran = True
    assert not ran


@pytest.mark.parametrize("watch_s", [0, -1.0, float("nan"), "2"])
async def test_a_watch_takes_time(tmp_path: Path, watch_s: Any) -> None:
    """Its interval is a number of seconds above 0."""
    with pytest.raises(InvalidValue, match="watch_s"):
        async with open_engine(repository=tmp_path, watch_s=watch_s):
            raise AssertionError


# --- by watching ----------------------------------------------------------------------------------------------------


async def test_a_version_that_appears_is_registered(tmp_path: Path, autojump_clock: Any) -> None:
    """Within three looks, with nobody asking; nothing is loaded."""
    async with watching(tmp_path) as (rig, watch):
        publish(tmp_path, "1")
        await trio.sleep(2.1)
        assert rig.engine.statistics().registered == 0
        await trio.sleep(2.0)
        assert [event.version for event in await watch.kinds("version_registered")] == ["1"]
        await trio.sleep(60.0)
        assert len(await watch.kinds("version_registered")) == 1
        assert rig.engine.load_info("m", "1").status.value == "registered"


async def test_the_interval_is_yours(tmp_path: Path, autojump_clock: Any) -> None:
    """`watch_s` seconds lie between two looks, and None means only when asked."""
    async with watching(tmp_path, watch_s=100.0) as (rig, _):
        publish(tmp_path, "1")
        await trio.sleep(199.0)
        assert rig.engine.statistics().registered == 0
        await trio.sleep(2.0)
        assert rig.engine.statistics().registered == 1
    async with watching(tmp_path, watch_s=None) as (rig, _):
        publish(tmp_path, "2", "n")
        await trio.sleep(10_000.0)
        assert rig.engine.statistics().registered == 0
        assert tasks() == []


async def test_an_engine_without_a_repository_watches_nothing(engine: Engine, autojump_clock: Any) -> None:
    """There is no task and no timer, whatever happens to its models."""
    await settle()
    assert tasks() == []
    assert "keeper" not in engine._version_supervisor


async def test_a_problem_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Any) -> None:
    """Not every two seconds, be it in the folder or with its loader, also where the start has told it; until mended."""
    put(tmp_path, version="0", toml="at the start", model_bin="x")
    async with watching(tmp_path) as (rig, _):
        put(tmp_path, version="1", toml='loader = "nobody-has-this"', model_bin="x")
        settings = put(tmp_path, version="2", toml="nonsense = 1", model_bin="x") / "model.toml"
        await trio.sleep(100.0)
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
        settings.write_text('loader = "scripted"')
        await trio.sleep(QUIET_S)
        assert rig.engine.load_info("m", "2").status.value == "registered"
    assert len(caplog.records) == 3


async def test_what_vanishes_stays(tmp_path: Path, autojump_clock: Any) -> None:
    """A version's folder, the policy and the model's folder that are deleted unload and unregister nothing."""
    async with watching(tmp_path) as (rig, watch):
        folder = publish(tmp_path, "1")
        file = rule(tmp_path, 'load = "latest"')
        await trio.sleep(QUIET_S)
        assert rig.engine.is_loaded("m", "1")
        for gone in (folder / "model.bin", folder / "model.toml", folder, file, folder.parent):
            gone.rmdir() if gone.is_dir() else gone.unlink()
            await trio.sleep(QUIET_S)
            assert (await rig.engine.infer("m", {})).version == "1"
        assert rig.engine.policy("m") == ModelPolicy("latest")
        assert await watch.kinds("repository_lost") == []


async def test_a_repository_that_is_lost_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """Everything serves on; when it is back, that is told, too, and the watch has gone on."""
    repository = tmp_path / "models"
    repository.mkdir()
    async with watching(repository) as (rig, watch):
        publish(repository, "1")
        rule(repository, 'load = "all"')
        await trio.sleep(QUIET_S)
        for times in (1, 2):
            repository.rename(tmp_path / "away")
            await trio.sleep(60.0)
            assert len(await watch.kinds("repository_lost", "error")) == times
            assert (await rig.engine.infer("m", {})).version == "1"
            with pytest.raises(InvalidValue, match="models"):
                await rig.engine.scan()
            (tmp_path / "away").rename(repository)
            await trio.sleep(60.0)
            assert len(await watch.kinds("repository_found")) == times
        publish(repository, "2")
        await trio.sleep(QUIET_S)
        assert rig.engine.is_loaded("m", "2")
        assert len(await watch.states("1")) == 3
    assert len([record for record in caplog.records if "lost" in record.message]) == 2


async def test_a_look_that_fails_in_any_way_is_only_a_lost_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """A listing that breaks off, no thread to be had, a bug: told once, tried again each time, never in a hurry."""
    looks: list[float] = []

    def failing(*args: Any, **kwargs: Any) -> Found:
        looks.append(trio.current_time())
        raise [OSError(5, "input/output error"), RuntimeError("no thread"), ZeroDivisionError("a bug")][len(looks) % 3]

    async with watching(tmp_path) as (rig, watch):
        with monkeypatch.context() as patch:
            patch.setattr(calls, "look", failing)
            await trio.sleep(61.0)
        assert len(looks) == 30
        assert len(await watch.kinds("repository_lost")) == 1
        publish(tmp_path, "1")
        await trio.sleep(QUIET_S)
        assert len(await watch.kinds("repository_found")) == 1
        assert rig.engine.statistics().registered == 1
        assert rig.engine.statistics().children_restarted == 0


async def test_a_storage_that_hangs_holds_up_nobody(tmp_path: Path, autojump_clock: Any) -> None:
    """One look hangs and no other is begun; policies are kept meanwhile, and the engine closes."""
    async with watching(tmp_path) as (rig, _):
        back = trio.Event()
        rig.takes("scan", back)
        await trio.sleep(600.0)
        assert tasks("scan") == ["scan"]
        rig.add("m", "1")
        rig.engine.set_policy("m", ModelPolicy("latest"))
        await settle()
        assert rig.engine.is_loaded("m", "1")
        rig.takes("scan", 0.0)
        publish(tmp_path, "2")
        back.set()
        await trio.sleep(QUIET_S)
        assert rig.engine.is_loaded("m", "2")
        rig.takes("scan", trio.Event())
        await trio.sleep(10.0)


async def test_a_version_that_was_unregistered_stays_away(tmp_path: Path, autojump_clock: Any) -> None:
    """The watch does not bring back what somebody took out, before its folder changes; `scan()` does."""
    async with watching(tmp_path) as (rig, _):
        folder = publish(tmp_path, "1")
        await trio.sleep(QUIET_S)
        await rig.engine.unregister("m", "1")
        await trio.sleep(60.0)
        assert rig.engine.statistics().registered == 0
        (folder / "model.bin").write_text("better")
        await trio.sleep(QUIET_S)
        assert rig.engine.statistics().registered == 1
        await rig.engine.unregister("m", "1")
        assert [spec.version for spec in await rig.engine.scan()] == ["1"]


async def test_a_look_in_flight_outlives_the_engine(tmp_path: Path, autojump_clock: Any) -> None:
    """What it brings after the end is nobody's; and the watch has ended with the engine."""
    async with open_world() as world:
        async with changeover.open_engine(ports=world.ports, repository=tmp_path) as engine:
            world.durations["scan"] = 5.0
            await trio.sleep(3.0)
            publish(tmp_path, "1")
        assert tasks() == []
        await trio.sleep(60.0)
        assert engine.statistics().registered == 0


async def test_many_registered_folders_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """A look lists the repository and each model's folder once, and nothing below a version that is registered."""
    listed: list[str] = []
    for model in ("a", "b"):
        for version in ("1", "2", "3"):
            put(tmp_path, model, version, toml='loader = "onnx"', model_onnx="x")
    real = os.scandir

    def scandir(path: Any) -> Any:
        listed.append(Path(path).name)
        return real(path)

    async with watching(tmp_path):
        monkeypatch.setattr(os, "scandir", scandir)
        await trio.sleep(2.1)
    assert listed == [tmp_path.name, "a", "b"]


async def test_a_crash_of_the_keeper_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """It is started again, the engine and its models serve on, and the watch goes on."""
    async with watching(tmp_path) as (rig, _):
        await rig.ready()
        with monkeypatch.context() as patch:
            patch.setattr(rig.engine._keeper, "_on_look", lambda *_: 1 / 0)
            await trio.sleep(2.1)
        publish(tmp_path, "2")
        await trio.sleep(3 * QUIET_S)
        assert rig.engine.statistics().children_restarted == 1
        assert (await rig.engine.infer("m", {})).version == "1"
        assert rig.engine.statistics().registered == 2
