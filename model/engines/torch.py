"""torch, on a CPU or a CUDA device: the reference that every other engine is compared with."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.allocator import keep_memory
from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from model.checkpoint import WEIGHTS
from model.engines.base import Logits
from model.engines.cuda import GraphedNetwork
from model.errors import CorruptCheckpoint, EngineUnavailable
from model.manifest import Manifest
from model.preprocessing import Pixels


class TorchEngine:
    """The version's architecture, built anew, with its weights; in bf16 where its manifest says so."""

    name = "torch"
    one_core = False

    def __init__(self, folder: Path, manifest: Manifest, device: str, threads: int) -> None:
        """Load the version in `folder` onto `device` ("cpu", "cuda", "cuda:1", ...).

        `threads` bounds a CPU's threads and is for the whole process: torch has one pool. So is what the C library's
        allocator is told.

        Raises:
            EngineUnavailable: the device is not there.
            CorruptCheckpoint: the weights are not those of the architecture.
        """
        self.device = device
        self._precision = manifest.precision
        if device == "cpu":
            keep_memory()
            torch.set_num_threads(threads)
        elif not torch.cuda.is_available():
            raise EngineUnavailable(f"device {device} was asked for, and torch sees no CUDA device on this machine")
        elif (torch.device(device).index or 0) >= torch.cuda.device_count():
            raise EngineUnavailable(
                f"device {device} was asked for, and this machine has {torch.cuda.device_count()} CUDA devices"
            )
        else:
            # TF32 would cost more than the tolerance allows.
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        pixel_network = build_pixel_network(folder, manifest)
        self._network = pixel_network.to(device).to(memory_format=torch.channels_last)
        self._graphed = None if device == "cpu" else GraphedNetwork(self._forward, torch.device(device))

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        """Map uint8 pixels (N, H, W, C) to float32 logits (N, K)."""
        if self._graphed is not None:
            return self._graphed.infer(pixels)
        with torch.inference_mode():
            return np.asarray(self._forward(torch.from_numpy(pixels)).numpy(), dtype=np.float32)

    def stop(self) -> None:
        """Do nothing: torch has no way to stop a run."""

    def release(self) -> None:
        """Do nothing: on a CPU the allocator is told to keep memory, on a GPU batches have theirs for good."""

    def _forward(self, pixels: Tensor) -> Tensor:
        # A copy of the weights in bf16 that is kept from one run to the next would not be recorded in a graph.
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self._precision == "bf16", cache_enabled=False):
            logits: Tensor = self._network(pixels)
        return logits.float()


def build_pixel_network(folder: Path, manifest: Manifest) -> PixelNetwork:
    """Build a version's network on the CPU, in eval mode, with its weights and its normalisation.

    Raises:
        CorruptCheckpoint: the weights are not those of the architecture.
    """
    network = build_network(manifest.architecture.name, len(manifest.labels), manifest.architecture.config)
    path = folder / WEIGHTS
    try:
        _load_weights(network, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CorruptCheckpoint(f"{path} does not hold the weights of {manifest.architecture.name}: {error}") from error
    return PixelNetwork(network, manifest.preprocessing.mean, manifest.preprocessing.std).eval()


def _load_weights(network: nn.Module, path: Path) -> None:
    """Load safetensors into a network.

    Some modules (torchvision's MNASNet) convert weights that do not carry the number of their
    layout, which safetensors has no place for; ours are always of the network's own layout.
    """
    weights = OrderedDict(load_file(path))
    weights._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(weights)
