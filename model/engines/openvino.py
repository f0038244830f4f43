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

_SIZES = 2  # of batches that may alternate at no cost: one, and what has gathered meanwhile

# Left to itself OpenVINO computes in bf16 where the processor can, whatever the file says.
_HINTS: dict[Precision, str] = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """`model.onnx` in OpenVINO, compiled for one thread and for all: a compiled network has its threads for good.

    One of several streams would do for runs side by side, with the weights in memory once; but its runs change
    threads, and those of one thread go on in the thread that asks.
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
            self._runs = _Runs(network, precision, threads=1, sizes=_SIZES)
            self._spread = _Runs(network, precision, threads=threads, sizes=1) if threads > 1 else self._runs
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
    """A network as it was compiled for one run at a time."""

    def __init__(self, network: openvino.CompiledModel) -> None:
        self.network = network
        self.size = 0  # of its last batch
        self.stopped = False
        self._request = network.create_infer_request()

    def infer(self, pixels: Pixels) -> Logits:
        # The request looks at memory that it does not keep: whole, writable, and held here until it is done.
        images = np.require(pixels, requirements=["C", "W"])
        self._request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
        self._request.infer()
        return np.array(self._request.get_output_tensor().data, dtype=np.float32)  # the next run writes over it

    def cancel(self) -> None:
        self._request.cancel()


class _Runs:
    """Runs of a network with some number of threads each; it is compiled as often as runs go on at once.

    A batch of another size than the one before costs a compiled network a millisecond. So there is one for each of
    `sizes` sizes, and one that has had a size is given that again where it can be. One of which a run was cancelled
    is not used again: its next run may answer for the images of the one that was cancelled (OpenVINO 2026.4).
    """

    def __init__(self, network: openvino.Model, precision: Precision, *, threads: int, sizes: int) -> None:
        self._network = network
        self._hints = {
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "ENABLE_CPU_PINNING": False,  # two processes would sit on the same cores
        }
        self._sizes = sizes
        self._lock = threading.Lock()  # for what follows
        self._idle = [self._compile()]  # the one that was used last is the last
        self._busy: set[_Compiled] = set()
        self._count = 1  # of those that are idle, busy, or being compiled

    def infer(self, pixels: Pixels) -> Logits:
        compiled = self._take(len(pixels))
        try:
            logits = compiled.infer(pixels)
        except BaseException:
            self._let_go(compiled, failed=True)
            raise
        if not self._let_go(compiled):
            raise RuntimeError("the run was stopped")
        return logits

    def cancel(self) -> None:
        with self._lock:
            busy = self._busy.copy()
            for compiled in busy:
                compiled.stopped = True
        for compiled in busy:
            compiled.cancel()

    def _take(self, size: int) -> _Compiled:
        """Take the network whose last batch was of this size, else a new one while there are few, else the oldest."""
        with self._lock:
            fitting = [compiled for compiled in self._idle if compiled.size in (size, 0)]
            if not fitting and self._count >= self._sizes:
                fitting = self._idle[:1]
            if fitting:
                compiled = fitting[-1]
                self._idle.remove(compiled)
                self._begin(compiled, size)
                return compiled
            self._count += 1
        try:
            compiled = self._compile()
        except BaseException:
            with self._lock:
                self._count -= 1
            raise
        with self._lock:
            self._begin(compiled, size)
        return compiled

    def _begin(self, compiled: _Compiled, size: int) -> None:
        compiled.size = size
        self._busy.add(compiled)

    def _let_go(self, compiled: _Compiled, *, failed: bool = False) -> bool:
        """Keep a network for the next run, unless its run failed or was cancelled; returns whether it is kept."""
        with self._lock:
            self._busy.remove(compiled)
            is_kept = not (failed or compiled.stopped)
            if is_kept:
                self._idle.append(compiled)
            else:
                self._count -= 1
            return is_kept

    def _compile(self) -> _Compiled:
        return _Compiled(_core().compile_model(self._network, "CPU", self._hints))
