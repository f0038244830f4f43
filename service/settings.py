"""The settings: every `HUBEL_` variable, its bounds, its default, and what it means.

`load_settings` is called once, where a process starts; values are handed down from there.
"""

import difflib
import re
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

from model.engines.selection import DEVICE_PATTERN, EngineChoice, has_gpu
from model.errors import InvalidReference, Limit
from model.registry import DEFAULT_ROOT
from model.types import NAME_PATTERN, ModelRef
from service.cores import count_cores
from service.errors import SettingsError

PREFIX = "HUBEL_"
_MOST_PROCESSES = 8  # where nobody says how many; each takes 100 MB, and the models
_SECRET = frozenset({"admin_key", "api_keys", "metrics_key"})
_OF_CLIENTS = frozenset({"HUBEL_CLIENT_KEY"})  # of `hubel predict --url` and `hubel bench`
_ORIGIN = re.compile(r"\*|https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
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
        description="Folder for what is fetched from a registry elsewhere, and for engines' speeds; hubel in the "
        "user's cache if empty.",
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
        default=None,
        min_length=16,
        description="Key of the routes that change models, which do not exist without it and without API keys.",
    )
    api_keys: SecretStr | None = Field(
        default=None, description="API keys, a line each as docs/access.md shows; requests then need one."
    )
    api_keys_file: Path | None = Field(
        default=None, description="File of such lines; a change is noticed within two seconds."
    )
    requests_per_second: float = Field(
        default=0.0, ge=0, le=1e6, description="Requests a second with one API key; 0 for no limit."
    )
    concurrent_requests: int = Field(
        default=0, ge=0, le=1_000_000, description="Requests at once with one API key; 0 for no limit."
    )
    metrics_key: SecretStr | None = Field(
        default=None, min_length=16, description="Key of /metrics, which is open without it."
    )
    cors_origins: str | None = Field(
        default=None,
        description="Origins whose pages may ask from a browser: https://example.org, commas between; * for all.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every one.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 for a free one.")
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        default="auto", description="Serving processes; auto is one for each core, 8 at the most, and one for a GPU."
    )
    worker_folder: Path | None = Field(
        default=None,
        description="Folder where several workers tell how they stand, and find weights to map; made by `hubel serve`.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="Certificate and chain (PEM) to serve HTTPS with, TLS 1.2 at least; with HUBEL_TLS_KEY.",
    )
    tls_key: Path | None = Field(default=None, description="The certificate's private key (PEM, without a password).")
    max_connections: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Open connections of one serving process at the most; idle ones give way to new ones, then 503.",
    )
    max_header_bytes: int = Field(
        default=32 * 2**10,
        ge=256,
        le=2**20,
        description="Bytes of a request's line and headers, or of what frames its body, at the most; then 431.",
    )
    header_timeout_ms: int = Field(
        default=10_000,
        ge=100,
        le=600_000,
        description="Time for a request's headers to arrive, milliseconds; then 408.",
    )
    body_timeout_ms: int = Field(
        default=20_000,
        ge=100,
        le=600_000,
        description="Time for a request's body to arrive (then 408) or for an answer to be read, milliseconds; bytes "
        "that move earn more.",
    )
    keep_alive_ms: int = Field(
        default=75_000,
        ge=100,
        le=3_600_000,
        description="Time that a connection is kept open for its next request, milliseconds; more than whoever asks "
        "(a proxy, a load balancer) keeps it.",
    )
    min_body_bytes_per_second: int = Field(
        default=16 * 2**10,
        ge=1,
        le=2**30,
        description="A body or an answer that moves as fast as this may take any time.",
    )
    shutdown_delay_ms: int = Field(
        default=0,
        ge=0,
        le=600_000,
        description="Time between a signal to stop and the end of listening, milliseconds; /readyz is 503 meanwhile.",
    )
    engine: Literal["auto", "onnx", "openvino", "torch"] = Field(
        default="auto", description="Runtime; auto is torch on a CUDA device, else the fastest on this CPU."
    )
    measure_engines: bool = Field(
        default=True,
        description="Whether auto measures, once for a network on a machine, where there is a choice; false for ONNX "
        "Runtime first.",
    )
    device: Annotated[str, Field(pattern=f"^({DEVICE_PATTERN})$")] = Field(
        default="auto", description="auto, cpu, cuda or cuda:n."
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Cores that engines compute on, those of all workers; 0 for all that the machine or a container's "
        "limit gives.",
    )
    decode_threads: int = Field(
        default=0, ge=0, le=256, description="Threads that decode images; 0 divides the cores by the workers."
    )
    max_batch_size: int = Field(default=32, ge=1, le=256, description="Images in one batch at the most.")
    max_queue_size: int = Field(
        default=256, ge=1, le=100_000, description="Images of a model that are being answered at the most."
    )
    max_queue_bytes: int = Field(
        default=256 * 2**20,
        ge=2**20,
        description="Bytes of decoded images of a model that are being answered at the most.",
    )
    max_pending_body_bytes: int = Field(
        default=512 * 2**20, ge=1024, description="Bytes of all requests' bodies that are held at once at the most."
    )
    request_timeout_ms: int = Field(
        default=30_000, ge=1, le=600_000, description="Time for a prediction, milliseconds; then 504."
    )
    max_timeout_ms: int = Field(
        default=0,
        ge=0,
        le=600_000,
        description="What a request's own timeout_ms may be at the most; 0 for HUBEL_REQUEST_TIMEOUT_MS.",
    )
    engine_timeout_ms: int = Field(
        default=30_000,
        ge=10,
        le=3_600_000,
        description="Time for one batch, or to decode one image, milliseconds; what does not stop then ends its "
        "process, which is replaced.",
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
    max_image_decoded_bytes: int = Field(
        default=400_000_000, ge=2**20, description="Bytes of memory that decoding one image may take."
    )
    max_decoding_pixels: int = Field(
        default=50_000_000,
        ge=1_000_000,
        description="Pixels, of four bytes, that the large images being decoded at once hold together; one alone "
        "may hold more.",
    )
    explain_idle_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="Time after the last explanation until the process that explains ends, seconds.",
    )
    max_explanations: int = Field(
        default=16, ge=1, le=1000, description="Explanations that are computed or wait for it, at the most; then 503."
    )
    max_explained_values: int = Field(
        default=200_000, ge=1, le=10_000_000, description="Numbers in one answer of format=arrays at the most."
    )
    max_occlusions: int = Field(
        default=256, ge=64, le=1024, description="Parts of an image that one occlusion covers at the most."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged; debug shows health checks too."
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            given, lacking = ("KEY", "CERT") if self.tls_cert is None else ("CERT", "KEY")
            raise ValueError(f"HUBEL_TLS_{given} is given without HUBEL_TLS_{lacking}: HTTPS needs both")
        return self

    @model_validator(mode="after")
    def _request_fits_queue(self) -> "Settings":
        if self.max_images_per_request > self.max_queue_size:
            raise ValueError(
                f"HUBEL_MAX_IMAGES_PER_REQUEST ({self.max_images_per_request}) is larger than HUBEL_MAX_QUEUE_SIZE "
                f"({self.max_queue_size}): such a request could never be taken in"
            )
        if self.max_body_bytes > self.max_pending_body_bytes:
            raise ValueError(
                f"HUBEL_MAX_BODY_BYTES ({self.max_body_bytes}) is larger than HUBEL_MAX_PENDING_BODY_BYTES "
                f"({self.max_pending_body_bytes}): such a body could never be read"
            )
        return self

    @field_validator(
        "cache",
        "worker_folder",
        "tls_cert",
        "tls_key",
        "admin_key",
        "cors_origins",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("api_keys_file", "metrics_key", mode="before")
    @classmethod
    def _empty_would_open(cls, value: object) -> object:
        if value == "":
            raise ValueError("it is empty, which would let everybody in: leave it out if that is meant")
        return value

    @field_validator("admin_key", "metrics_key", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value  # files of secrets often end with a newline

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, text: str | None) -> str | None:
        for part in _parts(text or ""):
            if not _ORIGIN.fullmatch(part):
                raise ValueError(
                    "an origin is https://example.org, with or without a port, and nothing behind it; or *"
                )
        return text

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
    def origins(self) -> list[str]:
        """Origins whose pages may ask."""
        return _parts(self.cors_origins or "")

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need a key, also where the file of keys is empty by now."""
        return self.api_keys is not None or self.api_keys_file is not None

    @property
    def preloaded(self) -> list[ModelRef]:
        """What is kept loaded beside the default model, by reference."""
        return [ModelRef.parse(part) for part in _parts(self.preload) if part != EVERYTHING]

    @property
    def preloads_everything(self) -> bool:
        """Whether all that aliases and traffic mean is kept loaded."""
        return EVERYTHING in _parts(self.preload)

    @property
    def longest_timeout(self) -> Limit:
        """What a request's own timeout may be at the most, milliseconds."""
        if self.max_timeout_ms:
            return Limit("max_timeout_ms", self.max_timeout_ms)
        return Limit("request_timeout_ms", self.request_timeout_ms)

    @property
    def cores(self) -> int:
        """Cores that all workers compute on."""
        return self.threads or count_cores()

    @property
    def processes(self) -> int:
        """Serving processes; `hubel serve` decides what auto is, and what it did not start is alone."""
        return 1 if self.workers == "auto" else self.workers

    def with_processes(self) -> "Settings":
        """Decide what auto is: one process for a GPU, or one for each core, since Python runs on one at a time."""
        if self.workers != "auto":
            return self
        best = 1 if has_gpu(self.engine, self.device) else min(self.cores, _MOST_PROCESSES)
        return self.model_copy(update={"workers": best})

    @property
    def share_of_cores(self) -> int:
        """Cores that this process may use at any time."""
        return max(1, self.cores // self.processes)

    @property
    def longest_timeout_seconds(self) -> float:
        """For how long a request may be answered, whatever it asks for."""
        return max(self.request_timeout_ms, self.longest_timeout.value) / 1000

    @property
    def engine_choice(self) -> EngineChoice:
        """What may run a version in this process."""
        return EngineChoice(
            self.engine,
            self.device,
            self.cores,
            self.measure_engines,
            self.cache,
            shared=self.worker_folder / "networks" if self.worker_folder else None,
            share=self.share_of_cores,
        )

    @property
    def decoding_threads(self) -> int:
        """Threads for decoding in this process."""
        return self.decode_threads or self.share_of_cores


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
        if not variable.startswith(PREFIX) or variable in _OF_CLIENTS or _is_from_kubernetes(variable, text):
            continue
        field = variable.removeprefix(PREFIX).lower()
        if field not in Settings.model_fields or variable != variable_of(field):
            raise SettingsError(f"{variable} is not a setting{_suggestion(field)}")
        values[field] = text
    return values


def variables_of(settings: Settings) -> dict[str, str]:
    """Return the environment that gives another process the same settings: all that were set."""
    return {variable_of(field): _text(getattr(settings, field)) for field in sorted(settings.model_fields_set)}


def variable_of(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return "" if value is None else str(value)


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
