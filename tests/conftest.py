"""Fixtures that more than one test folder asks for.

Owns what pytest keeps for the session in its own temporary folder; spawns nothing.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from changeover_plugins.demo.digits import HeldOut

settings.register_profile("changeover", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("changeover")

pytest_plugins = ["pytester"]
"""With which tests run pytest inside pytest."""


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what is there before the first test: it is much, and none of it garbage.

    Hundreds of tests look for garbage, each through all that is not frozen.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def digits_repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HeldOut]:
    """Train the demo's two versions once; return the repository's root, which is read only, and the held-out part."""
    for package in ("sklearn", "skl2onnx", "onnxruntime"):
        pytest.importorskip(package)
    from changeover_plugins.demo.digits import write_repository

    root = tmp_path_factory.mktemp("digits_repository")
    return root, write_repository(root)
