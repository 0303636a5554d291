"""The plugins that come with Changeover: loaders, the demo and the `plugins` command.

They see only the engine's public names, and are found by entry point like anybody's; owns no state, spawns nothing.
"""
