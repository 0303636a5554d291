"""The catalogue of planted bugs: each fits the engine as it is, all kinds of bugs are there, and planting works."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
import pytest

from changeover_sim.mutants.catalogue import FIELDS, MUTANTS
from changeover_sim.mutants.mutant import Mutant
from changeover_sim.mutants.planting import NotPlanted, patched, plant, source_path
from changeover_sim.scenarios import SCENARIOS

OUT_OF_THE_WORLD = ("aio", "threads", "file_lock", "folders", "repository", "sqlite_")
"""Modules of the engine that do not run in the simulated world."""

CATEGORIES: dict[str, tuple[str, ...]] = {
    "reference released early": ("revocation-takes-the-reference-itself", "stream-is-ended-under-its-own-pull"),
    "reference released late": ("cancelled-request-stays-queued", "withdrawn-request-keeps-its-reference"),
    "reference released twice": ("standby-is-released-twice", "fallback-gives-its-pin-back-twice"),
    "reference released on the wrong version": ("standby-is-released-on-the-new-version",),
    "check and act split by an await": ("infer-picks-before-it-waits",),
    "drain waiter missed": ("only-the-first-waiter-for-zero-is-woken", "quarantine-does-not-watch-for-zero"),
    "compensation skipped": ("compensation-skips-the-step-at-hand", "called-off-swap-lets-its-load-go-on"),
    "compensation doubled": ("slot-is-given-up-twice",),
    "compensation out of order": ("slot-is-free-before-the-new-version-is-unloaded",),
    "journal written after instead of before": ("boundary-is-written-behind-the-step", "journal-is-not-waited-for"),
    "cancelled load left routed": ("cancelled-reload-stays-routed",),
    "single-flight broken": ("hung-load-is-started-a-second-time",),
    "reservation counted late": ("bytes-are-reserved-when-the-load-has-ended",),
    "restart storm unbounded": ("restart-storm-is-not-bounded",),
    "control lane starved": ("deadline-waits-behind-the-request-lane", "timer-is-dropped-while-the-mailbox-is-busy"),
    "close that forgets a stream": ("left-stream-is-never-ended", "drain-forgets-streams"),
    "fallback that forgets its pin": ("cancelled-request-forgets-its-standby", "standby-is-pinned-on-the-new-version"),
}
"""The kinds of bugs that must be among the mutants, and who is of that kind."""


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_fits_the_engine_as_it_is(mutant: Mutant) -> None:
    """What it replaces stands in its module exactly once, and what comes out is another program that compiles."""
    before, after = source_path(mutant).read_text("utf-8"), patched(mutant)
    compile(after, mutant.module, "exec")
    assert ast.dump(ast.parse(before)) != ast.dump(ast.parse(after)), "only its text is another one"


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_says_what_it_is(mutant: Mutant) -> None:
    """It has a name in kebab-case, one line, a promise, a scenario that there is, and a module that is simulated."""
    assert mutant.name == mutant.name.lower().replace(" ", "-").replace("_", "-")
    assert mutant.says
    assert "\n" not in mutant.says
    assert mutant.promise in range(1, 12)
    assert mutant.scenario in SCENARIOS
    assert mutant.module.startswith("changeover.")
    assert not mutant.module.rpartition(".")[2].startswith(OUT_OF_THE_WORLD)


def test_no_two_mutants_are_the_same() -> None:
    """Every name stands for one patch, and every patch has one name."""
    everybody = [mutant for mutants in FIELDS.values() for mutant in mutants]
    assert len(everybody) == len(MUTANTS)
    assert len({patched(mutant) for mutant in everybody}) == len(everybody)


def test_there_are_enough_of_them() -> None:
    """There are at least forty, and at least three that each of the first ten promises has to do with."""
    assert len(MUTANTS) >= 40
    found = Counter(mutant.promise for mutant in MUTANTS.values())
    assert {promise: found[promise] for promise in range(1, 11) if found[promise] < 3} == {}


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_kind_of_bug_is_there(category: str) -> None:
    """Each kind of bug that the oracles must see has its mutants."""
    assert CATEGORIES[category]
    assert [name for name in CATEGORIES[category] if name not in MUTANTS] == []


# --- planting -------------------------------------------------------------------------------------------------------

TAKES_ALL = "loaded-version-takes-the-traffic"

WHO_SERVES = """
from changeover.core import routes
both = routes.decide(routes.decide(routes.Snapshot(), routes.VersionReady("m", "1")), routes.VersionReady("m", "2"))
print(both.routes["m"].shares[0].version)
"""
"""Tells which version has the traffic once a second one is ready."""

PLANT = """
from changeover_sim.mutants.catalogue import MUTANTS
from changeover_sim.mutants.planting import plant
plant(MUTANTS[{name!r}])
"""


def python(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run some lines in a process of their own, whose byte code lies in `cache`."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_planting_takes_effect_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A planted bug works in its own process, whatever byte code lies about, and in no other one."""
    healthy, planted = WHO_SERVES, PLANT.format(name=TAKES_ALL) + WHO_SERVES
    assert python(planted, tmp_path).stdout == "2\n"
    assert not list(tmp_path.rglob("routes.*.pyc")), "byte code of a planted bug would be read by everybody else"
    assert list(tmp_path.rglob("ledger.*.pyc")), "that of other modules is written as always"
    assert [python(code, tmp_path).stdout for code in (healthy, planted, healthy)] == ["1\n", "2\n", "1\n"]


def test_planting_imports_nothing_of_the_engine(tmp_path: Path) -> None:
    """Behind the planting the engine is still to be imported."""
    code = PLANT.format(name=TAKES_ALL) + "import sys; print([name for name in sys.modules if name == 'changeover'])"
    assert python(code, tmp_path).stdout == "[]\n"


def test_a_planted_bug_has_the_source_that_runs(tmp_path: Path) -> None:
    """Who asks for the source of a planted module, as a debugger does, is given the one that runs."""
    shown = "import inspect; from changeover.core import routes; print('if model in routes else {model' in {source})"
    by_loader = shown.replace("{source}", "routes.__loader__.get_source(routes.__name__)")
    assert python(by_loader, tmp_path).stdout == "True\n"
    assert python(PLANT.format(name=TAKES_ALL) + by_loader, tmp_path).stdout == "False\n"


def test_planting_comes_before_the_import() -> None:
    """A module that is imported already cannot be given a bug any more, and that is said."""
    before = list(sys.meta_path)
    loaded = next(mutant for mutant in MUTANTS.values() if mutant.module in sys.modules)
    with pytest.raises(NotPlanted, match="imported already"):
        plant(loaded)
    assert sys.meta_path == before


@pytest.mark.parametrize("old", ["what stands nowhere", "def "])
def test_a_mutant_that_does_not_fit_is_refused(old: str) -> None:
    """What stands nowhere in the module, or in several places, is not replaced."""
    with pytest.raises(NotPlanted, match="occurs"):
        patched(attrs.evolve(MUTANTS[TAKES_ALL], old=old))


@pytest.mark.parametrize("module", ["changeover.core.nothing", "no_such_engine.core"])
def test_a_mutant_of_no_module_is_refused(module: str) -> None:
    """A module that there is not is named."""
    with pytest.raises(NotPlanted, match=module):
        patched(attrs.evolve(MUTANTS[TAKES_ALL], module=module))
