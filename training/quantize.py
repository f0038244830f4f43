"""A network in int8: the same graph with its convolutions and matrix products between quantising and dequantising.

The scales of the weights are one for each output channel; those of what flows between the layers come from the least
and the largest value that calibration images cause there. The normalisation stays as it is, so that the network still
takes `pixels` uint8 (N, H, W, C), and so do the first three convolutions of deeper networks, where rounding costs most
and gains nothing; and the logits are not rounded. Knows nothing of versions, and not how well the result answers.

Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
2017, arXiv 1712.05877, sections 2 and 3 without training; done by ONNX Runtime's `quantize_static`.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import onnx
from onnx import GraphProto, ModelProto

from model.engines import onnx as _  # noqa: F401 - tells ONNX Runtime, before it is loaded, to report nothing
from model.preprocessing import Pixels
from training.errors import NotQuantizable
from training.export import INPUT

METHOD: Final = (
    "static, QDQ, weights int8 per channel, activations uint8, ranges by least and largest value, first layers fp32"
)

_BATCH = 16
_SPARED, _DEEP = 3, 10  # convolutions that stay in fp32, in networks of so many
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # where the work lies; without one of them nothing is gained
# What runs in integers between them. Others stay in fp32, and cost a conversion on either side.
_QUANTIZED = (
    *_HEAVY,
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Pad"),
    *("Relu", "Reshape", "Sigmoid", "Squeeze", "Transpose", "Unsqueeze"),
)
_LONGEST_REASON = 300


def quantize_network(source: Path, target: Path, pixels: Pixels) -> None:
    """Write the network in `source` to `target` in int8.

    Args:
        source: an ONNX file that takes `pixels`.
        target: where the result goes.
        pixels: calibration images, uint8 (N, H, W, C), N of at least 1.

    Raises:
        NotQuantizable: the network has no operator that int8 would speed up, or one on which the tools fail.
    """
    if not any(node.op_type in _HEAVY for node in onnx.load(source).graph.node):
        raise NotQuantizable(f"the network has none of {', '.join(_HEAVY)}: there is nothing that int8 would speed up")
    try:
        with _quiet(), tempfile.TemporaryDirectory() as scratch:
            _quantize(source, target, pixels, Path(scratch))
    except Exception as error:  # a foreign graph may hold anything; neither ONNX nor ONNX Runtime says what they raise
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise NotQuantizable(f"the network cannot be quantised: {reason}") from error
    if not any(node.op_type == "QuantizeLinear" for node in onnx.load(target).graph.node):
        raise NotQuantizable("the network has no operator that was quantised: the shapes inside it are not known")


def _quantize(source: Path, target: Path, pixels: Pixels, scratch: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Batch norm is folded into the convolution before it, and constants into one another.
    prepared = scratch / "prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    model = onnx.load(prepared)
    _name_nodes(model)
    onnx.save_model(model, prepared)
    quantize_static(
        str(prepared),
        str(target),
        _Batches(pixels),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTIZED),
        nodes_to_exclude=_spared(model.graph),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"OpTypesToExcludeOutputQuantization": _last_operator(model)},
    )


class _Batches:
    """Calibration images as ONNX Runtime reads them: batch by batch, and None at the end."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches = iter(pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH))

    def get_next(self) -> dict[str, Pixels] | None:
        """Return the next batch by the name of the input."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own, by which it can be left out."""
    for number, node in enumerate(model.graph.node):
        node.name = f"{number}_{node.op_type}"


def _spared(graph: GraphProto) -> list[str]:
    """Return the names of the nodes that stay in fp32: the normalisation, and the first layers of deeper networks."""
    spared = _SPARED if sum(node.op_type in _HEAVY for node in graph.node) >= _DEEP else 0
    depths: dict[str, int] = {}  # of a value: how many convolutions and matrix products there are before it, at most
    names = []
    for node in graph.node:
        depth = max((depths.get(name, 0) for name in node.input), default=0) + (node.op_type in _HEAVY)
        depths.update(dict.fromkeys(node.output, depth))
        if depth <= spared:
            names.append(node.name)
    return names


def _last_operator(model: ModelProto) -> list[str]:
    """Return the kind of the node that makes the logits, where it is one that gives fp32 for int8."""
    output = model.graph.output[0].name
    return [node.op_type for node in model.graph.node if output in node.output and node.op_type in ("Gemm", "MatMul")]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice to its developers off the terminal, which the tools write to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
