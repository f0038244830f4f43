"""What others do in a plain loop: torch run eagerly, images decoded whole by Pillow, one process on each core.

The limit of services that are built so, at each one's best: channels_last, one thread, a tuned malloc where there is
one (torch on a CPU loses much to glibc's), the best batch size.
"""

import ctypes.util
import io
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.crew import begin_together, together
from model.engines.selection import is_installed
from model.registry import Registry
from model.types import ModelRef

BATCHES = (1, 8, 16)
_MALLOCS = ("tcmalloc_minimal", "tcmalloc", "jemalloc")  # Debian: libtcmalloc-minimal4(t64), libjemalloc2


@dataclass(frozen=True)
class EagerLimit:
    """What torch did.

    Attributes:
        images_per_second: with the best batch size.
        batch: that size.
        by_batch: images per second with each.
        image_ms: core-milliseconds of an image, with the best.
        decode_ms: those of them that go by until its pixels are there, normalised.
        malloc: the library that was preloaded.
    """

    images_per_second: float
    batch: int
    by_batch: dict[int, float]
    image_ms: float
    decode_ms: float
    malloc: str


@cache
def eager_limit(registry: Path, model: str, images: tuple[Path, ...], seconds: float) -> EagerLimit | None:
    """Measure torch on images in turns, each batch size for some seconds, once for the same; None where it is not."""
    if not is_installed("torch"):
        return None
    malloc = next(filter(None, map(ctypes.util.find_library, _MALLOCS)), None)
    cores = len(os.sched_getaffinity(0))
    found = together(cores, _eager_loops, malloc, registry, model, images, seconds)
    rates = {batch: sum(loops[batch].images / loops[batch].seconds for loops in found) for batch in BATCHES}
    best = max(rates, key=rates.__getitem__)
    image_ms, decode_ms = (
        1000 * sum(getattr(loops[best], used) for loops in found) / sum(loops[best].images for loops in found)
        for used in ("core_seconds", "decode_seconds")
    )
    return EagerLimit(rates[best], best, rates, image_ms, decode_ms, malloc or "glibc's")


@dataclass(frozen=True)
class _Loop:
    """What one process did with a batch size: images, seconds, CPU time in seconds, and that until pixels are there."""

    images: int
    seconds: float
    core_seconds: float
    decode_seconds: float


def _eager_loops(registry: Path, model: str, images: Sequence[Path], seconds: float) -> dict[int, _Loop]:
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision import transforms

    from model.architectures.catalog import build_network
    from model.checkpoint import WEIGHTS

    torch.set_num_threads(1)
    version = Registry(registry).version(ModelRef.parse(model))
    manifest = version.manifest
    network = build_network(manifest.architecture.name, len(manifest.labels), manifest.architecture.config)
    network.load_state_dict(load_file(version.folder / WEIGHTS))
    network = network.eval().to(memory_format=torch.channels_last)
    wanted = manifest.preprocessing
    size = (wanted.height, wanted.width)
    resize = [transforms.Resize(size)]
    if wanted.short_side is not None:
        bicubic = transforms.InterpolationMode.BICUBIC
        resize = [transforms.Resize(wanted.short_side, bicubic), transforms.CenterCrop(size)]
    prepare = transforms.Compose([*resize, transforms.ToTensor(), transforms.Normalize(wanted.mean, wanted.std)])
    turns = itertools.cycle([path.read_bytes() for path in images])

    @torch.inference_mode()
    def classify(batch: int) -> float:
        """Classify a batch, and return the seconds of CPU time until its pixels are there."""
        began = time.process_time()
        files = itertools.islice(turns, batch)
        pixels = torch.stack([prepare(Image.open(io.BytesIO(data)).convert(wanted.mode)) for data in files])
        decoded = time.process_time()
        network(pixels.to(memory_format=torch.channels_last)).softmax(dim=1).numpy()
        return decoded - began

    loops = {}
    for batch in BATCHES:
        classify(batch)
        begin_together()
        done, decoding, started, used = 0, 0.0, time.perf_counter(), time.process_time()
        while time.perf_counter() < started + seconds:
            decoding += classify(batch)
            done += batch
        loops[batch] = _Loop(done, time.perf_counter() - started, time.process_time() - used, decoding)
    return loops
