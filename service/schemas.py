"""Request and response bodies, and their making from the model's own values."""

import datetime as dt
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from model.manifest import Architecture, Calibration, Manifest
from model.preprocessing import ImageFacts, Preprocessing
from model.types import Prediction
from service.hosting import HostedModel, HostedVersion, LoadState


class Problem(BaseModel):
    """A failure as RFC 9457 writes it; `limit`, `value` and `setting` name a bound that was reached."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    request_id: str | None = None
    limit: str | None = None
    value: float | None = None
    setting: str | None = None


class EncodedImage(BaseModel):
    """An image file, base64."""

    model_config = ConfigDict(extra="forbid")

    b64: str


class PredictRequest(BaseModel):
    """The JSON form of a prediction request."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[list[EncodedImage], Field(min_length=1)]


class PredictQuery(BaseModel):
    """The parameters of a prediction request."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(default=5, ge=0, description="Classes to return, most probable first; 0 for all.")
    timeout_ms: int | None = Field(
        default=None, ge=1, description="Time for the answer, milliseconds; HUBEL_REQUEST_TIMEOUT_MS at the most."
    )


class PredictionOut(BaseModel):
    """A class and its probability; `index` is its place in the network's output."""

    label: str
    index: int
    probability: float

    @classmethod
    def of(cls, prediction: Prediction) -> "PredictionOut":
        """Convert a prediction."""
        return cls(label=prediction.label, index=prediction.index, probability=prediction.probability)


class ImageOut(BaseModel):
    """What an image was: upright size in pixels, format, and what was done to its pixels."""

    width: int
    height: int
    format: str
    applied: list[str]

    @classmethod
    def of(cls, facts: ImageFacts) -> "ImageOut":
        """Convert an image's facts."""
        return cls(width=facts.width, height=facts.height, format=facts.format, applied=list(facts.applied))


class ResultOut(BaseModel):
    """The answer for one image: predictions, most probable first, or the problem with this image."""

    predictions: list[PredictionOut] | None = None
    image: ImageOut | None = None
    error: Problem | None = None


class PredictResponse(BaseModel):
    """The version that answered, whether its probabilities are calibrated, and a result per image."""

    model: str
    version: int
    calibrated: bool
    results: list[ResultOut]


class VersionOut(BaseModel):
    """A version and where it stands in the worker that answers."""

    version: int
    state: LoadState
    aliases: list[str]
    reason: str | None = None
    engine: str | None = None
    device: str | None = None

    @classmethod
    def of(cls, model: HostedModel, version: HostedVersion) -> "VersionOut":
        """Convert a hosted version."""
        engine = version.served.classifier.engine if version.served is not None else None
        return cls(
            version=version.number,
            state=version.state,
            aliases=sorted(alias for alias, number in model.aliases.items() if number == version.number),
            reason=version.reason or None,
            engine=engine.name if engine else None,
            device=engine.device if engine else None,
        )


class ModelOut(BaseModel):
    """A model and its versions."""

    name: str
    aliases: dict[str, int]
    versions: list[VersionOut]
    reason: str | None = None

    @classmethod
    def of(cls, model: HostedModel) -> "ModelOut":
        """Convert a hosted model."""
        return cls(
            name=model.name,
            aliases=model.aliases,
            versions=[VersionOut.of(model, version) for version in model.versions.values()],
            reason=model.reason or None,
        )


class ModelsOut(BaseModel):
    """Every model that this server knows."""

    default_model: str
    models: list[ModelOut]


class VersionDetail(VersionOut):
    """A version with all that a caller may want to know of it."""

    model: str
    architecture: Architecture
    parameters: int
    labels: list[str]
    preprocessing: Preprocessing
    calibration: Calibration
    precision: str
    metrics: dict[str, float]
    source: str
    licence: str
    created: dt.datetime
    card: str

    @classmethod
    def describe(cls, model: HostedModel, version: HostedVersion, manifest: Manifest, card: str) -> "VersionDetail":
        """Put together what the host, the manifest and the card say."""
        return cls(
            **VersionOut.of(model, version).model_dump(),
            model=model.name,
            architecture=manifest.architecture,
            parameters=manifest.parameters,
            labels=list(manifest.labels),
            preprocessing=manifest.preprocessing,
            calibration=manifest.calibration,
            precision=manifest.precision,
            metrics=manifest.metrics,
            source=manifest.provenance.source,
            licence=manifest.provenance.licence,
            created=manifest.provenance.created,
            card=card,
        )


class Liveness(BaseModel):
    """The process answers."""

    live: bool


class Readiness(BaseModel):
    """Whether predictions with the default model are answered now, and if not, what is waited for."""

    ready: bool
    waiting_for: list[str]


class Health(Readiness):
    """Readiness, and how every model stands."""

    models: list[ModelOut]
