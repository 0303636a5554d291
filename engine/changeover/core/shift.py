"""What a caller says of how traffic moves to a new version: at once, or as a canary ramp, and who watches over it.

Frozen values that check themselves when they are made. Owns no state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import attrs
from attrs.validators import optional

from changeover.core.checks import is_count, is_one_of, is_seconds, is_type
from changeover.core.meter import KEEP, SPELLS
from changeover.errors import InvalidValue

CANARY_STAGES = ((0.05, 5.0), (0.5, 5.0))
"""The ramp of `Shift.canary()`: 5 % for five seconds, then half for five more."""


def _is_rate(least: float, most: float) -> Any:
    """Make a validator of numbers from `least`, exclusive, to `most`."""

    def check(_self: object, field: attrs.Attribute[Any], value: object) -> None:
        number = _number(field.name, value)
        if not least < number <= most:
            raise InvalidValue(f"{field.name} must be above {least:g} and at most {most:g}, not {value!r}")

    return check


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InvalidValue(f"{name} must be a number, not {value!r}")
    return float(value)


def _is_kept(_self: object, field: attrs.Attribute[Any], value: int) -> None:
    """Be a validator: more than are kept can never be there."""
    if value > SPELLS * KEEP:
        raise InvalidValue(f"{field.name} must be at most {SPELLS * KEEP:,}, which is what is kept, not {value!r}")


@attrs.frozen
class Guard:
    """When a new version is worse than the old: then its swap rolls back by itself.

    It judges by what is statistically sure (99.5 %), not by the first bad second; what it merely suspects holds a ramp
    where it is.
    """

    max_error_rate: float = attrs.field(default=0.02, validator=_is_rate(0.0, 1.0))
    """More than this share of the new version's requests must not fail, above 0 to 1 ..."""
    max_error_rate_ratio: float = attrs.field(default=2.0, validator=_is_rate(0.0, math.inf))
    """... unless the old version fails, too: then so many times its rate."""
    max_latency_ratio: float = attrs.field(default=2.0, validator=_is_rate(0.0, math.inf))
    """The new version's latency quantile must not be above so many times the old one's."""
    quantile: float = attrs.field(default=0.95, validator=_is_rate(0.0, 1.0))
    """Which quantile of the latency of answered requests, above 0 to 1."""
    window_s: float = attrs.field(default=10.0, validator=is_seconds(zero=False))
    """The requests of the last so many seconds count: a sample of them, at most 50 in each fortieth of that time."""
    min_samples: int = attrs.field(default=20, validator=[is_count(), _is_kept])
    """So many requests must have ended in the window before it judges; where traffic is thin, widen the window."""
    min_errors: int = attrs.field(default=6, validator=is_count())
    """So many must have failed: five unlucky requests do not trip it."""
    latency_slack_s: float = attrs.field(default=0.001, validator=is_seconds())
    """A difference in latency below this is none, in seconds: noise is most of what a fast model shows."""


@attrs.frozen
class Stage:
    """One step of a ramp."""

    share: float = attrs.field(validator=_is_rate(0.0, 1.0))
    """What the new version gets of the traffic, above 0 to 1."""
    hold_s: float = attrs.field(validator=is_seconds())
    """For how long, in seconds, before the next stage."""
    samples: int = attrs.field(default=0, validator=is_count(0))
    """And until it has answered so many requests in the stage."""


def _as_stages(value: object) -> tuple[Stage, ...]:
    """Return pairs of share and seconds as stages; raises `InvalidValue` where the shares do not rise."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidValue(f"stages are pairs of share and seconds such as ((0.05, 5.0), (0.5, 5.0)), not {value!r}")
    stages = tuple(_as_stage(item) for item in cast("Iterable[object]", value))
    for before, after in pairwise(stages):
        if after.share <= before.share:
            raise InvalidValue(f"the shares of stages must rise; {after.share:g} comes after {before.share:g}")
    return stages


def _as_stage(item: object) -> Stage:
    if isinstance(item, Stage):
        return item
    pair = tuple(cast("Sequence[Any]", item)) if isinstance(item, list | tuple) else ()
    if len(pair) != 2:  # noqa: PLR2004 - a pair
        raise InvalidValue(f"a stage is a pair of share and seconds such as (0.05, 5.0), not {item!r}")
    return Stage(*pair)


@attrs.frozen
class Shift:
    """How traffic moves to the new version; `Shift.at_once()` and `Shift.canary()` make one."""

    kind: Literal["at_once", "canary"] = attrs.field(default="at_once", validator=is_one_of("at_once", "canary"))
    stages: tuple[Stage, ...] = attrs.field(default=(), converter=_as_stages)
    """The ramp up to the whole; empty: none. The swap's pivot comes after the last stage and the confirmation."""
    confirm_s: float = attrs.field(default=0.0, validator=is_seconds())
    """For how long the new version has all of the traffic before the pivot, in seconds."""
    confirm_samples: int = attrs.field(default=0, validator=is_count(0))
    """And until it has answered so many requests with all of it."""
    sticky: bool = attrs.field(default=True, validator=is_type(bool))
    """Whether requests with the same `key` find the same version, also while the shares grow.

    Where one of the two versions crashes, its keys find the other until it is back.
    """
    shadow: bool = attrs.field(default=False, validator=is_type(bool))
    """Whether the stages send copies: the old version answers all, the new one's answers are compared and dropped."""
    fallback: bool = attrs.field(default=True, validator=is_type(bool))
    """Whether the old version answers what the new one fails on, until the pivot."""
    guard: Guard | None = attrs.field(factory=Guard, validator=optional(is_type(Guard)))
    """Who watches; None: nobody."""

    @classmethod
    def at_once(
        cls,
        *,
        confirm_s: float = 0.0,
        confirm_samples: int = 0,
        fallback: bool = True,
        guard: Guard | None = Guard(),
    ) -> Shift:
        """Return the plan that moves all traffic in one step, and may look at it for a while before the pivot."""
        return cls(confirm_s=confirm_s, confirm_samples=confirm_samples, fallback=fallback, guard=guard)

    @classmethod
    def canary(
        cls,
        stages: Iterable[Stage | tuple[float, float]] = CANARY_STAGES,
        *,
        confirm_s: float = 5.0,
        confirm_samples: int = 0,
        sticky: bool = True,
        shadow: bool = False,
        fallback: bool = True,
        guard: Guard | None = Guard(),
    ) -> Shift:
        """Return the plan that raises the new version's share of the traffic stage by stage.

        Raises `InvalidValue` where a share is NaN, not above 0, above 1 or not above the one before it.
        """
        made = _as_stages(stages)
        if not made:
            raise InvalidValue("a canary needs a stage or more; Shift.at_once(confirm_s=...) is the plan without any")
        return cls(
            "canary", made, confirm_s, confirm_samples, sticky=sticky, shadow=shadow, fallback=fallback, guard=guard
        )

    @property
    def tries_out(self) -> bool:
        """Whether both versions serve for a while, so that both must be loaded."""
        return bool(self.stages) or self.confirmation is not None

    @property
    def confirmation(self) -> Stage | None:
        """The last stage, with all of the traffic; None where there is none."""
        if self.confirm_s == 0 and self.confirm_samples == 0:
            return None
        return Stage(1.0, self.confirm_s, self.confirm_samples)
