"""Choosing an engine and a device for a version, from what this machine has.

Engines are imported only when they are chosen: a CPU that serves with ONNX Runtime never
imports torch, also where torch is installed.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import NETWORK
from model.engines.base import Engine
from model.errors import EngineUnavailable
from model.registry import StoredVersion

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_NVIDIA_DEVICE = Path("/dev/nvidiactl")

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
DEVICE_PATTERN = r"auto|cpu|cuda(:[0-9]+)?"


@dataclass(frozen=True)
class EngineChoice:
    """What the operator wants.

    Attributes:
        engine: auto, onnx, openvino or torch.
        device: auto, cpu, cuda or cuda:n.
        threads: what a run may have at the most, and how many runs go on at once.
        measure: whether auto takes the engine that was measured to be the fastest; else the first in a fixed order.
        cache: folder where measurements are kept; the user's own if None.
        shared: folder where processes that load the same versions find weights to map; None: each maps its own.
        share: threads of torch, which takes all of them for every run, where several processes serve; 0 for `threads`.
    """

    engine: str = "auto"
    device: str = "auto"
    threads: int = 1
    measure: bool = False
    cache: Path | None = None
    shared: Path | None = None
    share: int = 0

    def threads_of(self, engine: str) -> int:
        """Return the threads that an engine gets."""
        return self.share or self.threads if engine == "torch" else self.threads

    def __post_init__(self) -> None:
        if re.fullmatch(DEVICE_PATTERN, self.device) is None:
            raise EngineUnavailable(f"device {self.device!r} is not known: use auto, cpu, cuda or cuda:n")


@dataclass(frozen=True)
class Candidate:
    """An engine on a device."""

    engine: str
    device: str


def candidates(choice: EngineChoice, offered: tuple[str, ...]) -> list[Candidate]:
    """Return what may run a version that offers these engines, best first as far as nothing is measured.

    Raises:
        EngineUnavailable: nothing on this machine may; the message says what is missing.
    """
    cuda = choice.device if choice.device.startswith("cuda") else "cuda"
    wants_cuda = choice.device.startswith("cuda") or (choice.device == "auto" and _has_cuda())
    found = []
    if wants_cuda:
        found.append(Candidate("torch", cuda))
    if not choice.device.startswith("cuda"):
        found += [Candidate("onnx", "cpu"), Candidate("openvino", "cpu"), Candidate("torch", "cpu")]
    fitting = [
        candidate
        for candidate in found
        if choice.engine in ("auto", candidate.engine)
        and candidate.engine in offered
        and is_installed(candidate.engine)
    ]
    if not fitting:
        raise EngineUnavailable(
            f"no engine for engine={choice.engine}, device={choice.device}: the version runs on "
            f"{', '.join(offered)}; on this machine {', '.join(f'{name} is {_installed(name)}' for name in PACKAGES)}; "
            "on CUDA devices only torch runs; pip install 'hubel[torch]' or 'hubel[openvino]' brings what is missing"
        )
    return fitting


def open_engine(version: StoredVersion, candidate: Candidate, threads: int, shared: Path | None = None) -> Engine:
    """Load a version onto one engine.

    Args:
        version: which one.
        candidate: the engine and its device.
        threads: as `EngineChoice` says.
        shared: as `EngineChoice` says.

    Raises:
        EngineUnavailable: the device is not there.
        CorruptCheckpoint: a file is not what the engine expects.
    """
    if candidate.engine == "onnx":
        from model.engines.onnx import OnnxEngine

        weights = shared / version.manifest.files[NETWORK].sha256 if shared is not None else None
        return OnnxEngine(version.folder, threads, weights)
    if candidate.engine == "openvino":
        from model.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(version.folder, version.manifest.precision, threads)
    from model.engines.torch import TorchEngine

    return TorchEngine(version.folder, version.manifest, candidate.device, threads)


def is_installed(engine: str) -> bool:
    """Say whether an engine's package is installed, without importing it."""
    return importlib.util.find_spec(PACKAGES[engine]) is not None


def has_gpu(engine: str, device: str) -> bool:
    """Whether versions run on a CUDA device where an operator wants this engine and this device."""
    return device.startswith("cuda") or (device == "auto" and engine in ("auto", "torch") and _has_cuda())


def _installed(engine: str) -> str:
    return "installed" if is_installed(engine) else "not installed"


def _has_cuda() -> bool:
    """Look for an NVIDIA driver, so that torch is not imported on a machine that has none."""
    return is_installed("torch") and (_NVIDIA_DRIVER.exists() or _NVIDIA_DEVICE.exists())
