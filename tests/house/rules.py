"""The house rules that ruff, mypy and the import contracts cannot express: each is a pure function over one file.

A rule yields one sentence per offence and knows nothing of the others. Owns no state.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from tests.house.tree import File

Rule = Callable[[File], Iterator[str]]
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef

ENGINE = "engine/changeover/"
SIMULATOR = "simulations/changeover_sim/"
PORTS = frozenset(
    {ENGINE + "runtime/ports.py", SIMULATOR + "ports.py"}
    | {SIMULATOR + "explorer/" + name for name in ("machine.py", "guard.py")}
)
"""The files that may touch clock, chance and sleep: the real world, the simulated one, what the explorer takes of the
machine, and what it keeps from the program."""

EXEMPT: dict[str, dict[str, str]] = {}
"""Rule name to file to the reason why it may; an exemption that is no longer needed fails a test."""

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 400
HEADER_LINES_MAX = 4

CLOCKS = frozenset(
    f"time.{name}{unit}" for name in ("time", "monotonic", "perf_counter", "process_time") for unit in ("", "_ns")
) | {"datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"}
SEEDED = frozenset({"random.Random", "numpy.random.Generator", "numpy.random.default_rng"})
"""What may be used of the modules of chance: a generator that is given its seed."""
UNSEEDED = frozenset({"os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4"})
SLEEPS = frozenset({"time.sleep", "asyncio.sleep"})

WORLD = frozenset({"asyncio", "http", "io", "multiprocessing", "os", "random", "secrets", "select", "selectors"}) | {
    *("shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "time", "trio", "urllib", "uuid")
}
"""What `core` must not import: it decides, and touches nothing."""
WORLD_CALLS = frozenset({"open", "print", "input"})
HEAVY = frozenset({"matplotlib", "numpy", "onnx", "onnxruntime", "pandas", "skl2onnx", "sklearn", "skops"})
"""What a program that only loads plain callables must not pay for."""
PICKLES = frozenset({"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"})
PLUGIN_DOORS = frozenset({"changeover", "changeover.errors", "changeover.plugin"})
NURSERIES = frozenset(ENGINE + f"runtime/{name}.py" for name in ("engine", "supervisor", "actor", "seat"))

LEFT_UNDONE = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$)}*-])/(?:work|root|opt|home|Users)/")
"""Begins a path that exists on one machine only; preceded by a word or a dot it is the middle of some other path."""


# --- reading Python -------------------------------------------------------------------------------------------------


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the dotted name and the local name of everything imported below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{node.module or ''}.{alias.name}", alias.asname or alias.name


def packages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the top-level package of every import below `tree`."""
    for line, name, _ in imports(tree):
        yield line, name.split(".")[0]


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the full dotted name of every use of something imported, whatever it is called here."""
    full = {local: name for _, name, local in imports(tree) if "." not in local}
    full |= {name.split(".")[0]: name.split(".")[0] for _, name, local in imports(tree) if "." in local}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in full:
                yield node.lineno, f"{full[root]}.{rest}" if rest else full[root]


def functions(tree: ast.Module) -> Iterator[AnyFunction]:
    """Yield every function and method, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, AnyFunction))


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when the module is imported, type-checking blocks left out."""
    for node in body:
        if isinstance(node, AnyFunction):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
            continue
        yield node
        for inner in ("body", "orelse", "finalbody"):
            yield from at_import(getattr(node, inner, []))
        for handler in getattr(node, "handlers", []):
            yield from at_import(handler.body)


# --- the world stays outside ----------------------------------------------------------------------------------------


def no_wall_clock(file: File) -> Iterator[str]:
    """Time comes from the Clock port, or no run could be replayed."""
    if file.path not in PORTS:
        yield from (f"line {n}: {name}; ask the Clock port" for n, name in uses(file.tree) if name in CLOCKS)


def no_loose_chance(file: File) -> Iterator[str]:
    """Chance comes from the Random port or a seeded generator, or no run could be replayed."""
    if file.path in PORTS:
        return
    for line, name in uses(file.tree):
        module, _, _ = name.rpartition(".")
        if name in UNSEEDED or (module in {"random", "numpy.random", "secrets"} and name not in SEEDED):
            yield f"line {line}: {name}; ask the Random port"


def no_sleep(file: File) -> Iterator[str]:
    """Waiting is for something to become true; what waits for time to pass asks the Clock port."""
    if file.path not in PORTS:
        for line, name in uses(file.tree):
            if name in SLEEPS or name.startswith("trio.sleep"):
                yield f"line {line}: {name}; wait for the condition, or ask the Clock port"


def core_touches_nothing(file: File) -> Iterator[str]:
    """`core` imports no Trio, no clock, no chance, no I/O, and calls none of the built-in kind."""
    if not file.path.startswith(ENGINE + "core/"):
        return
    yield from (f"line {n}: core imports {name}" for n, name in packages(file.tree) if name in WORLD)
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WORLD_CALLS:
            yield f"line {node.lineno}: core calls {node.func.id}()"


# --- who imports what -----------------------------------------------------------------------------------------------


def msgpack_in_wire(file: File) -> Iterator[str]:
    """`core/wire.py` is the one importer of msgpack, so that bytes have one meaning."""
    if file.path != ENGINE + "core/wire.py":
        yield from (f"line {n}: msgpack belongs to core/wire" for n, name in packages(file.tree) if name == "msgpack")


def no_heavy_import(file: File) -> Iterator[str]:
    """Nobody imports a numeric package at module level: it costs every program that does not need it."""
    for node in at_import(file.tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            heavy = sorted({name for _, name in packages(node)} & HEAVY)
            yield from (f"line {node.lineno}: {name} at module level; import it where it is used" for name in heavy)


def no_pickle(file: File) -> Iterator[str]:
    """Nothing is pickled or unpickled: a model file must not be able to run code unasked."""
    yield from (f"line {n}: {name} runs code on load" for n, name in packages(file.tree) if name in PICKLES)
    for node in ast.walk(file.tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"line {node.value.lineno}: allow_pickle runs code on load"


def plugins_use_the_door(file: File) -> Iterator[str]:
    """Plugins import `changeover`, `changeover.plugin` and `changeover.errors`, and nothing behind them."""
    if not file.path.startswith("plugins/"):
        return
    for node in ast.walk(file.tree):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            if module.split(".")[0] == "changeover" and module not in PLUGIN_DOORS:
                yield f"line {node.lineno}: {module} is behind the door; plugins see only public names"


# --- who opens, closes ----------------------------------------------------------------------------------------------


def nursery_parameters_named(file: File) -> Iterator[str]:
    """A function that takes a nursery says so in its name, which ends in `_in`."""
    for function in functions(file.tree):
        taken = function.args
        every = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
        hints = (a.annotation for a in every if a and a.annotation)
        if any("Nursery" in ast.unparse(hint) for hint in hints) and not function.name.endswith("_in"):
            yield f"line {function.lineno}: {function.name} takes a nursery; end its name in _in, or open one"


def nurseries_in_three_places(file: File) -> Iterator[str]:
    """Long-lived nurseries: one in the engine, one in each supervisor, actor and seat; nowhere else."""
    if not file.path.startswith(ENGINE) or file.path in NURSERIES:
        return
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).endswith("open_nursery"):
            yield f"line {node.lineno}: a nursery is opened outside engine, supervisor, actor and seat"


# --- size and shape -------------------------------------------------------------------------------------------------


def short_functions(file: File) -> Iterator[str]:
    """No function is longer than a screen."""
    for function in functions(file.tree):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"line {function.lineno}: {function.name} has {lines} lines; at most {FUNCTION_LINES_MAX}"


def short_modules(file: File) -> Iterator[str]:
    """No module is longer than an evening."""
    lines = len(file.text.splitlines())
    if lines > MODULE_LINES_MAX:
        yield f"{lines} lines; at most {MODULE_LINES_MAX}"


def header(file: File) -> Iterator[str]:
    """A module's header says in four lines what it is, owns, spawns and never does."""
    lines = [line for line in (ast.get_docstring(file.tree) or "").splitlines() if line.strip()]
    if not lines:
        yield "no header: what it is, what it owns, what it spawns and who closes that, what it never does"
    elif len(lines) > HEADER_LINES_MAX:
        yield f"a header of {len(lines)} lines; at most {HEADER_LINES_MAX}"


