"""The tree keeps the house rules, and each rule notices when it does not."""

from __future__ import annotations

import pytest

from tests.house import rules
from tests.house.rules import EXEMPT, SOURCE_RULES, TEXT_RULES, Rule, offences
from tests.house.tree import File, shipped, text_files

ALL_RULES = SOURCE_RULES + TEXT_RULES
RUNTIME = "engine/changeover/runtime/router.py"
CORE = "engine/changeover/core/routes.py"
PLUGIN = "plugins/changeover_plugins/onnx_loader.py"
SIM = "simulations/changeover_sim/world.py"

BAD: list[tuple[Rule, str, str]] = [
    (rules.no_wall_clock, RUNTIME, "import time\nx = time.time()"),
    (rules.no_wall_clock, RUNTIME, "import time as t\nx = t.monotonic()"),
    (rules.no_wall_clock, PLUGIN, "from time import perf_counter\nx = perf_counter()"),
    (rules.no_wall_clock, SIM, "import datetime\nx = datetime.datetime.now()"),
    (rules.no_wall_clock, SIM, "from datetime import datetime as d\nx = d.utcnow()"),
    (rules.no_wall_clock, RUNTIME, "def f():\n    from time import monotonic_ns\n    return monotonic_ns"),
    (rules.no_loose_chance, RUNTIME, "import random\nx = random.random()"),
    (rules.no_loose_chance, RUNTIME, "from random import choice\nx = choice([1])"),
    (rules.no_loose_chance, SIM, "import random\nx = random.SystemRandom()"),
    (rules.no_loose_chance, PLUGIN, "import numpy as np\nx = np.random.rand(3)"),
    (rules.no_loose_chance, RUNTIME, "import uuid\nx = uuid.uuid4()"),
    (rules.no_loose_chance, RUNTIME, "import secrets\nx = secrets.token_hex()"),
    (rules.no_sleep, RUNTIME, "import time\ntime.sleep(1)"),
    (rules.no_sleep, RUNTIME, "import trio\nasync def f():\n    await trio.sleep(1)"),
    (rules.no_sleep, SIM, "from trio import sleep_until\nasync def f():\n    await sleep_until(1)"),
    (rules.core_touches_nothing, CORE, "import trio"),
    (rules.core_touches_nothing, CORE, "from os import path"),
    (rules.core_touches_nothing, CORE, "def f():\n    import sqlite3"),
    (rules.core_touches_nothing, CORE, "def f(path):\n    return open(path)"),
    (rules.msgpack_in_wire, CORE, "import msgpack"),
    (rules.msgpack_in_wire, PLUGIN, "from msgpack import packb"),
    (rules.no_heavy_import, PLUGIN, "import numpy as np"),
    (rules.no_heavy_import, PLUGIN, "from sklearn.datasets import load_digits"),
    (rules.no_heavy_import, PLUGIN, "try:\n    import onnxruntime\nexcept ImportError:\n    pass"),
    (rules.no_heavy_import, PLUGIN, "class A:\n    import onnx"),
    (rules.no_pickle, PLUGIN, "import pickle"),
    (rules.no_pickle, PLUGIN, "def f():\n    from joblib import load"),
    (rules.no_pickle, PLUGIN, "def f(np, path):\n    return np.load(path, allow_pickle=True)"),
    (rules.plugins_use_the_door, PLUGIN, "from changeover.core.values import VersionKey"),
    (rules.plugins_use_the_door, PLUGIN, "import changeover.runtime.engine"),
    (rules.nursery_parameters_named, RUNTIME, "def start(nursery: trio.Nursery): ..."),
    (rules.nursery_parameters_named, SIM, "async def start(*, nursery: 'trio.Nursery | None' = None): ..."),
    (rules.nurseries_in_three_places, RUNTIME, "async def f():\n    async with trio.open_nursery() as n: ..."),
    (rules.nurseries_in_three_places, CORE, "from trio import open_nursery as o\nopen_nursery()"),
    (rules.short_functions, RUNTIME, "def f():\n" + "    x = 1\n" * 70),
    (rules.short_modules, RUNTIME, '"""A header."""\n' * 401),
    (rules.header, RUNTIME, "x = 1"),
    (rules.header, RUNTIME, '"""One.\n\nTwo\nthree\nfour\nfive.\n"""'),
    (rules.nothing_left_undone, RUNTIME, "# TO" + "DO later"),
    (rules.nothing_left_undone, RUNTIME, "x = 1  # FIX" + "ME"),
    (rules.no_machine_path, "README.md", "cd /" + "work/main"),
    (rules.no_machine_path, ".ci/run", "source=/" + "root/.cache"),
    (rules.no_machine_path, "docs/x.md", "see `/" + "opt/wheels`"),
]
"""What each rule must notice, and where."""

