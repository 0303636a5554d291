"""Policies: who runs next. One small file each, behind the two methods of `base.Policy` and `base.Strategy`."""

from changeover_sim.policies.base import Policy as Policy
from changeover_sim.policies.base import Strategy as Strategy
from changeover_sim.policies.exhaustive import Exhaustive as Exhaustive
from changeover_sim.policies.pct import PCT as PCT
from changeover_sim.policies.random_walk import RandomWalk as RandomWalk
