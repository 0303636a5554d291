"""The published kernels: their bugs are found, their corrected twins have none. Figures: bench_explore.py."""

from __future__ import annotations

import importlib

import pytest

from changeover_sim import PCT, RandomWalk, explore, replay
from changeover_sim.kernels import KERNELS, Kernel, Program

CAP = 10_000
"""The published protocol's limit."""

BUGGY = [
    pytest.param(kernel, program, id=f"{kernel.name}-{port}")
    for kernel in KERNELS.values()
    for port, program in kernel.programs.items()
]


@pytest.mark.parametrize(("kernel", "program"), BUGGY)
def test_the_bug_is_found_and_replays(kernel: Kernel, program: Program) -> None:
    """Each port of each kernel fails as published within 10,000 schedules, and its token fails in the same way."""
    failure = explore(program, schedules=CAP, policy=PCT(3)).failure
    assert failure is not None
    assert failure.verdict == kernel.verdict
    again = replay(program, failure.token)
    assert again.failure is not None
    assert (again.failure.verdict, again.notes) == (kernel.verdict, ())


@pytest.mark.parametrize("policy", [RandomWalk(), PCT(3)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda kernel: kernel.name)
def test_the_corrected_twin_never_fails(kernel: Kernel, policy: RandomWalk | PCT) -> None:
    """What makes a kernel fail is its bug, and nothing that the port brought in."""
    result = explore(kernel.fixed, schedules=200, policy=policy)
    assert result.failure is None, str(result.failure)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda kernel: kernel.name)
def test_each_program_is_where_its_name_says(kernel: Kernel) -> None:
    """Every program can be imported by the name in its tokens, so that `changeover replay` finds it."""
    for program in kernel:
        assert getattr(importlib.import_module(program.__module__), program.__name__) is program
