"""The window of a convolution or a pooling: its size, how it steps, and the padding that it meets."""

from dataclasses import dataclass

from model.explain.onnx_graph import Node

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Sizes in cells, rows first; `padding` is top, left, bottom, right, as ONNX has it."""

    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair
    groups: int = 1

    @classmethod
    def of(cls, node: Node, kernel: tuple[int, ...], inside: tuple[int, ...]) -> "Window | None":
        """Read a node's window; None where it does not slide over rows and columns.

        Args:
            node: a convolution or a pooling.
            kernel: its size, where the node itself does not tell: that of the weights.
            inside: (..., H, W) of what it slides over.
        """
        size = node.integers("kernel_shape") or kernel
        if len(size) != 2 or len(inside) < 2:  # noqa: PLR2004  rows and columns
            return None
        stride = node.integers("strides") or (1, 1)
        dilation = node.integers("dilations") or (1, 1)
        padding = node.integers("pads") or (0, 0, 0, 0)
        manner = node.attributes.get("auto_pad", "NOTSET")
        if manner in ("SAME_UPPER", "SAME_LOWER"):
            sides = [_same(*each) for each in zip(inside[-2:], size, stride, dilation, strict=True)]
            before = [total // 2 if manner == "SAME_UPPER" else total - total // 2 for total in sides]
            padding = (*before, *(total - first for total, first in zip(sides, before, strict=True)))
        return cls(
            (size[0], size[1]),
            (stride[0], stride[1]),
            (padding[0], padding[1], padding[2], padding[3]),
            (dilation[0], dilation[1]),
            node.integer("group", 1),
        )

    def start(self, y: int, x: int) -> Pair:
        """Return the row and the column of the first cell that the result at (y, x) is made of."""
        return y * self.stride[0] - self.padding[0], x * self.stride[1] - self.padding[1]


def _same(side: int, kernel: int, stride: int, dilation: int) -> int:
    """Return how much padding leaves ceil(side / stride) steps. Source: ONNX, Conv, auto_pad."""
    steps = -(-side // stride)
    return max((steps - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
