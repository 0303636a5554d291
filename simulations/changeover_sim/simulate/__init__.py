"""The engine under simulation: the real engine code in a hostile virtual world, watched by its promises.

A run is decided by a scenario, a seed and a policy alone. `play.py` runs one, `fleet.py` many.
"""
