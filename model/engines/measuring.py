"""How fast engines run a version on this machine, found out in a process of its own.

What the engines allocate there ends with it, and it can be ended when it takes too long. Does
not decide what the figures mean.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from model.checkpoint import read_golden
from model.engines.base import Engine
from model.engines.selection import Candidate, open_engine
from model.errors import EngineUnavailable, ModelError
from model.manifest import Manifest
from model.preprocessing import Pixels
from model.registry import StoredVersion

LIMIT_SECONDS = 10.0
ROUNDS = 3

_BUSY_SECONDS, _ALONE_SECONDS = 0.25, 0.1  # in each round
_BATCH = 4
_TOLD = 500  # characters of what went wrong
_NICENESS = 10  # what is served meanwhile goes first
_RUN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from model.engines.measuring import main; main()"

_log = logging.getLogger(__name__)

Clock = Callable[[], float]


class Speed(BaseModel):
    """What an engine did.

    Attributes:
        engine: its name.
        images_per_second: with a run on every core at once.
        alone_ms: for one image when it had all cores, milliseconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    images_per_second: float
    alone_ms: float


class _Task(BaseModel):
    folder: Path
    manifest: Manifest
    engines: tuple[str, ...]
    threads: int


SPEEDS = TypeAdapter(tuple[Speed, ...])


def measure_apart(version: StoredVersion, engines: Sequence[str], threads: int) -> tuple[Speed, ...]:
    """Measure engines on the CPU in a child process; those that do not load or run are left out.

    Raises:
        EngineUnavailable: nothing was measured within `LIMIT_SECONDS`.
    """
    task = _Task(folder=version.folder.absolute(), manifest=version.manifest, engines=tuple(engines), threads=threads)
    try:
        child = subprocess.run(  # noqa: S603  our own interpreter, our own module
            [sys.executable, "-P", "-c", _RUN, json.dumps(sys.path)],
            input=task.model_dump_json(),
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=True,
            start_new_session=True,
        )
        speeds = SPEEDS.validate_json(child.stdout)
    except subprocess.TimeoutExpired as error:
        raise EngineUnavailable(f"measuring took more than {LIMIT_SECONDS:g} s") from error
    except subprocess.CalledProcessError as error:
        raise EngineUnavailable(f"measuring ended with {error.returncode}: {error.stderr[-_TOLD:].strip()}") from error
    except (OSError, ValidationError) as error:
        raise EngineUnavailable(f"measuring failed: {error}") from error
    if len(speeds) < len(engines):
        _log.warning("%s: not every engine could be measured: %s", version, child.stderr[-_TOLD:].strip())
    if not speeds:
        raise EngineUnavailable("no engine could be measured")
    return speeds


def measure(
    engines: Mapping[str, Engine],
    images: Pixels,
    threads: int,
    *,
    rounds: int = ROUNDS,
    clock: Clock = time.perf_counter,
) -> tuple[Speed, ...]:
    """Measure engines side by side; those whose runs fail are left out.

    Rounds of the engines alternate, so that all have the same neighbours, and the best of an engine's
    rounds counts: the one that was disturbed least, and not the first, which pays for what is new.

    Args:
        engines: by name.
        images: uint8 (N, H, W, C), any number.
        threads: how many runs go on at once.
        rounds: of each engine.
        clock: tells seconds.
    """
    batch = np.resize(images, (_BATCH, *images.shape[1:]))
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            for name in list(results):
                try:
                    results[name].append(_measure_once(engines[name], batch, pool, threads, clock))
                except Exception as error:  # a runtime raises what it likes, and the others are measured
                    _complain(name, error)
                    del results[name]
    return tuple(
        Speed(engine=name, images_per_second=max(rates), alone_ms=1e3 * min(seconds))
        for name, pairs in results.items()
        for rates, seconds in [zip(*pairs, strict=True)]
    )


def main() -> None:
    """Measure what a task on the standard input says, and print the speeds as JSON."""
    os.nice(_NICENESS)
    task = _Task.model_validate_json(sys.stdin.read())
    version = StoredVersion(task.manifest.name, 0, task.folder, task.manifest)
    engines: dict[str, Engine] = {}
    for name in task.engines:
        try:
            engines[name] = open_engine(version, Candidate(name, "cpu"), task.threads)
        except (ModelError, ImportError, RuntimeError) as error:
            _complain(name, error)
    speeds = measure(engines, read_golden(task.folder).pixels, task.threads)
    sys.stdout.write(SPEEDS.dump_json(speeds).decode())


def _measure_once(
    engine: Engine, batch: Pixels, pool: ThreadPoolExecutor, threads: int, clock: Clock
) -> tuple[float, float]:
    """Return images per second with a run on every core, and seconds for one image alone."""
    at_once = threads if engine.one_core else 1
    started = clock()
    deadline = started + _BUSY_SECONDS
    runs = sum(pool.map(lambda _: _repeat(lambda: engine.infer(batch), deadline, clock), range(at_once)))
    rate = runs * len(batch) / (clock() - started)
    started = clock()
    runs = _repeat(lambda: engine.infer(batch[:1], spread=True), started + _ALONE_SECONDS, clock)
    return rate, (clock() - started) / runs


def _repeat(run: Callable[[], object], deadline: float, clock: Clock) -> int:
    """Run at least once, and until the deadline; return how often."""
    runs = 0
    while not runs or clock() < deadline:
        run()
        runs += 1
    return runs


def _complain(engine: str, error: Exception) -> None:
    sys.stderr.write(f"{engine}: {error}\n")
