"""Occlusion: cover one part of the image after the other, and watch the probability of a class fall.

It asks the network nothing but answers, so it works for any. Source: Zeiler and Fergus, "Visualizing and Understanding
Convolutional Networks", arXiv 1311.2901, section 4.2, with windows that overlap by half.
"""

from collections.abc import Callable

import numpy as np

from model.explain.class_activation import HeatMap
from model.explain.network import ExplainedNetwork
from model.preprocessing import Pixels


def occlude(
    network: ExplainedNetwork, pixels: Pixels, label: str | None, windows: int, pause: Callable[[], None]
) -> HeatMap:
    """Return by how much the probability of a class falls as each part of one image uint8 (H, W, C) is covered.

    The image is divided into `windows` rows and columns; what is covered is a cell with half a cell around it,
    and the colour that covers it is the one that the network's normalisation makes 0.

    Args:
        network: to be explained.
        pixels: the image.
        label: the class's label or index; the most probable one where there is none.
        windows: cells along each side; no more than the side has pixels.
        pause: is called before each window, and may raise.

    Raises:
        NoSuchPart: there is no such class.
    """
    logits = network.infer(pixels[None])
    index = network.class_index(label, logits[0])
    whole = float(network.probabilities(logits)[0, index])
    height, width, _ = pixels.shape
    rows, columns = (_bounds(side, min(windows, side)) for side in (height, width))
    colour = np.rint(np.array(network.manifest.preprocessing.mean) * 255).clip(0, 255).astype(np.uint8)
    falls = np.zeros((len(rows), len(columns)), np.float32)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            pause()
            image = pixels.copy()
            image[top:bottom, left:right] = colour
            # One by one: on one core a batch gains nothing, and takes memory.
            falls[i, j] = whole - network.probabilities(network.infer(image[None]))[0, index]
    return HeatMap("occlusion", None, index, whole, falls)


def _bounds(side: int, count: int) -> list[tuple[int, int]]:
    """Return where each of `count` cells begins and ends, half a cell wider on both sides than its share."""
    cell = side / count
    return [
        (max(0, round((number - 0.5) * cell)), min(side, max(round((number + 1.5) * cell), 1)))
        for number in range(count)
    ]
