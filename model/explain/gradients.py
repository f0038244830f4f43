"""Grad-CAM, for any network with convolutions: it needs torch and captum, which are imported on the first use.

Source: Selvaraju et al., "Grad-CAM", arXiv 1610.02391; the gradients and their weighing are captum's.
"""

import importlib.util
from typing import TYPE_CHECKING

import numpy as np

from model.errors import NotExplainable
from model.explain.class_activation import HeatMap
from model.explain.layers import MAP_DIMENSIONS, Layer, LayerGraph
from model.explain.network import ExplainedNetwork, Floats
from model.preprocessing import Pixels

if TYPE_CHECKING:
    from torch import nn

_GRAPH_ONLY = "onnx"  # the architecture of versions that were imported from an ONNX file
_POOLS = ("max_pool", "average_pool")
_AGREEMENT = 1e-2  # of a map's largest value: by how much the two runtimes may differ in it


def has_gradients() -> bool:
    """Whether what Grad-CAM needs is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "captum"))


def is_of_torch(network: ExplainedNetwork) -> bool:
    """Whether torch can build a version's network, and not only run its graph elsewhere."""
    return network.manifest.architecture.name != _GRAPH_ONLY


class GradientNetwork:
    """A version's network in torch, whose gradients can be asked for."""

    def __init__(self, network: ExplainedNetwork) -> None:
        """Build it anew with the version's weights.

        Raises:
            NotExplainable: torch or captum is not installed, or torch does not know the architecture.
        """
        if not has_gradients():
            raise NotExplainable(
                "method=gradcam needs torch and captum, which are not installed here: pip install 'hubel[torch]'; "
                "without them these work: cam, for networks that end in global average pooling, and occlusion"
            )
        if not is_of_torch(network):
            raise NotExplainable(
                f"{network.version} was imported as a graph, which torch cannot build: method=occlusion works"
            )
        if not network.layers.has_maps:
            raise NotExplainable(
                f"{network.version} has no convolutions, whose maps method=gradcam weighs: method=occlusion works"
            )
        import torch

        from model.engines.torch import build_pixel_network

        torch.set_num_threads(1)
        self._network = network
        self._torch = build_pixel_network(network.version.folder, network.manifest)
        self._layer = _last_maps(network.layers)
        self._module: nn.Module | None = None

    def grad_cam(self, pixels: Pixels, label: str | None) -> HeatMap:
        """Return the Grad-CAM map of one image uint8 (H, W, C), after a ReLU.

        Args:
            pixels: the image.
            label: the class's label or index; the most probable one where there is none.

        Raises:
            NoSuchPart: there is no such class.
            NotExplainable: no module of the network has the layer's maps as its result.
        """
        import torch
        from captum.attr import LayerGradCam

        batch = torch.from_numpy(pixels[None].copy())
        if self._module is None:
            self._module = self._find_module(batch, self._network.activations(pixels, [self._layer.name]))
        with torch.inference_mode():
            logits = np.asarray(self._torch(batch).numpy(), dtype=np.float32)
        index = self._network.class_index(label, logits[0])
        maps = LayerGradCam(self._torch, self._module).attribute(batch, target=index, relu_attributions=True)
        probability = float(self._network.probabilities(logits)[0, index])
        return HeatMap("gradcam", self._layer.name, index, probability, maps[0, 0].detach().numpy())

    def _find_module(self, batch: object, known: dict[str, Floats]) -> "nn.Module":
        """Return the module whose result the layer's maps are; the outermost where several pass them on."""
        import torch

        maps = known[self._layer.name]
        found: list[nn.Module] = []

        def compare(module: "nn.Module", _: object, result: object) -> None:
            if isinstance(result, torch.Tensor) and result.shape == (1, *maps.shape):
                difference = np.abs(result[0].numpy() - maps).max()
                if difference <= _AGREEMENT * max(float(np.abs(maps).max()), 1e-6):
                    found.append(module)

        hooks = [module.register_forward_hook(compare) for module in self._torch.modules()]
        with torch.inference_mode():
            self._torch(batch)
        for hook in hooks:
            hook.remove()
        if not found:
            raise NotExplainable(
                f"no module of {self._network.version} has the maps of layer {self._layer.name!r} as its result, which "
                "method=gradcam needs: method=occlusion works"
            )
        return found[-1]


def _last_maps(layers: LayerGraph) -> Layer:
    """Return the last layer of maps before they are pooled for the last time, or become one value each."""
    maps = [
        layer
        for layer in layers.layers.values()
        if len(layer.shape) == MAP_DIMENSIONS and max(layer.shape[1:]) > 1 and layer.kind not in _POOLS
    ]
    return maps[-1]
