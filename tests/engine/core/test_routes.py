"""Traffic adds up, and moves only when and where an event says so.

Owns no state.
"""

from __future__ import annotations

import math
from itertools import pairwise
from types import MappingProxyType

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from changeover.core.routes import (
    Route,
    RouteEvent,
    Share,
    Shifted,
    Snapshot,
    Trial,
    TrialEnded,
    Tried,
    VersionGone,
    VersionReady,
    counterpart,
    decide,
    sticky_point,
    touched,
)

MODELS = st.sampled_from(["a", "b", "c"])
VERSIONS = st.sampled_from(["1", "2", "3", "4"])
PAIRS = st.lists(VERSIONS, min_size=2, max_size=2, unique=True)
TRIALS = st.builds(
    lambda pair, salt, swap: Trial(pair[0], pair[1], salt, swap=swap), PAIRS, st.sampled_from(["", "salt"]),
    st.sampled_from(["", "group"]),
)  # fmt: skip
SHARES = st.floats(0.0, 1.0)

EVENTS = st.one_of(
    st.builds(VersionReady, MODELS, VERSIONS),
    st.builds(VersionGone, MODELS, VERSIONS, st.none() | VERSIONS),
    st.builds(Shifted, st.dictionaries(MODELS, VERSIONS)),
    st.builds(Tried, st.dictionaries(MODELS, TRIALS, min_size=1), SHARES),
    st.builds(TrialEnded, st.lists(MODELS, unique=True).map(tuple)),
)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    """Draw a route whose weights add up to 1, as far as floats do."""
    versions = draw(st.lists(VERSIONS, min_size=1, unique=True))
    parts = [draw(st.floats(1e-6, 1.0)) for _ in versions]
    return Route(tuple(Share(version, part / sum(parts)) for version, part in zip(versions, parts, strict=True)))


SNAPSHOTS = st.builds(
    lambda routes, serial: Snapshot(MappingProxyType(routes), serial),
    st.dictionaries(MODELS, routes()),
    st.integers(0, 1_000),
)


def named(event: RouteEvent) -> set[str]:
    """Return the models that an event speaks of."""
    match event:
        case Shifted(to):
            return set(to)
        case Tried(trials):
            return set(trials)
        case TrialEnded(models):
            return set(models)
        case _:
            return {event.model}


def assert_whole(route: Route) -> None:
    """Fail unless the weights are above 0 and add up to 1, and no version has two shares."""
    assert route.shares
    assert all(share.weight > 0 for share in route.shares)
    assert math.isclose(sum(share.weight for share in route.shares), 1.0, abs_tol=1e-9)
    assert len({share.version for share in route.shares}) == len(route.shares)


# --- decide ---------------------------------------------------------------------------------------------------------


@given(snapshot=SNAPSHOTS, events=st.lists(EVENTS, max_size=20))
def test_weights_are_above_zero_and_add_up_to_one(snapshot: Snapshot, events: list[RouteEvent]) -> None:
    """After any events every route is whole."""
    for event in events:
        snapshot = decide(snapshot, event)
        for route in snapshot.routes.values():
            assert_whole(route)


@given(snapshot=SNAPSHOTS, event=EVENTS)
def test_decide_never_changes_its_argument(snapshot: Snapshot, event: RouteEvent) -> None:
    """The snapshot that was handed in has the same routes and number afterwards."""
    before, serial = dict(snapshot.routes), snapshot.serial
    decide(snapshot, event)
    assert dict(snapshot.routes) == before
    assert all(snapshot.routes[model] is route for model, route in before.items())
    assert snapshot.serial == serial


@given(snapshot=SNAPSHOTS, event=EVENTS)
def test_other_models_keep_the_very_same_route(snapshot: Snapshot, event: RouteEvent) -> None:
    """A model that the event does not name has the same Route object before and after, or none before and after."""
    after = decide(snapshot, event)
    group = set(touched(snapshot, event)) if isinstance(event, VersionGone) else set()
    for model in (snapshot.routes.keys() | after.routes.keys()) - named(event) - group:
        assert snapshot.routes[model] is after.routes[model]


