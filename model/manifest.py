"""The manifest: what a stored version is, in one JSON file that is written last.

A version exists when its manifest does. It names every other file of the version with its
SHA-256. Knows nothing of where versions lie.
"""

import datetime as dt
import json
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from model.errors import CorruptCheckpoint
from model.preprocessing import Preprocessing
from model.sealed import is_as_written, write_sealed

SCHEMA_VERSION: Final = 1
REDUCED_TOLERANCE: Final = 0.1  # of versions in bf16 and int8, which are compared with golden outputs of their own

EngineName = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "bf16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Record):
    """A network's name in the catalogue and the arguments it was built with."""

    name: str
    config: dict[str, JsonValue] = {}


class Calibration(_Record):
    """How logits become probabilities: softmax(logits / temperature)."""

    temperature: float = Field(default=1.0, gt=0)
    calibrated: bool = False
    note: str = ""


class Provenance(_Record):
    """Where a version comes from: enough to make it again, or to find its source."""

    created: dt.datetime
    source: str
    licence: str
    seed: int | None = None
    data: str = ""
    recipe: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}


class FileRecord(_Record):
    """A file of a version: its size in bytes and the SHA-256 of its content."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class Manifest(_Record):
    """Everything about a version but its weights.

    `tolerance` is the largest difference of a probability from the golden outputs that an
    engine may show; `metrics` are fractions unless their name ends in a unit; `digest` is the
    SHA-256 of all the rest, as `write_manifest_text` takes it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    architecture: Architecture
    labels: tuple[str, ...] = Field(min_length=2)
    preprocessing: Preprocessing
    calibration: Calibration
    precision: Precision = "fp32"
    tolerance: float = Field(default=1e-3, gt=0, lt=1)
    engines: tuple[EngineName, ...] = Field(min_length=1)
    parameters: int = Field(ge=0)
    metrics: dict[str, float] = {}
    provenance: Provenance
    files: dict[str, FileRecord] = {}
    digest: Sha256 | None = None

    @model_validator(mode="after")
    def _plain_file_names(self) -> "Manifest":
        for name in self.files:
            if name.startswith(("/", ".")) or "\\" in name or ".." in name.split("/"):
                raise ValueError(f"{name!r} does not name a file inside the version")
        return self


def write_manifest_text(manifest: Manifest) -> str:
    """Write a manifest as JSON that carries its own digest."""
    return write_sealed(json.loads(manifest.model_dump_json(exclude={"digest"})))


def parse_manifest(text: str, where: str) -> Manifest:
    """Read a manifest's JSON.

    Raises:
        CorruptCheckpoint: it is not a manifest, was altered, or is of a newer schema; `where` names it.
    """
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if place == "schema_version":
            raise CorruptCheckpoint(
                f"{where} has schema_version {first['input']}, and this hubel reads {SCHEMA_VERSION}: "
                "a newer hubel wrote it; upgrade to read it"
            ) from error
        raise CorruptCheckpoint(f"{where} is not a manifest: {place or 'the file'}: {first['msg']}") from error
    if manifest.digest is not None and not is_as_written(json.loads(text)):
        raise CorruptCheckpoint(
            f"{where} is not the manifest that was published: its content does not have the digest that it carries; "
            "restore it or publish the version again"
        )
    return manifest
