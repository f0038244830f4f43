"""Any classification network of torchvision, by torchvision's own name."""

import torchvision
from torch import nn

from model.errors import UnknownArchitecture

# These two return a tuple while training and carry classifiers that serving does not use.
_WITHOUT_SIDE_CLASSIFIERS = {"aux_logits": False, "init_weights": False}
_ARGUMENTS = {"googlenet": _WITHOUT_SIDE_CLASSIFIERS, "inception_v3": _WITHOUT_SIDE_CLASSIFIERS}


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification networks."""
    return list(torchvision.models.list_models(module=torchvision.models))


def torchvision_network(name: str, classes: int) -> nn.Module:
    """Build a network of torchvision with fresh weights: (N, 3, H, W) to logits (N, classes).

    Raises:
        UnknownArchitecture: torchvision has no classification network of that name.
    """
    if name not in torchvision_names():
        raise UnknownArchitecture(
            f"there is no architecture {name!r}: use classic, efficientnet_lite0, or a classification network of "
            f"torchvision ({', '.join(torchvision_names()[:6])}, ...)"
        )
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **_ARGUMENTS.get(name, {})
    )
    return network
