"""A foreign ONNX classifier becomes one as our engines want it: `pixels` uint8 (N, H, W, C) to `logits` (N, K).

The normalisation is put in front, a softmax at the end is cut off, and the number of images
becomes a variable. That none of it changes an answer is found out by running both networks on
real photos, one by one and together.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, compose, helper, numpy_helper

from model.classifier import softmax
from model.engines import onnx as _  # noqa: F401 - tells ONNX Runtime, before it is loaded, to report nothing
from model.engines.base import Logits
from model.preprocessing import Pixels, Preprocessing
from training.errors import InvalidSource
from training.export import INPUT, OUTPUT
from training.imports.onnx_file import ImageInput, all_nodes, constants

_PREFIX = "network."  # what torch's export of our own networks puts before the names of weights
_BATCH = "N"
_TOGETHER = 3
_TOLERANCE = 1e-3
_FATAL_ONLY = 4
_MATRIX = 2
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Adapted:
    """The network as it is served, its logits for the golden photos one by one, and what was found.

    `difference` is the largest one of a probability from the file's own answers.
    """

    model: ModelProto
    logits: Logits
    difference: float
    softmax_cut: bool


def adapt(path: Path, model: ModelProto, takes: ImageInput, preprocessing: Preprocessing, golden: Pixels) -> Adapted:
    """Make a network that our engines run out of a file's, and compare the two.

    Args:
        path: of the file, for messages.
        model: what was read from it.
        takes: its input.
        preprocessing: what is done to an image before.
        golden: real photos, uint8 (N, H, W, C) with N of at least 3.

    Raises:
        InvalidSource: the network does not run, its answers are not logits, or a batch changes them.
    """
    answers = _run(path, model, takes.name, _as_the_file_wants(golden, takes, preprocessing))
    served = compose.add_prefix(model, _PREFIX)
    cut = _cut_softmax(served.graph)
    if not cut:
        _refuse_other_endings(path, served.graph, answers)
    _name_output(path, served.graph, flatten=answers.ndim != _MATRIX)
    _put_normalisation_in_front(served.graph, takes, preprocessing)
    if takes.batch == 1:
        _free_reshapes(served.graph)
    del served.graph.value_info[:]  # of the fixed batch
    alone = _run(path, served, INPUT, [image[None] for image in golden])
    expected = answers.reshape(alone.shape) if answers.size == alone.size else answers
    difference = _compare(expected if cut else softmax(expected, 1.0), softmax(alone, 1.0))
    if not difference <= _TOLERANCE:
        raise InvalidSource(f"{path} answers otherwise with its normalisation inside (by {difference:.2g})")
    _check_batches(path, served, golden, alone, fixed=takes.batch == 1)
    return Adapted(served, alone, difference, cut)


def weights_of(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return a network's constant tensors by their names in the file: its weights, and a few numbers beside."""
    found: dict[str, NDArray[np.generic]] = {}
    for tensor in constants(model.graph):
        if tensor.data_type != TensorProto.STRING and tensor.name.startswith(_PREFIX):
            array = numpy_helper.to_array(tensor)
            plain = array.astype(np.float32) if array.dtype.kind not in "biuf" else array  # bfloat16, float8
            found[tensor.name.removeprefix(_PREFIX)] = np.array(plain, order="C")
    return found


def image_values(model: ModelProto, pixels: Pixels) -> list[ValueInfoProto]:
    """Return the values inside a network that have a row for each image, with their shapes.

    They are found by running it with two and with three images: shapes that are computed on the
    way, as in graphs of torch's older export, cannot be told from the graph alone.
    """
    probed = ModelProto()
    probed.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name not in ("", OUTPUT)]
    probed.graph.output.extend(ValueInfoProto(name=name) for name in names)
    session = _open(probed)
    two, three = (session.run(names, {INPUT: pixels[:count]}) for count in (2, 3))
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [_BATCH, *of_two.shape[1:]])
        for name, of_two, of_three in zip(names, two, three, strict=True)
        if isinstance(of_two, np.ndarray)
        and of_two.dtype == np.float32
        and of_two.ndim >= _MATRIX
        and (2, *of_two.shape[1:]) == of_two.shape
        and (3, *of_two.shape[1:]) == of_three.shape
    ]


def run_network(model: ModelProto, pixels: Pixels) -> Logits:
    """Run a network that takes `pixels`, and return its first output; raises what ONNX Runtime raises."""
    return np.asarray(_open(model).run([OUTPUT], {INPUT: pixels})[0])


def _as_the_file_wants(
    golden: Pixels, takes: ImageInput, preprocessing: Preprocessing
) -> list[NDArray[np.uint8] | NDArray[np.float32]]:
    """Prepare each photo as a user of the file would, outside of the network."""
    images: NDArray[Any] = golden
    if not takes.uint8:
        mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
        images = (golden.astype(np.float32) / np.float32(255) - mean) / std
    if takes.layout == "NCHW":
        images = images.transpose(0, 3, 1, 2)
    return [np.ascontiguousarray(image[None]) for image in images]


def _cut_softmax(graph: GraphProto) -> bool:
    """Let the graph end before its last node if that is a softmax over the classes."""
    output = graph.output[0]
    node = next((node for node in graph.node if output.name in node.output), None)
    if node is None or node.op_type != "Softmax":
        return False
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    if axis not in (1, -1):
        return False
    output.name = node.input[0]
    graph.node.remove(node)
    return True


