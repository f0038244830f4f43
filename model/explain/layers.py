"""A version's layers: what `layers.json` names, with what the graph of `model.explain.onnx` knows of each.

Knows the network's structure and weights, and runs nothing.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from model.checkpoint import EXPLAIN_NETWORK, LAYERS
from model.errors import CorruptCheckpoint, NoSuchPart
from model.explain.onnx_graph import Array, Node, OnnxGraph, read_onnx
from model.explain.receptive_field import ONE_PIXEL, ReceptiveField
from model.explain.window import Pair, Window

INPUT = "input"  # the layer that stands for the network's pixels
MAP_DIMENSIONS = 3  # C, H, W

QUIET = ("Cast", "Identity", "Transpose")  # the same numbers in another form
ACTIVATIONS = ("Clip", "Relu", "Sigmoid", "Tanh")
SLIDING_POOLS = ("AveragePool", "MaxPool")
GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean")
_OF_TWO = ("Add", "Mul", "Sub")
_PIXEL_BY_PIXEL = (
    *ACTIVATIONS,
    *_OF_TWO,
    *QUIET,
    *("BatchNormalization", "Div", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
    *("LeakyRelu", "Mish", "Neg", "PRelu", "Pow", "Selu", "Softplus", "Sqrt", "Swish"),
)
_MOST_FILTER_WEIGHTS = 100_000
_MOST_SHOWN = 12  # names in an error
_IMAGE_RANK = 4  # N, C, H, W
_PIXEL_AXES, _MAP_AXES = (1, 2), (2, 3)  # of rows and columns: in the pixels (N, H, W, C), and in maps (N, C, H, W)


@dataclass(frozen=True)
class Layer:
    """A layer as callers see it.

    Attributes:
        name: the torch module's, or the operation's.
        kind: in the field's words.
        inputs: the layers whose results it takes.
        shape: [C, H, W] of its result for one image, or [values].
        parameters: how many numbers training has found for it.
        kernel: rows and columns of its window; this and the four that follow are None where it has none.
        stride: of the window.
        padding: top, left, bottom, right.
        dilation: of the window.
        groups: into which its channels are divided.
        folded: what the export has worked into its weights.
        neuron: whether its values can be taken apart.
        receptive_field: what one of its pixels sees of the input; None for all of it, or where it is not known.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int = 0
    kernel: Pair | None = None
    stride: Pair | None = None
    padding: tuple[int, int, int, int] | None = None
    dilation: Pair | None = None
    groups: int | None = None
    folded: tuple[str, ...] = ()
    neuron: bool = False
    receptive_field: ReceptiveField | None = None


@dataclass(frozen=True)
class Filters:
    """A convolution's filters: [filters][channels of a group][y][x], a bias for each; the first of them, if many."""

    layer: str
    shape: tuple[int, ...]
    weights: list[list[list[list[float]]]]
    bias: list[float]


@dataclass(frozen=True)
class _Placed:
    """What a value's pixels see, and which axes of the value are their rows and columns."""

    field: ReceptiveField
    axes: Pair


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    kind: str
    output: str
    inputs: list[str]
    shape: list[int]
    parameters: int
    folded: list[str] = []


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore")

    input: str
    layers: list[_Row]


