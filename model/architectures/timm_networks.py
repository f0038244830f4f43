"""Classification networks of timm, by timm's own name after `timm/`; the only user of timm.

timm is an extra of its own, and nothing is downloaded: every network has fresh weights.
"""

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from torch import nn

from model.errors import EngineUnavailable, UnknownArchitecture
from model.preprocessing import Preprocessing

PREFIX = "timm/"
_CROP_SHARE = 0.875  # timm's own where a network names none


class _TimmConfig(BaseModel):
    """The part of timm's `pretrained_cfg` that says what is done with an image."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float | None = None
    crop_mode: str | None = None


def timm_network(name: str, classes: int) -> nn.Module:
    """Build a network of timm with fresh weights: (N, 3, H, W) to logits (N, classes).

    Args:
        name: timm's own, without `timm/`; what follows a dot names weights and is not needed.
        classes: K.

    Raises:
        EngineUnavailable: timm is not installed.
        UnknownArchitecture: timm has no network of that name.
    """
    timm = _timm()
    if not _is_known(timm, name):
        raise UnknownArchitecture(
            f"there is no architecture {PREFIX + name!r}: timm {timm.__version__} does not know it; "
            "python -c 'import timm; print(timm.list_models())' lists those it knows"
        )
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return network


def timm_preprocessing(name: str) -> Preprocessing | None:
    """Return what the published weights of a network of timm take; None where there are none.

    Raises:
        EngineUnavailable: timm is not installed.
    """
    timm = _timm()
    found = timm.get_pretrained_cfg(name) if _is_known(timm, name) else None
    return read_timm_config(found.to_dict()) if found is not None else None


def read_timm_config(config: Mapping[str, object]) -> Preprocessing:
    """Turn timm's `pretrained_cfg` into what we do with an image.

    Where timm takes an interpolation that is not ours (lanczos, nearest, one at random), bicubic
    stands in for it; where it would add a border, the image is cropped.

    Raises:
        ValueError: it is not what timm writes.
    """
    read = _TimmConfig.model_validate(config)
    channels, height, width = read.input_size
    short_side = max(math.floor(min(height, width) / (read.crop_pct or _CROP_SHARE)), height, width)
    stretch = read.crop_mode == "squash"
    return Preprocessing(
        mode="L" if channels == 1 else "RGB",
        height=height,
        width=width,
        resize="stretch" if stretch else "crop",
        short_side=None if stretch else short_side,
        interpolation="bilinear" if read.interpolation == "bilinear" else "bicubic",
        mean=read.mean,
        std=read.std,
    )


def _is_known(timm: Any, name: str) -> bool:
    """Keep away from timm's own forms for weights elsewhere (hf-hub:, local-dir:), which would be fetched."""
    return ":" not in name and bool(timm.is_model(name))


def _timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        raise EngineUnavailable(
            "the network is one of timm, which is not installed: pip install 'hubel[timm]' (ONNX Runtime runs "
            "published versions of it without timm)"
        )
    import timm

    return timm
