"""Networks that were trained on other photos: their weights, their features, a new last layer.

The features are what the last fully connected layer is given. With a frozen backbone they
are computed once per image and kept on disk; the new last layer is then a logistic
regression on them, solved to its optimum by scikit-learn.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn

from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from model.preprocessing import Preprocessing
from training import imagenet
from training.collection import Targets
from training.data import Part
from training.errors import InvalidRecipe, RunNotWritable

_BATCH = 32
_MOST_ITERATIONS = 5000

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Backbone:
    """A network for K new classes whose other layers are trained, and what it takes.

    `network` takes normalised (N, 3, H, W); `head` names its last fully connected layer, whose
    weights are fresh; `origin` and `licence` are those of the other weights.
    """

    network: nn.Module
    head: str
    preprocessing: Preprocessing
    origin: str
    licence: str

    @property
    def classifier(self) -> nn.Linear:
        """The last fully connected layer."""
        layer = self.network.get_submodule(self.head)
        assert isinstance(layer, nn.Linear)
        return layer


def load_backbone(
    arch: str, classes: int, config: Mapping[str, JsonValue], weights: str, *, download: bool
) -> Backbone:
    """Build a network for new classes on trained weights.

    Args:
        arch: efficientnet_lite0, or a name of torchvision.
        classes: K.
        config: arguments of the architecture.
        weights: "default" for the published ones, or the path of a state dict of this
            architecture (.pth or .safetensors), trained on any classes.
        download: whether torchvision may fetch its weights.

    Raises:
        InvalidRecipe: there are no such weights, or they are not of this architecture.
        UnknownArchitecture: there is no such network.
    """
    network = build_network(arch, classes, config)
    head = _last_linear(arch, network)
    preprocessing = preprocessing_of(arch)
    if weights != "default":
        tensors, origin, licence = _read_weights(Path(weights)), f"weights of {Path(weights).name}", "as the weights'"
    elif arch == "efficientnet_lite0":
        tensors = dict(imagenet.published_network().state_dict())
        origin, licence = f"ImageNet-1k weights of {imagenet.SOURCE}", imagenet.LICENCE
    else:
        tensors, origin, licence = _torchvision_weights(arch, download=download)
    wanted = network.state_dict()
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{head}.")}
    body = {name: tensor for name, tensor in body.items() if name in wanted or not is_side_classifier(name)}
    fresh = {name: tensor for name, tensor in wanted.items() if name.startswith(f"{head}.")}
    try:
        network.load_state_dict({**body, **fresh})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InvalidRecipe(f"the weights are not those of {arch}: {first}") from error
    return Backbone(network, head, preprocessing, origin, licence)


def preprocessing_of(arch: str) -> Preprocessing:
    """Return what an architecture's published weights take.

    Raises:
        InvalidRecipe: it has none.
    """
    if arch == "efficientnet_lite0":
        return imagenet.PREPROCESSING
    import torchvision

    try:
        transforms = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
    except (ValueError, AttributeError) as error:
        raise InvalidRecipe(f"there are no published weights of {arch!r}") from error
    crop, short_side = transforms.crop_size[0], transforms.resize_size[0]
    interpolation: Literal["bilinear", "bicubic"] = (
        "bicubic" if transforms.interpolation.value == "bicubic" else "bilinear"
    )
    # The weights of these two are from another framework, whose normalisation torchvision puts into the network.
    plain = arch in ("googlenet", "inception_v3")
    return Preprocessing(
        mode="RGB",
        height=crop,
        width=crop,
        resize="crop",
        short_side=max(short_side, crop),
        interpolation=interpolation,
        mean=(0.5,) * 3 if plain else tuple(transforms.mean),
        std=(0.5,) * 3 if plain else tuple(transforms.std),
    )


def cached_features(
    backbone: Backbone,
    part: Part,
    *,
    cache: Path,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Features:
    """Return the features (N, D) of a part's images, from `cache` where they have been computed before.

    Raises:
        RunNotWritable: `cache` cannot be written.
    """
    key = hashlib.sha256(backbone.preprocessing.model_dump_json().encode())
    for name, tensor in backbone.network.state_dict().items():
        if not name.startswith(f"{backbone.head}."):
            key.update(tensor.detach().cpu().numpy().tobytes())
    for start in range(0, len(part), _BATCH):
        key.update(np.ascontiguousarray(part.pixels[start : start + _BATCH]).tobytes())
    key.update(str(part.pixels.shape).encode())
    path = cache / f"features-{key.hexdigest()[:20]}.npy"
    if path.exists():
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (ValueError, EOFError, OSError):  # a file that was cut short is computed again
            path.unlink()
    found = features(backbone, part, device, on_progress)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part.npy")
        np.save(temporary, found)
        temporary.replace(path)
    except OSError as error:
        raise RunNotWritable(f"the features cannot be kept in {cache}: {error}") from error
    return found


@torch.inference_mode()
def features(
    backbone: Backbone, part: Part, device: torch.device, on_progress: Callable[[int], None] = lambda _: None
) -> Features:
    """Compute what the last fully connected layer is given for each image, float32 (N, D)."""
    network = PixelNetwork(backbone.network, backbone.preprocessing.mean, backbone.preprocessing.std)
    network.to(device).to(memory_format=torch.channels_last).eval()
    given: list[Tensor] = []
    hook = backbone.classifier.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].float().cpu()))
    try:
        for start in range(0, len(part), _BATCH):
            network(torch.from_numpy(np.ascontiguousarray(part.pixels[start : start + _BATCH])).to(device))
            on_progress(min(start + _BATCH, len(part)))
    finally:
        hook.remove()
    return np.asarray(torch.cat(given).numpy())


def fit_head(
    features: Features, targets: Targets, classes: int, strength: float, *, balanced: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the weight (K, D) and the bias (K,) of the L2-regularised logistic regression.

    Args:
        features: (N, D).
        targets: class indices (N,), every class among them.
        classes: K.
        strength: of the regularisation; the loss summed over the images weighs 1 / strength.
        balanced: every class counts the same.
    """
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(
        C=1 / strength, max_iter=_MOST_ITERATIONS, class_weight="balanced" if balanced else None
    )
    solver.fit(features.astype(np.float64), targets)
    weight, bias = solver.coef_, solver.intercept_
    if classes == 2:  # noqa: PLR2004 - scikit-learn gives one row, the logit of the second class
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def set_head(backbone: Backbone, weight: Tensor, bias: Tensor) -> None:
    """Put a solved last layer into the network."""
    with torch.no_grad():
        backbone.classifier.weight.copy_(weight)
        backbone.classifier.bias.copy_(bias)