class LayerGraph:
    """The layers by name in order, and the operations and values behind them."""

    def __init__(self, rows: Iterable[_Row], pixels: str, graph: OnnxGraph, pixel_shape: tuple[int, int, int]) -> None:
        """Put the rows of `layers.json` together with the graph.

        Args:
            rows: of the document.
            pixels: the graph's input, (N, H, W, C).
            graph: with every layer's result among its outputs.
            pixel_shape: (H, W, C).
        """
        height, width, channels = pixel_shape
        self.pixels = pixels
        self.constants: Mapping[str, Array] = graph.constants
        self.maker = {value: node for node in graph.nodes for value in node.outputs}
        self.value_of = {INPUT: pixels}
        self.layers = {INPUT: Layer(INPUT, INPUT, (), (channels, height, width), receptive_field=ONE_PIXEL)}
        self._nodes = graph.nodes
        self._fields = self._receptive_fields(graph.nodes, {row.output: tuple(row.shape) for row in rows})
        for row in rows:
            if row.output in self.maker:
                name = row.name if row.name != INPUT else f"{INPUT}#2"
                self.value_of[name] = row.output
                self.layers[name] = self._describe(name, row)
        self.layer_of = {value: name for name, value in self.value_of.items()}

    @property
    def last(self) -> Layer:
        """The layer that gives the logits."""
        return next(reversed(self.layers.values()))

    @property
    def has_maps(self) -> bool:
        """Whether it has a convolution."""
        return any(layer.kind == "convolution" for layer in self.layers.values())

    def find(self, name: str) -> Layer:
        """Return a layer by its name.

        Raises:
            NoSuchPart: there is none; the text names some that there are.
        """
        try:
            return self.layers[name]
        except KeyError:
            close = difflib.get_close_matches(name, self.layers, n=_MOST_SHOWN)
            known = close or list(self.layers)[:_MOST_SHOWN]
            more = f" and {len(self.layers) - len(known)} more" if len(known) < len(self.layers) else ""
            raise NoSuchPart(f"there is no layer {name[:100]!r}; there are {', '.join(known)}{more}") from None

    def node(self, layer: Layer) -> Node:
        """Return the operation whose result a layer is."""
        return self.maker[self.value_of[layer.name]]

    def readers(self, value: str) -> list[Node]:
        """Return the operations that read a value."""
        return [node for node in self._nodes if value in node.inputs]

    def base(self, value: str) -> str:
        """Return the value of which another is the same numbers in another form."""
        while value not in self.layer_of and value in self.maker and self.maker[value].operator in QUIET:
            value = self.maker[value].inputs[0]
        return value

    def rebuild(self, value: str, known: Mapping[str, Array]) -> Array:
        """Return a value, with N first, from that of its base."""
        if value in known:
            return known[value]
        node = self.maker[value]
        source = self.rebuild(node.inputs[0], known)
        if node.operator == "Transpose":
            return source.transpose(node.integers("perm") or None)
        return source.astype(np.float32) if node.operator == "Cast" else source

    def filters(self) -> Filters | None:
        """Return the filters of the first convolution over rows and columns, or None."""
        for layer in self.layers.values():
            if layer.kind == "convolution" and layer.neuron:
                node = self.node(layer)
                weights = self.constants[node.inputs[1]]
                count = max(1, _MOST_FILTER_WEIGHTS // (weights[0].size or 1))
                bias = _constant(self.constants, node, 2, np.zeros(len(weights)))
                return Filters(layer.name, weights.shape, weights[:count].tolist(), bias[:count].tolist())
        return None

    def window(self, layer: Layer) -> Window | None:
        """Return the window of a layer's operation; None where it has none."""
        if layer.kernel is None:
            return None
        assert layer.stride is not None
        assert layer.padding is not None
        assert layer.dilation is not None
        return Window(layer.kernel, layer.stride, layer.padding, layer.dilation, layer.groups or 1)

    def _describe(self, name: str, row: _Row) -> Layer:
        node = self.maker[row.output]
        window = self._window(node, {value: layer.shape for value, layer in self._made()})
        return Layer(
            name,
            row.kind,
            tuple(INPUT if source == self.pixels else source for source in row.inputs),
            tuple(row.shape),
            row.parameters,
            kernel=window.kernel if window else None,
            stride=window.stride if window else None,
            padding=window.padding if window else None,
            dilation=window.dilation if window else None,
            groups=window.groups if window and node.operator == "Conv" else None,
            folded=tuple(row.folded),
            neuron=self._can_be_taken_apart(node, tuple(row.shape), window),
            receptive_field=self._fields.get(row.output),
        )

    def _made(self) -> list[tuple[str, Layer]]:
        return [(self.value_of[name], layer) for name, layer in self.layers.items()]

    def _window(self, node: Node, shapes: Mapping[str, tuple[int, ...]]) -> Window | None:
        if node.operator == "Conv":
            weights = self.constants.get(node.inputs[1])
            kernel = weights.shape[2:] if weights is not None else ()
        elif node.operator in SLIDING_POOLS:
            kernel = ()
        else:
            return None
        return Window.of(node, kernel, shapes.get(node.inputs[0], (0, 0)))

    def _can_be_taken_apart(self, node: Node, shape: tuple[int, ...], window: Window | None) -> bool:
        match node.operator:
            case "Conv":
                return window is not None and node.inputs[1] in self.constants
            case "AveragePool" | "MaxPool":
                return window is not None
            case "GlobalAveragePool" | "GlobalMaxPool":
                return True
            case "ReduceMean" | "ReduceMax":
                return spatial_axes(node, self.constants)
            case "Gemm" | "MatMul":
                weights = self.constants.get(node.inputs[1])
                return len(shape) == 1 and weights is not None and weights.ndim == 2  # noqa: PLR2004
            case _:
                return len(shape) in (1, MAP_DIMENSIONS) and node.operator in (*ACTIVATIONS, *_OF_TWO)

    def _receptive_fields(
        self, nodes: Iterable[Node], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, ReceptiveField]:
        """Follow the field of a pixel through the operations; nothing for what sees all, or where it is not known."""
        placed: dict[str, _Placed | None] = {self.pixels: _Placed(ONE_PIXEL, _PIXEL_AXES)}
        for node in nodes:
            sources = [placed.get(value) for value in node.inputs if value and value not in self.constants]
            placed.update(dict.fromkeys(node.outputs, self._place(node, sources, shapes)))
        return {value: each.field for value, each in placed.items() if each is not None and each.axes == _MAP_AXES}

    def _place(
        self, node: Node, sources: list[_Placed | None], shapes: Mapping[str, tuple[int, ...]]
    ) -> _Placed | None:
        first = sources[0] if sources else None
        if first is None:
            return None
        rows, columns = first.axes
        if node.operator == "Transpose":
            order = node.integers("perm") or tuple(reversed(range(_IMAGE_RANK)))
            return _Placed(first.field, (order.index(rows), order.index(columns)))
        if window := self._window(node, shapes):
            return _Placed(first.field.through(window), first.axes) if first.axes == _MAP_AXES else None
        if node.operator == "Pad":
            pads = _constant(self.constants, node, 1, np.array(node.integers("pads")))
            known = pads.size == 2 * _IMAGE_RANK
            return _Placed(first.field.padded(int(pads[rows]), int(pads[columns])), first.axes) if known else None
        side_by_side = node.operator == "Concat" and node.integer("axis", 0) % _IMAGE_RANK not in (0, rows, columns)
        return reduce(_join, sources) if node.operator in _PIXEL_BY_PIXEL or side_by_side else None


def _join(one: _Placed | None, other: _Placed | None) -> _Placed | None:
    """Return what two values see together, pixel by pixel."""
    if one is None or other is None or one.axes != other.axes:
        return None
    field = one.field.joined(other.field)
    return _Placed(field, one.axes) if field is not None else None


def read_layers(folder: Path, pixel_shape: tuple[int, int, int]) -> LayerGraph:
    """Read a version's layers.

    Args:
        folder: the version's.
        pixel_shape: (H, W, C) of what the network takes.

    Raises:
        CorruptCheckpoint: a file of it cannot be read.
    """
    try:
        document = _Document.model_validate(json.loads((folder / LAYERS).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise CorruptCheckpoint(f"{folder / LAYERS} cannot be read: {error}") from error
    return LayerGraph(document.layers, document.input, read_onnx(folder / EXPLAIN_NETWORK), pixel_shape)


def spatial_axes(node: Node, constants: Mapping[str, Array]) -> bool:
    """Whether a reduction is over rows and columns, of (N, C, H, W)."""
    axes = _constant(constants, node, 1, np.array(node.integers("axes")))
    return sorted(int(axis) % _IMAGE_RANK for axis in axes.ravel()) == [2, 3]


def _constant(constants: Mapping[str, Array], node: Node, place: int, default: Array) -> Array:
    """Return the constant that a node reads in a place; `default` where there is none."""
    name = node.inputs[place] if len(node.inputs) > place else ""
    return constants.get(name, default)
