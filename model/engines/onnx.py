"""ONNX Runtime on the CPU: the serving path that needs no torch."""

import os
from pathlib import Path

import numpy as np

from model.checkpoint import NETWORK
from model.engines.base import Logits
from model.errors import CorruptCheckpoint
from model.preprocessing import Pixels

# From 1.29 on, ONNX Runtime reports models and their use to its makers, and writes an identifier
# into the home directory, unless it is told not to before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

_ERRORS_ONLY = 3


class OnnxEngine:
    """`model.onnx` in ONNX Runtime, twice where a run may spread: a session has the threads that it was made with.

    A session of one thread computes on the thread that asks, and any number of threads may ask at once.
    """

    name = "onnx"
    device = "cpu"
    one_core = True

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the version in `folder`; a run that may spread uses `threads` threads.

        Raises:
            CorruptCheckpoint: ONNX Runtime does not accept the file.
        """
        self._session = open_session(folder / NETWORK, 1)
        self._spread = open_session(folder / NETWORK, threads) if threads > 1 else self._session
        self._input = self._session.get_inputs()[0].name
        self._runs: set[onnxruntime.RunOptions] = set()

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        """Map uint8 pixels (N, H, W, C) to float32 logits (N, K)."""
        session = self._spread if spread else self._session
        run = onnxruntime.RunOptions()  # a new one: that of a run that was stopped would stop the next one too
        self._runs.add(run)
        try:
            (logits,) = session.run(None, {self._input: pixels}, run)
        finally:
            self._runs.remove(run)
        return np.asarray(logits, dtype=np.float32)

    def stop(self) -> None:
        """Ask the runs that are under way to end after the operation that they are at."""
        for run in self._runs.copy():
            run.terminate = True


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open an ONNX file in ONNX Runtime, to be computed with `threads` threads.

    Raises:
        CorruptCheckpoint: ONNX Runtime does not accept it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Between batches the cores belong to decoding and HTTP: do not spin on them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        raise CorruptCheckpoint(f"ONNX Runtime cannot load {path}: {error}") from error
