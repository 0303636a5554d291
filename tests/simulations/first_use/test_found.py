"""Every bug of the engine that the explorer has found: the very schedule that showed it, and others, go well now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from changeover_sim import PCT, replay
from tests.simulations.first_use import found

Program = Callable[[], Awaitable[None]]

TOKENS = {
    found.swap_at_close: (
        "sx1-eNoVjEEOwiAQRdurzEqTKQGhYDyGGxfGNKOlkUjBdCCNt7f9q_cW79-heC4sOMw1Ugk5sZjCwmWo7MWUaxovvNJ3oDK8"
        "YmYPCJR-3VJTomfcdX371IVxZyW3YS8kKttbq6WxGuFKaczzjeLncASUaNBI1M5JZc_anBCk0FuzXWmhlHDwaJq2bdo_If8s"
        "mg"
    ),
    found.cancelled_at_its_opening: (
        "sx1-eNoVjMEOwiAQRP0WTprQDYQSN36GFw_GEGy3SqSL6UKMfy_OXN4c3lxVJakCktaWY02FBZa0SQ1NCJbSeD5NkSfKmeYQ"
        "a0hVQnkTJ34orSJ_h60xx3umPj9P4iHNf7amR3sw2iKO6Dw6rc6R57JeYn7tD0qb3lE779F6g4haGXDd6EcOrIWjuu1-lWgw"
        "rg"
    ),
    found.load_called_off_as_the_model_closes: (
        "sx1-eNptjE0OwiAQhelVWGlCCZTWWo_hxoUxZCzTlEgh6UCMtxf3fqv38n7uPCNlkuS3EiD7FEkufqdsC6FcUonuEhI4O0MI"
        "6GxaFgtk84p2Sw6DnUMiJC44xE-7lxjhGbDa94qx9e6ntaqIQSrR6WE0Xd_3WvArRJe2G4TX4chFzZSYtNDjyUzGTOfaUNLU"
        "Uf0yUms58gdjrGH_aL4_5TWU"
    ),
    found.load_late_as_the_model_closes: (
        "sx1-eNoVjMEKwjAQRP2WnBS2Idu0Wv0MLx5Ewmq2NJgm0E0Q_944pxnezNxVYSmiJaw1Ugk5iZ7DJsVVYT3nmvwlZvKuQXYk"
        "rizs1uw5ulfMwqJAUfp2W02JnpFb_CycuuD_Hk0TjNqA7Qc8o7XTBOpKyef1RvG9PygwgH0rTtDYCQeDxxGU0bat2pnViPqk"
        "Hrsfpbgzaw"
    ),
    found.drain_that_ends_as_its_time_is_up: (
        "sx1-eNoVjMEKwjAQRP2WnBTSkJBWUz_DiweRZSUpLrZb6W4Q_944c3lzeHMzWkTFCS11RqWVxU20iUKV4qa1cj7nDYlBn6hQ"
        "OAugAKmA0lKABOrbWIP87bbKjI-5tPl5Fu4o_zn4Fjs4b0NKfYpDitZckPO6XHF-7Q_G-tbB235MaRj9MVnjXWxGO4ouBHcy"
        "990P_GE0fg"
    ),
    found.rollback_at_close: (
        "sx1-eNpljMEOgjAQROVX9qRJabpWpPgZXjwYQwqU2FC2CdvG-PeWs28u8w4zT0iOE0v2aw42-UgsZ79x6jM7OcdM022LIQx2"
        "XHqb-jFEdiDA0rfeMpEdwq6ft6PaT3tHVRCNVAKNuRjdGC3gbmmK68OG5XgCoUraTmCLRnfNFc8ClNRlUp60RJQtvA7V4Y_q"
        "B6K6Lgo"
    ),
}
"""By program: the shrunk schedule in which it failed, made with the engine as it was before the bug was mended."""


@pytest.mark.parametrize("program", found.PROGRAMS, ids=lambda program: program.__name__)
def test_the_schedule_that_failed_goes_well(program: Program) -> None:
    """The engine that had the bug fails in this schedule; it stays here for as long as the schedule can be run."""
    assert replay(program, TOKENS[program]).failure is None


@pytest.mark.explore(schedules=100)
@pytest.mark.parametrize("program", found.PROGRAMS, ids=lambda program: program.__name__)
async def test_other_schedules_go_well_too(program: Program) -> None:
    """A change to the engine may give the old schedule another meaning: so the bug is looked for as it was found."""
    await program()


@pytest.mark.slow
@pytest.mark.explore(schedules=100, policy=PCT(3))
@pytest.mark.parametrize("program", found.PROGRAMS, ids=lambda program: program.__name__)
async def test_schedules_by_priority_go_well_too(program: Program) -> None:
    """The same, with one task or another held back for long."""
    await program()
