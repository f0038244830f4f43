"""From a torch network to the files that other runtimes and the explanations read.

`model.onnx` takes uint8 (N, H, W, C) of any N and returns logits. `model.explain.onnx` is the
same graph with the result of every layer as a further output, and `layers.json` says what
those layers are. Source of the ONNX operators: torch.onnx's exporter, which folds batch norm
into the convolution before it.
"""

import ast
import json
import warnings
from pathlib import Path

import onnx
import torch
from onnx import AttributeProto, NodeProto, TensorProto
from torch import nn

from model.architectures.pixels import PixelNetwork
from model.checkpoint import EXPLAIN_NETWORK, LAYERS, NETWORK

Layer = dict[str, object]  # a row of layers.json

LAYERS_SCHEMA_VERSION = 1
INPUT, OUTPUT = "pixels", "logits"
_OPSET = 20

# What an ONNX operator is called in layers.json; others go by their own name in lower case.
_KINDS = {
    "Conv": "convolution",
    "Gemm": "fully_connected",
    "MatMul": "fully_connected",
    "Relu": "relu",
    "Clip": "relu6",
    "BatchNormalization": "batch_norm",
    "MaxPool": "max_pool",
    "AveragePool": "average_pool",
    "GlobalAveragePool": "global_average_pool",
    "ReduceMean": "global_average_pool",
    "GlobalMaxPool": "global_max_pool",
    "ReduceMax": "global_max_pool",
    "Reshape": "flatten",
    "Concat": "concatenate",
    "Mul": "multiply",
    "Sub": "subtract",
}
_ATTRIBUTES = {"kernel_shape": "kernel", "strides": "stride", "pads": "padding", "group": "groups"}
# These give the same numbers in another form, before the network proper begins.
_NOT_LAYERS = ("Cast", "Transpose", "Identity")


def export_network(network: PixelNetwork, example: torch.Tensor, folder: Path) -> None:
    """Write `model.onnx`, `model.explain.onnx` and `layers.json` for a network in eval mode.

    Args:
        network: the network, on the CPU.
        example: uint8 (N, H, W, C) with N of at least 2, so that the exporter keeps N variable.
        folder: where the files go.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=_OPSET,
            dynamo=True,
            dynamic_shapes={"pixels": {0: torch.export.Dim("N")}},
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    graph = program.model_proto
    onnx.checker.check_model(graph)
    onnx.save_model(graph, folder / NETWORK)
    layers = expose_layers(graph)
    write_explanation(graph, layers, folder)


def write_explanation(model: onnx.ModelProto, layers: list[Layer], folder: Path) -> None:
    """Write `model.explain.onnx` and `layers.json`, of a network whose layers have been exposed."""
    onnx.save_model(model, folder / EXPLAIN_NETWORK)
    document = {"schema_version": LAYERS_SCHEMA_VERSION, "input": INPUT, "layers": layers}
    (folder / LAYERS).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers training may change."""
    return sum(parameter.numel() for parameter in network.parameters())


def expose_layers(model: onnx.ModelProto) -> list[Layer]:
    """Make every layer's result an output of the graph, and describe the layers in order.

    The graph's input is `pixels`, its output `logits`, and the number of images is a variable.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    maker: dict[str, str] = {INPUT: INPUT}  # a value's name -> the layer that it is the result of
    layers: list[Layer] = []
    names: set[str] = set()
    for node in graph.node:
        result = values.get(node.output[0])
        if result is None or not _is_activation(result):
            continue
        sources = [maker[name] for name in node.input if name in maker]
        if node.op_type in _NOT_LAYERS:
            maker[node.output[0]] = sources[0] if sources else INPUT
            continue
        kind = _KINDS.get(node.op_type, node.op_type.lower())
        name = _unique(_layer_name(node, weights) or kind, names)
        maker[node.output[0]] = name
        layers.append(
            {
                "name": name,
                "kind": kind,
                "output": node.output[0],
                "inputs": sources,
                "shape": [dim.dim_value for dim in result.type.tensor_type.shape.dim[1:]],
                "parameters": sum(_size(weights[i]) for i in node.input if i in weights and _is_weight(i)),
                "weights": next((i for i in node.input if i in weights and i.endswith("weight")), None),
                "attributes": _attributes(node),
                "folded": ["batch_norm"]
                if "FuseBatchNorm" in _metadata(node, "pkg.onnxscript.rewriter.rule_name")
                else [],
            }
        )
        if node.output[0] != OUTPUT:
            model.graph.output.append(result)
    return layers


def _is_activation(value: onnx.ValueInfoProto) -> bool:
    """Tell a result for N images from the arithmetic on shapes that stands between."""
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    floating = tensor.elem_type in (TensorProto.FLOAT, TensorProto.UINT8)
    return floating and len(dims) > 1 and bool(dims[0].dim_param) and all(dim.dim_value for dim in dims[1:])


def _layer_name(node: NodeProto, weights: dict[str, TensorProto]) -> str:
    """Return the path of the torch module that the node comes from; "" where it is not in a module."""
    own = next((str(i) for i in node.input if i in weights and i.endswith(".weight")), None)
    if own is not None:
        return own.removeprefix("network.").removesuffix(".weight")
    scopes = _metadata(node, "pkg.torch.onnx.name_scopes")
    path = str(ast.literal_eval(scopes)[-2]) if scopes else ""
    return path.removeprefix("network").removeprefix(".")


def _unique(name: str, names: set[str]) -> str:
    number, unique = 1, name
    while unique in names:
        number += 1
        unique = f"{name}#{number}"
    names.add(unique)
    return unique


def _metadata(node: NodeProto, key: str) -> str:
    return str(next((entry.value for entry in node.metadata_props if entry.key == key), ""))


def _is_weight(name: str) -> bool:
    return name.endswith(("weight", "bias"))


def _size(tensor: TensorProto) -> int:
    size = 1
    for dim in tensor.dims:
        size *= dim
    return size


def _attributes(node: NodeProto) -> dict[str, int | list[int]]:
    return {
        _ATTRIBUTES[attribute.name]: attribute.i if attribute.type == AttributeProto.INT else list(attribute.ints)
        for attribute in node.attribute
        if attribute.name in _ATTRIBUTES
    }
