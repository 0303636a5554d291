"""What a suspended frame remembers, and the world beside it, as values that can be compared.

Python shows a frame's instruction and its locals, not its evaluation stack. So for every slot of that stack a frame
keeps notes: what was seen by the instructions that a value there came from. Frames with the same notes have the same
values there; the other way round is not true, which costs states and hides none. Every note is of one frame of one run.
"""

from __future__ import annotations

import dis
import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from types import CodeType, FrameType

from tests.engine.core.forms import Forms
from tests.engine.core.interleave import _LOCAL

# These see or change nothing but their frame as well. The operators are here because the traced code has them work on
# numbers, texts and frozen values only; what looks into a shared container is a call, a subscript, `in` or a test.
# A cell belongs to one thread. RETURN_VALUE goes back to code whose own next step is a switch again.
_FRAME_ONLY = (
    *_LOCAL, "BINARY_OP", "BUILD_", "CHECK_EXC_MATCH", "COMPARE_OP", "FORMAT_VALUE", "LIST_APPEND", "LOAD_CLOSURE",
    "LOAD_DEREF", "MAKE_FUNCTION", "MAP_ADD", "RAISE_VARARGS", "RERAISE", "RETURN_", "STORE_DEREF",
)  # fmt: skip
_FIELDS = ("DELETE_ATTR", "LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR")

_NAMES = ("LOAD_ATTR", "LOAD_GLOBAL", "LOAD_METHOD")

_LEAVES_NOTHING = ("DELETE_", "POP_", "RETURN_", "STORE_")
"""Takes values from the stack and puts none there."""

_REACHES_ITS_OPERANDS = (
    "BINARY_", "BUILD_", "CACHE", "CALL", "CHECK_EXC_MATCH", "COMPARE_", "CONTAINS_", "COPY_FREE_VARS", "FOR_ITER",
    "GET_ITER", "IS_OP", "JUMP_", "KW_NAMES", "LOAD_", "MAKE_CELL", "NOP", "NOT_TAKEN", "PRECALL", "PUSH_", "RESUME",
    "UNARY_", "UNPACK_SEQ",
)  # fmt: skip
"""Changes no slot below the lowest that it takes or fills. What is not listed may have changed any slot."""

_NO_FALL_THROUGH = ("JUMP_BACKWARD", "JUMP_FORWARD", "RAISE_VARARGS", "RERAISE", "RETURN_")


EVERYWHERE = ("",)
AT_CHANGES = ("CALL", "DELETE_", "STORE_")
NOWHERE = ()
"""Before which instructions others may run; of those, only before what touches more than its frame."""

READS = frozenset({"dict", "emit", "get", "items", "len", "max", "values"})
"""Calls that change nothing."""


def stored_names(codes: Iterable[CodeType]) -> frozenset[str]:
    """Return the attributes that some of the code binds again after its object was made."""
    return frozenset(
        step.argval
        for code in codes
        if code.co_name != "__init__"
        for step in dis.get_instructions(code)
        if step.opname in {"STORE_ATTR", "DELETE_ATTR"}
    )


class Table:
    """What the instructions of one piece of code do to the evaluation stack, by offset."""

    def __init__(
        self,
        code: CodeType,
        rebound: frozenset[str],
        steps: tuple[str, ...],
        pure: Container[object] = (),
        watched: Container[object] = (),
        calm: Container[object] = (),
    ) -> None:
        """Read the code.

        `steps`: before which instructions others may run, of those that touch more than the frame. `pure`: the globals
        that look at nothing but their arguments when they are called, and return what nobody else has. `watched`: what
        takes its own steps when it is called. `calm`: instructions, and attributes, before which nobody runs either.
        """
        self.code = code
        self.depths = _depths(code)
        """How many values are on the stack before the instruction."""
        self.lands: dict[int, int] = {}
        """The lowest slot that the instruction may change; missing where it leaves nothing on the stack."""
        self.points: set[int] = set()
        self.counts: set[int] = set()
        """Where the next of values that nobody else has is taken."""
        self.looks: dict[int, str | None] = {}
        """The attribute that it loads, None for anything else in the world; missing where it sees its frame only."""
        steps_here = list(dis.get_instructions(code))
        private = _private(steps_here, self.depths, pure)
        for place, step in enumerate(steps_here):
            depth = self.depths.get(step.offset)
            if depth is None:
                continue  # no way leads here
            if step.offset in private and step.opname == "FOR_ITER":
                self.counts.add(step.offset)
            if not step.opname.startswith(_LEAVES_NOTHING):
                after = depth + _effect(step, jump=False)
                reach = max(0, min(depth, after) - 1) if step.opname.startswith(_REACHES_ITS_OPERANDS) else 0
                self.lands[step.offset] = reach
            fixed = step.opname in _FIELDS and step.argval not in rebound
            if not fixed and step.offset not in private and not step.opname.startswith(_FRAME_ONLY):
                self.looks[step.offset] = step.argval if step.opname in _FIELDS else None
                calls = step.opname == "CALL" and _callee(steps_here, place, self.depths) in watched
                calms = step.opname in calm or (step.opname in _FIELDS and step.argval in calm)
                if step.opname.startswith(steps) and not calls and not calms:
                    self.points.add(step.offset)


