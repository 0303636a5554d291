"""Runs every benchmark, each in a process of its own, and prints all figures as one table.

`python tests/bench/run.py [--quick]`; the exit status says whether they ran, never how fast.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
from measure import Figure

HERE = Path(__file__).parent


def main() -> int:
    """Run them one after the other, and return 1 where one of them broke."""
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that they run, not to quote")
    quick = parser.parse_args().quick
    figures: list[Figure] = []
    broken: list[str] = []
    for path in sorted(HERE.glob("bench_*.py")):
        found = _figures(path, quick)
        broken += [path.name] if found is None else []
        figures += found or []
    measure.say(f"{measure.table(figures)}\n{measure.conditions()}")
    for name in broken:
        measure.say(f"{name} broke")
    return 1 if broken else 0


def _figures(path: Path, quick: bool) -> list[Figure] | None:
    """Run one benchmark and return its figures, None where it broke; what it prints is shown as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "figures.json"
        command = [sys.executable, str(path), "--into", str(into), *(["--quick"] if quick else [])]
        if subprocess.run(command, check=False).returncode != 0:
            return None
        return [Figure(**fields) for fields in json.loads(into.read_text("utf-8"))]


if __name__ == "__main__":
    sys.exit(main())
