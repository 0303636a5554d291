"""Loaders that misbehave, row by row: what is raised names who did it, nothing is left behind, everything else goes on.

What plugins do to time and to the process is in `test_misbehaving_processes.py`; models that misbehave when they are
used are in `test_misbehaving_models.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from changeover.errors import (
    ChangeoverError,
    LoadFailed,
    OverBudget,
    WarmUpFailed,
)
from changeover.plugin import Signature
from tests.support.misbehaviour import (
    ERRORS,
    Bad,
    Mute,
    Plain,
    a_good_one_loads,
    all_is_well,
    loads,
    name_of,
    play,
    reserved,
    serves_on,
    set_the_stage,
    stage,
    throw,
)
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, running


@attrs.frozen
class Way:
    """One way in which a load goes wrong."""

    name: str
    loader: Callable[[], type[Any]]
    says: tuple[str, ...]
    """What the message must have in it, beside version and loader."""
    error: type[ChangeoverError] = LoadFailed
    closes: bool = True
    """Whether what the loader returned can be closed, and is."""


def raises(make: Callable[[], BaseException]) -> Way:
    """Return the way of a loader that raises."""
    return Way(f"load raises {name_of(make)}", lambda: loads(lambda: throw(make())), (name_of(make),))


def returns(name: str, make: Callable[[], Any], *says: str, closes: bool = True, error: Any = LoadFailed) -> Way:
    """Return the way of a loader that returns what is no good model."""
    return Way(name, lambda: loads(make), says, error, closes)


def spoilt(name: str, value: Any, *says: str, closes: bool = True) -> Way:
    """Return the way of a model with a field of the wrong kind."""
    return returns(f"{name} is {value!r:.40}", lambda: Plain(**{name: value}), *says, closes=closes)


def without(name: str) -> Way:
    """Return the way of a model that lacks something."""

    def make() -> Any:
        body = {key: value for key, value in vars(Plain).items() if key != name and not key.startswith("__")}
        return type("Lacking", (), body | {"__init__": Plain.__init__})()

    return returns(f"no {name}", make, name, closes=name != "close")


def property_of(name: str, get: Callable[[Any], Any]) -> Any:
    """Return a model with a computed field."""
    return type("Computing", (Plain,), {name: property(get, lambda _self, _value: None)})()


def fails_at_look(number: int) -> Callable[[Any], Any]:
    """Return a getter that raises `Broken` when it is looked at for the n-th time, and from then on."""
    looks = itertools.count(1)
    return lambda _self: throw(Broken("the field")) if next(looks) >= number else True


class InitRaises(Bad):
    def __init__(self) -> None:
        raise Broken("in __init__")


class NeedsArguments(Bad):
    def __init__(self, where: str) -> None:
        raise AssertionError(where)


class LoadIsAsync(Bad):
    async def load(self, source: Any) -> Any:
        return Plain()


class LoadIsGenerator(Bad):
    def load(self, source: Any) -> Any:
        yield Plain()


class LoadTakesNothing(Bad):
    def load(self) -> Any:
        return Plain()


LOADERS = [raises(make) for make in ERRORS] + [
    Way("__init__ raises", lambda: InitRaises, ("Broken", "in __init__")),
    Way("__init__ needs arguments", lambda: NeedsArguments, ("TypeError", "where")),
    Way("no load", lambda: Bad, ("AttributeError", "load")),
    Way("load is async", lambda: LoadIsAsync, ("coroutine", "not a model"), closes=False),
    Way("load is a generator", lambda: LoadIsGenerator, ("generator", "not a model"), closes=False),
    Way("load takes no source", lambda: LoadTakesNothing, ("TypeError", "load()")),
    returns("returns None", lambda: None, "NoneType", "not a model", closes=False),
    returns("returns a class", lambda: Plain, "Plain", closes=False),
    returns("returns a pair", lambda: (Plain(), 5), "tuple", "not a model", closes=False),
]

PARTS = (
    [without(name) for name in ("signature", "thread_safe", "predict", "memory_bytes", "close")]
    + [
        spoilt("signature", None, "Plain", "signature"),
        spoilt("signature", {"x": "float32"}, "Plain", "signature"),
        spoilt("signature", Signature, "Plain", "signature"),
        returns("a signature of nothing", lambda: Plain(signature=Signature(inputs=None))),  # type: ignore[arg-type]
        returns("a signature of names", lambda: Plain(signature=Signature(inputs=("x",))), "str"),  # type: ignore[arg-type]
        spoilt("thread_safe", None, "thread_safe"),
        spoilt("thread_safe", "no", "thread_safe"),
        returns("thread_safe is a method", lambda: Plain(thread_safe=lambda: False), "thread_safe"),
        spoilt("predict", None, "predict"),
        spoilt("predict", 5, "predict"),
        spoilt("memory_bytes", 5, "memory_bytes"),
        spoilt("close", None, "close", closes=False),
        spoilt("close", 5, "close", closes=False),
    ]
    + [
        returns(
            f"{name} raises at look {n}", lambda name=name, n=n: property_of(name, fails_at_look(n)), "Broken", name
        )
        for name in ("signature", "thread_safe", "predict", "memory_bytes")
        for n in (1,)
    ]
)

SIZES = [
    returns(f"memory_bytes raises {name_of(make)}",
            lambda make=make: Plain(memory_bytes=lambda: throw(make())), "memory_bytes()", name_of(make))
    for make in ERRORS
] + [
    returns(f"memory_bytes returns {size!r:.20}", lambda size=size: Plain(memory_bytes=lambda: size), "memory_bytes()")
    for size in (-1, 5.0, float("nan"), True, "5", b"5", [5], object)
] + [
    returns("memory_bytes is over the budget", lambda: Plain(memory_bytes=lambda: 10**9), "m/1", error=OverBudget),
    returns("memory_bytes is astronomical", lambda: Plain(memory_bytes=lambda: 10**40), "m/1", error=OverBudget),
    returns("memory_bytes takes a path", lambda: Plain(memory_bytes=lambda path: 5), "memory_bytes()", "path"),
]  # fmt: skip

CLOSES = [
    returns(f"refused, and close raises {name_of(make)}",
            lambda make=make: Plain(memory_bytes=lambda: -1, close=lambda: throw(make())),
            "memory_bytes() returned -1", closes=False)
    for make in ERRORS
] + [
    returns("refused, and close cannot be looked at", lambda: property_of("close", fails_at_look(1)), closes=False)
]  # fmt: skip

ALL = [*LOADERS, *PARTS, *SIZES, *CLOSES]


async def refused(rig: Rig, way: Way) -> type[Any]:
    """Load m/1 in a bad way and look at the error; return the loader's class."""
    loader = way.loader()
    rig.engine._host.loaders.add("crooked", loader)
    rig.engine.register("m", "1", "nowhere", loader="crooked", memory_hint_bytes=100)
    with pytest.raises(way.error) as caught:
        await rig.engine.load("m", "1")
    error = caught.value
    assert type(error) is way.error
    assert (error.model, error.version) == ("m", "1")
    for text in ("m/1", *way.says):
        assert text in str(error)
    if way.error is LoadFailed:
        assert "'crooked'" in str(error)
    assert rig.engine.load_info("m", "1").error == str(error)
    return loader