GOOD: list[tuple[Rule, str, str]] = [
    (rules.no_wall_clock, "engine/changeover/runtime/ports.py", "import time\nx = time.monotonic()"),
    (rules.no_wall_clock, RUNTIME, "def time(): ...\nx = time()"),
    (rules.no_wall_clock, RUNTIME, "from datetime import datetime\nx = datetime.fromtimestamp(0)"),
    (rules.no_loose_chance, RUNTIME, "from random import Random\nx = Random(7).random()"),
    (rules.no_loose_chance, RUNTIME, "def f(random):\n    return random.uniform(0, 1)"),
    (rules.no_sleep, "simulations/changeover_sim/ports.py", "import trio\nasync def f():\n    await trio.sleep(1)"),
    (rules.no_sleep, RUNTIME, "async def f(clock):\n    await clock.sleep(1)"),
    (rules.core_touches_nothing, CORE, "import threading\nfrom collections import deque"),
    (rules.core_touches_nothing, RUNTIME, "import trio"),
    (rules.core_touches_nothing, CORE, "def f(gate):\n    gate.open()"),
    (rules.msgpack_in_wire, "engine/changeover/core/wire.py", "import msgpack"),
    (rules.no_heavy_import, PLUGIN, "def f():\n    import numpy"),
    (rules.no_heavy_import, PLUGIN, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy"),
    (rules.no_pickle, PLUGIN, "def f(np, path):\n    return np.load(path, allow_pickle=False)"),
    (rules.plugins_use_the_door, PLUGIN, "import changeover\nfrom changeover.errors import LoadFailed"),
    (rules.nursery_parameters_named, RUNTIME, "def start_in(nursery: trio.Nursery): ..."),
    (rules.nurseries_in_three_places, "engine/changeover/runtime/actor.py", "trio.open_nursery()"),
    (rules.short_functions, RUNTIME, "def f():\n" + "    x = 1\n" * 69),
    (rules.short_modules, RUNTIME, '"""A header."""\n' * 400),
    (rules.header, RUNTIME, '"""One.\n\nTwo\nthree\nfour.\n"""'),
    (rules.nothing_left_undone, RUNTIME, "todos = 1"),
    (rules.no_machine_path, "README.md", "https://example.org/" + "work/x and src/" + "opt/y and $HOME/" + "work/"),
]
"""What looks alike and is allowed."""


@pytest.mark.parametrize("rule", SOURCE_RULES, ids=lambda rule: rule.__name__)
def test_what_is_shipped_keeps_the_rule(rule: Rule) -> None:
    """Every Python file of engine, plugins and simulations keeps every rule."""
    found = [sentence for file in shipped() for sentence in offences(rule, file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.__name__)
def test_every_text_file_keeps_the_rule(rule: Rule) -> None:
    """Every text file that git lists keeps the rules for text."""
    found = [sentence for file in text_files() for sentence in offences(rule, file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("rule", "path", "text"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_notices(rule: Rule, path: str, text: str) -> None:
    """A planted offence is noticed."""
    assert list(rule(File(path, text)))


@pytest.mark.parametrize(("rule", "path", "text"), GOOD, ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_stays_silent(rule: Rule, path: str, text: str) -> None:
    """What only looks like an offence is let through."""
    assert list(rule(File(path, text))) == []


def test_every_rule_was_seen_to_notice() -> None:
    """No rule is without a planted offence and a look-alike."""
    assert {rule.__name__ for rule, _, _ in BAD} == {rule.__name__ for rule in ALL_RULES}
    assert {rule.__name__ for rule, _, _ in GOOD} == {rule.__name__ for rule in ALL_RULES}


def test_every_exemption_is_needed() -> None:
    """An exemption names an existing rule and a file that would break it."""
    by_name = {rule.__name__: rule for rule in ALL_RULES}
    by_path = {file.path: file for file in text_files()}
    for name, files in EXEMPT.items():
        for path, reason in files.items():
            assert reason, f"{name}: {path} gives no reason"
            assert list(by_name[name](by_path[path])), f"{name}: {path} needs no exemption"


def test_the_tree_is_not_empty() -> None:
    """The rules look at something: a listing that finds no file would keep every rule."""
    assert {"engine/changeover/errors.py", "engine/changeover/plugin.py"} <= {file.path for file in shipped()}
