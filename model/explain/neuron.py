"""One value of a layer taken apart: what went in, what each part counted, and what came of it.

Added up in 64 bits from the numbers that the network has, which computes in 32: the two differ in the last digits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.errors import ExplanationTooLarge, Limit, NoSuchPart, NotExplainable
from model.explain.layers import ACTIVATIONS, GLOBAL_POOLS, MAP_DIMENSIONS, Layer, LayerGraph
from model.explain.network import ExplainedNetwork
from model.explain.onnx_graph import Array, Node
from model.explain.receptive_field import Box
from model.explain.window import Pair, Window
from model.preprocessing import Pixels

Doubles = NDArray[np.float64]
Cells = list[list[float]]

MOST_CELLS = 65_536  # of one window: a pooling over a whole map may have many


@dataclass(frozen=True)
class WindowPlace:
    """Where a patch lies on the layer before: its first cell, its size, its steps; and that layer's size."""

    layer: str | None
    y: int
    x: int
    height: int
    width: int
    dilation: Pair
    layer_height: int
    layer_width: int


@dataclass(frozen=True)
class InputWindow:
    """What one input channel adds: patch [y][x] (None for padding that is not looked at), kernel, products, sum."""

    channel: int
    patch: list[list[float | None]]
    kernel: Cells | None
    products: Cells | None
    sum: float


@dataclass(frozen=True)
class Term:
    """What one input adds: its layer (None for a constant), its place there, its value, weight and product."""

    layer: str | None
    index: int
    value: float
    weight: float | None = None
    product: float | None = None


@dataclass(frozen=True)
class Rest:
    """What is not listed: how many inputs or channels, and what they add together."""

    count: int = 0
    sum: float = 0.0


@dataclass(frozen=True)
class Activated:
    """What the activation function that follows makes of the value."""

    layer: str
    kind: str
    value: float


@dataclass(frozen=True)
class _Arithmetic:
    """How a value comes about: parts, their sum, the bias; `value` is both together unless a function follows."""

    sum: float
    bias: float = 0.0
    value: float | None = None
    window: WindowPlace | None = None
    inputs: list[InputWindow] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    rest: Rest = Rest()
    picked: Pair | None = None


@dataclass(frozen=True)
class Neuron:
    """A value of a layer and how it comes about; `docs/explanations.md` says how to read each kind."""

    layer: str
    kind: str
    channel: int
    y: int
    x: int
    window: WindowPlace | None
    inputs: list[InputWindow]
    terms: list[Term]
    rest: Rest
    picked: Pair | None
    sum: float
    bias: float
    value: float
    computed: float
    after: Activated | None
    folded: tuple[str, ...]
    receptive_field: Box


def take_apart(
    network: ExplainedNetwork, pixels: Pixels, name: str, place: tuple[int, int, int], most: int = 64
) -> Neuron:
    """Take one value of a layer apart.

    Args:
        network: whose layer it is.
        pixels: the image, uint8 (H, W, C).
        name: the layer's.
        place: channel, row and column; row and column are 0 for a layer of one dimension.
        most: input channels, or inputs, that are listed; the rest is summed.

    Raises:
        NoSuchPart: there is no such layer, or no such value in it.
        NotExplainable: values of such a layer are not taken apart.
        ExplanationTooLarge: the value is made of too much.
    """
    layers = network.layers
    layer = layers.find(name)
    if not layer.neuron:
        kinds = sorted({each.kind for each in layers.layers.values() if each.neuron})
        raise NotExplainable(
            f"layer {name!r} is of the kind {layer.kind}; of this network, values of these kinds are taken apart: "
            + ", ".join(kinds)
        )
    _check_place(layer, place)
    node, value = layers.node(layer), layers.value_of[name]
    after = _activation_after(layers, value)
    wanted = [layers.base(source) for source in node.inputs if source and source not in layers.constants]
    found = network.run(pixels, [*wanted, value, *([layers.value_of[after.name]] if after else [])])
    at = place if found[value].ndim > 2 else place[:1]  # noqa: PLR2004  N and values
    arithmetic = _Apart(layers, layer, node, found, at).arithmetic(most)
    total = arithmetic.sum + arithmetic.bias if arithmetic.value is None else arithmetic.value
    _, height, width = layers.layers["input"].shape
    box = layer.receptive_field.box(place[1], place[2], height, width) if layer.receptive_field else None
    return Neuron(
        layer=name,
        kind=layer.kind,
        channel=place[0],
        y=place[1],
        x=place[2],
        window=arithmetic.window,
        inputs=arithmetic.inputs,
        terms=arithmetic.terms,
        rest=arithmetic.rest,
        picked=arithmetic.picked,
        sum=arithmetic.sum,
        bias=arithmetic.bias,
        value=total,
        computed=float(found[value][0][at]),
        after=Activated(after.name, after.kind, float(found[layers.value_of[after.name]][0][at])) if after else None,
        folded=layer.folded,
        receptive_field=box or Box(0, 0, width, height, whole=True),
    )


