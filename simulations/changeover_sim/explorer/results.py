"""What an exploration brings: the result, and the failure with all that is known of it.

Values only.
"""

from __future__ import annotations

from typing import Literal

import attrs

from changeover_sim.explorer.trace import Step
from changeover_sim.explorer.waits import Wait

Verdict = Literal["exception", "deadlock", "livelock", "leftover", "nondeterminism"]


@attrs.frozen(eq=False)
class Failure:
    """A schedule that failed; `str()` of it is the report for people."""

    verdict: Verdict
    """`exception`: the program raised; `deadlock`: tasks wait for each other, or for nobody; `livelock`: it does not
    end; `leftover`: it returned and left tasks running; `nondeterminism`: the same schedule went another way."""
    exception: BaseException | None
    """What the program raised, its traceback with it; None for the other verdicts."""
    token: str
    """Runs this schedule again: `replay(program, token)`, or `changeover replay TOKEN` where `program` has a name."""
    schedule_index: int
    """The number of the schedule in its exploration, from 0."""
    policy: str
    """The policy that found it; of a portfolio, the arm that did."""
    seed: int
    """The seed of the exploration."""
    program: str
    """`module:qualified.name`."""
    trace: tuple[Step, ...]
    """The steps of the schedule; of one with more than 2,000 the last 2,000."""
    waiting: tuple[Wait, ...] = ()
    """Where it does not end: every task that waits, in what, and who holds that."""
    leftover: tuple[str, ...] = ()
    """The tasks that were alive when the program had returned."""
    difference: str = ""
    """For nondeterminism: the first thing that differed."""
    stock: bool = True
    """Whether stock Trio, which runs each ready task once per batch, could have made this schedule."""

    def __str__(self) -> str:
        from changeover_sim.explorer.report import failure_text  # noqa: PLC0415 - the report knows this class

        return failure_text(self)


@attrs.frozen(eq=False)
class Result:
    """What an exploration found."""

    failure: Failure | None
    """The first schedule that failed; None: none did."""
    schedules_run: int
    """How many schedules were run, the failing one included, and none that was run again to check it."""
    schedules_per_s: float
    """How fast, in real time."""
    exhausted: bool
    """Whether every schedule that the policy knows of was run."""
    policy: str
    seed: int
    stopped: bool = False
    """Whether the exploration ended early because its `seconds` were over."""
    notes: tuple[str, ...] = ()
    """What was seen and could not be controlled, such as files that the program writes."""

    @property
    def arm(self) -> str | None:
        """The policy that found the failure, which of a portfolio is one of many; None: nothing failed."""
        return None if self.failure is None else self.failure.policy

    def __str__(self) -> str:
        from changeover_sim.explorer.report import result_text  # noqa: PLC0415 - the report knows this class

        return result_text(self)
