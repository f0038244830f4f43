"""All architectures by name."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch import nn

from model.architectures.classic import ClassicConfig, classic
from model.architectures.efficientnet_lite import efficientnet_lite0
from model.architectures.timm_networks import PREFIX, timm_network
from model.architectures.torchvision_networks import torchvision_network
from model.errors import UnknownArchitecture


class _LiteConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    dropout: float = Field(default=0.2, ge=0, lt=1)


class _NoConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")


def build_network(name: str, classes: int, config: Mapping[str, JsonValue]) -> nn.Module:
    """Build a network with fresh weights: normalised (N, C, H, W) to logits (N, classes).

    Raises:
        EngineUnavailable: it is one of timm, which is not installed.
        UnknownArchitecture: no network has that name, or it does not take those arguments.
    """
    try:
        match name:
            case "classic":
                return classic(classes, ClassicConfig.model_validate(config))
            case "efficientnet_lite0":
                return efficientnet_lite0(classes, _LiteConfig.model_validate(config).dropout)
            case _:
                _NoConfig.model_validate(config)
                if name.startswith(PREFIX):
                    return timm_network(name.removeprefix(PREFIX), classes)
                return torchvision_network(name, classes)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise UnknownArchitecture(f"architecture {name!r} does not take {dict(config)}: {wrong}") from error
    except ValueError as error:
        raise UnknownArchitecture(f"architecture {name!r} does not take {dict(config)}: {error}") from error
