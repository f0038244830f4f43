import dataclasses
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model.checkpoint import NETWORK, WEIGHTS, read_golden
from model.classifier import check_golden
from model.engines import selection
from model.engines.base import Engine
from model.engines.onnx import OnnxEngine, open_session
from model.engines.openvino import OpenVinoEngine
from model.engines.selection import Candidate, EngineChoice, candidates, open_engine
from model.engines.torch import TorchEngine
from model.errors import CorruptCheckpoint, EngineUnavailable
from model.manifest import REDUCED_TOLERANCE, Precision
from model.preprocessing import Pixels
from model.registry import StoredVersion

ALL = ("onnx", "openvino", "torch")
ONE_CORE = ("onnx", "openvino")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")


def open_on_cpu(version: StoredVersion, name: str, threads: int = 2, precision: Precision = "fp32") -> Engine:
    manifest = version.manifest.model_copy(update={"precision": precision})
    opened = StoredVersion(version.name, version.number, version.folder, manifest)
    return open_engine(opened, Candidate(name, "cpu"), threads)


@pytest.fixture(params=ALL)
def engine(request: pytest.FixtureRequest, tiny: StoredVersion) -> Engine:
    return open_on_cpu(tiny, request.param)


@pytest.fixture(params=ONE_CORE)
def one_core_engine(request: pytest.FixtureRequest, tiny: StoredVersion) -> Engine:
    return open_on_cpu(tiny, request.param)


def noise(count: int, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 33])
def test_any_number_of_images_gives_each_its_own_logits(count: int, engine: Engine) -> None:
    pixels = noise(count)
    together = engine.infer(pixels)
    assert together.shape == (count, 3)
    assert together.dtype == np.float32
    alone = np.concatenate([engine.infer(pixels[i : i + 1]) for i in range(count)])
    assert np.abs(together - alone).max() < 1e-5


def test_engines_repeat_the_golden_outputs(engine: Engine, tiny: StoredVersion) -> None:
    golden = read_golden(tiny.folder)
    assert np.abs(engine.infer(golden.pixels) - golden.logits).max() < 1e-4


def in_bf16(version: StoredVersion) -> StoredVersion:
    manifest = version.manifest.model_copy(update={"precision": "bf16", "tolerance": REDUCED_TOLERANCE})
    return dataclasses.replace(version, manifest=manifest)


def test_torch_computes_a_bf16_version_in_bf16_and_answers_in_float32(tiny: StoredVersion) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    fp32, bf16 = (open_engine(version, Candidate("torch", "cpu"), 1).infer(pixels) for version in (tiny, in_bf16(tiny)))
    assert bf16.dtype == np.float32
    assert bf16.shape == fp32.shape
    assert 0 < np.abs(bf16 - fp32).max() < 0.05
    assert np.array_equal(torch.from_numpy(bf16).bfloat16().float().numpy(), bf16)


@needs_cuda
def test_a_cuda_device_computes_in_bf16(tiny: StoredVersion) -> None:
    version = in_bf16(tiny)
    check_golden(open_engine(version, Candidate("torch", "cuda"), 1), read_golden(tiny.folder), version.manifest)


def test_runs_beside_one_another_answer_as_they_do_alone(one_core_engine: Engine) -> None:
    batches = [noise(1 + seed % 9, seed) for seed in range(200)]
    alone = [one_core_engine.infer(batch) for batch in batches]
    with ThreadPoolExecutor(3) as threads:  # one more than the engine counts on
        together = list(
            threads.map(lambda seed: one_core_engine.infer(batches[seed], spread=seed % 5 == 0), range(200))
        )
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("spread", [False, True])
def test_a_run_that_is_stopped_fails_and_the_next_ones_are_right(spread: bool, one_core_engine: Engine) -> None:
    pixels = noise(4)
    expected = one_core_engine.infer(pixels)
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            run = thread.submit(one_core_engine.infer, noise(20_000), spread=spread)
            while not run.done():
                one_core_engine.stop()
        assert run.exception() is not None
        for count in (1, 4, 2):
            logits = one_core_engine.infer(pixels[:count], spread=spread)
            assert np.array_equal(logits, expected[:count])


