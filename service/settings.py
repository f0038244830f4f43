"""The settings: every `HUBEL_` variable, its bounds, its default, and what it means.

`load_settings` is called once, where a process starts; values are handed down from there.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from model.engines.selection import DEVICE_PATTERN
from model.errors import InvalidReference
from model.registry import DEFAULT_ROOT
from model.types import NAME_PATTERN, ModelRef
from service.errors import SettingsError

PREFIX = "HUBEL_"
_SECRET = frozenset({"admin_key"})
EVERYTHING = "*"  # in the list of what is kept loaded
Address = Annotated[str, BeforeValidator(str)]
# What Kubernetes puts into every container beside a Service of the name "hubel".
_KUBERNETES = ("HUBEL_SERVICE_", "HUBEL_PORT_")


class Settings(BaseModel):
    """What an operator may set. Variables are the fields' names in capitals behind `HUBEL_`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: Address = Field(
        default=DEFAULT_ROOT, description="The model registry: a folder, or an address as s3://bucket/folder."
    )
    cache: Path | None = Field(
        default=None,
        description="Folder for what is fetched from a registry elsewhere; hubel in the user's cache if empty.",
    )
    registry_poll_seconds: float = Field(
        default=1.0, ge=0.05, le=3600, description="Time between two looks at the registry, seconds."
    )
    default_model: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")] = Field(
        default="imagenet", description="The model that /v1/predict means; the service is ready when it is."
    )
    preload: str = Field(
        default="*",
        description="Kept loaded beside the default model, and waited for: references with commas between; "
        "* is all that aliases and traffic mean, as far as there is room, and not waited for. The rest is loaded when "
        "it is asked for.",
    )
    max_loaded_models: int = Field(
        default=16, ge=0, le=10_000, description="Versions loaded at once at the most; 0 for no limit."
    )
    max_loaded_bytes: int = Field(
        default=0, ge=0, description="Bytes of weights that may be loaded at once; 0 for no limit."
    )
    admin_key: SecretStr | None = Field(
        default=None, min_length=16, description="Key of the routes that change models, which do not exist without it."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every one.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 for a free one.")
    workers: int = Field(default=1, ge=1, le=64, description="Serving processes.")
    worker_folder: Path | None = Field(
        default=None, description="Folder where several workers tell how they stand; made by `hubel serve`."
    )
    engine: Literal["auto", "onnx", "torch"] = Field(
        default="auto", description="Runtime; auto is torch on a CUDA device, else ONNX Runtime."
    )
    device: Annotated[str, Field(pattern=f"^({DEVICE_PATTERN})$")] = Field(
        default="auto", description="auto, cpu, cuda or cuda:n."
    )
    threads: int = Field(
        default=0, ge=0, le=256, description="Threads that compute a batch; 0 divides the cores by the workers."
    )
    decode_threads: int = Field(
        default=0, ge=0, le=256, description="Threads that decode images; 0 divides the cores by the workers."
    )
    max_batch_size: int = Field(default=8, ge=1, le=256, description="Images in one batch at the most.")
    max_queue_size: int = Field(
        default=256, ge=1, le=100_000, description="Images of a model that are being answered at the most."
    )
    request_timeout_ms: int = Field(
        default=30_000, ge=1, le=600_000, description="Time for a prediction, milliseconds; then 504."
    )
    max_body_bytes: int = Field(
        default=20 * 2**20, ge=1024, le=2**30, description="Bytes of a request's body at the most."
    )
    max_archive_bytes: int = Field(
        default=4 * 2**30, ge=1024, description="Bytes of an archive that an administrator sends, at the most."
    )
    max_images_per_request: int = Field(default=64, ge=1, le=10_000, description="Images in one request at the most.")
    max_image_pixels: int = Field(
        default=50_000_000, ge=1, le=178_000_000, description="Pixels that an image's header may announce."
    )
    max_image_aspect_ratio: float = Field(
        default=50.0, ge=1, description="How many times longer one side of an image may be than the other."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged; debug shows health checks too."
    )

    @model_validator(mode="after")
    def _request_fits_queue(self) -> "Settings":
        if self.max_images_per_request > self.max_queue_size:
            raise ValueError(
                f"HUBEL_MAX_IMAGES_PER_REQUEST ({self.max_images_per_request}) is larger than HUBEL_MAX_QUEUE_SIZE "
                f"({self.max_queue_size}): such a request could never be taken in"
            )
        return self

    @field_validator("cache", "worker_folder", "admin_key", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("admin_key", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value  # files of secrets often end with a newline

    @field_validator("preload")
    @classmethod
    def _references(cls, text: str) -> str:
        for part in _parts(text):
            if part != EVERYTHING:
                try:
                    ModelRef.parse(part)
                except InvalidReference as error:
                    raise ValueError(str(error)) from error
        return text

    @property
    def preloaded(self) -> list[ModelRef]:
        """What is kept loaded beside the default model, by reference."""
        return [ModelRef.parse(part) for part in _parts(self.preload) if part != EVERYTHING]

    @property
    def preloads_everything(self) -> bool:
        """Whether all that aliases and traffic mean is kept loaded."""
        return EVERYTHING in _parts(self.preload)

    @property
    def compute_threads(self) -> int:
        """Threads for a batch in this process."""
        return self.threads or self._share_of_cores()

    @property
    def decoding_threads(self) -> int:
        """Threads for decoding in this process."""
        return self.decode_threads or self._share_of_cores()

    def _share_of_cores(self) -> int:
        return max(1, len(os.sched_getaffinity(0)) // self.workers)


def load_settings(environment: Mapping[str, str], **overrides: object) -> Settings:
    """Read the settings from an environment; `overrides` that are not None win.

    Raises:
        SettingsError: a `HUBEL_` variable is not known, or a value is not allowed.
    """
    values: dict[str, object] = dict(read_variables(environment))
    values.update({field: value for field, value in overrides.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(dict(part)) for part in error.errors())) from error


def read_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that an environment names, by field, as text.

    Raises:
        SettingsError: a `HUBEL_` variable is not known.
    """
    values = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or _is_from_kubernetes(variable, text):
            continue
        field = variable.removeprefix(PREFIX).lower()
        if field not in Settings.model_fields or variable != variable_of(field):
            raise SettingsError(f"{variable} is not a setting{_suggestion(field)}")
        values[field] = text
    return values


def variable_of(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _is_from_kubernetes(variable: str, text: str) -> bool:
    return variable.startswith(_KUBERNETES) or (variable == "HUBEL_PORT" and text.startswith("tcp://"))


def _suggestion(field: str) -> str:
    close = difflib.get_close_matches(field, Settings.model_fields, n=1)
    if close:
        return f": did you mean {variable_of(close[0])}?"
    return f"; the settings are {', '.join(variable_of(known) for known in Settings.model_fields)}"


def _explain(error: dict[str, object]) -> str:
    location = error["loc"]
    if isinstance(location, tuple) and location:
        given = "not allowed" if location[0] in _SECRET else repr(error["input"])
        return f"{variable_of(str(location[0]))} is {given}: {error['msg']}"
    return str(error["msg"]).removeprefix("Value error, ")
