"""What the registry knows: versions in two orders, and the policy of each model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover import ModelPolicy, VersionKey, VersionSpec
from changeover.core.policy import newest_first
from changeover.errors import AlreadyRegistered, ModelNotRegistered
from changeover.runtime.registry import Registry
from tests.support.rig import LOADER


def spec(model: str = "m", version: str = "1", source: str = "script") -> VersionSpec:
    """Return a spec."""
    return VersionSpec(model, version, source, loader=LOADER)


def test_versions_are_kept_in_the_order_of_their_registration() -> None:
    """The registry knows what was added to it, in order."""
    known = Registry()
    for version in ("2", "10", "1"):
        known.add(spec(version=version))
    known.add(spec("other", "5"))
    assert known.versions("m") == ("2", "10", "1")
    assert (len(known), VersionKey("m", "10") in known, VersionKey("m", "11") in known) == (4, True, False)
    assert known.get(VersionKey("other", "5")) == spec("other", "5")


def test_a_version_never_changes_its_meaning() -> None:
    """Registered twice is refused, naming the source that stands; the first one stays."""
    known = Registry()
    known.add(spec(source="first"))
    with pytest.raises(AlreadyRegistered, match=r"m/1.*'first'") as caught:
        known.add(spec(source="second"))
    assert (caught.value.model, caught.value.version) == ("m", "1")
    assert known.get(VersionKey("m", "1")).source == "first"
    assert len(known) == 1


def test_what_is_not_registered_is_named_with_what_is() -> None:
    """An unknown model, and an unknown version of a known one, are told apart."""
    known = Registry()
    with pytest.raises(ModelNotRegistered, match=r"no model is called 'm'; registered are none"):
        known.versions("m")
    known.add(spec())
    known.add(spec(version="2"))
    with pytest.raises(ModelNotRegistered, match=r"m has no version '3'; registered are 1, 2"):
        known.get(VersionKey("m", "3"))
    with pytest.raises(ModelNotRegistered, match=r"no model is called 'n'; registered are m"):
        known.get(VersionKey("n", "3"))


@settings(deadline=None)
@given(versions=st.lists(st.sampled_from(["1", "1.0", "2", "10", "1.0-rc.1", "a", "b2", "b10"]), unique=True))
def test_the_newest_come_first(versions: list[str]) -> None:
    """Whatever the order of their registration, also after some were removed; nothing is there of an unknown model."""
    known = Registry()
    for number, version in enumerate(versions):
        known.add(spec(version=version))
        assert list(known.versions_newest_first("m")) == newest_first(versions[: number + 1])
    for version in versions[::2]:
        known.remove(VersionKey("m", version))
    assert list(known.versions_newest_first("m")) == newest_first(versions[1::2])
    assert known.versions_newest_first("other") == ()


def test_a_version_that_was_removed_is_left_alone() -> None:
    """It is remembered for whoever looks at its folder, until somebody registers it again; its model may be unknown."""
    known, key = Registry(), VersionKey("m", "1")
    known.add(spec())
    assert "1" in known.known("m")
    known.remove(key)
    known.remove(VersionKey("m", "2"))
    assert (len(known), known.left, "1" in known.known("m")) == (0, {key}, False)
    with pytest.raises(ModelNotRegistered, match="no model is called 'm'"):
        known.versions("m")
    known.add(spec())
    assert (len(known), known.left, known.versions_newest_first("m")) == (1, frozenset(), ("1",))


def test_a_policy_by_hand_beats_the_file() -> None:
    """What was set by hand is in force until it is taken back; then the file's is, and no policy without either."""
    known, by_hand, by_file = Registry(), ModelPolicy("all"), ModelPolicy("latest")
    assert known.policy("m") is None
    known.set_policy("m", by_hand)
    assert not known.keep_policy("m", by_file)
    assert known.policy("m") == by_hand
    known.set_policy("m", None)
    assert known.policy("m") == by_file
    known.set_policy("n", None)
    assert known.policy("n") is None


def test_a_file_that_says_the_same_changes_nothing() -> None:
    """Only another policy than the one in force is news."""
    known = Registry()
    assert known.keep_policy("m", ModelPolicy("all"))
    assert not known.keep_policy("m", ModelPolicy("all"))
    assert known.keep_policy("m", ModelPolicy("latest"))
