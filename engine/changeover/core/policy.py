"""The order of versions, a model's policy, and what it asks for next: `decide` is pure, `runtime/keeper.py` does it.

Versions are compared as Semantic Versioning 2.0.0 (section 11) says where they look like it, and piece by piece where
they do not; a name stays text and is never rewritten. A `Record` is the keeper's; nothing else here is state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, cast

import attrs
from attrs.validators import optional

from changeover.core.checks import is_count, is_one_of, is_type
from changeover.core.shift import Shift
from changeover.core.values import SwapState
from changeover.core.values import VersionState as S
from changeover.errors import InvalidValue

_SEMANTIC = re.compile(
    r"[vV]?(?P<release>\d+(?:\.\d+)*)(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
_PIECES = re.compile(r"\d+|\D+", re.ASCII)

Piece = tuple[int, int, str]
Key = tuple[int, tuple[Piece, ...], int, tuple[Piece, ...], str]


@lru_cache(maxsize=1 << 16)  # a model may have thousands of versions, and each is compared again and again
def order_key(version: str) -> Key:
    """Return what versions are sorted by, the oldest first: words that are no numbers come before all that are.

    `1.9` comes before `1.10`, `2.0-rc.1` before `2.0`, `1` equals `1.0` but for the text, which decides last.
    """
    match = _SEMANTIC.fullmatch(version)
    if match is None:
        return 0, tuple(_piece(piece) for piece in _PIECES.findall(version)), 0, (), version
    release = [_piece(piece) for piece in match["release"].split(".")]
    while len(release) > 1 and release[-1][1] == 0:
        release.pop()
    pre = match["pre"]
    return 1, tuple(release), int(pre is None), tuple(_piece(piece) for piece in (pre or "").split(".")), version


def newest_first(versions: Iterable[str]) -> list[str]:
    """Return versions, the newest first."""
    return sorted(versions, key=order_key, reverse=True)


def _piece(text: str) -> Piece:
    """Return one piece of a version: numbers by their value, and before words, as SemVer has it."""
    if not (text.isascii() and text.isdigit()):
        return 1, 0, text
    digits = text.lstrip("0")
    return 0, len(digits), digits  # and no int, which Python does not make of thousands of digits


def _is_versions(_self: object, _field: attrs.Attribute[Any], value: tuple[object, ...]) -> None:
    if not all(isinstance(version, str) and version for version in value):
        raise InvalidValue(f"versions must be non-empty strings, not {value!r}")


def _as_versions(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(f"versions must be a list of strings, not {value!r}")
    return tuple(cast("Iterable[str]", value))


@attrs.frozen
class ModelPolicy:
    """Which versions of a model shall be loaded, and how traffic moves to a newer one that appears."""

    load: Literal["none", "latest", "all", "specific"] = attrs.field(
        default="none", validator=is_one_of("none", "latest", "all", "specific")
    )
    """`none`: only what is ordered; `latest`: the newest `count`; `all`: every one; `specific`: those in `versions`."""
    count: int = attrs.field(default=1, validator=is_count())
    """How many of the newest `latest` loads."""
    versions: tuple[str, ...] = attrs.field(default=(), converter=_as_versions, validator=_is_versions)
    """What `specific` loads."""
    plan: Shift | None = attrs.field(default=None, validator=optional(is_type(Shift)))
    """How traffic moves to a newer version that is loaded by this policy; None: it does not, before you say so."""

    def wanted(self, versions: Iterable[str]) -> tuple[str, ...]:
        """Return which of the registered versions shall be loaded, the newest first."""
        return self.pick(newest_first(versions))

    def pick(self, ordered: Sequence[str]) -> tuple[str, ...]:
        """Do as `wanted`, with versions that come the newest first."""
        match self.load:
            case "none":
                return ()
            case "latest":
                return tuple(ordered[: self.count])
            case "all":
                return tuple(ordered)
            case "specific":
                return tuple(version for version in ordered if version in self.versions)


_PLAN_FIELDS = frozenset({"stages", "confirm_s", "confirm_samples", "sticky", "shadow", "fallback"})
"""What a file may say of a canary."""


def from_fields(file: str, fields: Mapping[str, Any]) -> ModelPolicy:
    """Return the policy that a file spells out; raises `InvalidValue`, which says what may be in the file."""
    _refuse_unknown(file, fields, frozenset(field.name for field in attrs.fields(ModelPolicy)))
    plan = fields.get("plan")
    if plan is not None:
        fields = {**fields, "plan": _plan(file, plan)}
    return ModelPolicy(**fields)


def _plan(file: str, plan: object) -> Shift:
    if plan == "at_once":
        return Shift.at_once()
    if not isinstance(plan, Mapping):
        known = ", ".join(sorted(_PLAN_FIELDS))
        raise InvalidValue(f'plan in {file} must be "at_once", or a table of a canary with {known}; not {plan!r}')
    table = cast("Mapping[str, Any]", plan)
    _refuse_unknown(f"plan in {file}", table, _PLAN_FIELDS)
    return Shift.canary(**table)


def _refuse_unknown(where: str, fields: Mapping[str, Any], known: frozenset[str]) -> None:
    if unknown := fields.keys() - known:
        raise InvalidValue(f"{where} has {', '.join(sorted(unknown))}; it may have {', '.join(sorted(known))}")


# --- what is to be done ---------------------------------------------------------------------------------------------


@attrs.frozen
class Load:
    """Load a version; it gets traffic only where its model has none."""

    version: str


@attrs.frozen
class SwapTo:
    """Swap to a version, by the policy's plan."""

    version: str


