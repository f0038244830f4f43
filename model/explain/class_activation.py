"""Class activation maps: where a class's evidence lies, exactly, for networks that average their last maps.

Source: Zhou et al., "Learning Deep Features for Discriminative Localization", arXiv 1512.04150: where the logits are a
weighted sum of the means of the last maps, the same weighted sum of the maps themselves says what each place adds.
"""

from dataclasses import dataclass

import numpy as np

from model.errors import NotExplainable
from model.explain.layers import Layer, LayerGraph, spatial_axes
from model.explain.network import ExplainedNetwork, Floats
from model.explain.onnx_graph import Array
from model.preprocessing import Pixels

# What may stand between the means and the logits and changes no number: the result is compared with the logits.
_RESHAPING = ("Cast", "Dropout", "Flatten", "Gather", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_TOLERANCE = 1e-3  # of the largest logit: what differs by more was not such a sum


@dataclass(frozen=True)
class HeatMap:
    """What speaks for a class, place by place.

    Attributes:
        method: it was made with.
        layer: whose maps were weighed; None where none were.
        index: of the class.
        probability: of the class.
        values: (H, W) over what the network sees, 0 for nothing.
    """

    method: str
    layer: str | None
    index: int
    probability: float
    values: Floats


@dataclass(frozen=True)
class _Averaged:
    """The layer whose maps are averaged, and how each class weighs the means (K, C); None where means are logits."""

    layer: Layer
    weights: Array | None


def has_class_activation(layers: LayerGraph) -> bool:
    """Whether the network ends as class activation maps ask for."""
    return _find_averaged(layers) is not None


def class_activation(network: ExplainedNetwork, pixels: Pixels, label: str | None) -> HeatMap:
    """Return the class activation map of one image uint8 (H, W, C), after a ReLU.

    Args:
        network: to be explained.
        pixels: the image.
        label: the class's label or index; the most probable one where there is none.

    Raises:
        NotExplainable: the network does not end in global average pooling and one fully connected layer.
        NoSuchPart: there is no such class.
    """
    layers = network.layers
    averaged = _find_averaged(layers)
    if averaged is None:
        raise _unsuited(network)
    found = network.activations(pixels, [averaged.layer.name, layers.last.name])
    maps, logits = found[averaged.layer.name], found[layers.last.name]  # (C, H, W), (K,)
    index = network.class_index(label, logits)
    weights = averaged.weights if averaged.weights is not None else np.eye(len(logits), len(maps), dtype=np.float32)
    sums = weights @ maps.mean(axis=(1, 2))
    # A bias adds the same to a class whatever the image: what is compared is how the classes differ without it.
    if np.abs(sums + _bias(layers) - logits).max() > _TOLERANCE * max(1.0, float(np.abs(logits).max())):
        raise _unsuited(network)
    values = np.maximum(np.tensordot(weights[index], maps, axes=1), 0)  # (H, W)
    probability = float(network.probabilities(logits[None])[0, index])
    return HeatMap("cam", averaged.layer.name, index, probability, np.asarray(values, np.float32))


def _unsuited(network: ExplainedNetwork) -> NotExplainable:
    others = "occlusion, and with torch gradcam" if network.layers.has_maps else "occlusion"
    return NotExplainable(
        f"{network.version} does not end in global average pooling and one fully connected layer, which "
        f"method=cam needs; these work: {others}"
    )


def _find_averaged(layers: LayerGraph) -> _Averaged | None:
    """Go back from the logits to the maps that are averaged."""
    value, weights = _source_of_logits(layers)
    while value in layers.maker and layers.maker[value].operator in _RESHAPING:
        value = layers.maker[value].inputs[0]
    node = layers.maker.get(value)
    if node is None:
        return None
    layer = layers.layers.get(layers.layer_of.get(node.inputs[0], ""))
    averages = node.operator == "GlobalAveragePool" or (
        node.operator == "ReduceMean" and spatial_axes(node, layers.constants)
    )
    return _Averaged(layer, weights) if averages and layer is not None else None


def _source_of_logits(layers: LayerGraph) -> tuple[str, Array | None]:
    """Return what the last fully connected layer reads, and its weights (K, C); the logits where there is none."""
    value = layers.value_of[layers.last.name]
    node = layers.maker[value]
    if node.operator == "Add" and any(name in layers.constants for name in node.inputs):  # the bias of a MatMul
        value = next(name for name in node.inputs if name not in layers.constants)
        node = layers.maker.get(value, node)
    if node.operator in ("Gemm", "MatMul") and node.inputs[1] in layers.constants:
        weights = layers.constants[node.inputs[1]]
        return node.inputs[0], weights if node.integer("transB", 0) else weights.T
    return value, None


def _bias(layers: LayerGraph) -> Array:
    """Return what is added to the weighed means (K,), or 0."""
    node = layers.node(layers.last)
    constants = [layers.constants[name] for name in node.inputs if name in layers.constants]
    if node.operator == "Gemm":
        constants = constants[1:]
    return constants[-1].ravel() if constants and node.operator in ("Add", "Gemm") else np.zeros(1, np.float32)
