"""The engine's marks as a simulator sees them: read out of the sources, and each with a chance of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from changeover_sim.simulate.sites import SHARE, BadSites, Sink, Site, names, sites

GUARDED = """
from changeover.runtime import sites

def f(state):
    if sites.ON:
        sites.sometimes("one")
    if sites.ON and state:
        sites.sometimes("two")
    if sites.ON and state and sites.buggify("three"):
        return 0
    if state or not (sites.ON and sites.buggify("four-and-five")):
        return 1
"""


def engine(folder: Path, **files: str) -> Path:
    """Write an engine of these files."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return folder


# --- the list -------------------------------------------------------------------------------------------------------


def test_every_mark_is_found_with_its_place(tmp_path: Path) -> None:
    """Its kind, its name, its file and its line."""
    assert sites(engine(tmp_path, a=GUARDED)) == (
        Site("sometimes", "one", "a.py", 6),
        Site("sometimes", "two", "a.py", 8),
        Site("buggify", "three", "a.py", 9),
        Site("buggify", "four-and-five", "a.py", 11),
    )


@pytest.mark.parametrize("argument", ["name", '"two" + "parts"', 'f"{name}"', '"Not-Kebab"', '"a b"', "", '"a", "b"'])
def test_a_name_that_cannot_be_read_is_refused(tmp_path: Path, argument: str) -> None:
    """A name is one literal in kebab-case: else nobody could list what must be reached."""
    text = f"if sites.ON:\n    sites.sometimes({argument})\n"
    with pytest.raises(BadSites, match=r"a\.py:2: the name of a site is one literal"):
        sites(engine(tmp_path, a=text))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Also in two files, and as two kinds; each place is named."""
    one, other = 'if sites.ON:\n    sites.sometimes("x")\n', 'y = sites.ON and sites.buggify("x")\n'
    with pytest.raises(BadSites, match=r"a\.py:2: x is there twice\nb\.py:1: x is there twice"):
        sites(engine(tmp_path, a=one, b=other))


@pytest.mark.parametrize(
    "text",
    [
        'sites.sometimes("x")\n',
        'if state:\n    sites.sometimes("x")\n',
        'if sites.ON:\n    pass\nelse:\n    sites.sometimes("x")\n',
        'if state and sites.ON:\n    pass\nsites.sometimes("x")\n',
        'y = state and sites.ON and sites.buggify("x")\n',
        'y = sites.ON or sites.buggify("x")\n',
    ],
)
def test_a_mark_that_does_not_look_at_the_switch_first_is_refused(tmp_path: Path, text: str) -> None:
    """In production it would cost a call, or do what is rare."""
    with pytest.raises(BadSites, match=r"x must stand behind `if sites\.ON`"):
        sites(engine(tmp_path, a=text))


def test_the_engine_has_marks_and_none_on_the_way_of_a_request() -> None:
    """Some dozens of branches and some rare things; the modules that every request goes through have none."""
    found = sites()
    assert len(names("sometimes")) >= 25
    assert 6 <= len(names("buggify")) <= 12
    way = {"accounts", "gathering", "inference", "lease", "loaded", "many", "router", "set_request", "worker"}
    assert way.isdisjoint(Path(site.file).stem for site in found)
    assert {site.file.split("/")[0] for site in found} == {"runtime"}


# --- chance ---------------------------------------------------------------------------------------------------------

MANY = [f"site-{letter}{other}" for letter in "abcdefghij" for other in "abcdefghij"]


def test_a_site_is_active_in_one_run_of_four_and_fires_one_time_in_four() -> None:
    """Both in the long run; what is not active never fires."""
    sinks = [Sink(Random(seed), MANY) for seed in range(50)]
    assert sum(len(sink.active) for sink in sinks) / len(MANY) / len(sinks) == pytest.approx(SHARE, abs=0.03)
    for sink in sinks[:5]:
        for name in MANY * 100:
            sink.fires(name)
        assert set(sink.fired) == set(sink.active)
        assert sink.fired.total() / len(sink.active) / 100 == pytest.approx(SHARE, abs=0.04)
        assert sink.reached == Counter(MANY * 100)


def test_the_same_seed_fires_the_same_in_whatever_order_it_is_asked() -> None:
    """Each site has its own chance: another one that is asked once more changes nothing for it."""
    one, other = Sink(Random(7), MANY), Sink(Random(7), reversed(MANY))
    assert one.active == other.active
    forwards = {name: [one.fires(name) for _ in range(20)] for name in MANY}
    backwards = {name: [other.fires(name) for _ in range(20)] for name in reversed(MANY)}
    assert forwards == backwards
    assert one.active != Sink(Random(8), MANY).active


def test_what_is_switched_off_counts_and_does_not_fire() -> None:
    """For what is left of a run."""
    sink = Sink(Random(1), MANY, may_fire=lambda: False)
    assert not any(sink.fires(name) for name in MANY * 20)
    sink.reach("one")
    assert (sink.fired.total(), sink.reached["one"], sink.reached[MANY[0]]) == (0, 1, 20)


def test_by_default_the_engines_own_sites_may_fire() -> None:
    """And no others: what nobody has listed never fires."""
    sinks = [Sink(Random(seed)) for seed in range(60)]
    assert {name for sink in sinks for name in sink.active} == set(names("buggify"))
    assert not any(sink.fires("unheard-of") for sink in sinks)