@attrs.frozen
class Unload:
    """Drain a version that has no traffic, and unload it."""

    version: str


Chore = Load | SwapTo | Unload


@attrs.frozen
class Standing:
    """How a model stands at one moment."""

    versions: tuple[str, ...]
    """The registered ones, the newest first."""
    states: Mapping[str, S]
    """Of those that were ever wanted; the others are registered and no more."""
    active: str | None = None
    """The version with the largest share of the traffic."""
    traffic: frozenset[str] = frozenset()
    """Every version with a share."""
    busy: frozenset[str] = frozenset()
    """Versions of swaps that have not ended, and those that are being loaded or restarted, or are about to be."""
    heading: frozenset[str] = frozenset()
    """What the swaps that have not ended lead to."""

    def state(self, version: str) -> S:
        """Return a version's state."""
        return self.states.get(version, S.REGISTERED)

    def rests(self, version: str) -> bool:
        """Return whether a version is there to be loaded; one that was evicted is loaded again by whoever asks it."""
        return version not in self.busy and self.state(version) in _LOADABLE


_LOADABLE = frozenset({S.REGISTERED, S.UNLOADED, S.FAILED})
_LEAVING = frozenset({S.DRAINING, S.QUARANTINED, S.UNLOADING})


@attrs.define
class Record:
    """What became of a model's versions under its policy: a fold over what happened to them."""

    loaded: set[str] = attrs.field(factory=set[str])
    """Those that the policy had loaded, and nobody else since."""
    ordered: set[str] = attrs.field(factory=set[str])
    """Those that it has ordered to be loaded or swapped to, until their load begins."""
    broken: set[str] = attrs.field(factory=set[str])
    """Those whose load failed, or that crashed and are not back."""
    refused: set[str] = attrs.field(factory=set[str])
    """Those that a swap was begun to which did not happen, also for a guard or somebody who called it off."""
    served: str | None = None
    """The newest that had the traffic, trials left out: whoever moved it down had reasons."""
    _coming: set[str] = attrs.field(factory=set[str])
    _returning: set[str] = attrs.field(factory=set[str])
    """Those that are next loaded by the engine itself, after a crash or an eviction."""

    @property
    def failed(self) -> frozenset[str]:
        """Those that the policy leaves alone until it is set anew, or somebody else loads them."""
        return frozenset(self.broken | self.refused)

    def begin_anew(self) -> None:
        """Forget what failed, and how high the traffic stood: the policy was set."""
        self.broken.clear()
        self.refused.clear()
        self.served = None

    def note_order(self, chore: Chore) -> None:
        """Note that a chore is being done."""
        if not isinstance(chore, Unload):
            self.ordered.add(chore.version)

    def note_refusal(self, version: str) -> None:
        """Note that a version cannot be swapped to."""
        self.ordered.discard(version)
        self.refused.add(version)

    def note_state(self, version: str, state: S) -> None:
        """Note that a version is in another state."""
        match state:
            case S.LOADING if version not in self._coming:  # a load may be tried again
                self._note_load(version)
            case S.READY:
                self.broken.discard(version)
            case S.FAILED:
                self.broken.add(version)
            case S.DRAINING | S.UNLOADED:  # a drain that is given back is so to somebody who wants it
                self.loaded.discard(version)
            case S.EVICTED:
                self._returning.add(version)
            case _:
                pass
        if state in (S.LOADING, S.WARMING):
            self._coming.add(version)
        else:
            self._coming.discard(version)
        self.ordered.discard(version)

    def _note_load(self, version: str) -> None:
        if version in self.ordered:
            self.loaded.add(version)
        elif version not in self._returning:  # somebody else wants it
            self.loaded.discard(version)
            self.broken.discard(version)
            self.refused.discard(version)
        self._returning.discard(version)

    def note_crash(self, version: str, *, again: bool) -> None:
        """Note that a version has crashed, and whether it is started again."""
        self.ordered.discard(version)
        if again:
            self._returning.add(version)

    def note_gone(self, version: str) -> None:
        """Note that a version is not registered any more; another one may come by its name."""
        for versions in (self.loaded, self.ordered, self.broken, self.refused, self._coming, self._returning):
            versions.discard(version)

    def note_swap(self, to: str, state: SwapState) -> None:
        """Note where a swap stands."""
        if state.ended:
            self.ordered.discard(to)  # of a version that was loaded already no load has begun
        if state is SwapState.COMPLETED:
            self.note_traffic(to)
        elif state in (SwapState.FAILED, SwapState.ROLLED_BACK, SwapState.CANCELLED):
            self.note_refusal(to)

    def note_traffic(self, version: str) -> None:
        """Note that a version is the active one, and not on trial."""
        if self.served is None or order_key(version) > order_key(self.served):
            self.served = version


