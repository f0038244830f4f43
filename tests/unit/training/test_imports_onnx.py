import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from model.checkpoint import EXPLAIN_NETWORK, LAYERS, WEIGHTS
from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.preprocessing import ImageLimits
from model.registry import Registry, StoredVersion
from training.errors import InvalidSource
from training.imports import onnx_version
from training.imports.onnx_version import publish_onnx
from training.imports.preprocessing import USUAL, PixelWish
from training.imports.wish import Wish

SIDE = 16


def write_network(
    path: Path,
    *,
    shape: tuple[str | int, ...] = ("N", 3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    ending: str = "",
    flatten: str = "Flatten",
    opset: int = 17,
) -> Path:
    """A small classifier of three classes, as another program might have written it."""
    generator = np.random.default_rng(0)
    channels = 1 if 1 in shape[1:] else 3
    constants: dict[str, np.ndarray] = {
        "conv.weight": generator.normal(size=(4, channels, 3, 3)).astype(np.float32),
        "fc.weight": generator.normal(size=(4 * SIDE * SIDE // 4, 3)).astype(np.float32) / 20,
        "flat": np.array([1 if shape[0] == 1 else -1, 4 * SIDE * SIDE // 4]),
    }
    value, nodes = "image", []
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [value], ["cast"], to=TensorProto.FLOAT))
        value = "cast"
    if shape[-1] == channels:
        nodes.append(helper.make_node("Transpose", [value], ["turned"], perm=[0, 3, 1, 2]))
        value = "turned"
    nodes += [
        helper.make_node("Conv", [value, "conv.weight"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(flatten, ["pool"] + (["flat"] if flatten == "Reshape" else []), ["flattened"]),
        helper.make_node("MatMul", ["flattened", "fc.weight"], ["raw" if ending else "out"]),
    ]
    if ending == "Probabilities":  # the arithmetic of a softmax without its node
        nodes += [
            helper.make_node("Exp", ["raw"], ["powers"]),
            helper.make_node("ReduceSum", ["powers"], ["sum"], keepdims=1, noop_with_empty_axes=0),
            helper.make_node("Div", ["powers", "sum"], ["out"]),
        ]
    elif ending:
        nodes.append(helper.make_node(ending, ["raw"], ["out"]))
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [shape[0], 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name != "flat"]
        + ([numpy_helper.from_array(constants["flat"], "flat")] if flatten == "Reshape" else []),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


@pytest.fixture
def labels(tmp_path: Path) -> str:
    path = tmp_path / "labels.txt"
    path.write_text("ant\nbee\ncow\n")
    return str(path)


@pytest.fixture
def wish(labels: str, tmp_path: Path) -> Wish:
    return Wish(tmp_path / "net.onnx", "net", labels=labels)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "registry").mkdir()
    return Registry(tmp_path / "registry")


def answer(version: StoredVersion, photo: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that the version takes of a photo, and its probabilities."""
    classifier = load_classifier(version, EngineChoice("auto", "cpu"))
    pixels = classifier.prepare(photo, ImageLimits()).pixels
    return pixels, classifier.classify(pixels[None])[0]


def original(path: Path, image: np.ndarray, *, softmax: bool) -> np.ndarray:
    (out,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": image})
    return np.asarray(np.exp(out[0]) / np.exp(out[0]).sum() if softmax else out[0])


@pytest.mark.parametrize("shape", [("N", 3, SIDE, SIDE), (1, 3, SIDE, SIDE), (1, SIDE, SIDE, 3), ("N", 3, "H", "W")])
@pytest.mark.parametrize(
    ("ending", "flatten"), [("", "Flatten"), ("Softmax", "Reshape"), ("LogSoftmax", "Reshape"), ("Softmax", "Flatten")]
)
def test_a_network_answers_as_its_file_does(
    wish: Wish, photo: bytes, *, shape: tuple[str | int, ...], ending: str, flatten: str
) -> None:
    path = write_network(wish.source, shape=shape, ending=ending, flatten=flatten)
    size = (SIDE, SIDE) if "H" in shape else None
    registry = Registry(path.parent / "registry")
    version, taken = publish_onnx(registry, dataclasses.replace(wish, pixels=PixelWish(size=size)))
    pixels, found = answer(version, photo)
    image = (pixels.astype(np.float32) / 255 - np.array(USUAL.mean)) / np.array(USUAL.std)
    image = image if shape[-1] == 3 else image.transpose(2, 0, 1)
    expected = original(path, np.ascontiguousarray(image[None], np.float32), softmax=ending != "Softmax")
    assert np.abs(found - expected).max() < 1e-5
    assert "mean 0.485,0.456,0.406" in taken
    assert "size 16x16" not in taken


def test_the_files_of_such_a_version_are_those_of_any(registry: Registry, labels: str, tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", ending="Softmax")
    version, _ = publish_onnx(registry, Wish(path, "net", labels=labels), "canary")
    assert (version.manifest.engines, version.manifest.architecture.name) == (("onnx",), "onnx")
    weights = load_file(version.folder / WEIGHTS)
    assert weights["conv.weight"].shape == (4, 3, 3, 3)
    assert version.manifest.parameters == sum(array.size for array in weights.values())
    layers = json.loads((version.folder / LAYERS).read_text())["layers"]
    assert [layer["name"] for layer in layers] == [
        "normalize", "normalize#2", "conv", "relu", "max_pool", "flatten", "fc",
    ]  # fmt: skip
    session = onnxruntime.InferenceSession(str(version.folder / EXPLAIN_NETWORK), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    results = session.run(outputs, {"pixels": np.zeros((2, SIDE, SIDE, 3), np.uint8)})
    by_name = dict(zip(outputs, results, strict=True))
    for layer in layers:
        assert by_name[layer["output"]].shape == (2, *layer["shape"])
    assert "ONNX Runtime against the imported file" in (version.folder / "card.md").read_text()


def test_a_graph_whose_layers_cannot_be_told_is_served_without_them(
    registry: Registry, labels: str, photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: ModelProto) -> list[dict[str, object]]:
        raise ValueError("a form that is not known")

    monkeypatch.setattr(onnx_version, "expose_layers", fail)
    version, _ = publish_onnx(registry, Wish(write_network(tmp_path / "net.onnx"), "net", labels=labels))
    assert json.loads((version.folder / LAYERS).read_text())["layers"] == []
    session = onnxruntime.InferenceSession(str(version.folder / EXPLAIN_NETWORK), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits"]


def test_uint8_and_gray_networks_are_served(registry: Registry, labels: str, photo: bytes, tmp_path: Path) -> None:
    path = write_network(tmp_path / "bytes.onnx", shape=("N", SIDE, SIDE, 3), kind=TensorProto.UINT8, ending="Softmax")
    version, taken = publish_onnx(registry, Wish(path, "bytes", labels=labels))
    pixels, found = answer(version, photo)
    assert np.abs(found - original(path, pixels[None], softmax=False)).max() < 1e-5
    assert "mean" not in taken
    with pytest.raises(InvalidSource, match="normalises by itself"):
        publish_onnx(registry, Wish(path, "bytes", labels=labels, pixels=PixelWish(mean=(0.5,) * 3)))
    path = write_network(tmp_path / "gray.onnx", shape=("N", 1, SIDE, SIDE))
    with pytest.raises(InvalidSource, match="give --mean and --std"):
        publish_onnx(registry, Wish(path, "gray", labels=labels))
    wish = Wish(path, "gray", labels=labels, pixels=PixelWish(resize="stretch", mean=(0.1,), std=(0.3,)))
    version, _ = publish_onnx(registry, wish)
    pixels, found = answer(version, photo)
    assert version.manifest.preprocessing.mode == "L"
    image = ((pixels.astype(np.float32) / 255 - 0.1) / 0.3).transpose(2, 0, 1)[None].astype(np.float32)
    assert np.abs(found - original(path, image, softmax=True)).max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ((4, 3, SIDE, SIDE), TensorProto.FLOAT, "exactly 4 images"),
        (("N", 5, SIDE, SIDE), TensorProto.FLOAT, "3 or 1 channels"),
        (("N", 3), TensorProto.FLOAT, "no batch of images"),
        (("N", 3, SIDE, SIDE), TensorProto.FLOAT16, "is float16"),
    ],
)
def test_inputs_that_hold_no_images_are_refused(
    registry: Registry, wish: Wish, *, shape: tuple[str | int, ...], kind: int, words: str
) -> None:
    path = wish.source
    out = helper.make_tensor_value_info("out", kind, None)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["out"])],
        "g",
        [helper.make_tensor_value_info("image", kind, shape)],
        [out],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(InvalidSource, match=words):
        publish_onnx(registry, wish)
    assert registry.names() == []


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("Sigmoid", "ends with a Sigmoid"),
        ("Probabilities", "gives probabilities.*ends with Div.*without its softmax"),
    ],
)
def test_answers_that_are_no_logits_are_refused(
    registry: Registry, labels: str, tmp_path: Path, ending: str, words: str
) -> None:
    path = write_network(tmp_path / "net.onnx", ending=ending, shape=(1, 3, SIDE, SIDE))
    with pytest.raises(InvalidSource, match=words):
        publish_onnx(registry, Wish(path, "net", labels=labels))


def edited(path: Path, tmp_path: Path, change: str) -> Path:
    model = onnx.load(path)
    graph = model.graph
    if change == "inputs":
        graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))
    elif change == "outputs":
        graph.output.append(helper.make_tensor_value_info("relu", TensorProto.FLOAT, None))
    elif change == "operator":
        graph.node[1].domain = "com.example"
        model.opset_import.append(helper.make_opsetid("com.example", 1))
    elif change == "external":
        onnx.save(model, tmp_path / "edited.onnx", save_as_external_data=True, location="weights", size_threshold=0)
        return tmp_path / "edited.onnx"
    elif change == "opset":
        model.opset_import[0].version = 6
    elif change == "mixed":  # the mean over the batch is added to every image
        graph.node[-1].output[0] = "alone"
        graph.node.append(helper.make_node("ReduceMean", ["alone"], ["mean"], axes=[0], keepdims=1))
        graph.node.append(helper.make_node("Add", ["alone", "mean"], ["out"]))
    elif change == "broken":
        graph.node[1].input[0] = "nothing"
    onnx.save(model, tmp_path / "edited.onnx")
    return tmp_path / "edited.onnx"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("inputs", r"has 2 inputs \(image, second\)"),
        ("outputs", r"has 2 outputs \(out, relu\)"),
        ("operator", r"not ONNX's own \(com\.example\.Relu\)"),
        ("external", "keeps its weights in other files"),
        ("opset", "opset 6; the oldest that is served is 7"),
        ("mixed", "otherwise when others stand in its batch"),
        ("broken", "ONNX Runtime cannot run"),
    ],
)
def test_networks_that_cannot_be_served_are_refused(
    registry: Registry, labels: str, tmp_path: Path, change: str, words: str
) -> None:
    path = edited(write_network(tmp_path / "net.onnx"), tmp_path, change)
    with pytest.raises(InvalidSource, match=words):
        publish_onnx(registry, Wish(path, "net", labels=labels))
    assert registry.names() == []


def test_a_batch_that_is_fixed_inside_is_refused_with_what_to_do(
    registry: Registry, labels: str, tmp_path: Path
) -> None:
    path = write_network(tmp_path / "net.onnx", shape=(1, 3, SIDE, SIDE))
    model = onnx.load(path)
    model.graph.node[0].input[0] = "same"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3, SIDE, SIDE]), "shape"))
    model.graph.node.insert(0, helper.make_node("Expand", ["first", "shape"], ["same"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    model.graph.node.insert(0, helper.make_node("Slice", ["image", "zero", "one", "zero"], ["first"]))
    onnx.save(model, path)
    with pytest.raises(InvalidSource, match=r"(does not run with 3 images|others stand in).*export it with a variable"):
        publish_onnx(registry, Wish(path, "net", labels=labels))


def test_labels_and_sizes_that_do_not_match_are_told(registry: Registry, labels: str, tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx")
    with pytest.raises(InvalidSource, match="has 3 outputs, and imagenet names 1,000 labels"):
        publish_onnx(registry, Wish(path, "net", labels="imagenet"))
    with pytest.raises(InvalidSource, match="takes images of 16 x 16 alone, --size says 32 x 32"):
        publish_onnx(registry, Wish(path, "net", labels=labels, pixels=PixelWish(size=(32, 32))))
    path.write_bytes(b"no network")
    with pytest.raises(InvalidSource, match=r"net\.onnx"):
        publish_onnx(registry, Wish(path, "net", labels=labels))
    with pytest.raises(InvalidSource, match="cannot be read"):
        publish_onnx(registry, Wish(tmp_path / "missing.onnx", "net", labels=labels))