@pytest.mark.parametrize(("gone", "left"), [("new", "old"), ("old", "new")])
def test_a_group_on_trial_is_on_one_side_when_a_version_of_it_goes(gone: str, left: str) -> None:
    """In the same step in which one member loses it, all of the group have what is left; others keep their shares."""
    trials = {model: Trial("new", "old", swap="group") for model in "abc"}
    snapshot = decide(Snapshot(), Tried(trials, 0.25))
    snapshot = decide(snapshot, Tried({"d": Trial("new", "old", swap="other"), "e": Trial("new", "old")}, 0.25))
    after = decide(snapshot, VersionGone("b", gone, left))
    assert [after.routes[model].share_of(left) for model in "abc"] == [1.0, 1.0, 1.0]
    assert [after.routes[model] is snapshot.routes[model] for model in "de"] == [True, True]
    assert after.routes["a"].trial == trials["a"]  # its own old version still stands by
    assert touched(snapshot, VersionGone("b", gone, left)) == ("a", "c", "b")


@given(snapshot=SNAPSHOTS, event=EVENTS)
def test_the_serial_number_counts_changes(snapshot: Snapshot, event: RouteEvent) -> None:
    """A change makes a new snapshot whose number is one higher; without a change it is the same object."""
    after = decide(snapshot, event)
    if dict(after.routes) == dict(snapshot.routes):
        assert after is snapshot
    else:
        assert after.serial == snapshot.serial + 1


@given(snapshot=SNAPSHOTS, model=MODELS, version=VERSIONS)
def test_a_ready_version_never_moves_existing_traffic(snapshot: Snapshot, model: str, version: str) -> None:
    """A version that becomes ready gets all traffic of a model that has none, and none of one that has some."""
    after = decide(snapshot, VersionReady(model, version))
    if model in snapshot.routes:
        assert after is snapshot
    else:
        assert after.routes[model] == Route((Share(version, 1.0),))


@given(snapshot=SNAPSHOTS, to=st.dictionaries(MODELS, VERSIONS, min_size=1))
def test_a_shift_flips_all_its_models_in_one_snapshot(snapshot: Snapshot, to: dict[str, str]) -> None:
    """One event moves each of its models wholly to its version, in one step of the number."""
    after = decide(snapshot, Shifted(to))
    assert {model: after.routes[model] for model in to} == {m: Route((Share(v, 1.0),)) for m, v in to.items()}
    assert after.serial - snapshot.serial in (0, 1)


@given(snapshot=SNAPSHOTS, gone=st.builds(VersionGone, MODELS, VERSIONS, st.none() | VERSIONS))
def test_a_version_that_goes_leaves_its_traffic_to_the_others(snapshot: Snapshot, gone: VersionGone) -> None:
    """The others keep their order and their proportions; without others the fallback has it all, or nobody has."""
    assume(gone.fallback != gone.version)
    after = decide(snapshot, gone)
    before = snapshot.routes.get(gone.model)
    others = [share for share in before.shares if share.version != gone.version] if before else []
    if not others:
        heir = gone.fallback if before else None
        assert after.routes.get(gone.model) == (Route((Share(heir, 1.0),)) if heir else None)
        return
    shares = after.routes[gone.model].shares
    assert [share.version for share in shares] == [share.version for share in others]
    for new, old in zip(shares, others, strict=True):
        assert math.isclose(new.weight * others[0].weight, shares[0].weight * old.weight, rel_tol=1e-9)


def test_a_fallback_gets_only_what_the_last_version_had() -> None:
    """In one step the traffic goes from the last version to its fallback; a model without traffic gets none by it."""
    snapshot = decide(Snapshot(), VersionReady("a", "1"))
    after = decide(snapshot, VersionGone("a", "1", fallback="2"))
    assert after.routes["a"] == Route((Share("2", 1.0),))
    assert after.serial == snapshot.serial + 1
    assert decide(snapshot, VersionGone("b", "1", fallback="2")) is snapshot
    assert decide(snapshot, VersionGone("a", "3", fallback="2")) is snapshot


def test_the_last_version_takes_its_model_with_it() -> None:
    """When the last version of a model goes, the model goes, and the other models stay."""
    snapshot = decide(decide(Snapshot(), VersionReady("a", "1")), VersionReady("b", "1"))
    assert set(decide(snapshot, VersionGone("a", "1")).routes) == {"b"}