def _refuse_other_endings(path: Path, graph: GraphProto, answers: Logits) -> None:
    """Refuse answers that are no logits: their softmax would be no probability."""
    last = next((node.op_type for node in graph.node if graph.output[0].name in node.output), "")
    if last in ("Sigmoid", "HardSigmoid"):
        raise InvalidSource(
            f"{path} ends with a {last}: its classes do not exclude each other, and such networks are not served"
        )
    flat = answers.reshape(len(answers), -1)
    if flat.shape[1] > 1 and (flat >= 0).all() and np.allclose(flat.sum(axis=1), 1, atol=1e-3):
        raise InvalidSource(
            f"{path} gives probabilities, and does not end with a Softmax that could be cut off (it ends with "
            f"{last or 'nothing'}); export the network without its softmax, so that it gives logits"
        )


def _name_output(path: Path, graph: GraphProto, *, flatten: bool) -> None:
    """Call the output `logits`, of two axes."""
    name = graph.output[0].name
    if not any(name in node.output for node in graph.node):
        raise InvalidSource(f"{path} has an output that no operator makes")
    if flatten:
        graph.node.append(helper.make_node("Flatten", [name], [OUTPUT], name=OUTPUT, axis=1))
    else:
        _rename(graph, name, OUTPUT)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [_BATCH, "K"]))


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    _rename(inner, old, new)


def _put_normalisation_in_front(graph: GraphProto, takes: ImageInput, preprocessing: Preprocessing) -> None:
    """Let the graph begin with `pixels`; the arithmetic is that of `model.architectures.pixels`."""
    channels_first = takes.layout == "NCHW"
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if channels_first:
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if not takes.uint8:
        shape = (1, -1, 1, 1) if channels_first else (1, 1, 1, -1)
        std = np.array(preprocessing.std, np.float64)
        scale = (1 / (255 * std)).astype(np.float32).reshape(shape)
        shift = (np.array(preprocessing.mean) / std).astype(np.float32).reshape(shape)
        graph.initializer.extend(
            [numpy_helper.from_array(scale, "normalize.scale"), numpy_helper.from_array(shift, "normalize.shift")]
        )
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
        steps += [("Mul", ["normalize.scale"], {}), ("Sub", ["normalize.shift"], {})]
    steps = steps or [("Identity", [], {})]
    value = INPUT
    for number, (operator, constant, attributes) in enumerate(steps):
        result = graph.input[0].name if number == len(steps) - 1 else f"normalize.{number}"
        node = helper.make_node(operator, [value, *constant], [result], name=f"normalize.{operator}", **attributes)
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'normalize', '']")  # as in our own export
        graph.node.insert(number, node)
        value = result
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [_BATCH, *preprocessing.shape]))


def _free_reshapes(graph: GraphProto) -> None:
    """Let a Reshape to one image, (1, ...), take the number of images from its input instead."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in constants(graph)}
    for number, node in enumerate(graph.node):
        shape = shapes.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and shape.size > 1 and shape[0] == 1:
            if any(each.i for each in node.attribute):  # allowzero: a 0 would mean an axis of nothing
                if 0 in shape:
                    continue
                del node.attribute[:]
            name = f"batch.{number}"
            graph.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), name))
            node.input[1] = name
    used = {name for node in all_nodes(graph) for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _check_batches(path: Path, model: ModelProto, golden: Pixels, alone: Logits, *, fixed: bool) -> None:
    """Make sure that images in a batch get the answers that they get alone."""
    advice = "export it with a variable batch: torch.onnx.export(..., dynamic_axes={'input': {0: 'N'}})"
    try:
        together = run_network(model, golden[:_TOGETHER])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        why = "its batch is fixed at 1, and " if fixed else ""
        raise InvalidSource(f"{path} does not run with {_TOGETHER} images: {why}{_reason(error)}; {advice}") from error
    one_by_one = alone[:_TOGETHER]
    close = _TOLERANCE * max(1.0, float(np.abs(one_by_one).max()))
    if together.shape != one_by_one.shape or not _compare(together, one_by_one) <= close:
        raise InvalidSource(f"{path} answers for an image otherwise when others stand in its batch; {advice}")


def _run(path: Path, model: ModelProto, name: str, images: list[Any]) -> Logits:
    """Run a network on one image after the other: (N, ...)."""
    try:
        session = _open(model)
        answers = [np.asarray(session.run(None, {name: image})[0]) for image in images]
    except Exception as error:  # ONNX Runtime's own exceptions share no public base class
        raise InvalidSource(f"ONNX Runtime cannot run {path}: {_reason(error)}") from error
    first = answers[0]
    if first.ndim < _MATRIX or first.dtype != np.float32 or first.size != first.shape[1]:
        raise InvalidSource(
            f"{path} answers an image with {first.dtype} {first.shape}; a classifier answers with float32 (1, K)"
        )
    found = np.concatenate(answers)
    if not np.isfinite(found).all():
        raise InvalidSource(f"{path} answers a photo with values that are not finite")
    return found


def _open(model: ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _compare(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.abs(first - second).max())


def _reason(error: Exception) -> str:
    """Return what ONNX Runtime says, without the places in its own source."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.rpartition("Status Message: ")[2].rpartition(" was false. ")[2][:_LONGEST_REASON]
