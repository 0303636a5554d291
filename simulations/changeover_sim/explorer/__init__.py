"""The explorer: runs any Trio program under every order of its steps, and replays exactly the one that failed.

It knows nothing of models and imports nothing of the engine. `inside_trio` holds all that is private of Trio.
"""
