"""What the engine adds to a FastAPI handler under uvicorn, in CPU time of the server for each request.

One server, whose handlers are asked in turn, in many short rounds, by keep-alive clients in another process. It spawns
these two and ends them. Elapsed time would say less: clients and server share the machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import measure
from measure import Figure, Spread

Process = subprocess.Popen[str]

HERE = Path(__file__).parent
RATIO_MOST = 1.05
CONNECTIONS = 8
RUNNING = "Uvicorn running on http://127.0.0.1:"


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the three handlers."""
    rounds, count = (15 if quick else 250), 100
    with _server() as (server, port), _asker(port) as asker:
        paths = ("/attribute", "/lease", "/infer", "/attribute")
        sides = [partial(_per_request, server, asker, path, count) for path in paths]
        plain_s, lease_s, infer_s, again_s = measure.alternate(rounds, *sides)
    figures = [Figure("FastAPI handler, model as attribute", "", Spread.of(plain_s).text("µs", scale=1e6, digits=1))]
    for name, with_s, most in (
        ("with engine.lease(...)", lease_s, RATIO_MOST),
        ("await engine.infer(...)", infer_s, RATIO_MOST),
        ("the very same again", again_s, None),
    ):
        # To both neighbours in the round: what drifts within it, does so for either side.
        ratio = Spread.ratio(with_s, [(a + b) / 2 for a, b in zip(plain_s, again_s, strict=True)])
        wanted, met = ("", None) if most is None else (f"at most {most}x", ratio.median <= most)
        figures.append(Figure(f"the same, {name}", wanted, ratio.text("x", digits=3), met))
    return figures


def _per_request(server: Process, asker: Process, path: str, count: int) -> float:
    """Return the CPU seconds that the server takes for one request."""
    began = _cpu(server)
    _say(asker, f"{path} {count}")
    _hear(asker, "done")
    return (_cpu(server) - began) / count


def _cpu(server: Process) -> float:
    """Return the CPU seconds of all threads of a process, without asking it, so that the question costs it nothing."""
    clock = (~server.pid << 3) | 2  # Linux: as `clock_getcpuclockid(3)` has it, which Python does not hand out
    return time.clock_gettime(clock)


@contextmanager
def _server() -> Generator[tuple[Process, int], None, None]:
    """Serve the application on a free port; yield that."""
    with _process("-m", "uvicorn", "http_app:serve", "--port", "0", "--no-access-log") as server:
        yield server, int(_hear(server, RUNNING).partition(RUNNING)[2].split()[0])


@contextmanager
def _asker(port: int) -> Generator[Process, None, None]:
    with _process("http_asker.py", str(port), str(CONNECTIONS)) as asker:
        yield asker


@contextmanager
def _process(*arguments: str) -> Generator[Process, None, None]:
    """Run Python with some arguments; behind the block it is told to end."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=HERE, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _say(process: Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _hear(process: Process, text: str) -> str:
    """Return the next line with `text` in it; raises where the process ends without."""
    assert process.stdout is not None
    heard = ""
    for line in process.stdout:
        heard += line
        if text in line:
            return line
    raise RuntimeError(f"it ended without {text!r}:\n{heard}")


if __name__ == "__main__":
    measure.command("FastAPI under uvicorn", bench)
