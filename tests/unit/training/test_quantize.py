"""A network in int8: what it takes and gives is what it was, and what cannot be quantised is said."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from pydantic import JsonValue

from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from model.checkpoint import NETWORK
from model.engines.onnx import OnnxEngine
from model.registry import StoredVersion
from tests.fakes import TINY_CONFIG, TINY_PREPROCESSING
from training.errors import NotQuantizable
from training.export import export_network
from training.quantize import quantize_network


def photos(count: int, side: int = 12) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture
def reduced(tiny: StoredVersion, tmp_path: Path) -> Path:
    quantize_network(tiny.folder / NETWORK, tmp_path / NETWORK, photos(40))
    return tmp_path


def test_it_takes_pixels_of_any_number_and_gives_nearly_the_same_logits(tiny: StoredVersion, reduced: Path) -> None:
    fp32, int8 = OnnxEngine(tiny.folder, 1), OnnxEngine(reduced, 1)
    for count in (1, 3, 17):
        before, after = fp32.infer(photos(count)), int8.infer(photos(count))
        assert after.shape == before.shape
        assert 0 < np.abs(after - before).max() < 0.05 * before.std() + 0.01


def test_the_normalisation_and_the_logits_stay_in_fp32_and_weights_have_a_scale_for_each_channel(reduced: Path) -> None:
    graph = onnx.load(reduced / NETWORK).graph
    kinds = [node.op_type for node in graph.node if node.op_type != "DequantizeLinear"]
    assert kinds[:5] == ["Transpose", "Cast", "Mul", "Sub", "QuantizeLinear"]
    assert kinds[-1] == "Gemm"
    sizes = {tensor.name: tensor for tensor in graph.initializer}
    assert sizes["network.conv2.weight_quantized"].data_type == TensorProto.INT8
    assert list(sizes["network.conv2.weight_scale"].dims) == [4]


def test_the_first_convolutions_of_a_deep_network_stay_in_fp32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config: dict[str, JsonValue] = {**TINY_CONFIG, "stages": [[4] * 5, [4] * 5]}
    network = PixelNetwork(build_network("classic", 3, config), (0.5,) * 3, (0.5,) * 3).eval()
    export_network(network, torch.from_numpy(photos(4)), tmp_path)
    quantize_network(tmp_path / NETWORK, tmp_path / "int8.onnx", photos(20))
    weights = {tensor.name for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    spared = [number for number in range(1, 11) if f"network.conv{number}.weight" in weights]
    assert spared == [1, 2, 3]
    assert {f"network.conv{number}.weight_quantized" for number in range(4, 11)} <= weights


def test_the_same_images_give_the_same_file(tiny: StoredVersion, reduced: Path, tmp_path: Path) -> None:
    quantize_network(tiny.folder / NETWORK, tmp_path / "again.onnx", photos(40))
    assert (tmp_path / "again.onnx").read_bytes() == (reduced / NETWORK).read_bytes()


def test_a_network_without_anything_to_speed_up_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "mean.onnx", helper.make_node("ReduceMean", ["floats"], ["logits"], axes=[1, 2], keepdims=0))
    with pytest.raises(NotQuantizable, match="nothing that int8 would speed up"):
        quantize_network(tmp_path / "mean.onnx", tmp_path / "out.onnx", photos(2))


def test_a_network_on_which_the_tools_fail_is_refused_with_their_reason(tmp_path: Path) -> None:
    write(tmp_path / "odd.onnx", helper.make_node("MatMul", ["floats", "nothing"], ["logits"]))
    with pytest.raises(NotQuantizable, match=r"cannot be quantised: .*nothing"):
        quantize_network(tmp_path / "odd.onnx", tmp_path / "out.onnx", photos(2))


def write(path: Path, node: onnx.NodeProto) -> None:
    cast = helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 12, 12, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([cast, node], "graph", [pixels], [logits])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.mark.extra
@pytest.mark.parametrize("name", ["densenet121", "efficientnet_b0", "mobilenet_v3_small", "resnet18", "squeezenet1_1"])
def test_networks_of_other_families_can_be_quantised(name: str, tmp_path: Path) -> None:
    """Of random weights: that it runs, is known; how well it answers, is not."""
    torch.manual_seed(0)
    network = PixelNetwork(build_network(name, 5, {}), TINY_PREPROCESSING.mean, TINY_PREPROCESSING.std).eval()
    pixels = photos(4, 96)
    export_network(network, torch.from_numpy(pixels), tmp_path)
    (tmp_path / "int8").mkdir()
    quantize_network(tmp_path / NETWORK, tmp_path / "int8" / NETWORK, pixels)
    before, after = (OnnxEngine(folder, 1).infer(pixels) for folder in (tmp_path, tmp_path / "int8"))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    assert (tmp_path / "int8" / NETWORK).stat().st_size < 0.5 * (tmp_path / NETWORK).stat().st_size