def decide(policy: ModelPolicy, standing: Standing, record: Record) -> tuple[Chore, ...]:
    """Return what is to be done now; asked again after each change, it comes to an end.

    Traffic is only moved up, and by a plan; unloaded is only what this policy loaded and nobody uses. A model without
    traffic gets the newest version first, because the first one that is ready has it all.
    """
    wanted = policy.pick(standing.versions)
    failed = record.failed
    able = [v for v in wanted if v not in failed and standing.state(v) not in _LEAVING]
    if standing.active is None:
        first = able[:1]
        return tuple(Load(v) for v in first if v not in standing.busy and standing.state(v) in {*_LOADABLE, S.EVICTED})
    target = _target(policy, able, standing, record)
    loads = [Load(v) for v in able if v != target and standing.rests(v)]
    swaps = [SwapTo(target)] if target is not None else []
    return (*_unloads(wanted, standing, record), *swaps, *loads)


def _target(policy: ModelPolicy, able: Sequence[str], standing: Standing, record: Record) -> str | None:
    """Return the version to swap to: the newest that is able, where it is newer than all that has, had or gets it."""
    if policy.plan is None or not able or able[0] in standing.busy:
        return None
    others = {standing.active, record.served, *standing.heading} - {None}
    return able[0] if all(order_key(able[0]) > order_key(cast("str", other)) for other in others) else None


def _unloads(wanted: Sequence[str], standing: Standing, record: Record) -> list[Unload]:
    kept = standing.traffic | standing.busy | set(wanted)
    going = [v for v in sorted(record.loaded - kept, key=order_key) if standing.state(v) is S.READY]
    stays = any(state is S.READY and version not in going for version, state in standing.states.items())
    return [Unload(version) for version in going] if stays else []
