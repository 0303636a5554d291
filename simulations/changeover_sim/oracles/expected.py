"""Which errors a call may end with: a table of kind of call and error, and what excuses each.

An error that is not in it, or none of whose excuses holds, is a broken promise. Owns no state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from changeover_sim.oracles import excuses
from changeover_sim.oracles.facts import Facts
from changeover_sim.simulate.calls import Call

Excuse = Callable[[Facts, Call], bool]
Errors = Mapping[str, tuple[Excuse, ...]]

_ASKING: Errors = {
    "NotReady": (excuses.nothing_ready,),
    "Evicted": (excuses.nothing_ready,),
    "VersionNotLoaded": (excuses.named_not_ready,),
    "ModelNotRegistered": (excuses.not_registered,),
    "PredictFailed": (excuses.model_raised,),
    "VersionCrashed": (excuses.crashed, excuses.forgotten, excuses.is_closing),
    "LeaseRevoked": (excuses.revoked,),
    "EngineClosed": (excuses.is_closing,),
}
_INFER: Errors = {**_ASKING, "Overloaded": (excuses.queue_is_full,), "RequestTimeout": (excuses.out_of_time,)}
_LOAD: Errors = {
    "ModelNotRegistered": (excuses.not_registered,),
    "LoadFailed": (excuses.loader_raised, excuses.has_just_failed),
    "LoadTimeout": (excuses.load_out_of_time, excuses.has_just_failed),
    "LoadCancelled": (excuses.opposite_ordered, excuses.is_closing),
    "WarmUpFailed": (
        excuses.warm_up_raised,
        excuses.has_just_failed,
        excuses.crashed,
        excuses.opposite_ordered,
        excuses.is_closing,
    ),
    "OverBudget": (excuses.budget_is_small,),
    "TooManyStuckLoads": (excuses.loads_hang,),
    "VersionCrashed": (excuses.crashed,),
    "EngineClosed": (excuses.is_closing,),
}
_MET_A_CRASH: Errors = {
    **{name: _LOAD[name] for name in ("ModelNotRegistered", "VersionCrashed", "EngineClosed")},
    **dict.fromkeys(("LoadFailed", "LoadTimeout", "WarmUpFailed", "OverBudget"), (excuses.has_just_failed,)),
}
"""An order that its actor had not read when it crashed is told why: also that its restart could not be loaded."""
_SWAP: Errors = {
    "ModelNotRegistered": (excuses.not_registered,),
    "SwapNotAllowed": (excuses.nothing_to_swap,),
    "SwapInProgress": (excuses.swap_in_progress,),
    "SwapFailed": (excuses.something_goes_wrong, excuses.has_little_time, excuses.is_closing),
    "SwapRolledBack": (excuses.turned_round, excuses.a_version_went, excuses.is_closing),
    "Superseded": (excuses.superseded,),
    "EngineClosed": (excuses.is_closing,),
}
_STEER: Errors = {"SwapNotAllowed": (excuses.always,), "EngineClosed": (excuses.is_closing,)}

EXPECTED: Mapping[str, Errors] = {
    "infer": _INFER,
    "infer_many": _INFER,
    "stream": {**_ASKING, "Overloaded": (excuses.queue_is_full,)},  # it may wait for the end of a version that crashes
    "lease": _ASKING,
    "async lease": _ASKING,
    "lease_many": _ASKING,
    "reference": {
        **{name: _ASKING[name] for name in ("NotReady", "Evicted", "VersionNotLoaded", "ModelNotRegistered")},
        "ReferenceNotHeld": (excuses.given_back_twice,),
        "EngineClosed": (excuses.is_closing,),
    },
    "wait_for_drain": {
        "DrainTimeout": (excuses.out_of_time,),
        "ModelNotRegistered": (excuses.not_registered,),
        "EngineClosed": (excuses.is_closing,),
    },
    "events": {},
    "load": {**_LOAD, "AlreadyLoaded": (excuses.was_ready,)},
    "ensure_loaded": _LOAD,
    "unload": {
        **_MET_A_CRASH,
        "VersionNotLoaded": (excuses.named_not_ready, excuses.opposite_ordered),
        "LastVersion": (excuses.is_last,),
        "SwapInProgress": (excuses.swap_in_progress,),
    },
    "warm_up": {
        **_MET_A_CRASH,
        "WarmUpFailed": _LOAD["WarmUpFailed"],
        "VersionNotLoaded": (excuses.named_not_ready,),
    },
    "unregister": {
        **_MET_A_CRASH,
        "VersionInUse": (excuses.was_in_use, excuses.opposite_ordered),
    },
    "swap": _SWAP,
    "swap_group": _SWAP,
    "start_swap": _SWAP,
    "wait_for_swap": {**_SWAP, "SwapRolledBack": (excuses.always,)},
    "rollback": {**_SWAP, "SwapNotAllowed": (excuses.always,)},
    "pause": _STEER,
    "resume": _STEER,
    "promote": _STEER,
    "abort": _STEER,
}
"""By kind of call: every error that it may end with, and what excuses it."""


def unexcused(facts: Facts, call: Call) -> str | None:
    """Return why an error is none that may be; None where one of its excuses holds."""
    error = type(call.error).__name__
    reasons = EXPECTED.get(call.kind, {}).get(error)
    if reasons is None:
        return f"{error} is none of the errors of {call.kind}"
    if any(excuse(facts, call) for excuse in reasons):
        return None
    tried = ", ".join(excuse.__name__.replace("_", " ") for excuse in reasons)
    return f"{error} has no reason: not {tried}"
