"""The reader of ONNX files, compared with the package `onnx`."""

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.checkpoint import EXPLAIN_NETWORK
from model.errors import CorruptCheckpoint
from model.explain.onnx_graph import read_onnx
from model.registry import StoredVersion


def test_a_published_graph_is_read_as_onnx_reads_it(tiny: StoredVersion) -> None:
    path = tiny.folder / EXPLAIN_NETWORK
    found, expected = read_onnx(path), onnx.load(path).graph
    assert [(n.operator, n.inputs, n.outputs) for n in found.nodes] == [
        (n.op_type, tuple(n.input), tuple(n.output)) for n in expected.node
    ]
    assert found.constants.keys() == {tensor.name for tensor in expected.initializer}
    for tensor in expected.initializer:
        np.testing.assert_array_equal(found.constants[tensor.name], numpy_helper.to_array(tensor))
    assert found.inputs == ("pixels",)
    assert found.outputs == tuple(output.name for output in expected.output)
    (conv, *_) = (node for node in found.nodes if node.operator == "Conv")
    assert conv.integers("pads") == (1, 1, 1, 1)
    assert conv.integer("group", 5) == 1
    assert conv.attributes["auto_pad"] == "NOTSET"


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1.5, -2.25]], np.float32),
        np.array([-1, 2**40], np.int64),
        np.array([3, -7], np.int32),
        np.array([True, False]),
        np.array([0.5, -1.25], np.float16),
        np.array([0.1], np.float64),
        np.array(-3, np.int64),
        np.array([200, 1], np.uint8),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_every_type_are_read(raw: bool, values: np.ndarray, tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(values, "weights")
    if not raw:
        plain = values.view(np.uint16) if values.dtype == np.float16 else values
        tensor = TensorProto(name="weights", data_type=tensor.data_type, dims=tensor.dims)
        place = {"f": "float_data", "d": "double_data", "l": "int64_data"}.get(values.dtype.char, "int32_data")
        getattr(tensor, place).extend(plain.astype(np.uint8 if plain.dtype == bool else plain.dtype).ravel().tolist())
    node = helper.make_node("Constant", [], ["made"], value=tensor)
    graph = helper.make_graph([node], "graph", [], [], [tensor])
    onnx.save_model(helper.make_model(graph), tmp_path / "model.onnx")
    found = read_onnx(tmp_path / "model.onnx")
    for name in ("weights", "made"):
        np.testing.assert_array_equal(found.constants[name], values)
        assert found.constants[name].dtype == values.dtype
        assert found.constants[name].shape == values.shape


def test_damaged_files_are_told_of_as_such(tiny: StoredVersion) -> None:
    path = tiny.folder / EXPLAIN_NETWORK
    whole, chance = path.read_bytes(), random.Random(0)
    for number in range(300):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if number % 2 else whole)
        for _ in range(chance.randrange(1, 20)):
            if damaged:
                damaged[chance.randrange(min(len(damaged), 3000))] = chance.randrange(256)
        path.write_bytes(damaged)
        with suppress(CorruptCheckpoint):  # and nothing else; what was damaged may be a weight
            read_onnx(path)


def test_a_file_that_is_not_there_or_holds_nothing_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("empty.onnx", "missing.onnx"):
        with pytest.raises(CorruptCheckpoint, match=name):
            read_onnx(tmp_path / name)


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    graph = helper.make_graph([], "graph", [], [], [tensor])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(CorruptCheckpoint, match="another file"):
        read_onnx(tmp_path / "model.onnx")