class _Apart:
    """The arithmetic of one value."""

    def __init__(
        self, layers: LayerGraph, layer: Layer, node: Node, found: Mapping[str, Array], at: tuple[int, ...]
    ) -> None:
        self.layers = layers
        self.layer = layer
        self.node = node
        self.at = at
        self._found = found

    def arithmetic(self, most: int) -> _Arithmetic:
        """Take the value apart, listing `most` parts."""
        operator, window = self.node.operator, self.layers.window(self.layer)
        if operator == "Conv" and window:
            return self._convolution(window, most)
        if operator == "AveragePool" and window:
            return self._average(window)
        if operator == "MaxPool" and window:
            return self._maximum(window)
        if operator in GLOBAL_POOLS:
            rows, columns = self._operand(0).shape[-2:]
            if rows * columns > MOST_CELLS:
                raise ExplanationTooLarge(
                    f"a value of {self.layer.name!r} is made of {rows * columns} others; the limit is {MOST_CELLS}",
                    Limit("explained_cells", MOST_CELLS),
                )
            whole = Window((rows, columns), (1, 1), (0, 0, 0, 0), (1, 1))
            return self._maximum(whole) if "Max" in operator else self._average(whole)
        if operator in ("Gemm", "MatMul"):
            return self._fully_connected(most)
        return self._pixel_by_pixel()

    # ---- windows

    def _convolution(self, window: Window, most: int) -> _Arithmetic:
        weights = self._constant(1)
        channel = self.at[0]
        size = weights.shape[1]  # channels of a group
        first = channel // (len(weights) // window.groups) * size
        source = self._operand(0)[first : first + size]
        patch, _ = _cut(source, window, *window.start(*self.at[1:]))
        kernel = weights[channel]
        products = patch * kernel
        sums = products.sum(axis=(1, 2))
        listed, rest = _largest(sums, most)
        return _Arithmetic(
            sum=math.fsum(products.ravel()),
            bias=float(self._constant(2)[channel]) if len(self.node.inputs) > 2 else 0.0,  # noqa: PLR2004
            window=self._place(window),
            inputs=[
                InputWindow(int(first + i), patch[i].tolist(), kernel[i].tolist(), products[i].tolist(), float(sums[i]))
                for i in listed
            ],
            rest=rest,
        )

    def _average(self, window: Window) -> _Arithmetic:
        source = self._operand(0)[self.at[0]][None]
        (patch,), inside = _cut(source, window, *self._start(window))
        counted = inside
        if self.node.integer("count_include_pad", 0):
            counted = self._within_padding(window, *source.shape[1:])
        kernel = counted / counted.sum()
        products = patch * kernel
        total = math.fsum(products.ravel())
        part = InputWindow(self.at[0], patch.tolist(), kernel.tolist(), products.tolist(), total)
        return _Arithmetic(sum=total, window=self._place(window), inputs=[part])

    def _maximum(self, window: Window) -> _Arithmetic:
        source = self._operand(0)[self.at[0]][None]
        (patch,), inside = _cut(source, window, *self._start(window))
        row, column = divmod(int(np.where(inside, patch, -np.inf).argmax()), patch.shape[1])
        cells = [
            [float(value) if there else None for value, there in zip(*each, strict=True)]
            for each in zip(patch, inside, strict=True)
        ]
        largest = float(patch[row, column])
        part = InputWindow(self.at[0], cells, None, None, largest)
        return _Arithmetic(sum=largest, window=self._place(window), inputs=[part], picked=(row, column))

    def _start(self, window: Window) -> Pair:
        return window.start(*self.at[1:]) if len(self.at) == MAP_DIMENSIONS else (0, 0)

    def _within_padding(self, window: Window, height: int, width: int) -> NDArray[np.bool_]:
        """Return which cells are of the layer or its padding: a last window may reach even beyond that."""
        top, left, bottom, right = window.padding
        rows, columns = _cells(window, *self._start(window))
        return np.outer((rows >= -top) & (rows < height + bottom), (columns >= -left) & (columns < width + right))

    def _place(self, window: Window) -> WindowPlace:
        y, x = self._start(window)
        rows, columns = self._operand(0).shape[-2:]
        return WindowPlace(self._source(0), y, x, *window.kernel, window.dilation, rows, columns)

    # ---- other kinds

    def _fully_connected(self, most: int) -> _Arithmetic:
        transposed = bool(self.node.integer("transB", 0))
        weights = self._constant(1)[self.at[0]] if transposed else self._constant(1)[:, self.at[0]]
        alpha, beta = (float(self.node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))  # type: ignore[arg-type]
        values = self._operand(0).ravel()
        weights = weights * alpha
        products = values * weights
        listed, rest = _largest(products, most)
        bias = 0.0
        if len(self.node.inputs) > 2 and self.node.inputs[2]:  # noqa: PLR2004
            bias = beta * float(np.broadcast_to(self._constant(2), self.layer.shape)[self.at[0]])
        source = self._source(0)
        return _Arithmetic(
            sum=math.fsum(products),
            bias=bias,
            terms=[Term(source, int(i), float(values[i]), float(weights[i]), float(products[i])) for i in listed],
            rest=rest,
        )

    def _pixel_by_pixel(self) -> _Arithmetic:
        operator = self.node.operator
        operands = self.node.inputs[: 1 if operator in ACTIVATIONS else 2]
        values = [self._at(place) for place in range(len(operands))]
        terms = [Term(self._source(place), self.at[0], value) for place, value in enumerate(values)]
        if operator not in ACTIVATIONS:
            one, other = values
            return _Arithmetic(sum={"Add": one + other, "Sub": one - other, "Mul": one * other}[operator], terms=terms)
        (value,) = values
        match operator:
            case "Relu":
                result = max(value, 0.0)
            case "Clip":
                result = min(max(value, self._bound(1, -math.inf)), self._bound(2, math.inf))
            case "Sigmoid":
                result = 1 / (1 + math.exp(-value)) if value > 0 else 1 - 1 / (1 + math.exp(value))
            case _:
                result = math.tanh(value)
        return _Arithmetic(sum=value, value=result, terms=terms)

    def _bound(self, place: int, default: float) -> float:
        if len(self.node.inputs) > place and self.node.inputs[place]:
            name = self.node.inputs[place]
            while name not in self.layers.constants:  # cast to the layer's own type
                name = self.layers.maker[name].inputs[0]
            return float(self.layers.constants[name].ravel()[0])
        given = self.node.attributes.get("max" if place > 1 else "min", default)
        assert isinstance(given, int | float)
        return float(given)

    # ---- what goes in

    def _constant(self, place: int) -> Doubles:
        return np.asarray(self.layers.constants[self.node.inputs[place]], dtype=np.float64)

    def _operand(self, place: int) -> Doubles:
        """Return what goes in, without N."""
        return np.asarray(self.layers.rebuild(self.node.inputs[place], self._found)[0], dtype=np.float64)

    def _at(self, place: int) -> float:
        """Return what goes in at the value's own place, where it may be one number for many."""
        name = self.node.inputs[place]
        known = self.layers.constants.get(name)
        whole = self.layers.rebuild(name, self._found)[0] if known is None else known
        own = np.broadcast_to(
            np.asarray(whole, np.float64).reshape(_fitting(whole.shape, self.layer.shape)), self.layer.shape
        )
        return float(own[self.at])

    def _source(self, place: int) -> str | None:
        """Return the layer that goes in; None for a constant, or what is no layer."""
        name = self.node.inputs[place]
        return None if name in self.layers.constants else self.layers.layer_of.get(self.layers.base(name))


