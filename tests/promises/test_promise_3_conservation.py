"""Promise 3: acquired = released + held, at every step, and nothing is held at rest."""

from __future__ import annotations

import threading

import trio
from hypothesis import given, settings

from changeover.core.messages import fold
from tests.support.rig import open_rig
from tests.support.threads import Crowd
from tests.support.witness import conservation
from tests.support.workload import Plan, plans, play


@settings(derandomize=True, deadline=None, max_examples=30)
@given(plan=plans(faults=True))
def test_the_books_balance_after_every_step(plan: Plan) -> None:
    """After each step of each task every account is conserved, and is the fold over its own messages."""
    record = play(plan, conservation)
    assert record.witness.wrongs == []
    assert record.witness.steps > 100


@settings(derandomize=True, deadline=None, max_examples=30)
@given(plan=plans(faults=True))
def test_nothing_is_held_at_rest(plan: Plan) -> None:
    """When all is over, whatever it was, the audit is clean and as many references were released as taken."""
    record = play(plan)
    audit = record.audit
    assert audit is not None
    assert audit.clean
    assert audit.total.acquired == audit.total.released
    assert audit.total.over_releases == 0


async def test_every_audit_balances_while_threads_are_at_work() -> None:
    """Audits taken from a thread of their own, in the middle of eight others and of swaps: each one adds up."""
    async with open_rig(real=True) as rig:
        await rig.ready("m", "1")
        rig.add("m", "2")
        crowd, over = Crowd(), threading.Event()
        audits: list[int] = []

        def use() -> None:
            for _ in range(300):
                with rig.engine.lease("m"):
                    pass

        def audit() -> None:
            while not over.is_set():
                total = rig.engine.audit().total
                assert total.acquired == total.released + total.held
                audits.append(total.held)

        for _ in range(8):
            crowd.add(use)
        auditor = Crowd()
        auditor.add(audit)
        crowd.start()
        auditor.start()
        for turn in range(10):
            await rig.engine.swap("m", "12"[(turn + 1) % 2])
        await trio.to_thread.run_sync(crowd.join)
        over.set()
        await trio.to_thread.run_sync(auditor.join)
        total = rig.engine.audit().total
        assert (total.acquired, total.released, total.held) == (2_400, 2_400, 0)
        assert audits


async def test_the_messages_of_many_threads_fold_to_the_balance() -> None:
    """With `debug_references` the log of eight threads is in an order that replays to what is there."""
    async with open_rig(real=True, debug_references=True) as rig:
        await rig.ready()
        crowd = Crowd()

        def use(number: int) -> None:
            for turn in range(100):
                with rig.engine.lease("m", request_id=f"{number}-{turn}" if turn % 2 else None):
                    pass

        for number in range(8):
            crowd.add(use, number)
        crowd.start()
        await trio.to_thread.run_sync(crowd.join)
        (loaded,) = rig.engine._host.living()
        balance, held = fold(loaded.account.log)
        assert (balance, held) == (loaded.account.balance(), {})
        assert balance.acquired == 800
