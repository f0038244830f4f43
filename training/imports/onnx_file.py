"""Reading an ONNX file that somebody else made: what it takes, and whether it can be served at all."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from training.errors import InvalidSource

_OLDEST_OPSET = 7  # since when Mul and Sub broadcast as they do now
_OLDEST_IR = 4  # since when initializers need not be inputs
_STANDARD = ("", "ai.onnx")
_IMAGE_AXES = 4
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class ImageInput:
    """A network's input: `height`, `width` and `batch` are None where they are variable."""

    name: str
    layout: Literal["NCHW", "NHWC"]
    uint8: bool
    channels: int
    height: int | None
    width: int | None
    batch: int | None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width), where the file fixes both."""
        return (self.height, self.width) if self.height and self.width else None


def read_onnx(path: Path) -> ModelProto:
    """Read a file; its local functions are put in place, its initializers are no inputs.

    Whether the graph is valid is left to ONNX Runtime, which accepts more than ONNX's own checker.

    Raises:
        InvalidSource: it cannot be read, keeps weights elsewhere, has an operator that
            is not ONNX's own, or has not exactly one input and one output.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise InvalidSource(f"{path} is not an ONNX file, or it was cut short") from error
    _refuse_external_data(path, model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _refuse_operators(path, model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _OLDEST_IR)
    for what, values in (("input", inputs), ("output", model.graph.output)):
        if len(values) != 1:
            names = ", ".join(value.name for value in values) or "none"
            raise InvalidSource(f"{path} has {len(values)} {what}s ({names}); a classifier that is served has one")
    return model


def read_input(path: Path, model: ModelProto) -> ImageInput:
    """Find out how the network's one input holds images.

    Raises:
        InvalidSource: it holds none, or in a form that is not known.
    """
    value = model.graph.input[0]
    tensor = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.UINT8):
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise InvalidSource(f"the input {value.name!r} of {path} is {kind}; export the network with a float32 input")
    shape = ", ".join(str(dim or "?") for dim in dims)
    if len(dims) != _IMAGE_AXES:
        raise InvalidSource(
            f"the input {value.name!r} of {path} is ({shape}), which is no batch of images (N, 3, H, W)"
        )
    batch, *rest = dims
    if batch not in (None, 1):
        raise InvalidSource(f"{path} takes exactly {batch} images at a time; export it with a variable batch, or of 1")
    layout: Literal["NCHW", "NHWC"] = "NHWC" if rest[0] not in _CHANNELS and rest[2] in _CHANNELS else "NCHW"
    channels, height, width = rest if layout == "NCHW" else (rest[2], rest[0], rest[1])
    if channels not in _CHANNELS:
        raise InvalidSource(
            f"the input {value.name!r} of {path} is ({shape}), and neither its second nor its last axis is fixed "
            "at 3 or 1 channels"
        )
    return ImageInput(value.name, layout, tensor.elem_type == TensorProto.UINT8, channels, height, width, batch)


def constants(graph: GraphProto) -> Iterator[TensorProto]:
    """Give the tensors of a graph: its initializers, and the values of its Constant nodes by their outputs' names."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensor = TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            yield tensor


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Give the nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner)


def _refuse_external_data(path: Path, model: ModelProto) -> None:
    tensors = chain(
        _tensors(model.graph.initializer, model.graph.node), *(_tensors((), each.node) for each in model.functions)
    )
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
        raise InvalidSource(
            f"{path} keeps its weights in other files; put them into it where it was made: "
            "onnx.save(onnx.load('model.onnx'), 'whole.onnx')"
        )


def _refuse_operators(path: Path, model: ModelProto) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)
    strange = sorted(
        {f"{node.domain}.{node.op_type}" for node in all_nodes(model.graph) if node.domain not in _STANDARD}
    )
    if strange:
        raise InvalidSource(
            f"{path} has operators that are not ONNX's own ({', '.join(strange[:4])}); export the network without them"
        )
    if opset < _OLDEST_OPSET:
        raise InvalidSource(
            f"{path} is of opset {opset}; the oldest that is served is {_OLDEST_OPSET}: "
            "onnx.version_converter.convert_version(model, 13) brings it there"
        )


def _tensors(initializers: Iterable[TensorProto], nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    """Give the tensors of a graph or a function, and of the graphs inside it."""
    yield from initializers
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner.initializer, inner.node)
