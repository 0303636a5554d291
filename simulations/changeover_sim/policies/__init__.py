"""Policies: who runs next. One small file each, behind the two methods of `base.Policy` and `base.Strategy`."""

from changeover_sim.policies.base import Policy as Policy
from changeover_sim.policies.base import Strategy as Strategy
from changeover_sim.policies.dpor import DPOR as DPOR
from changeover_sim.policies.exhaustive import Exhaustive as Exhaustive
from changeover_sim.policies.pct import PCT as PCT
from changeover_sim.policies.portfolio import Portfolio as Portfolio
from changeover_sim.policies.pos import POS as POS
from changeover_sim.policies.random_walk import RandomWalk as RandomWalk
from changeover_sim.policies.starvation import Starvation as Starvation
from changeover_sim.policies.surw import SURW as SURW