def _check_place(layer: Layer, place: tuple[int, int, int]) -> None:
    bounds = layer.shape if len(layer.shape) == MAP_DIMENSIONS else (*layer.shape, 1, 1)
    for name, index, size in zip(("channel", "y", "x"), place, bounds, strict=True):
        if not 0 <= index < size:
            raise NoSuchPart(
                f"layer {layer.name!r} has {'x'.join(map(str, layer.shape))} values: {name} is {index}, and may be 0 "
                f"to {size - 1}"
            )


def _activation_after(layers: LayerGraph, value: str) -> Layer | None:
    for node in layers.readers(value):
        if node.operator in ACTIVATIONS and node.outputs[0] in layers.layer_of:
            return layers.layers[layers.layer_of[node.outputs[0]]]
    return None


def _cells(window: Window, y: int, x: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and the columns of a patch's cells."""
    return (
        y + window.dilation[0] * np.arange(window.kernel[0]),
        x + window.dilation[1] * np.arange(window.kernel[1]),
    )


def _cut(source: Doubles, window: Window, y: int, x: int) -> tuple[Doubles, NDArray[np.bool_]]:
    """Cut a patch (C, kernel) out of maps (C, H, W), 0 where it is beyond them; and say which cells are not."""
    rows, columns = _cells(window, y, x)
    height, width = source.shape[1:]
    inside = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    patch = source[:, np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)[None, :]]
    return np.where(inside, patch, 0.0), inside


def _largest(parts: Doubles, most: int) -> tuple[NDArray[np.int64], Rest]:
    """Return the places of the largest parts by size, in order, and what the others are together."""
    if len(parts) <= most:
        return np.arange(len(parts)), Rest()
    order = np.argsort(-np.abs(parts), kind="stable")
    return np.sort(order[:most]), Rest(len(parts) - most, math.fsum(parts[order[most:]]))


def _fitting(shape: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...]:
    """Return a constant's shape without the N of 1 that it may have in front."""
    return shape[-len(target) :] if len(shape) > len(target) else shape
