"""The order in which a version's engines are tried: by what they were measured to do on this machine.

A measurement is made once for a network, a machine and the runtimes' versions, and kept in the
cache folder. Does not decide whether an engine's answers are right.
"""

import fcntl
import hashlib
import importlib.metadata
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model.checkpoint import NETWORK, write_temporary
from model.engines.measuring import Speed, measure_apart
from model.engines.selection import PACKAGES, Candidate, EngineChoice, candidates
from model.errors import EngineUnavailable, RegistryUnavailable
from model.registry import StoredVersion
from model.stores.cache import default_cache

# torch on a CPU is not among them: to import it takes seconds and 500 MB, and it was never the fastest.
RIVALS = ("onnx", "openvino")
ALIKE = 0.05  # what differs by less is no difference

_FOLDER = "engines"
_CPU = Path("/proc/cpuinfo")
_ABOUT_THE_CPU = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU part", "Features")

_log = logging.getLogger(__name__)

Measure = Callable[[StoredVersion, Sequence[str], int], tuple[Speed, ...]]


class Circumstances(BaseModel):
    """All that a measurement holds for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str  # SHA-256
    precision: str
    cpu: str
    threads: int
    runtimes: dict[str, str]


class Measurement(BaseModel):
    """What was measured, and under which circumstances."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    circumstances: Circumstances
    speeds: tuple[Speed, ...]


def fastest_first(version: StoredVersion, choice: EngineChoice, measure: Measure = measure_apart) -> list[Candidate]:
    """Return what may run a version, in the order in which it is to be tried.

    Where the first may be one of several `RIVALS`, they are measured, unless `choice` says otherwise or that was
    done before. Whatever goes wrong with that is logged, and the usual order is taken.

    Raises:
        EngineUnavailable: nothing on this machine may run the version.
    """
    found = candidates(choice, version.manifest.engines)
    rivals = [candidate.engine for candidate in found if candidate.engine in RIVALS]
    is_open = choice.engine == "auto" and rivals[1:] and found[0].engine in RIVALS
    if not (is_open and choice.measure):
        return found
    try:
        speeds = _speeds(version, rivals, choice, measure)
    except EngineUnavailable as error:
        _log.warning(
            "%s: %s; engines are tried in their usual order (HUBEL_MEASURE_ENGINES=false spares the attempt)",
            version,
            error,
        )
        return found
    order = rank(speeds)
    return sorted(found, key=lambda one: order.index(one.engine) if one.engine in order else len(order))


def rank(speeds: Sequence[Speed]) -> list[str]:
    """Return engines from the fastest to the slowest.

    The fastest has the most images per second; among those alike in that, the shortest time for one image alone;
    among those alike in both, it is the one that comes first in `speeds`.
    """
    rest, order = list(speeds), []
    while rest:
        most = max(speed.images_per_second for speed in rest)
        busy = [speed for speed in rest if speed.images_per_second >= most * (1 - ALIKE)]
        shortest = min(speed.alone_ms for speed in busy)
        first = next(speed for speed in busy if speed.alone_ms <= shortest * (1 + ALIKE))
        order.append(first.engine)
        rest.remove(first)
    return order


def _speeds(version: StoredVersion, rivals: Sequence[str], choice: EngineChoice, measure: Measure) -> tuple[Speed, ...]:
    """Return what is kept, or measure and keep that; in one process at a time, or they would disturb one another.

    Raises:
        EngineUnavailable: nothing could be measured.
    """
    circumstances = _circumstances(version, rivals, choice.threads)
    digest = hashlib.sha256(circumstances.model_dump_json().encode()).hexdigest()
    try:
        folder = (choice.cache or default_cache()) / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RegistryUnavailable) as error:
        _log.warning("%s: engines are measured at every load, since nothing can be kept: %s", version, error)
        return measure(version, rivals, choice.threads)
    path = folder / f"{digest[:32]}.json"
    kept = _read(path, circumstances)
    if kept is not None:
        return kept
    with _turn(folder):
        kept = _read(path, circumstances)  # another process may have measured meanwhile
        if kept is not None:
            return kept
        speeds = measure(version, rivals, choice.threads)
        _write(path, Measurement(circumstances=circumstances, speeds=speeds))
    for speed in speeds:
        _log.info(
            "%s: %s does %.1f images/s on %d cores, one image alone takes %.2f ms",
            version,
            speed.engine,
            speed.images_per_second,
            choice.threads,
            speed.alone_ms,
        )
    return speeds


def _circumstances(version: StoredVersion, rivals: Sequence[str], threads: int) -> Circumstances:
    return Circumstances(
        network=version.manifest.files[NETWORK].sha256,
        precision=version.manifest.precision,
        cpu=_cpu(),
        threads=threads,
        runtimes={engine: _version(PACKAGES[engine]) for engine in rivals},
    )


def _cpu() -> str:
    """Return what tells this kind of processor from others."""
    try:
        first, _, _ = _CPU.read_text(encoding="utf-8").partition("\n\n")
    except (OSError, UnicodeDecodeError):
        return platform.platform()
    return "; ".join(line for line in first.splitlines() if line.partition(":")[0].strip() in _ABOUT_THE_CPU)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # built from source, or of another name
        return "unknown"


def _read(path: Path, circumstances: Circumstances) -> tuple[Speed, ...] | None:
    try:
        kept = Measurement.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("engines are measured again: %s cannot be read: %s", path, error)
        return None
    return kept.speeds if kept.circumstances == circumstances else None


def _write(path: Path, measurement: Measurement) -> None:
    try:
        write_temporary(path.parent, measurement.model_dump_json(indent=1) + "\n").replace(path)
    except OSError as error:
        _log.warning("engines will be measured again: %s cannot be written: %s", path, error)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait for this process's turn to measure; where the folder cannot be written, do not wait."""
    with ExitStack() as stack:
        with suppress(OSError):
            file = stack.enter_context((folder / ".turn").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file
        yield