def test_an_engine_that_gives_its_memory_back_answers_as_before(engine: Engine) -> None:
    expected = engine.infer(noise(5))
    engine.release()
    assert np.array_equal(engine.infer(noise(5)), expected)


def test_a_network_that_takes_images_of_any_size_keeps_its_memory_and_answers(tmp_path: Path) -> None:
    layers = [onnx.helper.make_node("Cast", ["pixels"], ["floats"], to=onnx.TensorProto.FLOAT)]
    layers += [onnx.helper.make_node("ReduceMean", ["floats", "axes"], ["logits"], keepdims=0)]
    pixels = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["N", "H", "W", 3])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3])
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
    graph = onnx.helper.make_graph(layers, "any size", [pixels], [logits], [axes])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / NETWORK)
    engine = OnnxEngine(tmp_path, 2)
    engine.release()
    assert np.allclose(engine.infer(noise(2)), noise(2).mean(axis=(1, 2)))


@contextmanager
def shared_by(kind: str, folder: Path) -> Iterator[Path | None]:
    """A folder for weights, as several processes have one, as one has none, or as there is no room for any."""
    (folder / "file").touch()
    yield {"shared": folder / "networks", "own": None, "no room": folder / "file"}[kind]


@pytest.mark.parametrize(("kind", "maps"), [("shared", True), ("own", True), ("no room", False)])
def test_onnx_maps_its_weights_and_computes_without_that_as_well(
    kind: str, maps: bool, tiny: StoredVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = open_session(tiny.folder / NETWORK, 1).run(None, {"pixels": noise(4)})[0]
    before = Path("/proc/self/maps").read_text().count("/weights")
    with shared_by(kind, tmp_path) as shared:
        first, second = (open_engine(tiny, Candidate("onnx", "cpu"), 2, shared) for _ in range(2))
        assert (Path("/proc/self/maps").read_text().count("/weights") > before) == maps
        assert ("could not be mapped" in caplog.text) != maps
    for engine in (first, second):
        assert np.array_equal(engine.infer(noise(4)), expected)
        assert np.array_equal(engine.infer(noise(4), spread=True), expected)
    if kind == "shared":
        sha256 = tiny.manifest.files[NETWORK].sha256
        assert sorted(path.name for path in (tmp_path / "networks" / sha256).iterdir()) == [NETWORK, "weights"]
        assert len([*(tmp_path / "networks").iterdir()]) == 1
        del engine, first, second
        gc.collect()
        assert not [*(tmp_path / "networks").iterdir()]  # a service that loads a thousand versions keeps its room


def test_weights_that_another_process_takes_away_are_missed_by_nobody(tiny: StoredVersion, tmp_path: Path) -> None:
    expected = open_engine(tiny, Candidate("onnx", "cpu"), 1).infer(noise(4))
    shared = tmp_path / tiny.manifest.files[NETWORK].sha256
    shared.mkdir()  # it has just gone
    engine = open_engine(tiny, Candidate("onnx", "cpu"), 1, tmp_path)
    assert np.array_equal(engine.infer(noise(4)), expected)


def test_a_network_that_is_none_is_refused_with_and_without_a_folder(tiny: StoredVersion, tmp_path: Path) -> None:
    (tiny.folder / NETWORK).write_bytes(b"no network")
    for shared in (None, tmp_path / "networks"):
        with pytest.raises(CorruptCheckpoint, match="ONNX Runtime cannot load"):
            open_engine(tiny, Candidate("onnx", "cpu"), 1, shared)


def test_stopping_while_nothing_runs_changes_nothing(engine: Engine) -> None:
    engine.stop()
    assert engine.infer(noise(2)).shape == (2, 3)


def test_pixels_that_lie_elsewhere_in_memory_or_may_not_be_written_are_read(one_core_engine: Engine) -> None:
    pixels = noise(8)
    expected = one_core_engine.infer(pixels)
    pixels.flags.writeable = False
    assert np.array_equal(one_core_engine.infer(pixels), expected)
    assert np.array_equal(one_core_engine.infer(pixels[::2]), expected[::2])


def test_pixels_of_a_wrong_size_fail_and_the_next_ones_do_not(one_core_engine: Engine) -> None:
    expected = one_core_engine.infer(noise(2))
    with pytest.raises(Exception, match=r"(?i)shape|dimension"):
        one_core_engine.infer(np.zeros((1, 5, 5, 3), np.uint8))
    assert np.array_equal(one_core_engine.infer(noise(2)), expected)


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("int8", "f32"), ("bf16", "bf16")])
def test_openvino_is_told_its_precision_and_not_to_sit_on_cores(
    precision: Precision, hint: str, tiny: StoredVersion
) -> None:
    engine = OpenVinoEngine(tiny.folder, precision, threads=2)
    for runs, threads in ((engine._runs, 1), (engine._spread, 2)):
        compiled = runs._idle[0].network
        assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == hint
        assert compiled.get_property("ENABLE_CPU_PINNING") is False
        assert compiled.get_property("NUM_STREAMS") == 1
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads


