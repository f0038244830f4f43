"""A folder as timm and the Hugging Face hub write it: weights, and a `config.json` that says all about them."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, JsonValue, ValidationError

from model.architectures.timm_networks import PREFIX, read_timm_config
from model.preprocessing import Preprocessing
from training.errors import InvalidSource

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class TimmFolder:
    """What such a folder says; `labels` is empty and `licence` None where it says nothing."""

    weights: Path
    arch: str
    preprocessing: Preprocessing | None
    labels: tuple[str, ...]
    licence: str | None


class _Config(BaseModel):
    """The part of `config.json` that we read; older ones have `pretrained_cfg`'s fields beside the others."""

    architecture: str
    pretrained_cfg: dict[str, JsonValue] | None = None
    label_names: tuple[str, ...] | None = None
    model_args: dict[str, JsonValue] | None = None


class _Published(BaseModel):
    """The part of `pretrained_cfg` that is not about pixels."""

    label_names: tuple[str, ...] | None = None
    license: str | None = None


def read_timm_folder(folder: Path) -> TimmFolder:
    """Read what a folder says of its weights, not the weights themselves.

    Raises:
        InvalidSource: it is no such folder, or its network is one that cannot be built here.
    """
    path = folder / CONFIG
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSource(
            f"{path} cannot be read: a folder to import holds {CONFIG} and {_WEIGHTS[0]}, as timm writes them"
        ) from error
    try:
        config = _Config.model_validate_json(text)
        published = _Published.model_validate(config.pretrained_cfg or {})
    except ValidationError as error:
        raise InvalidSource(_explain(path, text, error)) from error
    if config.model_args:
        raise InvalidSource(
            f"{path} builds {config.architecture} with arguments of its own ({', '.join(config.model_args)}), which is "
            "not done here: export the network to ONNX and import that"
        )
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise InvalidSource(f"{folder} has no weights: {' or '.join(_WEIGHTS)}")
    return TimmFolder(
        weights=weights,
        arch=PREFIX + config.architecture,
        preprocessing=_read_preprocessing(path, config),
        labels=config.label_names or published.label_names or (),
        licence=published.license,
    )


def _read_preprocessing(path: Path, config: _Config) -> Preprocessing | None:
    if config.pretrained_cfg is None:
        return None
    try:
        return read_timm_config(config.pretrained_cfg)
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InvalidSource(f"the pretrained_cfg in {path} is not understood: {reason}") from error


def _explain(path: Path, text: str, error: ValidationError) -> str:
    if '"architectures"' in text and '"architecture"' not in text:
        return (
            f"{path} describes a model of transformers, not of timm: export it to ONNX "
            "(optimum-cli export onnx) and import the .onnx file"
        )
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{path} is not understood: {place}: {first['msg']}"
