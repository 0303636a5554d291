"""Whose turn it is: one slot for each model, a line behind it, and nobody is forgotten."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.runtime.slots import Slots


class Order:
    """A contender that notes when its turn comes."""

    def __init__(self, name: str, *models: str) -> None:
        self.name = name
        self.models = models or ("m",)
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def __repr__(self) -> str:
        return self.name


def entered(slots: Slots[Order], model: str, *names: str) -> list[Order]:
    """Let contenders enter, in this order."""
    orders = [Order(name, model) for name in names]
    for order in orders:
        slots.enter(order)
    return orders


def test_the_first_one_has_its_turn_and_the_others_wait_in_line() -> None:
    """A free slot is taken at once; who comes later hears nothing until then."""
    slots: Slots[Order] = Slots()
    a, b, c = entered(slots, "m", "a", "b", "c")
    assert (slots.holder("m"), slots.waiting("m")) == (a, (b, c))
    assert (a.begun, b.begun, c.begun) == (1, 0, 0)


def test_who_leaves_gives_the_slot_to_the_next_in_line() -> None:
    """In the order of their coming; the last one leaves nothing behind."""
    slots: Slots[Order] = Slots()
    a, b, c = entered(slots, "m", "a", "b", "c")
    slots.leave(a)
    assert (slots.holder("m"), slots.waiting("m"), b.begun) == (b, (c,), 1)
    slots.leave(b)
    slots.leave(c)
    assert (slots.holder("m"), slots.waiting("m"), slots.everybody()) == (None, (), ())
    assert (slots._holders, slots._line) == ({}, [])


def test_who_leaves_the_line_is_never_begun() -> None:
    """The others keep their order."""
    slots: Slots[Order] = Slots()
    a, b, c = entered(slots, "m", "a", "b", "c")
    slots.leave(b)
    slots.leave(a)
    assert (slots.holder("m"), b.begun, c.begun) == (c, 0, 1)


def test_leaving_twice_changes_nothing() -> None:
    """Nor does leaving without having entered."""
    slots: Slots[Order] = Slots()
    a, b = entered(slots, "m", "a", "b")
    slots.leave(a)
    slots.leave(a)
    slots.leave(Order("stranger"))
    assert (slots.holder("m"), b.begun) == (b, 1)


def test_a_slot_is_taken_back_only_where_it_is_free() -> None:
    """A swap behind its pivot that is turned round needs it again, and must not push anybody out."""
    slots: Slots[Order] = Slots()
    a, b = entered(slots, "m", "a", "b")
    assert slots.take_back(a)
    slots.leave(a)
    assert not slots.take_back(a)
    slots.leave(b)
    assert slots.take_back(a)
    assert (slots.holder("m"), a.begun) == (a, 1)


def test_models_have_slots_of_their_own() -> None:
    """Nobody waits for another model."""
    slots: Slots[Order] = Slots()
    (a,), (b,) = entered(slots, "m", "a"), entered(slots, "n", "b")
    assert (a.begun, b.begun, slots.holder("m"), slots.holder("n")) == (1, 1, a, b)


def test_everybody_is_the_line_from_its_end_and_then_the_holders() -> None:
    """So that nobody who is turned round gives his turn to somebody who is turned round next."""
    slots: Slots[Order] = Slots()
    a, b, c = entered(slots, "m", "a", "b", "c")
    d, e = entered(slots, "n", "d", "e")
    assert slots.everybody() == (e, c, b, a, d)


def test_a_turn_may_end_in_the_moment_in_which_it_begins() -> None:
    """Who leaves in `begin` passes the slot on; the line does not stop."""
    slots: Slots[Order] = Slots()

    class Hasty(Order):
        def begin(self) -> None:
            super().begin()
            slots.leave(self)

    first, last = Order("first"), Order("last")
    hasty = [Hasty(str(number)) for number in range(3)]
    for order in (first, *hasty, last):
        slots.enter(order)
    slots.leave(first)
    assert (slots.holder("m"), [order.begun for order in (*hasty, last)]) == (last, [1, 1, 1, 1])
    assert slots.waiting("m") == ()


@settings(derandomize=True, deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from("mn"), st.integers(-1, 5)), max_size=60))
def test_turns_come_once_and_in_order(moves: list[tuple[str, int]]) -> None:
    """Whoever comes and goes: the first one holds the slot, was begun once, and nobody else was begun."""
    slots: Slots[Order] = Slots()
    there: dict[str, list[Order]] = {"m": [], "n": []}
    for number, (model, leaves) in enumerate(moves):
        line = there[model]
        if leaves < 0 or not line:
            line.append(Order(str(number), model))
            slots.enter(line[-1])
        else:
            slots.leave(line.pop(leaves % len(line)))
        assert slots.holder(model) is (line[0] if line else None)
        assert slots.waiting(model) == tuple(line[1:])
        assert [order.begun for order in line] == [1, *[0] * (len(line) - 1)][: len(line)]
