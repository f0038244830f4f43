"""A network on a CUDA device: the kernels of a batch size are recorded once, as a graph, and replayed.

A replay is one call for all kernels of a network. Batches are filled up to the next power of
two, so that a few graphs serve every size. Knows nothing of files.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.engines.base import Logits
from model.preprocessing import Pixels

LARGEST = 256  # images; what is larger keeps a device busy without a graph

_WARM_UPS = 3  # in their first runs libraries choose and allocate what must not be part of a graph
_recording = threading.Lock()  # torch records one graph at a time in a process

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Graph:
    """A recorded batch size.

    Attributes:
        host_pixels: uint8 (N, H, W, C) in pinned memory, from where the device copies by itself.
        pixels: the same on the device.
        replay: runs the kernels on `pixels`, and returns the logits (N, K) on the device; without waiting.
    """

    host_pixels: Tensor
    pixels: Tensor
    replay: Callable[[], Tensor]


class GraphedNetwork:
    """A network and its graphs, recorded as sizes are asked for. For one thread at a time.

    The graphs share their memory: a replay ends, and its logits are copied, before the next one begins.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Take a network on `device` that maps uint8 (N, H, W, C) to float32 (N, K)."""
        self._network = network
        self._device = device
        self._graphs: dict[int, Graph] = {}
        self._records = True
        self._start()

    @torch.inference_mode()
    def infer(self, pixels: Pixels) -> Logits:
        """Map uint8 pixels (N, H, W, C) to float32 logits (N, K).

        The first run of a size records all sizes up to it, so that the largest one warms up the others too.
        """
        count = len(pixels)
        if count <= LARGEST and self._records:
            self._record_up_to(padded(count), pixels.shape[1:])
        graph = self._graphs.get(padded(count))
        if graph is None:
            return self._run(lambda: self._network(torch.tensor(pixels, device=self._device)))
        graph.host_pixels.numpy()[:count] = pixels  # behind them are earlier images, whose logits nobody reads
        return self._run(lambda: _replay(graph, count))

    def _record_up_to(self, size: int, shape: tuple[int, ...]) -> None:
        """Record the sizes that are missing, the largest first: the others then fit into its memory."""
        while size:
            if size not in self._graphs:
                try:
                    self._graphs[size] = self._graph(size, shape)
                except RuntimeError as error:
                    _log.warning("%s runs the network without graphs, which it cannot record: %s", self._device, error)
                    self._records = False
                    self._graphs.clear()
                    return
            size //= 2

    def _graph(self, size: int, shape: tuple[int, ...]) -> Graph:
        pixels = torch.zeros((size, *shape), dtype=torch.uint8, device=self._device)
        return Graph(self._pinned((size, *shape)), pixels, self._record(lambda: self._network(pixels)))

    # ---- what needs a device

    def _start(self) -> None:
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # that has the weights on their way
        self._pool = torch.cuda.graph_pool_handle()

    def _pinned(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.uint8, pin_memory=True)

    def _record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with _recording, torch.cuda.device(self._device):
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    run()
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile: they load versions, or run others.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                logits = run()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay

    def _run(self, run: Callable[[], Tensor]) -> Logits:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            logits = run().cpu()  # waits for the stream
        return np.array(logits.numpy(), dtype=np.float32)


def padded(count: int) -> int:
    """Return the next power of two."""
    return 1 << (count - 1).bit_length()


def _replay(graph: Graph, count: int) -> Tensor:
    graph.pixels.copy_(graph.host_pixels, non_blocking=True)
    return graph.replay()[:count]