@pytest.mark.parametrize("event", [VersionGone("a", "9"), VersionGone("z", "1"), Shifted({}), Shifted({"a": "1"})])
def test_an_event_that_changes_nothing_returns_the_same_snapshot(event: RouteEvent) -> None:
    """What is not there cannot go, and what is there already need not move."""
    snapshot = decide(Snapshot(), VersionReady("a", "1"))
    assert decide(snapshot, event) is snapshot


def test_a_snapshot_cannot_be_written_to() -> None:
    """Neither the empty snapshot nor one that was decided lets its routes be changed."""
    for snapshot in (Snapshot(), decide(Snapshot(), VersionReady("a", "1"))):
        with pytest.raises(TypeError):
            snapshot.routes["b"] = Route((Share("1", 1.0),))  # type: ignore[index]


# --- choose ---------------------------------------------------------------------------------------------------------


@given(route=routes(), point=st.floats(0.0, 1.0, exclude_max=True))
def test_every_point_has_a_version(route: Route, point: float) -> None:
    """A point in [0, 1) always chooses a version of the route, also where the floats add up to less than 1."""
    assert route.choose(point) in {share.version for share in route.shares}


def test_a_point_behind_the_sum_of_the_weights_has_a_version() -> None:
    """Ten tenths add up to less than 1; the largest point below 1 chooses the last version all the same."""
    route = Route(tuple(Share(str(number), 0.1) for number in range(10)))
    assert sum(share.weight for share in route.shares) < 1
    assert route.choose(math.nextafter(1.0, 0.0)) == "9"


@given(route=routes(), points=st.integers(1, 300))
def test_choose_covers_the_shares_in_proportion(route: Route, points: int) -> None:
    """Of evenly spaced points each version gets its weight, to within one point at each end of its interval."""
    chosen = [route.choose(number / points) for number in range(points)]
    for share in route.shares:
        assert abs(chosen.count(share.version) - share.weight * points) < 1 + 1e-6


@given(route=routes(), index=st.integers(0, 3), inside=st.floats(0.0, 1.0))
def test_each_version_has_one_interval_in_order(route: Route, index: int, inside: float) -> None:
    """A point inside the n-th interval chooses the n-th version."""
    assume(index < len(route.shares) and 0.01 < inside < 0.99)
    start = sum(share.weight for share in route.shares[:index])
    assert route.choose(start + inside * route.shares[index].weight) == route.shares[index].version


@given(route=routes())
def test_share_of_is_the_weight(route: Route) -> None:
    """A version's share is its weight, and 0.0 for one that has none."""
    for share in route.shares:
        assert route.share_of(share.version) == share.weight
    assert route.share_of("nobody") == 0.0


# --- a version on trial ---------------------------------------------------------------------------------------------


def nothing_drawn() -> float:
    """Draw no number: a key was given."""
    raise AssertionError("a sticky request draws no number")


def tried(share: float, salt: str = "salt", new: str = "2", old: str = "1") -> Route:
    """Return the route of a model whose new version has this share on trial."""
    return decide(Snapshot(), Tried({"m": Trial(new, old, salt)}, share)).routes["m"]


def chosen(route: Route, key: str) -> str:
    """Return the version of a key."""
    return route.choose(route.point(key, nothing_drawn))


@given(key=st.text(max_size=9), shares=st.lists(SHARES, min_size=2, max_size=5).map(sorted), salt=st.sampled_from("ab"))
def test_a_key_never_goes_back_while_shares_grow(key: str, shares: list[float], salt: str) -> None:
    """Once a key has the new version, every larger share keeps it there; with the whole traffic every key is there."""
    found = [chosen(tried(share, salt), key) for share in [*shares, 1.0]]
    assert all((before, after) != ("2", "1") for before, after in pairwise(found))
    assert found[-1] == "2"
    assert chosen(tried(0.0, salt), key) == "1"


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
def test_of_ten_thousand_keys_the_share_is_new(share: float) -> None:
    """Within two of a hundred, for keys that differ in one digit as for any others."""
    keys = [f"user-{number}" for number in range(10_000)]
    assert sum(chosen(tried(share), key) == "2" for key in keys) / 10_000 == pytest.approx(share, abs=0.02)


