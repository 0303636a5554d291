"""Ctrl-C in the places where it hurts most."""

from __future__ import annotations

import signal

import pytest
import trio

import changeover
from changeover.core.ledger import Account
from changeover.runtime.mailbox import RequestLane
from changeover.runtime.router import Router
from tests.support.models import Cast
from tests.support.rig import open_rig


def interrupted_after(method):
    """Return `method` with Ctrl-C right behind it."""

    def with_ctrl_c(self, *args, **kwargs):
        value = method(self, *args, **kwargs)
        signal.raise_signal(signal.SIGINT)
        return value

    return with_ctrl_c


@pytest.mark.parametrize(
    ("owner", "name"), [(RequestLane, "offer"), (Account, "take")], ids=["after admission", "after the pin"]
)
def test_ctrl_c_in_the_middle_of_a_request_loses_no_reference(monkeypatch, owner, name):
    """Ctrl-C between two steps of a request comes out as KeyboardInterrupt, and every reference is given back."""
    engines: list[changeover.Engine] = []

    async def main():
        async with open_rig(real=True, cast=Cast()) as rig:
            engines.append(rig.engine)
            await rig.ready(execution="worker")
            monkeypatch.setattr(owner, name, interrupted_after(getattr(owner, name)))
            await rig.engine.infer("m", {})

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert engines[0].audit().clean
    assert engines[0].audit().total.acquired == 1


def test_ctrl_c_in_the_middle_of_taking_a_lease_loses_no_reference(monkeypatch):
    """Ctrl-C while a lease is being entered is raised behind that, inside the block that gives it back."""
    engines: list[changeover.Engine] = []

    async def main():
        async with open_rig(real=True, cast=Cast()) as rig:
            engines.append(rig.engine)
            await rig.ready()
            monkeypatch.setattr(Router, "pin", interrupted_after(Router.pin))
            with rig.engine.lease("m", version="1"):
                await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert engines[0].audit().clean
