"""OpenVINO on the CPU: often ahead of ONNX Runtime, and the one of the two that computes in bf16."""

import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np

from model.checkpoint import NETWORK
from model.engines.base import Logits
from model.errors import CorruptCheckpoint
from model.manifest import Precision
from model.preprocessing import Pixels

# To import OpenVINO is to tell its makers, and to get an identifier in the home directory. Where this
# package is not to be had, it takes a stand-in of its own that tells nobody anything.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402  only after the line above

# One for the process, and for good: it gives the thread that makes it a stack for signals, and when it ends on another
# one, it takes the memory and leaves the address, so that the next signal ends the process (OpenVINO 2026.4).
_core = cache(openvino.Core)

# Left to itself OpenVINO computes in bf16 where the processor can, whatever the file says.
_HINTS: dict[Precision, str] = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """`model.onnx` in OpenVINO, compiled twice where a run may spread: a compiled network has its threads for good.

    The first has a thread for each of the runs that go on at once, the second all threads for one.
    """

    name = "openvino"
    device = "cpu"
    one_core = True

    def __init__(self, folder: Path, precision: Precision, threads: int) -> None:
        """Load the version in `folder`; a run that may spread uses `threads` threads.

        Raises:
            CorruptCheckpoint: OpenVINO does not accept the file.
        """
        path = folder / NETWORK
        try:
            network = _core().read_model(path)
            self._runs = _Runs(network, precision, streams=threads, threads=threads)
            self._spread = _Runs(network, precision, streams=1, threads=threads) if threads > 1 else self._runs
        except RuntimeError as error:
            raise CorruptCheckpoint(f"OpenVINO cannot load {path}: {error}") from error

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        """Map uint8 pixels (N, H, W, C) to float32 logits (N, K).

        Raises:
            RuntimeError: the run was stopped, or the pixels are not of the network's size.
        """
        return (self._spread if spread else self._runs).infer(pixels)

    def stop(self) -> None:
        """Ask the runs that are under way to end after the operation that they are at."""
        for runs in (self._runs, self._spread):
            runs.cancel()

    def release(self) -> None:
        """Do nothing: what a compiled network has taken, it keeps."""


class _Compiled:
    """A compiled network and its requests: as many as runs have gone on at once."""

    def __init__(self, network: openvino.CompiledModel) -> None:
        self.network = network
        self.idle: list[openvino.InferRequest] = []
        self.busy: set[openvino.InferRequest] = set()
        self.stopped = False


class _Runs:
    """The runs of a network with some number of threads.

    A compiled network of which a run was cancelled is not used again: its next run may answer for the images of the
    one that was cancelled (OpenVINO 2026.4).
    """

    def __init__(self, network: openvino.Model, precision: Precision, *, streams: int, threads: int) -> None:
        self._network = network
        self._hints = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "ENABLE_CPU_PINNING": False,  # two processes would sit on the same cores
        }
        self._compiling = threading.Lock()
        self._compiled: _Compiled | None = None
        self._ready()

    def infer(self, pixels: Pixels) -> Logits:
        compiled = self._ready()
        try:
            request = compiled.idle.pop()
        except IndexError:
            request = compiled.network.create_infer_request()
        compiled.busy.add(request)
        try:
            # The request looks at memory that it does not keep: whole, writable, and held here until it is done.
            images = np.require(pixels, requirements=["C", "W"])
            request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
            request.infer()
            logits = np.array(request.get_output_tensor().data, dtype=np.float32)  # the next run writes over it
        except RuntimeError:
            self._drop(compiled)
            raise
        finally:
            compiled.busy.remove(request)
        if compiled.stopped:
            raise RuntimeError("the run was stopped")
        compiled.idle.append(request)
        return logits

    def cancel(self) -> None:
        compiled = self._compiled
        if compiled is not None and compiled.busy:
            compiled.stopped = True
            self._drop(compiled)
            for request in compiled.busy.copy():
                request.cancel()

    def _ready(self) -> _Compiled:
        with self._compiling:
            if self._compiled is None:
                self._compiled = _Compiled(_core().compile_model(self._network, "CPU", self._hints))
            return self._compiled

    def _drop(self, compiled: _Compiled) -> None:
        if self._compiled is compiled:
            self._compiled = None