def test_each_trial_meets_other_keys_first() -> None:
    """Two salts at a tenth have about a hundredth of the keys in common, as chance has it."""
    keys = [str(number) for number in range(10_000)]
    first, second = ({key for key in keys if chosen(tried(0.1, salt), key) == "2"} for salt in ("one", "two"))
    assert 0.005 < len(first & second) / 10_000 < 0.015


@given(key=st.text(), salt=st.text())
def test_the_place_of_a_key_is_in_the_unit_interval(key: str, salt: str) -> None:
    """From 0 up to but not including 1, also for what cannot be encoded, and the same each time."""
    assert 0.0 <= sticky_point(salt, key) < 1.0
    assert sticky_point(salt, key) == sticky_point(salt, key)
    assert 0.0 <= sticky_point(salt, key + "\ud800") < 1.0


def test_the_place_of_a_key_is_the_same_in_every_process() -> None:
    """It is written down here, because a change of it would send every key of a running canary elsewhere."""
    assert [round(sticky_point("salt", key), 6) for key in ("", "a", "b")] == [0.185409, 0.40172, 0.98867]


@pytest.mark.parametrize(("key", "salt"), [(None, "salt"), ("key", ""), (None, "")])
def test_without_a_key_or_a_salt_chance_decides(key: str | None, salt: str) -> None:
    """A request without a key is drawn for, and so is one with a key where the plan is not sticky."""
    assert tried(0.5, salt).point(key, lambda: 0.25) == 0.25


def test_without_a_trial_a_key_means_nothing() -> None:
    """A route that nobody tries a version on draws for every request."""
    assert Route((Share("1", 1.0),)).point("key", lambda: 0.75) == 0.75


@given(share=SHARES, trial=TRIALS)
def test_a_trial_has_the_share_it_is_given_and_the_new_version_first(share: float, trial: Trial) -> None:
    """Two versions, one with none of it left out."""
    route = decide(Snapshot(), Tried({"m": trial}, share)).routes["m"]
    assert route.trial == trial
    assert route.share_of(trial.new) == share
    assert route.share_of(trial.old) == 1.0 - share
    assert [part.version for part in route.shares] == [
        version for version in (trial.new, trial.old) if route.share_of(version) > 0
    ]


@given(snapshot=SNAPSHOTS, model=MODELS, share=SHARES, trial=TRIALS)
def test_the_end_of_a_trial_moves_nothing(snapshot: Snapshot, model: str, share: float, trial: Trial) -> None:
    """The shares stay, nobody stands by any more; a second end changes nothing."""
    during = decide(snapshot, Tried({model: trial}, share))
    after = decide(during, TrialEnded((model,)))
    assert after.routes[model] == Route(during.routes[model].shares)
    assert decide(after, TrialEnded((model,))) is after


@given(share=SHARES, trial=TRIALS, gone=VERSIONS)
def test_a_trial_is_over_when_one_of_its_versions_goes(share: float, trial: Trial, gone: str) -> None:
    """The other one of the two has all of the traffic then; a third one that goes changes nothing."""
    during = decide(Snapshot(), Tried({"m": trial}, share))
    pair = {trial.new: trial.old, trial.old: trial.new}
    after = decide(during, VersionGone("m", gone, pair.get(gone)))
    if gone in pair:
        assert after.routes["m"] == Route((Share(pair[gone], 1.0),))
    else:
        assert after is during


@given(trial=TRIALS, share=SHARES, version=VERSIONS)
def test_the_counterpart_is_the_other_one_of_the_trial(trial: Trial, share: float, version: str) -> None:
    """New for old and old for new, nobody for a third version, and nobody where there is no trial."""
    route = decide(Snapshot(), Tried({"m": trial}, share)).routes["m"]
    assert counterpart(route, version) == {trial.new: trial.old, trial.old: trial.new}.get(version)
    assert counterpart(Route(route.shares), version) is None
    assert counterpart(None, version) is None


@given(snapshot=SNAPSHOTS, event=EVENTS)
def test_an_event_touches_every_model_whose_route_changes(snapshot: Snapshot, event: RouteEvent) -> None:
    """Whoever keeps something by model looks at these, and at no others."""
    after = decide(snapshot, event)
    models = snapshot.routes.keys() | after.routes.keys()
    assert {model for model in models if snapshot.routes.get(model) != after.routes.get(model)} <= set(
        touched(snapshot, event)
    )
