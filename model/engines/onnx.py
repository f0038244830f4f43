"""ONNX Runtime on the CPU: the serving path that needs no torch."""

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
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
_WEIGHTS = "weights"
_LARGE_BYTES = "1024"  # what is smaller stays with the graph
_log = logging.getLogger(__name__)


class OnnxEngine:
    """`model.onnx` in ONNX Runtime, twice where a run may spread: a session has the threads that it was made with.

    A session of one thread computes on the thread that asks, and any number of threads may ask at once. The weights lie
    in a file as this processor wants them, which both sessions map into memory, and so do other processes that are
    given the same folder; what runs need beside them all sessions of a process take from one arena.
    """

    name = "onnx"
    device = "cpu"
    one_core = True

    def __init__(self, folder: Path, threads: int, shared: Path | None = None) -> None:
        """Load the version in `folder`; a run that may spread uses `threads` threads.

        Args:
            folder: of the version.
            threads: of a run that may spread.
            shared: a folder, of this network alone, for its weights; with None they are mapped by this process only.

        Raises:
            CorruptCheckpoint: ONNX Runtime does not accept the file.
        """
        with _prepared(folder / NETWORK, shared) as prepared:
            try:
                self._session, self._spread = prepared.open(threads)
            except CorruptCheckpoint:  # it may have gone since it was found
                self._session, self._spread = _Network(folder / NETWORK, is_prepared=False).open(threads)
        if shared is not None:  # what is mapped stays; who needs it after that makes it anew
            weakref.finalize(self, shutil.rmtree, shared, ignore_errors=True)
        self._input = self._session.get_inputs()[0]
        self._runs: set[onnxruntime.RunOptions] = set()

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        """Map uint8 pixels (N, H, W, C) to float32 logits (N, K)."""
        return self._run(pixels, self._spread if spread else self._session, onnxruntime.RunOptions())

    def stop(self) -> None:
        """Ask the runs that are under way to end after the operation that they are at."""
        for run in self._runs.copy():
            run.terminate = True

    def release(self) -> None:
        """Give back the memory that runs have needed, but for those that are under way."""
        _, *shape = self._input.shape
        if not all(isinstance(side, int) for side in shape):  # an imported network of any size, which keeps what it has
            return
        run = onnxruntime.RunOptions()
        run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")  # when it has ended
        self._run(np.zeros((1, *shape), np.uint8), self._session, run)

    def _run(self, pixels: Pixels, session: onnxruntime.InferenceSession, run: onnxruntime.RunOptions) -> Logits:
        self._runs.add(run)  # never one of before: that of a run that was stopped would stop the next one too
        try:
            (logits,) = session.run(None, {self._input.name: pixels}, run)
        finally:
            self._runs.remove(run)
        return np.asarray(logits, dtype=np.float32)


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open an ONNX file in ONNX Runtime, to be computed with `threads` threads and memory of its own.

    Raises:
        CorruptCheckpoint: ONNX Runtime does not accept it.
    """
    return _open(path, _options(threads))


@dataclass(frozen=True)
class _Network:
    """A network in a file, and whether it is as it is computed here."""

    path: Path
    is_prepared: bool

    def open(self, threads: int) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
        """Open it for runs of one thread and for runs of `threads`."""
        _make_arena()
        alone = self._open(1)
        return alone, self._open(threads) if threads > 1 else alone

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        options = _options(threads)
        options.add_session_config_entry("session.use_env_allocators", "1")
        if self.is_prepared:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return _open(self.path, options)


@contextmanager
def _prepared(network: Path, shared: Path | None) -> Iterator[_Network]:
    """Give a network as it is computed on this processor; as it comes, where that cannot be written."""
    with ExitStack() as stack:
        try:
            if shared is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubel-")))
                _prepare(network, folder)
            else:
                folder = shared
                _share(network, folder)
        except (OSError, CorruptCheckpoint) as error:  # what is wrong with the network itself is found once more
            _log.warning("the weights of %s could not be mapped, and take more memory: %s", network, error)
            yield _Network(network, is_prepared=False)
        else:
            yield _Network(folder / NETWORK, is_prepared=True)  # what is mapped stays when the file is gone


def _share(network: Path, folder: Path) -> None:
    """Prepare a network in a folder, unless another process has."""
    if folder.exists():
        return
    folder.parent.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        _prepare(network, made)
        made.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _prepare(network: Path, folder: Path) -> None:
    """Write a network as it is computed here, and its weights to a file of their own."""
    options = _options(1)
    options.optimized_model_filepath = str(folder / NETWORK)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _WEIGHTS)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", _LARGE_BYTES)
    _open(network, options)


@cache
def _make_arena() -> None:
    """Make the arena of this process's engines."""
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, None)


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Between batches the cores belong to decoding and HTTP: do not spin on them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        raise CorruptCheckpoint(f"ONNX Runtime cannot load {path}: {error}") from error