def test_openvino_runs_in_the_thread_that_asks_unless_the_run_spreads(tiny: StoredVersion) -> None:
    engine = OpenVinoEngine(tiny.folder, "fp32", threads=2)
    pixels, own, all_threads = noise(2000), time.thread_time(), time.process_time()
    for _ in range(20):
        engine.infer(pixels)
    own, all_threads = time.thread_time() - own, time.process_time() - all_threads
    assert all_threads - own < own  # it would be many times of it


def test_openvino_keeps_a_network_for_each_of_two_sizes_that_alternate(tiny: StoredVersion) -> None:
    runs = OpenVinoEngine(tiny.folder, "fp32", threads=2)._runs
    for size in (1, 3, 1, 3, 3, 1):
        runs.infer(noise(size))
    assert [compiled.size for compiled in runs._idle] == [3, 1]
    runs.infer(noise(2))
    assert [compiled.size for compiled in runs._idle] == [1, 2]  # the one that was used longest ago


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_bf16_is_near_what_fp32_answers(name: str, tiny: StoredVersion) -> None:
    golden = read_golden(tiny.folder)
    reduced = open_on_cpu(tiny, name, precision="bf16").infer(golden.pixels)
    assert reduced.dtype == np.float32
    assert np.abs(reduced - golden.logits).max() < 0.05


