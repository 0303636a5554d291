"""What excuses an error that a call ends with: small functions, each of which says in a sentence when it holds.

`expected.py` has the table of which error may have which excuse. Owns no state.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from changeover_sim.oracles.facts import ORDERS, Facts, about_models, names_of
from changeover_sim.simulate.calls import Call

EARLY_S = 1e-6
"""So much may a timer be early by rounding."""


# --- the life that it is ----------------------------------------------------------------------------------------------


def is_closing(facts: Facts, _call: Call) -> bool:
    """Hold where the engine is being closed, or was: it refuses new calls and ends old ones."""
    return facts.life.closing


def always(_facts: Facts, _call: Call) -> bool:
    """Hold at all times: whoever steers by what he saw a moment ago comes too late."""
    return True


# --- what is there ----------------------------------------------------------------------------------------------------


def nothing_ready(facts: Facts, call: Call) -> bool:
    """Hold where a model had no version that takes requests, or was being brought back: and nothing was held yet."""
    if call.used:
        return False
    names = names_of(call) if call.version is not None else []
    dark = any(facts.was_dark(call, model) or facts.was_recovering(call, model) for model in about_models(call))
    return any(facts.was_not_ready(call, name) for name in names) or (dark and not names)


def named_not_ready(facts: Facts, call: Call) -> bool:
    """Hold where the version that the call names was not ready, and the call had not got it yet."""
    return not call.used and any(facts.was_not_ready(call, name) for name in names_of(call))


def not_registered(facts: Facts, call: Call) -> bool:
    """Hold where what the call names was unknown at some time: a version, or all of a model."""
    names = names_of(call)
    if names:
        return any(facts.was_unknown(call, name) for name in names)
    some = any if call.kind in ORDERS else all  # an order may be about a swap, and so about each of its versions
    return any(
        some(facts.was_unknown(call, f"{model}/{version}") for version in facts.life.run.shape.versions(model))
        for model in about_models(call)
    )


def was_ready(facts: Facts, call: Call) -> bool:
    """Hold where the version was ready at some time."""
    return any(facts.was_ready(call, name) for name in names_of(call))


def was_in_use(facts: Facts, call: Call) -> bool:
    """Hold where the version was loaded, on its way or leaving, or waits to come back from a crash or an eviction."""
    return any(facts.was_busy(call, name) or facts.states.get(name) in ("evicted", "failed") for name in names_of(call))


def is_last(facts: Facts, call: Call) -> bool:
    """Hold where at most one version was ready, but for those that unloads and swaps on their way want gone."""
    model = call.model or ""
    leaving = {
        name
        for order in facts.ordered((model,), but=call)
        if order.kind == "unload" and order.ended_s in (None, call.began_s)
        for name in names_of(order)
    }
    for operation in facts.life.engine.swaps(model):
        if not operation.state.ended:
            leaving.update(f"{one.model}/{one.from_version}" for one in operation.members)
            leaving.update(f"{one.model}/{one.to_version}" for one in operation.members)
    staying = [name for name in facts.ready(model) if name not in leaving]
    return not call.options.get("force") and len(staying) <= 1


# --- models that fail -------------------------------------------------------------------------------------------------


def model_raised(facts: Facts, call: Call) -> bool:
    """Hold where the request is bad, or the version on some requests, and that fault has struck since."""
    error = call.error
    bad = call.does == "bad" or (error is not None and _bad(facts, f"{error.model}/{error.version}"))
    return bad and facts.grew(call, "predict-raises")


def crashed(facts: Facts, call: Call) -> bool:
    """Hold where a version of these models was asked what puts it beyond use, or raised too often in a row."""
    return nobody_else(facts, call) and may_have_crashed(facts, call)


def may_have_crashed(facts: Facts, call: Call) -> bool:
    """Hold where there is a reason for a crash, whoever else might answer."""
    error = call.error
    models = {*about_models(call), *([error.model] if error is not None and error.model else [])}
    struck = facts.life.run.faults.struck
    poisoned = struck["model-beyond-use"] > 0 and any(name.partition("/")[0] in models for name in facts.poisoned)
    in_a_row = any(
        part.model in models
        and part.errors_in_a_row_max is not None
        and struck["predict-raises"] + struck["warm-up-raises"] >= part.errors_in_a_row_max
        for part in facts.life.run.shape.parts
    )
    return poisoned or in_a_row


def nobody_else(facts: Facts, call: Call) -> bool:
    """Hold where a request has begun to run, names its version, or finds no other one that could take it.

    One that has not begun moves on: its version's end is no end of it.
    """
    if not call.is_request or call.version is not None or call.error is None or call.error.ran != "no":
        return True
    dark = any(facts.was_dark(call, model) or facts.was_recovering(call, model) for model in about_models(call))
    return dark or facts.life.closing or queue_is_full(facts, call)


def forgotten(facts: Facts, call: Call) -> bool:
    """Hold where somebody took a version out of the registry, which lets go of one in quarantine."""
    return nobody_else(facts, call) and any(order.kind == "unregister" for order in facts.ordered(about_models(call)))


def revoked(facts: Facts, call: Call) -> bool:
    """Hold where a drain of these models was ordered that ends its holders; also in an earlier life."""
    models = set(about_models(call))
    return nobody_else(facts, call) and any(
        order.options["drain"].then == "cancel"
        for life in facts.life.run.lives
        for order in life.calls
        if order.options.get("drain") is not None and models.intersection(about_models(order))
    )


def queue_is_full(facts: Facts, call: Call) -> bool:
    """Hold where a version of these models has as many in its queue as it has room for, in this very step.

    Looked up inside: from outside nobody sees which of the requests of a moment wait and which run.
    """
    models = about_models(call)
    return any(
        loaded.key.model in models and max(len(loaded.lane), len(loaded.aside)) >= loaded.spec.queue_limit
        for loaded in facts.life.engine._host.living()
    )


def given_back_twice(_facts: Facts, call: Call) -> bool:
    """Hold where the actor gave back twice what he took once."""
    return bool(call.options.get("twice"))


# --- time -------------------------------------------------------------------------------------------------------------


def out_of_time(_facts: Facts, call: Call) -> bool:
    """Hold where the call had a limit, and it has passed."""
    return call.timeout_s is not None and _took_s(call) >= call.timeout_s - EARLY_S


def load_out_of_time(facts: Facts, call: Call) -> bool:
    """Hold where the load had as long as its version allows."""
    part = facts.life.cast.parts.get(names_of(call)[0])
    return part is not None and _took_s(call) >= part.load_timeout_s - EARLY_S


# --- loads ------------------------------------------------------------------------------------------------------------


def loader_raised(facts: Facts, call: Call) -> bool:
    """Hold where a loader has raised since."""
    return facts.grew(call, "load-raises", "load-leaks")


def has_just_failed(facts: Facts, call: Call) -> bool:
    """Hold where the version failed in this moment: an order that its actor had not read yet shares its end."""
    return any(facts.states.get(name) == "failed" and facts.told_s[name] == call.ended_s for name in names_of(call))


def warm_up_raised(facts: Facts, call: Call) -> bool:
    """Hold where a model has raised on its warm-up data since."""
    return facts.grew(call, "warm-up-raises")


def opposite_ordered(facts: Facts, call: Call) -> bool:
    """Hold where somebody ordered something else of the same model meanwhile, perhaps the opposite."""
    own = getattr(getattr(call.error, "operation", None), "id", None)
    return bool(facts.overlapped(call)) or any(
        facts.was_recovering(call, model) or facts.was_swapping(call, model, but=own) for model in about_models(call)
    )


def budget_is_small(facts: Facts, _call: Call) -> bool:
    """Hold where the engine has a memory budget."""
    return facts.life.run.shape.options.get("memory_budget_bytes") is not None


def loads_hang(facts: Facts, _call: Call) -> bool:
    """Hold where so many threads were left behind as may be; warm-ups are not told of, so they are believed."""
    limit: int = facts.life.run.shape.options.get("stuck_loads_max", 8)
    warms_up = any(part.warm_ups for part in facts.life.run.shape.parts)
    return facts.stuck >= limit or warms_up or any(call.kind == "warm_up" for call in facts.life.calls)


# --- swaps ------------------------------------------------------------------------------------------------------------

_SWAPS = ("swap", "swap_group", "start_swap", "rollback")
_MET = (
    "load-raises", "load-leaks", "load-hangs", "load-slow", "warm-up-raises", "predict-raises", "predict-hangs",
    "predict-slow", "model-beyond-use", "close-raises", "close-hangs", "journal-full", "journal-fsync", "journal-slow",
    "journal-hung",
)  # fmt: skip
"""The faults by which a swap may fail."""


def swap_in_progress(facts: Facts, call: Call) -> bool:
    """Hold where another swap of the same model was on its way, or next in line."""
    other = any(order.kind in _SWAPS for order in facts.overlapped(call))
    return other or any(
        facts.was_swapping(call, model) or facts.is_in_line(model) or facts.was_recovering(call, model)
        for model in about_models(call)
    )


def nothing_to_swap(facts: Facts, call: Call) -> bool:
    """Hold where the target was active already, or nothing was."""
    active = any(facts.was_active(call, name) for name in names_of(call))
    return active or any(facts.was_dark(call, model) for model in about_models(call)) or swap_in_progress(facts, call)


def superseded(facts: Facts, call: Call) -> bool:
    """Hold where somebody ordered a swap, behind this one, that takes the place of others; also in an earlier life."""
    models = set(about_models(call))
    return any(
        order.options.get("on_busy") == "supersede" and models.intersection(about_models(order))
        for life in facts.life.run.lives
        for order in life.calls
        if order is not call and (order.number > call.number or not _is_own(call))
    )


def turned_round(facts: Facts, call: Call) -> bool:
    """Hold where somebody ordered the swap back, its guard or drain turns it round, or a version went at its pivot.

    A call that waits for the swap of another one may also hear of that one's caller who went away.
    """
    orders = [call, *facts.overlapped(call)] if _is_own(call) else facts.ordered(about_models(call))
    steered = any(order.kind in ("rollback", "abort") for order in orders)
    swaps = [call] if _is_own(call) else orders
    guarded = any(getattr(order.options.get("plan"), "guard", None) is not None for order in swaps)
    drained = any(order.options["drain"].then == "rollback" for order in swaps if order.options.get("drain"))
    left = not _is_own(call) and any(order.end == "cancelled" for order in orders)
    gone = any(facts.has_failed(call, model) for model in about_models(call))
    return steered or guarded or drained or left or gone


def a_version_went(facts: Facts, call: Call) -> bool:
    """Hold where a version of the models has failed since, or somebody wanted one gone: a swap cannot go on without."""
    gone = any(order.kind in ("unload", "unregister") for order in facts.overlapped(call))
    return gone or any(facts.has_failed(call, model) for model in about_models(call))


def something_goes_wrong(facts: Facts, call: Call) -> bool:
    """Hold where a fault has struck since that a swap may meet, the memory is short, or others order something."""
    struck = facts.life.run.faults.struck
    met = facts.grew(call, *_MET) if _is_own(call) else any(struck[fault] for fault in _MET)
    failed = any(facts.was_dark(call, model) or facts.has_failed(call, model) for model in about_models(call))
    return met or failed or budget_is_small(facts, call) or opposite_ordered(facts, call)


_LATE = ("SwapTimeout", "LoadTimeout")
"""What is told of a step that was late, also of one that was being undone."""


def has_little_time(facts: Facts, call: Call) -> bool:
    """Hold where a step was late, of a swap that was ordered with little time for its steps."""
    late = any(name in f"{call.error!r} {getattr(call.error, '__cause__', None)!r}" for name in _LATE)
    ordered = (
        [call]
        if _is_own(call)
        else [one for one in facts.life.calls if set(about_models(one)) & set(about_models(call))]
    )
    return late and any(one.options.get("timeouts") is not None for one in ordered)


# --- small things -----------------------------------------------------------------------------------------------------


def _is_own(call: Call) -> bool:
    """Return whether a call waits for the very swap that it has ordered."""
    return call.kind in ("swap", "swap_group")


def _took_s(call: Call) -> float:
    return (call.ended_s or 0.0) - call.began_s


def _bad(facts: Facts, name: str) -> bool:
    part = facts.life.cast.parts.get(name)
    return part is not None and part.bad > 0
