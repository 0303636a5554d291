"""The scenarios by name: kinds of runs, each of which draws from its seed what a run is like."""

from collections.abc import Mapping

from changeover_sim.scenarios import (
    canary_storm,
    crash_recovery,
    drain_race,
    everything,
    eviction_pressure,
    group_swap,
    shutdown_any_time,
    supervisor_storm,
    swap_storm,
)
from changeover_sim.simulate.shape import Scenario

SCENARIOS: Mapping[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        swap_storm,
        canary_storm,
        drain_race,
        crash_recovery,
        eviction_pressure,
        supervisor_storm,
        group_swap,
        shutdown_any_time,
        everything,
    )
}
