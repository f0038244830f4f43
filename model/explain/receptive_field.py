"""What a pixel of a layer sees of the network's input.

Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019: the
recurrences of size, stride and place, here for rows and columns each.
"""

from dataclasses import dataclass

from model.explain.window import Window


@dataclass(frozen=True)
class ReceptiveField:
    """Pixel (y, x) sees `height` rows from `offset_y + y * stride_y` on, and columns likewise.

    In pixels of the network's input, whose edges it may reach beyond.
    """

    height: int
    width: int
    stride_y: int
    stride_x: int
    offset_y: int
    offset_x: int

    def through(self, window: Window) -> "ReceptiveField":
        """Return what the result of a window that slides over this layer sees."""
        return ReceptiveField(
            self.height + (window.kernel[0] - 1) * window.dilation[0] * self.stride_y,
            self.width + (window.kernel[1] - 1) * window.dilation[1] * self.stride_x,
            self.stride_y * window.stride[0],
            self.stride_x * window.stride[1],
            self.offset_y - window.padding[0] * self.stride_y,
            self.offset_x - window.padding[1] * self.stride_x,
        )

    def padded(self, top: int, left: int) -> "ReceptiveField":
        """Return what this layer sees with rows and columns put before it."""
        return ReceptiveField(
            self.height,
            self.width,
            self.stride_y,
            self.stride_x,
            self.offset_y - top * self.stride_y,
            self.offset_x - left * self.stride_x,
        )

    def joined(self, other: "ReceptiveField") -> "ReceptiveField | None":
        """Return what two layers see together, pixel by pixel; None where their strides differ."""
        if (self.stride_y, self.stride_x) != (other.stride_y, other.stride_x):
            return None
        top, left = min(self.offset_y, other.offset_y), min(self.offset_x, other.offset_x)
        bottom = max(self.offset_y + self.height, other.offset_y + other.height)
        right = max(self.offset_x + self.width, other.offset_x + other.width)
        return ReceptiveField(bottom - top, right - left, self.stride_y, self.stride_x, top, left)

    def box(self, y: int, x: int, height: int, width: int) -> "Box":
        """Return what pixel (y, x) sees of an input of `height` rows and `width` columns, cut off at its edges."""
        top, left = self.offset_y + y * self.stride_y, self.offset_x + x * self.stride_x
        bottom, right = min(top + self.height, height), min(left + self.width, width)
        top, left = min(max(top, 0), height), min(max(left, 0), width)
        return Box(left, top, max(right - left, 0), max(bottom - top, 0))


ONE_PIXEL = ReceptiveField(1, 1, 1, 1, 0, 0)


@dataclass(frozen=True)
class Box:
    """A rectangle on the network's input, in its pixels; `whole` where that is all of it."""

    x: int
    y: int
    width: int
    height: int
    whole: bool = False