def _callee(steps: Sequence[dis.Instruction], place: int, depths: Mapping[int, int]) -> str | None:
    """Return by which name the function was loaded that is called here: what was loaded last below the arguments."""
    below = depths.get(steps[place].offset, 0) - (steps[place].arg or 0)
    load = next((step for step in steps[place - 1 :: -1] if depths.get(step.offset, below) < below), steps[place])
    return load.argval if load.opname in _NAMES else None


def _private(steps: Sequence[dis.Instruction], depths: Mapping[int, int], pure: Container[object]) -> set[int]:
    """Return where a pure function is called, what it returned is iterated over, or a bool is branched on."""
    private: set[int] = set()
    for place, step in enumerate(steps):
        before = steps[place - 1]
        if step.opname == "CALL":
            found = _callee(steps, place, depths) in pure
        elif step.opname in {"GET_ITER", "FOR_ITER"}:
            found = before.offset in private and before.opname in {"CALL", "GET_ITER"}
        else:
            tested = before.opname in {"CHECK_EXC_MATCH", "COMPARE_OP", "CONTAINS_OP"} and not step.is_jump_target
            found = tested and step.opname.startswith("POP_JUMP")
        if found:
            private.add(step.offset)
    return private


def _effect(step: dis.Instruction, *, jump: bool) -> int:
    """Return how many values an instruction adds to the stack."""
    if "PRECALL" in dis.opmap and step.opname in {"PRECALL", "CALL"}:
        # Python 3.11 books the arguments under PRECALL; it is CALL that takes them.
        return 0 if step.opname == "PRECALL" else -1 - (step.arg or 0)
    return dis.stack_effect(step.opcode, step.arg, jump=jump)


def _depths(code: CodeType) -> dict[int, int]:
    """Follow every way through the code; where two disagree the deeper one counts, which forgets less."""
    steps = list(dis.get_instructions(code))
    following = {step.offset: after.offset for step, after in itertools.pairwise(steps)}
    by_offset = {step.offset: step for step in steps}
    depths: dict[int, int] = {}
    ways = [(0, 0)]
    ways += [(entry.target, entry.depth + entry.lasti + 1) for entry in dis.Bytecode(code).exception_entries]
    while ways:
        offset, depth = ways.pop()
        depth = min(depth, code.co_stacksize)
        if depth <= depths.get(offset, -1):
            continue
        depths[offset] = depth
        step = by_offset[offset]
        if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            ways.append((step.argval, depth + _effect(step, jump=True)))
        if not step.opname.startswith(_NO_FALL_THROUGH):
            ways.append((following[offset], depth + _effect(step, jump=False)))
    return depths


Notes = tuple[tuple[int, int], ...]
"""By slot, lowest first: the number of what the value there, or one above it, came from."""

Kept = tuple[Notes, tuple[int, int | None] | None]
"""All that `FrameMemory` knows of a frame and the frame does not show."""


class FrameMemory:
    """One live frame of the programs."""

    __slots__ = ("frame", "notes", "pending", "table")

    def __init__(self, frame: FrameType, table: Table) -> None:
        """Begin with an empty stack."""
        self.frame = frame
        self.table = table
        self.notes: Notes = ()
        self.pending: tuple[int, int | None] | None = None
        """What the instruction that is being run will leave on the stack: its slot, and the number of what it saw."""

    def settle(self, depth: int, forms: Forms) -> None:
        """Be at the next instruction, which finds `depth` values: what is above them was used up."""
        if self.pending is not None:
            land, seen = self.pending
            self.pending = None
            self._mix(land, seen, forms)
        while self.notes and self.notes[-1][0] >= depth:
            self.notes = self.notes[:-1]

    def _mix(self, land: int, seen: int | None, forms: Forms) -> None:
        """Let a value from `land` upwards come from all that was there, and from what was seen."""
        below = tuple(note for note in self.notes if note[0] < land)
        above = self.notes[len(below) :]
        if seen is not None or (above and (len(above) > 1 or above[0][0] != land)):
            self.notes = (*below, (land, forms.number(("mix", above, seen))))

    def called(self) -> None:
        """Have called code that is watched itself: it has the arguments, and what it returns is what was seen here.

        C code in between, such as `functools.partial`, is taken to hand on what it is given.
        """
        self.pending = None
        land = self.table.lands.get(self.frame.f_lasti, self.table.code.co_stacksize)
        self.notes = tuple(note for note in self.notes if note[0] < land)

    def returned(self, seen: int) -> None:
        """Have got a value back."""
        land = self.table.lands.get(self.frame.f_lasti)
        if land is not None:
            self.pending = (land, seen)

    def raised(self, seen: int, forms: Forms) -> None:
        """Be thrown to a handler, which finds the exception on a stack that is shorter than the one before."""
        self.pending = None
        self._mix(0, seen, forms)

    def kept(self) -> Kept:
        """Return the notes, for a frame that will have gone the same way."""
        return self.notes, self.pending

    def remember(self, kept: Kept) -> None:
        """Take the notes of a frame that went the same way."""
        self.notes, self.pending = kept

    def number(self, forms: Forms) -> int:
        """Return the number of all that the frame remembers."""
        variables = frozenset((name, forms.form(value)) for name, value in self.frame.f_locals.items())
        return forms.number((self.table.code, self.frame.f_lasti, variables, self.notes, self.pending))


def part_of(stack: Sequence[FrameMemory], forms: Forms) -> int:
    """Return the number of all that a thread remembers, by its frames."""
    return forms.number(("part", *(memory.number(forms) for memory in stack)))
