"""Who gets the traffic of a version that goes: the newest other one that takes requests, in one step, for good."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover import Shift
from changeover.core.policy import order_key
from changeover.errors import VersionCrashed
from tests.support.rig import Rig, Watch, open_rig, run_virtual, settle


def poison(inputs: Any) -> bool:
    """Return whether a request is the one that kills the model."""
    return "poison" in inputs


async def ready(rig: Rig, *versions: str) -> None:
    """Load versions, one after the other; the first has the traffic."""
    for version in versions:
        await rig.ready("m", version, fatal_on=poison)


async def crash(rig: Rig, version: str) -> None:
    """Let a version's model declare itself beyond use."""
    with pytest.raises(VersionCrashed):
        await rig.engine.infer("m", {"poison": 1}, version=version)
    await settle()


@pytest.mark.parametrize("how", ["crash", "unload"])
@pytest.mark.parametrize(
    ("others", "heir"),
    [
        (("1.10", "1.9"), "1.10"),
        (("1.9", "1.10"), "1.10"),
        (("3.0-rc.1", "3.0", "3.0-rc.2"), "3.0"),
        (("v1.2", "nightly", "1.1"), "v1.2"),
    ],
)
async def test_the_newest_other_version_takes_over(
    rig: Rig, how: str, others: tuple[str, ...], heir: str, autojump_clock: Any
) -> None:
    """Not the one that was loaded last, nor the first by the letters of its name; nobody gets a part in between."""
    await ready(rig, "2.0", *others)
    async with Watch(rig.engine) as watch:
        if how == "crash":
            await crash(rig, "2.0")
        else:
            await rig.engine.unload("m", "2.0")
        assert await watch.kinds("traffic_shifted", "shares") == [{heir: 1.0}]
    assert (await rig.engine.infer("m", {})).version == heir


async def test_a_version_that_takes_no_requests_is_no_heir(rig: Rig, autojump_clock: Any) -> None:
    """However new it is: one that loads, one that is drained, one that has crashed, one that is only registered."""
    await ready(rig, "1", "2", "6", "7")
    rig.add("m", "9")
    rig.add("m", "8")
    rig.takes("load m/8", 50.0)
    lease = rig.lease("m", "7")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.load, "m", "8")
        nursery.start_soon(rig.engine.unload, "m", "7")
        await crash(rig, "6")
        await crash(rig, "1")
        assert (await rig.engine.infer("m", {})).version == "2"
        lease.release()


async def test_a_version_that_is_back_takes_no_traffic_from_another(rig: Rig, autojump_clock: Any) -> None:
    """It stays where it went until somebody moves it, or its new version goes as well: then it is an heir again."""
    await ready(rig, "3", "1", "2")
    await crash(rig, "3")
    await trio.sleep(10.0)
    assert rig.engine.loaded_versions("m") == ("3", "1", "2")
    assert (await rig.engine.infer("m", {})).version == "2"
    await crash(rig, "2")
    assert (await rig.engine.infer("m", {})).version == "3"


@pytest.mark.parametrize("share", [0.5, 1.0])
async def test_on_trial_its_counterpart_takes_over(rig: Rig, share: float, autojump_clock: Any) -> None:
    """Whichever of the two it is, whatever its share, and however new a third one is."""
    await ready(rig, "1", "9")
    rig.add("m", "2", fatal_on=poison)
    plan = Shift.canary(((share, 1_000.0),), guard=None) if share < 1 else Shift.at_once(confirm_s=1_000.0, guard=None)
    rig.engine.start_swap("m", "2", plan=plan)
    await settle()
    await crash(rig, "1")
    assert {(await rig.engine.infer("m", {})).version for _ in range(20)} == {"2"}
    await trio.sleep(10.0)
    await crash(rig, "2")
    assert {(await rig.engine.infer("m", {})).version for _ in range(20)} == {"1"}


async def test_without_another_version_the_traffic_is_nobodys(rig: Rig, autojump_clock: Any) -> None:
    """The version has it again when it is back."""
    await ready(rig, "1")
    await crash(rig, "1")
    assert not rig.engine.is_active("m", "1")
    await trio.sleep(10.0)
    assert (await rig.engine.infer("m", {})).version == "1"


names = st.from_regex(r"(v?[0-9]{1,2}(\.[0-9]{1,2}){0,2}(-(rc|beta)(\.[0-9])?)?|[a-z]{1,3}[0-9]{0,2})", fullmatch=True)


@settings(deadline=None, max_examples=30)
@given(versions=st.lists(names, min_size=2, max_size=6, unique=True), data=st.data())
def test_whatever_goes_the_newest_of_the_rest_has_the_traffic(versions: list[str], data: st.DataObject) -> None:
    """Versions of any names are loaded and unloaded in any order: who serves is the newest, once the first is gone."""

    async def main() -> None:
        async with open_rig() as rig:
            await ready(rig, *versions)
            serves, left = versions[0], list(versions)
            while len(left) > 1:
                gone = data.draw(st.sampled_from(left))
                await rig.engine.unload("m", gone)
                left.remove(gone)
                serves = max(left, key=order_key) if gone == serves else serves
                assert rig.engine.is_active("m", serves)

    run_virtual(main)
