"""A version to be looked into: any layer's result for an image, and the answers of the version itself.

ONNX Runtime, on one thread. What is not asked for is neither opened nor computed.
"""

from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import EXPLAIN_NETWORK, LAYERS, NETWORK
from model.classifier import Probabilities, softmax
from model.engines.base import Logits
from model.engines.onnx import open_session
from model.errors import NoSuchPart, NotExplainable
from model.explain.layers import LayerGraph, read_layers
from model.explain.onnx_graph import Array
from model.preprocessing import Pixels
from model.registry import StoredVersion

Floats = NDArray[np.float32]


class ExplainedNetwork:
    """A version's network, whose layers can be asked for."""

    def __init__(self, version: StoredVersion) -> None:
        self.version = version
        self.manifest = version.manifest

    @cached_property
    def layers(self) -> LayerGraph:
        """Its layers.

        Raises:
            NotExplainable: the version has no files that tell of them.
            CorruptCheckpoint: they cannot be read.
        """
        lacking = [name for name in (EXPLAIN_NETWORK, LAYERS) if name not in self.manifest.files]
        if lacking:
            raise NotExplainable(
                f"{self.version} has no {' and no '.join(lacking)}: its layers cannot be shown; method=occlusion "
                "works, and a version that is published anew has them"
            )
        graph = read_layers(self.version.folder, self.manifest.preprocessing.shape)
        if len(graph.layers) == 1:
            raise NotExplainable(
                f"the layers of {self.version} could not be told apart when it was imported; method=occlusion works"
            )
        return graph

    def run(self, pixels: Pixels, names: Iterable[str]) -> dict[str, Array]:
        """Compute values of the graph for one image; nothing beyond them is computed.

        Args:
            pixels: uint8 (H, W, C).
            names: values of the graph, the pixels themselves among them.

        Returns:
            The values by name, each with N = 1 in front.
        """
        import onnxruntime

        batch = pixels[None]
        wanted = [name for name in dict.fromkeys(names) if name != self.layers.pixels]
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        found = self._explained.run(wanted, {self.layers.pixels: batch}, options) if wanted else []
        return {self.layers.pixels: batch, **dict(zip(wanted, found, strict=True))}

    def activations(self, pixels: Pixels, names: Iterable[str]) -> dict[str, Floats]:
        """Return the results of layers for one image uint8 (H, W, C): each (C, H, W) or (values,), by the layer's name.

        Raises:
            NoSuchPart: there is no such layer.
        """
        values = {name: self.layers.value_of[self.layers.find(name).name] for name in names}
        found = self.run(pixels, values.values())
        return {
            name: np.asarray(
                found[value][0].transpose(2, 0, 1) if value == self.layers.pixels else found[value][0], np.float32
            )
            for name, value in values.items()
        }

    def infer(self, pixels: Pixels) -> Logits:
        """Map uint8 pixels (N, H, W, C) to the logits (N, K) of the version itself."""
        (logits,) = self._served.run(None, {self._served.get_inputs()[0].name: pixels})
        return np.asarray(logits, dtype=np.float32)

    def probabilities(self, logits: Logits) -> Probabilities:
        """Turn logits (N, K) into probabilities (N, K), as the version's answers are."""
        return softmax(logits, self.manifest.calibration.temperature)

    def class_index(self, text: str | None, logits: Logits) -> int:
        """Return the class that a label or an index means; that of the largest of the logits (K,) where there is none.

        Raises:
            NoSuchPart: there is no such class.
        """
        labels = self.manifest.labels
        if text is None:
            return int(logits.argmax())
        if text in labels:
            return labels.index(text)
        if text.isdecimal() and len(text) < 10 and int(text) < len(labels):  # noqa: PLR2004
            return int(text)
        lowered = [label.lower() for label in labels]
        if text.lower() in lowered:
            return lowered.index(text.lower())
        raise NoSuchPart(
            f"there is no class {text[:100]!r}: name a label, of which {', '.join(map(repr, labels[:3]))} are the "
            f"first, or an index from 0 to {len(labels) - 1}"
        )

    @cached_property
    def _explained(self):  # type: ignore[no-untyped-def]
        return open_session(self.version.folder / EXPLAIN_NETWORK, 1)

    @cached_property
    def _served(self):  # type: ignore[no-untyped-def]
        return open_session(self.version.folder / NETWORK, 1)
