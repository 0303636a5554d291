"""What a planted bug is: one piece of one engine module, and what stands there instead.

Owns nothing; says nothing about how a mutant is planted (`planting`) or looked for.
"""

import attrs


@attrs.frozen
class Mutant:
    """One bug that somebody could have written, as a patch of the real engine."""

    name: str
    """What the bug is, in kebab-case; no other mutant has this name."""

    promise: int
    """The promise, 1 to 11, that it breaks above all; the oracle of that one must see it."""

    scenario: str
    """The scenario that looks for it."""

    module: str
    """The engine module that is patched, `changeover.runtime.router`."""

    old: str
    """A piece of that module's source; it occurs there exactly once."""

    new: str
    """What stands there instead, indented alike."""

    says: str
    """One line: what somebody careless did here, and what breaks."""