@pytest.mark.parametrize("real", [False, True], ids=["virtual", "real"])
@pytest.mark.parametrize("way", ALL, ids=lambda way: way.name)
def test_a_bad_load_is_named_and_leaves_nothing(way: Way, real: bool) -> None:
    """Whatever a loader or its model does, its load failed, it says who did it, and the engine is as it was."""
    play(real, bad_load, way, real)


async def bad_load(way: Way, real: bool) -> None:
    """Load in a bad way, and look at what is left."""
    async with stage(real=real) as rig:
        loader = await refused(rig, way)
        await all_is_well(rig)
        if way.closes:
            assert [thing.closed for thing in getattr(loader, "made", [])] in ([], [1])
        rig.engine._host.loaders.add("crooked", rig.cast.loader)
        await a_good_one_loads(rig, "1")  # mended, the very same version loads


@pytest.mark.parametrize("name", ["signature", "thread_safe"])
@pytest.mark.parametrize("look", [2, 3])
async def test_a_field_that_can_be_looked_at_once_only_leaves_nothing(
    rig: Rig, name: str, look: int, autojump_clock: Any
) -> None:
    """A property that raises later on fails the load, or does not matter; the model is closed once in either case."""
    await set_the_stage(rig)
    good = Plain.signature if name == "signature" else True
    looks = itertools.count(1)
    made = property_of(name, lambda _self: throw(Broken("later")) if next(looks) >= look else good)
    rig.engine._host.loaders.add("crooked", loads(lambda: made))
    rig.engine.register("m", "1", "nowhere", loader="crooked")
    load = Outcome(rig.engine.load, "m", "1")
    await load.run()
    if load.error is not None:
        assert type(load.error) is LoadFailed
        assert all(text in str(load.error) for text in ("m/1", "'crooked'", "Broken", "later"))
    else:
        await rig.engine.infer("m", {})
        await rig.engine.unload("m", "1", force=True)
    await all_is_well(rig)
    assert made.closed == 1


