import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import NETWORK, WEIGHTS, read_golden
from model.classifier import check_golden
from model.engines import selection
from model.engines.base import Engine
from model.engines.onnx import OnnxEngine
from model.engines.selection import Candidate, EngineChoice, candidates, open_engine
from model.engines.torch import TorchEngine
from model.errors import CorruptCheckpoint, EngineUnavailable
from model.manifest import REDUCED_TOLERANCE
from model.registry import StoredVersion

BOTH = ("onnx", "torch")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")


@pytest.fixture(params=["onnx", "torch"])
def engine(request: pytest.FixtureRequest, tiny: StoredVersion) -> Engine:
    return open_engine(tiny, Candidate(request.param, "cpu"), threads=2)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 33])
def test_any_number_of_images_gives_each_its_own_logits(count: int, engine: Engine) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
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


@needs_cuda
def test_a_cuda_device_repeats_the_golden_outputs(tiny: StoredVersion) -> None:
    on_cuda = open_engine(tiny, Candidate("torch", "cuda"), threads=1)
    check_golden(on_cuda, read_golden(tiny.folder), tiny.manifest)


def test_weights_of_another_network_are_refused(tiny: StoredVersion) -> None:
    wrong = tiny.manifest.model_copy(update={"labels": ("one", "two")})
    with pytest.raises(CorruptCheckpoint, match=f"{WEIGHTS} does not hold the weights of classic"):
        TorchEngine(tiny.folder, wrong, "cpu", threads=1)


@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_a_network_that_onnx_runtime_does_not_read_is_refused(content: bytes, tiny: StoredVersion) -> None:
    (tiny.folder / NETWORK).write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=NETWORK):
        OnnxEngine(tiny.folder, threads=1)


def test_auto_prefers_onnx_on_a_cpu_and_torch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_has_cuda", lambda: False)
    assert candidates(EngineChoice(), BOTH) == [Candidate("onnx", "cpu"), Candidate("torch", "cpu")]
    monkeypatch.setattr(selection, "_has_cuda", lambda: True)
    assert candidates(EngineChoice(), BOTH)[0] == Candidate("torch", "cuda")


def test_what_is_asked_for_is_taken() -> None:
    assert candidates(EngineChoice("torch", "cpu"), BOTH) == [Candidate("torch", "cpu")]
    assert candidates(EngineChoice("auto", "cuda:1"), BOTH) == [Candidate("torch", "cuda:1")]


@pytest.mark.parametrize(
    ("choice", "offered"),
    [(EngineChoice("onnx", "cuda"), BOTH), (EngineChoice("torch", "cpu"), ("onnx",))],
)
def test_what_cannot_be_had_says_what_is_there(choice: EngineChoice, offered: tuple[str, ...]) -> None:
    with pytest.raises(EngineUnavailable, match=r"the version runs on .*; on this machine torch is installed"):
        candidates(choice, offered)


def test_without_torch_a_version_is_served_by_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "is_installed", lambda engine: engine == "onnx")
    assert candidates(EngineChoice(device="cpu"), BOTH) == [Candidate("onnx", "cpu")]
    with pytest.raises(EngineUnavailable, match="torch is not installed"):
        candidates(EngineChoice("torch", "cpu"), BOTH)


def test_a_device_that_is_not_there_is_named(tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineUnavailable, match="device cuda was asked for"):
        open_engine(tiny, Candidate("torch", "cuda"), threads=1)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match="'tpu' is not known"):
        EngineChoice(device="tpu")


def test_a_driver_is_looked_for_without_importing_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_NVIDIA_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(selection, "_NVIDIA_DEVICE", tmp_path / "device")
    assert not selection._has_cuda()
    (tmp_path / "device").touch()
    assert selection._has_cuda()
