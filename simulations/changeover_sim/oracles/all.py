"""All oracles, in the order of their promises."""

from __future__ import annotations

from changeover_sim.oracles.apart import Apart
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.guard import Guarding
from changeover_sim.oracles.promise_01_answered import Promise01Answered
from changeover_sim.oracles.promise_02_closed import Promise02Closed
from changeover_sim.oracles.promise_03_conserved import Promise03Conserved
from changeover_sim.oracles.promise_04_sagas import Promise04Sagas
from changeover_sim.oracles.promise_05_traffic import Promise05Traffic
from changeover_sim.oracles.promise_06_drain import Promise06Drain
from changeover_sim.oracles.promise_07_bystander import Promise07Bystander
from changeover_sim.oracles.promise_08_queues import Promise08Queues
from changeover_sim.oracles.promise_09_journal import Promise09Journal
from changeover_sim.oracles.promise_10_budget import Promise10Budget
from changeover_sim.oracles.supervision import Supervision
from changeover_sim.oracles.zero_waits import ZeroWaits

ORACLES: tuple[type[Oracle], ...] = (
    Promise01Answered,
    Promise02Closed,
    Promise03Conserved,
    Promise04Sagas,
    Guarding,
    Promise05Traffic,
    Promise06Drain,
    ZeroWaits,
    Promise07Bystander,
    Apart,
    Supervision,
    Promise08Queues,
    Promise09Journal,
    Promise10Budget,
)
"""The eleventh promise, that the same seed gives the same trace, is judged over two runs: see the fleet."""
