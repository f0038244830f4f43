"""Load from wrk: clients who wait for their answers, and leave nearly all of the CPU to the service."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "post.lua"
_LONGEST_WAIT_SECONDS = 30


@dataclass(frozen=True)
class Load:
    """What wrk saw.

    Attributes:
        connections: at once.
        requests: that were answered, with whatever status.
        requests_per_second: that were answered with 2xx or 3xx.
        p50_ms: of all answers, milliseconds.
        p99_ms: likewise.
        failed: answers with another status, and connections that broke or waited too long.
    """

    connections: int
    requests: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def load(
    url: str,
    bodies: Sequence[Path],
    connections: int,
    seconds: int,
    *,
    content_type: str = "application/octet-stream",
    look: Callable[[int], None] = lambda _: None,
) -> Load:
    """Ask for some seconds, each connection with one body after the other.

    Args:
        url: that is asked.
        bodies: of the requests, as files.
        connections: at once.
        seconds: for how long.
        content_type: of the bodies.
        look: is called while wrk runs, with its process number.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={_LONGEST_WAIT_SECONDS}s", "--latency"]
    variables = {"BODIES": "\n".join(map(str, bodies)), "CONTENT_TYPE": content_type}
    process = subprocess.Popen(
        [*command, "-s", str(SCRIPT), url], env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    )
    look(process.pid)
    text, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, text)
    requests = int(_number(r"(\d+) requests in", text))
    wrong = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    broken = sum(map(int, re.findall(r"(?:timeout|read|write|connect) (\d+)", text)))
    rate = _number(r"Requests/sec:\s+([\d.]+)", text) * (1 - wrong / max(requests, 1))
    times = _milliseconds("50%", text), _milliseconds("99%", text)
    return Load(connections, requests, rate, *times, wrong + broken)


def _number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"wrk did not print {pattern!r}:\n{text}")
    return float(match[1])


def _milliseconds(percentile: str, text: str) -> float:
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    match = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s|m)\b", text)
    if match is None:
        raise ValueError(f"wrk did not print {percentile}:\n{text}")
    return float(match[1]) * unit[match[2]]
