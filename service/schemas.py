"""Request and response bodies, and their making from the model's own values."""

import datetime as dt
import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from model.checkpoint import REPORT
from model.manifest import Architecture, Calibration, Manifest
from model.preprocessing import ImageFacts, Preprocessing
from model.state import RolledBack, Traffic, VersionNumber
from model.types import PRODUCTION, Prediction
from service.hosted import HostedModel, HostedVersion, LoadState
from service.hosting import ModelHost


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
        default=None, ge=1, description="Time for the answer, milliseconds; HUBEL_MAX_TIMEOUT_MS at the most."
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
    """A version and where it stands in a worker; `aliases` are those that mean it there now."""

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
    """A model and its versions, as a worker serves them.

    `aliases` are in effect; `pending` are wanted, and take effect once their version is loaded. `rolled_back` is the
    last canary that was taken out because it failed.
    """

    name: str
    aliases: dict[str, int]
    pending: dict[str, int]
    traffic: Traffic
    rolled_back: RolledBack | None = None
    versions: list[VersionOut]
    reason: str | None = None

    @classmethod
    def of(cls, model: HostedModel) -> "ModelOut":
        """Convert a hosted model."""
        return cls(
            name=model.name,
            aliases=model.aliases,
            pending={
                alias: number for alias, number in model.wanted.aliases.items() if model.aliases.get(alias) != number
            },
            traffic=model.wanted.traffic,
            rolled_back=model.wanted.rolled_back,
            versions=[VersionOut.of(model, model.versions[number]) for number in sorted(model.versions)],
            reason=model.reason or None,
        )


class WorkerOut(BaseModel):
    """A serving process: whether it is ready, what it waits for, and how every model stands in it."""

    pid: int
    ready: bool
    waiting_for: list[str]
    registry_away: str | None = None
    models: list[ModelOut]

    @classmethod
    def of(cls, host: ModelHost) -> "WorkerOut":
        """Say how this process stands."""
        waiting = host.waiting_for()
        return cls(
            pid=os.getpid(),
            ready=not waiting,
            waiting_for=waiting,
            registry_away=host.reason or None,
            models=[ModelOut.of(model) for model in host.models.values()],
        )


class ModelsOut(BaseModel):
    """Every model, as the worker that answers serves it, and how it stands in every worker of this service."""

    default_model: str
    models: list[ModelOut]
    workers: list[WorkerOut]


class AliasIn(BaseModel):
    """The version that an alias is to mean."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber


class RollbackIn(BaseModel):
    """The alias that is to mean again what it meant before."""

    model_config = ConfigDict(extra="forbid")

    alias: str = PRODUCTION


class VersionDetail(VersionOut):
    """A version with all that a caller may want to know of it; `report` are the names of its report's files."""

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
    report: list[str]

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
            report=[name.removeprefix(f"{REPORT}/") for name in manifest.files if name.startswith(f"{REPORT}/")],
        )


class PublishedOut(BaseModel):
    """A version that was published, and whether the worker that answers has loaded it, because an alias means it."""

    model: str
    version: int
    ready: bool


class DifferenceOut(BaseModel):
    """An image, by its place in the request, for which two versions name different labels first."""

    image: int
    baseline: PredictionOut
    candidate: PredictionOut


class DiffOut(BaseModel):
    """How far two versions agree on the images of a request; `agreement` is a share, 0 to 1."""

    baseline: str
    candidate: str
    images: int
    unreadable: int
    agreement: float
    differences: list[DifferenceOut]


class Liveness(BaseModel):
    """The process answers."""

    live: bool


class Readiness(BaseModel):
    """Whether predictions with the default model are answered now, and if not, what is waited for."""

    ready: bool
    waiting_for: list[str]


class Health(Readiness):
    """Readiness, why the registry or the file of keys cannot be read if it cannot, and how every model stands.

    Where there are API keys, only those who have one are told more than readiness, and administrators of the keys.
    """

    registry_away: str | None = None
    keys_away: str | None = None
    models: list[ModelOut]
