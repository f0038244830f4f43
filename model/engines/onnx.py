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
    """`model.onnx` in an ONNX Runtime session."""

    name = "onnx"
    device = "cpu"

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the version in `folder`; a batch runs on `threads` threads.

        Raises:
            CorruptCheckpoint: ONNX Runtime does not accept the file.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Between batches the cores belong to decoding and HTTP: do not spin on them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = folder / NETWORK
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            raise CorruptCheckpoint(f"ONNX Runtime cannot load {path}: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._run = onnxruntime.RunOptions()

    def infer(self, pixels: Pixels) -> Logits:
        """Map uint8 pixels (N, H, W, C) to float32 logits (N, K)."""
        self._run = onnxruntime.RunOptions()  # a new one: that of a run that was stopped would stop the next one too
        (logits,) = self._session.run(None, {self._input: pixels}, self._run)
        return np.asarray(logits, dtype=np.float32)

    def stop(self) -> None:
        """Ask the run that is under way to end after the operation that it is at."""
        self._run.terminate = True
