"""Whose turn it is: one slot for each model, a line behind it, and nobody is forgotten."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core.values import VersionKey
from changeover.runtime.slots import Slots


class Order:
    """A contender that notes when its turn comes."""

    keys = news = frozenset[VersionKey]()

    def __init__(self, name: str, *models: str) -> None:
        self.name = name
        self.models = models or ("m",)
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def told(self, model: str) -> str:
        return f"{self.name} has {model}"

    def __repr__(self) -> str:
        return self.name


def entered(slots: Slots, model: str, *names: str) -> list[Order]:
    """Let contenders enter, in this order."""
    orders = [Order(name, model) for name in names]
    for order in orders:
        slots.enter(order)
    return orders


def test_the_first_one_has_its_turn_and_the_others_wait_in_line() -> None:
    """A free slot is taken at once; who comes later hears nothing until then."""
    slots = Slots()
    a, b, c = entered(slots, "m", "a", "b", "c")
    assert (slots.holder("m"), slots.waiting("m")) == (a, (b, c))
    assert (a.begun, b.begun, c.begun) == (1, 0, 0)


def test_who_leaves_gives_the_slot_to_the_next_in_line() -> None:
    """In the order of their coming; the last one leaves nothing behind."""
    slots = Slots()
    a, b, c = entered(slots, "m", "a", "b", "c")
    slots.leave(a)
    assert (slots.holder("m"), slots.waiting("m"), b.begun) == (b, (c,), 1)
    slots.leave(b)
    slots.leave(c)
    assert (slots.holder("m"), slots.waiting("m"), slots.everybody()) == (None, (), ())
    assert (slots._holders, slots._line) == ({}, [])


def test_who_leaves_the_line_is_never_begun() -> None:
    """The others keep their order."""
    slots = Slots()
    a, b, c = entered(slots, "m", "a", "b", "c")
    slots.leave(b)
    slots.leave(a)
    assert (slots.holder("m"), b.begun, c.begun) == (c, 0, 1)


def test_leaving_twice_changes_nothing() -> None:
    """Nor does leaving without having entered."""
    slots = Slots()
    a, b = entered(slots, "m", "a", "b")
    slots.leave(a)
    slots.leave(a)
    slots.leave(Order("stranger"))
    assert (slots.holder("m"), b.begun) == (b, 1)


def test_a_slot_is_taken_back_only_where_it_is_free() -> None:
    """A swap behind its pivot that is turned round needs it again, and must not push anybody out."""
    slots = Slots()
    a, b = entered(slots, "m", "a", "b")
    assert slots.take_back(a)
    slots.leave(a)
    assert not slots.take_back(a)
    slots.leave(b)
    assert slots.take_back(a)
    assert (slots.holder("m"), a.begun) == (a, 1)


def test_models_have_slots_of_their_own() -> None:
    """Nobody waits for another model."""
    slots = Slots()
    (a,), (b,) = entered(slots, "m", "a"), entered(slots, "n", "b")
    assert (a.begun, b.begun, slots.holder("m"), slots.holder("n")) == (1, 1, a, b)


def test_everybody_is_the_line_from_its_end_and_then_the_holders() -> None:
    """So that nobody who is turned round gives his turn to somebody who is turned round next."""
    slots = Slots()
    a, b, c = entered(slots, "m", "a", "b", "c")
    d, e = entered(slots, "n", "d", "e")
    assert slots.everybody() == (e, c, b, a, d)


def test_a_turn_may_end_in_the_moment_in_which_it_begins() -> None:
    """Who leaves in `begin` passes the slot on; the line does not stop."""
    slots = Slots()

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
    slots = Slots()
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


# --- groups ---------------------------------------------------------------------------------------------------------


def group(slots: Slots, *names: str) -> list[Order]:
    """Let groups enter, in this order: the letters of its name are the models that a group wants."""
    orders = [Order(name, *name) for name in names]
    for order in orders:
        slots.enter(order)
    return orders


def begun(*orders: Order) -> list[int]:
    """Return how often each has begun."""
    return [order.begun for order in orders]


def test_a_group_has_its_turn_once_all_of_its_models_are_free() -> None:
    """It takes none of them before: whoever wants only what is free and not waited for need not wait."""
    slots = Slots()
    a, b, ab, c = group(slots, "a", "b", "ab", "c")
    assert begun(a, b, ab, c) == [1, 1, 0, 1]
    slots.leave(a)
    assert (slots.holder("a"), ab.begun) == (None, 0)
    slots.leave(b)
    assert (slots.holder("a"), slots.holder("b"), ab.begun) == (ab, ab, 1)


def test_nobody_passes_by_a_group_that_waits_for_the_same() -> None:
    """A stream of singles of a free model does not starve the group that wants it as well as a taken one."""
    slots = Slots()
    a, ab, b, b_too = group(slots, "a", "ab", "b", "b")
    assert begun(a, ab, b, b_too) == [1, 0, 0, 0]
    assert (slots.holder("b"), slots.waiting("b"), slots.is_busy("b")) == (None, (ab, b, b_too), True)
    slots.leave(a)
    assert begun(ab, b, b_too) == [1, 0, 0]
    slots.leave(ab)
    assert begun(b, b_too) == [1, 0]


def test_a_group_that_leaves_the_line_lets_everybody_behind_it_go_on() -> None:
    """Several may begin at once, and in the order of their coming."""
    slots = Slots()
    a, abc, b, c, cb = group(slots, "a", "abc", "b", "c", "cb")
    slots.leave(abc)
    assert begun(a, abc, b, c, cb) == [1, 0, 1, 1, 0]
    assert slots.everybody() == (cb, a, b, c)


def test_groups_that_cross_all_have_their_turn() -> None:
    """A ring of wishes is no deadlock: each takes all or nothing."""
    slots = Slots()
    orders = group(slots, "ab", "bc", "ca", "abc", "a")
    for order in orders:
        assert order.begun == 1, order
        slots.leave(order)
    assert begun(*orders) == [1] * 5
    assert (slots._holders, slots._line) == ({}, [])


def test_a_group_takes_all_of_its_slots_back_or_none() -> None:
    """Where one of them is taken the others stay free."""
    slots = Slots()
    ab, b = group(slots, "ab", "b")
    slots.leave(ab)
    assert (slots.holder("b"), slots.take_back(ab), slots.holder("a")) == (b, False, None)
    slots.leave(b)
    assert slots.take_back(ab)
    assert (slots.holder("a"), slots.holder("b"), ab.begun) == (ab, ab, 1)
    (a,) = group(slots, "a")
    assert a.begun == 0
    slots.leave(ab)
    assert a.begun == 1


def test_a_group_may_end_in_the_moment_in_which_it_begins() -> None:
    """Whoever waits behind it has his turn, each once, however many end like that."""
    slots = Slots()

    class Hasty(Order):
        def begin(self) -> None:
            super().begin()
            slots.leave(self)

    first, hasty = Order("ab", *"ab"), [Hasty("b", *"b"), Hasty("ab", *"ab"), Hasty("bc", *"bc")]
    last = Order("c", *"c")
    for order in (first, *hasty, last):
        slots.enter(order)
    slots.leave(first)
    assert begun(*hasty, last) == [1, 1, 1, 1]
    assert (slots._holders, slots._line) == ({"c": last}, [])


WISHES = st.sets(st.sampled_from("abcd"), min_size=1, max_size=3).map(sorted).map(tuple)


@settings(derandomize=True, deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from(["enter", "enter", "leave", "pivot", "back"]), WISHES), max_size=40))
def test_it_is_the_turn_of_whom_nobody_before_is_in_the_way(moves: list[tuple[str, tuple[str, ...]]]) -> None:
    """Of all who are there, in the order of their coming: who shares no model with anybody before him, and no other."""
    slots, there, past = Slots(), list[Order](), list[Order]()
    for number, (move, models) in enumerate(moves):
        if move == "enter":
            there.append(Order(f"{number}:{''.join(models)}", *models))
            slots.enter(there[-1])
        elif move == "back" and past:  # a swap behind its pivot wants its slots back; it goes before all who wait
            swap = past.pop(number % len(past))
            free = all(not set(swap.models) & set(other.models) for other in there if other.begun)
            assert slots.take_back(swap) is free
            there[:0] = [swap] if free else []
        elif move != "back" and there:
            swap = there.pop(number % len(there))
            slots.leave(swap)
            past += [swap] if move == "pivot" and swap.begun else []
        turns = [swap for n, swap in enumerate(there) if all(set(swap.models).isdisjoint(o.models) for o in there[:n])]
        assert [swap.begun for swap in there] == [int(swap in turns) for swap in there]
        for model in "abcd":
            wanting = [swap for swap in there if model in swap.models]
            assert slots.holder(model) is next((swap for swap in wanting if swap in turns), None)
            assert slots.waiting(model) == tuple(swap for swap in wanting if swap not in turns)
            assert slots.is_busy(model) is bool(wanting)
