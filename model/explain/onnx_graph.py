"""An ONNX file's nodes and constants, read without the package `onnx`, which what serves does without.

Only what explanations need: operators, their attributes, what they read and write, and the weights. Knows no layer.
Source: the format, onnx.proto3 of the ONNX project; its encoding, Protocol Buffers' wire format.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import CorruptCheckpoint

Array = NDArray[np.generic]
Attribute = int | float | str | tuple[int, ...] | Array

# The fields' numbers in onnx.proto3.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _VALUE_NAME = 1, 5, 11, 12, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_INTS = (
    1,
    2,
    3,
    4,
    5,
    8,
)
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INTS, _TENSOR_LONGS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 4, 5, 7, 8, 9
_TENSOR_DOUBLES, _TENSOR_LOCATION = 10, 14
_TYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_Field = tuple[int, "int | memoryview"]


@dataclass(frozen=True)
class Node:
    """An operation: its name in ONNX, the values it reads ("" where one is left out) and writes, its attributes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is one whole number."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else default

    def integers(self, name: str) -> tuple[int, ...]:
        """Return an attribute that is a list of whole numbers; empty where it is not there."""
        value = self.attributes.get(name, ())
        return value if isinstance(value, tuple) else ()


@dataclass(frozen=True)
class OnnxGraph:
    """A network: its operations in order, its constants by name, and what goes in and comes out."""

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_onnx(path: Path) -> OnnxGraph:
    """Read an ONNX file.

    Raises:
        CorruptCheckpoint: it cannot be read, is not one, or keeps weights in other files.
    """
    try:
        graph = next(value for number, value in _fields(memoryview(path.read_bytes())) if number == _MODEL_GRAPH)
        return _read_graph(_bytes(graph))
    except (OSError, StopIteration, ValueError, IndexError, KeyError, OverflowError, TypeError, struct.error) as error:
        raise CorruptCheckpoint(f"{path} cannot be read as an ONNX file: {error or 'it holds no graph'}") from error


def _read_graph(data: memoryview) -> OnnxGraph:
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    names: dict[int, list[str]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    for number, value in _fields(data):
        if number == _GRAPH_NODE:
            node = _read_node(_bytes(value))
            if node.operator == "Constant" and isinstance(tensor := node.attributes.get("value"), np.ndarray):
                constants[node.outputs[0]] = tensor
            else:
                nodes.append(node)
        elif number == _GRAPH_INITIALIZER:
            name, tensor = _read_tensor(_bytes(value))
            constants[name] = tensor
        elif number in names:
            names[number] += [_text(inner) for field, inner in _fields(_bytes(value)) if field == _VALUE_NAME]
    return OnnxGraph(tuple(nodes), constants, tuple(names[_GRAPH_INPUT]), tuple(names[_GRAPH_OUTPUT]))


def _read_node(data: memoryview) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    operator, attributes = "", dict[str, Attribute]()
    for number, value in _fields(data):
        if number == _NODE_INPUT:
            inputs.append(_text(value))
        elif number == _NODE_OUTPUT:
            outputs.append(_text(value))
        elif number == _NODE_OPERATOR:
            operator = _text(value)
        elif number == _NODE_ATTRIBUTE:
            name, attribute = _read_attribute(_bytes(value))
            if attribute is not None:
                attributes[name] = attribute
    return Node(operator, tuple(inputs), tuple(outputs), attributes)


def _read_attribute(data: memoryview) -> tuple[str, Attribute | None]:
    name, found = "", None
    integers: list[int] = []
    for number, value in _fields(data):
        if number == _ATTRIBUTE_NAME:
            name = _text(value)
        elif number == _ATTRIBUTE_FLOAT:
            found = struct.unpack("<f", _bytes(value))[0]
        elif number == _ATTRIBUTE_INT:
            found = _signed(value)
        elif number == _ATTRIBUTE_TEXT:
            found = _text(value)
        elif number == _ATTRIBUTE_TENSOR:
            _, found = _read_tensor(_bytes(value))
        elif number == _ATTRIBUTE_INTS:
            integers += _integers(value)
    return name, tuple(integers) if integers else found


def _read_tensor(data: memoryview) -> tuple[str, Array]:
    """Return a tensor's name and values.

    Raises:
        ValueError: it is of a type that no layer here has, or its values lie in another file.
    """
    dims: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    integers: list[int] = []
    floats = bytearray()
    for number, value in _fields(data):
        if number == _TENSOR_DIMS:
            dims += _integers(value)
        elif number == _TENSOR_TYPE:
            kind = _signed(value)
        elif number == _TENSOR_NAME:
            name = _text(value)
        elif number == _TENSOR_RAW:
            raw = _bytes(value)
        elif number in (_TENSOR_FLOATS, _TENSOR_DOUBLES):
            floats += _bytes(value)
        elif number in (_TENSOR_INTS, _TENSOR_LONGS):
            integers += _integers(value)
        elif number == _TENSOR_LOCATION and value:
            raise ValueError(f"the values of {name or 'a tensor'} are kept in another file")
    if kind not in _TYPES:
        return name, np.zeros(0)  # text, say: nothing that a layer computes with
    dtype = np.dtype(_TYPES[kind])
    if integers:
        if kind == 10:  # noqa: PLR2004  halves are stored as the integers that have their bits
            return name, np.array(integers, np.uint16).view(dtype).reshape(dims)
        return name, np.array(integers).astype(dtype).reshape(dims)
    return name, np.frombuffer(floats or raw, dtype).reshape(dims)


def _fields(data: memoryview) -> Iterator[_Field]:
    """Go through a message: the number of each field, and its value as a whole number or as bytes.

    Raises:
        ValueError: it ends within a field, or has one of a kind that is not known.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"byte {at} begins a field of the unknown kind {kind}")
        if at + size > len(data):
            raise ValueError("it is cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  the highest bit says that another byte follows
            return value, at
        shift += 7


def _signed(value: int | memoryview) -> int:
    """Read a whole number of 64 bits in two's complement."""
    if not isinstance(value, int):
        raise TypeError("bytes stand where a whole number should")
    return value - 2**64 if value >= 2**63 else value


def _integers(value: int | memoryview) -> list[int]:
    """Read a repeated whole number, of which one field holds one, or all."""
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(_signed(number))
    return found


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a whole number stands where bytes should")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()