def depth_rates(network: nn.Module, head: str, decay: float) -> dict[str, float]:
    """Return each parameter's share of the learning rate: 1 for the head, less the deeper it lies.

    The layers before the head are cut into ten groups by their order; each group has `decay`
    times the rate of the one after it. Source: Howard and Ruder, "ULMFiT", arXiv 1801.06146.
    """
    names = [name for name, _ in network.named_parameters()]
    body = [name for name in names if not name.startswith(f"{head}.")]
    rates = {name: decay ** (1 + (len(body) - 1 - place) * 10 // len(body)) for place, name in enumerate(body)}
    return {name: rates.get(name, 1.0) for name in names}


def _last_linear(arch: str, network: nn.Module) -> str:
    linear = [str(name) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InvalidRecipe(f"{arch} has no fully connected last layer to replace; train it with --weights none")
    if network.get_submodule(linear[-1]).bias is None:
        raise InvalidRecipe(
            f"the last layer of {arch} has no bias, which a new one needs; train it with --weights none"
        )
    return linear[-1]


def is_side_classifier(name: str) -> bool:
    """Tell the weights of the classifiers that GoogLeNet and Inception have for training only."""
    return name.startswith(("aux1.", "aux2.", "AuxLogits."))


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises what it likes
        raise InvalidRecipe(f"the weights {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(tensors, dict):
        raise InvalidRecipe(f"the weights {path} are not a state dict")
    return tensors


def _torchvision_weights(arch: str, *, download: bool) -> tuple[dict[str, Tensor], str, str]:
    import torchvision

    weights = torchvision.models.get_model_weights(arch).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if not file.exists() and not download:
        raise InvalidRecipe(
            f"the weights of {arch} ({weights.url.rsplit('/', 1)[-1]}) are not on this machine: allow --download, name "
            "a file with --weights, or train from scratch with --weights none"
        )
    tensors = weights.get_state_dict(progress=False, check_hash=True)
    return dict(tensors), f"torchvision's {weights}", "BSD-3-Clause (torchvision); see its model's page"
