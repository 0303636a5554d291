"""The wheel holds what it should, and asks for no more than it says."""

from __future__ import annotations

import re
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import hatchling.build
import pytest

from tests.house.tree import ROOT

PACKAGES = {"changeover", "changeover_plugins", "changeover_sim"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Build the wheel in this process, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # hatchling builds the project that it stands in
        name = hatchling.build.build_wheel(str(folder))
    with ZipFile(Path(folder, name)) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    """Read what an installer reads."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_top_level(wheel: ZipFile) -> None:
    """The wheel puts three packages and its own record into site-packages, and nothing else."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    records = {top for top in tops if re.fullmatch(r"changeover-[^/]+\.dist-info", top)}
    assert len(records) == 1
    assert tops - records == PACKAGES


def test_it_is_typed(wheel: ZipFile) -> None:
    """Each package tells type checkers that its annotations count, and is a real package."""
    names = set(wheel.namelist())
    assert {f"{package}/{file}" for package in PACKAGES for file in ("py.typed", "__init__.py")} <= names


def test_dependencies(metadata: Message) -> None:
    """Without extras, the distribution needs trio, attrs and msgpack only."""
    required = metadata.get_all("Requires-Dist", [])
    core = {re.split(r"[^\w-]", entry)[0] for entry in required if "extra ==" not in entry}
    assert core == {"trio", "attrs", "msgpack"}


def test_extras(metadata: Message) -> None:
    """The extras are the documented ones."""
    assert set(metadata.get_all("Provides-Extra", [])) == {"onnx", "sklearn", "demo", "sim", "others", "dev", "all"}
