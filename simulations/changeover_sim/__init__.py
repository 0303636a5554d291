"""Simulation of Trio programs, and of the engine in a world of virtual time."""

from changeover_sim.ports import Duration as Duration
from changeover_sim.ports import World as World
from changeover_sim.ports import open_world as open_world

__all__ = ["Duration", "World", "open_world"]