async def test_a_bad_load_is_the_same_for_everybody_who_waits(rig: Rig, autojump_clock: Any) -> None:
    """Ten that joined one bad load hear the same, each in an error of its own."""
    await set_the_stage(rig)
    rig.add(load_error=Broken("no good"))
    rig.takes("load m/1", 5.0)
    waiting = [Outcome(rig.engine.load, "m", "1") for _ in range(10)]
    async with running(*waiting):
        pass
    assert {(type(one.error), str(one.error), one.ended_s) for one in waiting} == {
        (LoadFailed, "m/1 was not loaded by 'scripted': Broken: no good", 5.0)
    }
    assert len({id(one.error) for one in waiting}) == 10
    await all_is_well(rig)


@pytest.mark.parametrize("make", [lambda: Broken("no good"), Mute, lambda: SystemExit(3)], ids=name_of)
async def test_a_bad_load_in_a_swap_is_the_swaps_failure(make: Callable[[], Any], autojump_clock: Any) -> None:
    """The version that serves goes on serving; the swap failed, names the error's kind, and left nothing."""
    async with stage(real=False) as rig:
        await rig.ready("m", "1")
        rig.add("m", "2", load_error=make())
        swap = Outcome(rig.engine.swap, "m", "2")
        await swap.run()
        assert type(swap.error).__name__ == "SwapFailed"
        assert all(text in str(swap.error) for text in ("m", "2"))
        assert name_of(make) in str(rig.engine.load_info("m", "2").error)
        assert ((await rig.engine.infer("m", {})).version, rig.cast.open()) == ("1", ["other/1", "m/1"])
        await serves_on(rig)
        assert (reserved(rig), rig.engine.audit().clean) == (20, True)


@pytest.mark.parametrize("real", [False, True], ids=["virtual", "real"])
@pytest.mark.parametrize("make", ERRORS, ids=name_of)
def test_a_bad_warm_up_is_a_bad_load(make: Callable[[], Any], real: bool) -> None:
    """Whatever a model raises on its warm-up data: it never serves, is closed once, and the error names its kind."""
    play(real, bad_warm_up, make, real)


async def bad_warm_up(make: Callable[[], Any], real: bool) -> None:
    """Load a model that raises on its warm-up data, and look at what is left."""
    async with stage(real=real) as rig:
        rig.add(raises=make(), warmup=[{}])
        with pytest.raises(WarmUpFailed) as caught:
            await rig.engine.load("m", "1")
        assert all(text in str(caught.value) for text in ("m/1", name_of(make)))
        assert [made.closed for made in rig.cast.of("m", "1")] == [1]
        await all_is_well(rig)
