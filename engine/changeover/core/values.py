"""What a caller hands in: the key of a version, its spec, and how to drain, shift and time a swap.

Frozen values that check themselves when they are made. Owns no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import attrs
from attrs.validators import optional

from changeover.core.checks import is_count, is_not_empty, is_one_of, is_seconds, is_sha256, is_type, is_word
from changeover.errors import InvalidValue

SIGNATURE: Literal["signature"] = "signature"
"""The warm-up that the engine makes up itself, by the model's signature."""

WARMUP_SUFFIXES = (".json", ".npz")
"""How the names of files of warm-up data end."""

WarmUpData = tuple[Mapping[str, Any], ...] | Literal["signature"] | Path
"""Requests, the word "signature", or where a file or a folder of files of them lies."""


def as_data(data: Mapping[str, Any] | Iterable[Mapping[str, Any]] | str | Path) -> WarmUpData:
    """Return mappings as a tuple, where a single one is one request, and a name as "signature" or as a path.

    Raises `InvalidValue`; what lies at a path is looked at when it is wanted.
    """
    if isinstance(data, Path):
        return data
    if isinstance(data, str):
        if data == SIGNATURE:
            return SIGNATURE
        if not data.lower().endswith(WARMUP_SUFFIXES):
            raise InvalidValue(f'warm-up data is mappings, "{SIGNATURE}", or a .json or .npz file, not {data!r}')
        return Path(data)
    if not isinstance(data, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise InvalidValue(f"warm-up data must be mappings of names to arrays, not {data!r} ({type(data).__name__})")
    single = cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else None
    several = (single,) if single is not None else tuple(cast("Iterable[Mapping[str, Any]]", data))
    for inputs in several:
        if not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
            raise InvalidValue(f"warm-up data must be mappings of names to arrays, not {type(inputs).__name__}")
    return several


class VersionKey(NamedTuple):
    """One version of one model; printed as `model/version`."""

    model: str
    version: str

    def __str__(self) -> str:
        """Return `model/version`."""
        return f"{self.model}/{self.version}"


class VersionState(Enum):
    """Where a version stands in its life; `core/lifecycle.py` has the table."""

    REGISTERED = "registered"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    QUARANTINED = "quarantined"
    UNLOADING = "unloading"
    UNLOADED = "unloaded"
    EVICTED = "evicted"
    FAILED = "failed"


class SwapState(Enum):
    """Where a swap stands; `core/plan.py` has the table."""

    NOT_STARTED = "not_started"
    LOADING_NEW_VERSION = "loading_new_version"
    TRANSITIONING = "transitioning"
    OLD_VERSION_DRAINING = "old_version_draining"
    COMPLETED = "completed"
    FAILED = "failed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    RECOVERING = "recovering"

    @property
    def ended(self) -> bool:
        """True where nothing more will happen to the swap."""
        return self in _SWAP_ENDS


_SWAP_ENDS = frozenset(
    {SwapState.COMPLETED, SwapState.FAILED, SwapState.ROLLED_BACK, SwapState.CANCELLED, SwapState.SUPERSEDED}
)


@attrs.frozen
class Batching:
    """How a worker gathers requests into one call of `predict`.

    A batch whose call raises is tried again request by request, so that a bad one fails alone.
    """

    max_batch: int = attrs.field(default=32, validator=is_count())
    """The most rows in one call; a request that alone has more goes alone."""
    max_delay_s: float = attrs.field(default=0.002, validator=is_seconds())
    """How long the first request of a batch waits for others, in seconds."""


@attrs.frozen
class VersionSpec:
    """All that is needed to load one version; the same fields as in `model.toml`."""

    model: str = attrs.field(validator=is_word)
    """The model's name."""
    version: str = attrs.field(validator=is_word)
    """The version; any word, compared as text."""
    source: str | Path = attrs.field(validator=[is_type(str, Path), is_not_empty])
    """What the loader reads: a path, or the loader's own notation such as `"module:function"`."""
    loader: str = attrs.field(kw_only=True, validator=is_word)
    """The loader's entry-point name."""
    options: Mapping[str, Any] = attrs.field(kw_only=True, factory=dict[str, Any], validator=is_type(Mapping))
    """The loader's own settings."""
    warmup: WarmUpData = attrs.field(kw_only=True, default=(), converter=as_data)
    """What is run through the model before it takes traffic: inputs by name, one mapping or several; a .json or .npz
    file of them, or the `Path` of a folder of such files; or `"signature"`: zeros of the shapes that it declares."""
    isolation: Literal["inline", "process"] = attrs.field(
        kw_only=True,
        default="inline",
        validator=is_one_of("inline", later='"process" is planned and not built yet'),
    )
    """Where the model lives: in this process. Another one is refused for now."""
    execution: Literal["inline", "worker"] = attrs.field(
        kw_only=True, default="inline", validator=is_one_of("inline", "worker")
    )
    """Who calls `predict`: the caller's own thread (fast models), or the version's worker threads."""
    workers: int = attrs.field(kw_only=True, default=1, validator=is_count())
    """How many worker threads; above 1 needs a thread-safe model."""
    batching: Batching | None = attrs.field(kw_only=True, default=None, validator=optional(is_type(Batching)))
    """How workers gather requests; None: one request a call. Needs `execution="worker"`."""
    queue_limit: int = attrs.field(kw_only=True, default=1024, validator=is_count())
    """The most requests that wait for a worker; one more is refused with `Overloaded`."""
    pinned: bool = attrs.field(kw_only=True, default=False, validator=is_type(bool))
    """True keeps the version out of eviction."""
    allow_code: bool = attrs.field(kw_only=True, default=False, validator=is_type(bool))
    """True allows a loader that runs code of the source's author."""
    sha256: str | None = attrs.field(kw_only=True, default=None, validator=optional(is_sha256))
    """The hexadecimal digest that the source file must have; None: any."""
    memory_hint_bytes: int | None = attrs.field(kw_only=True, default=None, validator=optional(is_count(0)))
    """What to reserve before the load; None: the size of the source file."""
    load_retries: int = attrs.field(kw_only=True, default=3, validator=is_count(0))
    """How often a load is tried again, with growing pauses, where the loader says that its source was only away."""
    load_timeout_s: float = attrs.field(kw_only=True, default=60.0, validator=is_seconds(zero=False))
    """How long loading and warming up may take together, in seconds."""
    errors_in_a_row_max: int | None = attrs.field(kw_only=True, default=None, validator=optional(is_count()))
    """After so many exceptions of `predict` in a row the version has crashed, and is started again; None: never.
    A call that returns ends the row, whatever it returns: a new start mends no model whose answers are no mappings. A
    batch that is tried again request by request counts as those. `InvalidInput` from the model blames the request."""

    @property
    def key(self) -> VersionKey:
        """The model's name and the version."""
        return VersionKey(self.model, self.version)


@attrs.frozen
class Drain:
    """How an old version is emptied; it is never unloaded in use."""

    deadline_s: float = attrs.field(default=30.0, validator=is_seconds())
    """How long to wait for the last holder before `then` decides, in seconds."""
    then: Literal["quarantine", "cancel", "rollback", "wait"] = attrs.field(
        default="quarantine", validator=is_one_of("quarantine", "cancel", "rollback", "wait")
    )
    """`quarantine`: keep it loaded without traffic until the last holder leaves; `cancel`: end its async leases, its
    streams and the requests that wait in its queue with `LeaseRevoked`, where they cannot move to the version that has
    the traffic, then quarantine; `rollback`: take requests again, in a swap with all of the traffic; `wait`: no bound
    at all."""
    grace_s: float = attrs.field(default=5.0, validator=is_seconds())
    """How long `cancel` waits for those whose blocks it ended, in seconds."""
    stream_deadline_s: float | None = attrs.field(default=None, validator=optional(is_seconds()))
    """How long to wait for streams, in seconds, where that is not `deadline_s`; `then` decides for those as well.
    A drain that cancels ends in quarantine when all were asked to leave, each in its time."""


@attrs.frozen
class Timeouts:
    """The most that single steps of a swap may take; a step that is late is a step that failed."""

    load_s: float | None = attrs.field(default=None, validator=optional(is_seconds(zero=False)))
    """Load and warm-up together, in seconds; None: the spec's `load_timeout_s`."""
    shift_s: float | None = attrs.field(default=None, validator=optional(is_seconds(zero=False)))
    """Moving the traffic, with every stage, pause and confirmation, in seconds; None: as long as its plan takes."""
    unload_s: float = attrs.field(default=30.0, validator=is_seconds(zero=False))
    """Closing the old model after it was drained, in seconds."""
    total_s: float | None = attrs.field(default=None, validator=optional(is_seconds(zero=False)))
    """All steps up to the pivot together, from the moment that the swap's turn has come, in seconds; None: as long as
    the steps may take. A swap that has passed its pivot is not turned round by it."""
