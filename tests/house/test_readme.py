"""What the README says can be typed, and prints what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.house.readme import CI, FRONT_DOOR, LANGUAGES, README, blocks, commands, fits, run_by_ci

BLOCK_LIMIT_S = 60
COMMAND_LIMIT_S = 180
OWN_SCRIPT = ".ci/run"

SAMPLE = """\
Type

```sh
# a comment
first --flag \\
  value
second
```

which prints:

```text
took 12 ms
```

    and

```console
$ third
one
two
$ fourth
```

- in a list

  ~~~python
  x = 1
  ~~~

```text
a figure
```
"""


def execute(command: list[str], folder: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader would who has activated this environment, without a terminal."""
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "120"}
    environment.pop("FORCE_COLOR", None)
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=limit_s,
        text=True,
        check=False,
    )


def typed_here(command: str) -> list[str]:
    """Return how to run a README command in the environment that runs this test."""
    return ["bash", "-euo", "pipefail", "-c", command.replace(".venv/bin/", sysconfig.get_path("scripts") + "/")]


def test_every_block_is_of_a_known_kind() -> None:
    """The README has no block that nobody would check."""
    found = list(blocks(README.read_text()))
    assert [f"line {b.line}: {b.language or 'no language'}" for b in found if b.language not in LANGUAGES] == []


def test_the_front_door_is_there() -> None:
    """The README holds the command that shows the demo and the one that runs the tests."""
    typed = {command.text for command in commands(README.read_text())}
    assert set(FRONT_DOOR) <= typed


def test_ci_comes_in_by_the_front_door() -> None:
    """`.ci/run` runs both commands, and every command that it takes for one of the README's is one."""
    by_ci = run_by_ci(CI.read_text())
    assert set(FRONT_DOOR) <= by_ci
    assert by_ci <= {command.text for command in commands(README.read_text())}


def test_python_blocks_run(tmp_path: Path) -> None:
    """Each Python block runs by itself; one that names itself in its first line can be imported by later ones."""
    failed: list[str] = []
    write_files(tmp_path)
    for block in blocks(README.read_text()):
        if block.language == "python":
            done = execute([sys.executable, block.file], tmp_path, BLOCK_LIMIT_S)
            failed += [f"line {block.line}: {done.stdout}"] if done.returncode else []
    assert not failed, "\n".join(failed)


def write_files(folder: Path) -> None:
    """Write down the Python blocks as the files that they say they are: the commands are typed beside them."""
    for block in blocks(README.read_text()):
        if block.language == "python":
            (folder / block.file).write_text(block.text)


@pytest.mark.slow
def test_commands_run(tmp_path: Path) -> None:
    """Each command that `.ci/run` does not run itself can be typed."""
    write_files(tmp_path)
    covered = run_by_ci(CI.read_text()) | {OWN_SCRIPT}
    failed: list[str] = []
    for command in commands(README.read_text()):
        if command.text not in covered:
            done = execute(typed_here(command.text), tmp_path, COMMAND_LIMIT_S)
            failed += [f"{command.text}: {done.stdout}"] if done.returncode else []
    assert not failed, "\n".join(failed)


@pytest.mark.slow
def test_output_has_the_shown_form(tmp_path: Path) -> None:
    """What the README shows under a command is what it prints, numbers apart; of a chain, its last command.

    One that `.ci/run` does not run is typed although nothing is shown under it: the next may go on from there.
    """
    write_files(tmp_path)
    failed: list[str] = []
    covered = run_by_ci(CI.read_text())
    for command in commands(README.read_text()):
        if command.output is None and command.text not in covered:
            execute(typed_here(command.text), tmp_path, COMMAND_LIMIT_S)
        if command.output is not None:
            last = command.text.split("&&")[-1].strip()
            whole = "pytest" in last and "test_" not in last
            assert not whole, "a run of all tests prints what cannot be held still; do not show it"
            done = execute(typed_here(last), tmp_path, COMMAND_LIMIT_S)
            failed += [] if fits(command.output, done.stdout) else [f"{last} printed:\n{done.stdout}"]
    assert not failed, "\n".join(failed)


def test_commands_and_output_are_found() -> None:
    """Prompts, comments and joined lines are understood, and each output goes to the command above it."""
    assert [(command.text, command.output) for command in commands(SAMPLE)] == [
        ("first --flag   value", None),
        ("second", "took 12 ms\n"),
        ("third", "one\ntwo\n"),
        ("fourth", None),
    ]


def test_blocks_are_found() -> None:
    """Blocks in lists lose their indentation, and each knows its language."""
    found = list(blocks(SAMPLE))
    assert [block.language for block in found] == ["sh", "text", "console", "python", "text"]
    assert found[3].text == "x = 1\n"


@pytest.mark.parametrize("fence", ["```bash", "```", "```pycon", "~~~json"])
def test_an_unknown_kind_is_noticed(fence: str) -> None:
    """A block in another language, or in none, is not taken for one that is checked."""
    (block,) = blocks(f"{fence}\nx\n{fence[:3]}\n")
    assert block.language not in LANGUAGES


def test_an_open_fence_is_noticed() -> None:
    """A fence that is never closed is an error, not a block."""
    with pytest.raises(ValueError, match="line 2 is not closed"):
        list(blocks("x\n```sh\nls\n"))


def test_a_block_may_name_its_file() -> None:
    """A Python block that begins with a file name is kept under it."""
    (block,) = blocks("```python\n# models.py\nx = 1\n```\n")
    assert block.file == "models.py"


@pytest.mark.parametrize(
    ("shown", "real", "expected"),
    [
        ("took 12 ms", "took   3.4 s\n\n", True),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nz", True),
        ("swap ... done", "swap s-0f done", True),
        ("served 1,000 (100.0 %)", "served 998 (99.8 %)", True),
        ("a\nz", "a\nb\nz", False),
        ("lost 0", "kept 0", False),
        ("a", "a\nb", False),
    ],
)
def test_form_is_compared_without_numbers(shown: str, real: str, expected: bool) -> None:
    """Numbers, spacing and what `...` stands for may differ; words and lines may not."""
    assert fits(shown, real) is expected