def nothing_left_undone(file: File) -> Iterator[str]:
    """What is left undone is said when the issue is closed, not in the code."""
    for line, text in enumerate(file.text.splitlines(), 1):
        if found := LEFT_UNDONE.search(text):
            yield f"line {line}: {found.group()}"


def no_machine_path(file: File) -> Iterator[str]:
    """No file names a path of the machine it was written on."""
    for line, text in enumerate(file.text.splitlines(), 1):
        if found := MACHINE_PATH.search(text):
            yield f"line {line}: {found.group()}"


SOURCE_RULES: tuple[Rule, ...] = (
    no_wall_clock,
    no_loose_chance,
    no_sleep,
    core_touches_nothing,
    msgpack_in_wire,
    no_heavy_import,
    no_pickle,
    plugins_use_the_door,
    nursery_parameters_named,
    nurseries_in_three_places,
    short_functions,
    short_modules,
    header,
    nothing_left_undone,
)
"""The rules for the Python files that are shipped."""

TEXT_RULES: tuple[Rule, ...] = (no_machine_path,)
"""The rules for every text file in the tree."""


def offences(rule: Rule, file: File) -> list[str]:
    """Apply a rule to a file, exemptions left out."""
    if file.path in EXEMPT.get(rule.__name__, {}):
        return []
    return [f"{file.path}: {sentence}" for sentence in rule(file)]