def test_a_signal_after_openvino_was_let_go_of_elsewhere_is_only_a_signal(tiny: StoredVersion) -> None:
    script = """
import os, pathlib, signal, sys, threading
from model.engines.onnx import open_session
from model.engines.openvino import OpenVinoEngine
engines = [OpenVinoEngine(pathlib.Path(sys.argv[1]), "bf16", threads=2) for _ in range(2)]
thread = threading.Thread(target=engines.clear)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("told"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", script, tiny.folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "told\n")


def test_openvino_reports_nothing_to_its_makers(tmp_path: Path) -> None:
    look = "import sys, model.engines.openvino; print(sys.modules['openvino_telemetry'])"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert list(tmp_path.iterdir()) == []


@needs_cuda
@pytest.mark.parametrize("count", [1, 2, 3, 7, 33, 300])
def test_a_cuda_device_gives_each_image_its_own_logits(count: int, tiny: StoredVersion) -> None:
    on_cuda, on_cpu = open_engine(tiny, Candidate("torch", "cuda"), threads=1), open_on_cpu(tiny, "torch")
    for seed in range(3):
        assert np.abs(on_cuda.infer(noise(count, seed)) - on_cpu.infer(noise(count, seed))).max() < 1e-4
    assert on_cuda.infer(noise(1)).shape == (1, 3)


@needs_cuda
def test_bf16_on_a_cuda_device_is_near_what_fp32_answers(tiny: StoredVersion) -> None:
    golden = read_golden(tiny.folder)
    manifest = tiny.manifest.model_copy(update={"precision": "bf16"})
    reduced = TorchEngine(tiny.folder, manifest, "cuda", threads=1).infer(golden.pixels)
    assert 0 < np.abs(reduced - golden.logits).max() < 0.05


@needs_cuda
def test_a_cuda_device_repeats_the_golden_outputs(tiny: StoredVersion) -> None:
    on_cuda = open_engine(tiny, Candidate("torch", "cuda"), threads=1)
    check_golden(on_cuda, read_golden(tiny.folder), tiny.manifest)


def test_weights_of_another_network_are_refused(tiny: StoredVersion) -> None:
    wrong = tiny.manifest.model_copy(update={"labels": ("one", "two")})
    with pytest.raises(CorruptCheckpoint, match=f"{WEIGHTS} does not hold the weights of classic"):
        TorchEngine(tiny.folder, wrong, "cpu", threads=1)


@pytest.mark.parametrize("name", ONE_CORE)
@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_a_network_that_is_none_is_refused(content: bytes, name: str, tiny: StoredVersion) -> None:
    (tiny.folder / NETWORK).write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=f"cannot load .*{NETWORK}"):
        open_on_cpu(tiny, name)


def test_auto_prefers_onnx_on_a_cpu_and_torch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_has_cuda", lambda: False)
    assert candidates(EngineChoice(), ALL) == [Candidate(name, "cpu") for name in ("onnx", "openvino", "torch")]
    monkeypatch.setattr(selection, "_has_cuda", lambda: True)
    assert candidates(EngineChoice(), ALL)[0] == Candidate("torch", "cuda")


def test_what_is_asked_for_is_taken() -> None:
    assert candidates(EngineChoice("openvino"), ALL) == [Candidate("openvino", "cpu")]
    assert candidates(EngineChoice("torch", "cpu"), ALL) == [Candidate("torch", "cpu")]
    assert candidates(EngineChoice("auto", "cuda:1"), ALL) == [Candidate("torch", "cuda:1")]


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        (EngineChoice("onnx", "cuda"), ALL),
        (EngineChoice("openvino", "cuda"), ALL),
        (EngineChoice("torch", "cpu"), ("onnx",)),
    ],
)
def test_what_cannot_be_had_says_what_is_there(choice: EngineChoice, offered: tuple[str, ...]) -> None:
    with pytest.raises(
        EngineUnavailable, match=r"the version runs on .*; on this machine onnx is installed, openvino is"
    ):
        candidates(choice, offered)


def test_without_torch_a_version_is_served_by_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "is_installed", lambda engine: engine == "onnx")
    assert candidates(EngineChoice(device="cpu"), ALL) == [Candidate("onnx", "cpu")]
    with pytest.raises(EngineUnavailable, match="torch is not installed"):
        candidates(EngineChoice("torch", "cpu"), ALL)


def test_a_device_that_is_not_there_is_named(tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineUnavailable, match="device cuda was asked for"):
        open_engine(tiny, Candidate("torch", "cuda"), threads=1)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "is_installed", lambda engine: engine == "onnx")
    with pytest.raises(EngineUnavailable, match=r"openvino is not installed, .* 'hubel\[openvino\]' brings"):
        candidates(EngineChoice("auto", "cpu"), ("openvino", "torch"))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match="'tpu' is not known"):
        EngineChoice(device="tpu")


def test_a_driver_is_looked_for_without_importing_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_NVIDIA_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(selection, "_NVIDIA_DEVICE", tmp_path / "device")
    assert not selection._has_cuda()
    (tmp_path / "device").touch()
    assert selection._has_cuda()
