"""Questions about a network, and the bodies of their answers.

Imported where requests are read and in the process that explains: it knows neither HTTP nor that process.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from model.explain.heat_colours import Crop
from model.explain.layers import Filters, Layer
from model.explain.neuron import Activated, InputWindow, Rest, Term, WindowPlace
from model.explain.receptive_field import Box
from model.preprocessing import ImageFacts
from model.types import Prediction

Method = Literal["cam", "gradcam", "occlusion"]

_MOST_LAYERS = 32
_LONGEST_NAME = 200  # of a layer or a label


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    timeout_ms: int | None = Field(
        default=None, ge=1, description="Time for the answer, milliseconds; HUBEL_MAX_TIMEOUT_MS at the most."
    )


class LayersQuery(_Query):
    """The parameters of a question for the layers."""


class ActivationsQuery(_Query):
    """The parameters of a question for what layers make of an image."""

    layers: str = Field(
        min_length=1,
        max_length=_MOST_LAYERS * _LONGEST_NAME,
        description="Names of layers, with commas between; `input` is what the network sees.",
    )
    format: Literal["json", "arrays", "png"] = Field(
        default="json", description="Figures and pictures; all numbers; or the picture of one layer."
    )

    @field_validator("layers")
    @classmethod
    def _not_too_many(cls, text: str) -> str:
        if not 1 <= len(split_names(text)) <= _MOST_LAYERS:
            raise ValueError(f"name 1 to {_MOST_LAYERS} layers")
        return text


class ExplainQuery(_Query):
    """The parameters of a question for what speaks for a class."""

    method: Method | None = Field(default=None, description="By default, the best one that works.")
    label: str | None = Field(
        default=None,
        alias="class",
        min_length=1,
        max_length=_LONGEST_NAME,
        description="A label, or a place in the network's output; by default, the most probable class.",
    )
    format: Literal["json", "heatmap", "overlay"] = Field(
        default="json", description="Numbers; a picture of what the network sees, or of the whole photo."
    )
    windows: int = Field(default=8, ge=2, le=32, description="For occlusion: parts along each side.")


class NeuronQuery(_Query):
    """The parameters of a question for one value of a layer."""

    layer: str = Field(min_length=1, max_length=_LONGEST_NAME, description="The layer's name.")
    channel: int = Field(ge=0, le=2**31, description="The channel, or the place in a layer of one dimension.")
    y: int = Field(default=0, ge=0, le=2**31, description="The row.")
    x: int = Field(default=0, ge=0, le=2**31, description="The column.")
    channels: int = Field(default=64, ge=1, le=512, description="Input channels, or inputs, that are listed.")


Query = LayersQuery | ActivationsQuery | ExplainQuery | NeuronQuery
QUERIES: dict[str, type[Query]] = {
    kind.__name__: kind for kind in (LayersQuery, ActivationsQuery, ExplainQuery, NeuronQuery)
}


class _Answer(BaseModel):
    model: str
    version: int


class LayersOut(_Answer):
    """A version's network: its layers in order, the filters of its first convolution, and how it can be explained."""

    precision: str
    temperature: float
    calibrated: bool
    methods: list[Method]
    layers: list[Layer]
    filters: Filters | None


class TilesOut(BaseModel):
    """The maps of a layer as one picture, a PNG in base64, and how the tiles lie in it."""

    png: str
    columns: int
    rows: int
    width: int
    height: int
    gap: int
    channels: int


class ActivationOut(BaseModel):
    """What a layer makes of an image; its picture, or its numbers."""

    name: str
    kind: str
    shape: list[int]
    minimum: float
    maximum: float
    means: list[float] | None = None
    dead: list[int] = []
    tiles: TilesOut | None = None
    values: list[float] | None = None


class _ImageAnswer(_Answer):
    image: ImageFacts
    crop: Crop


class ActivationsOut(_ImageAnswer):
    """What layers make of an image."""

    layers: list[ActivationOut]


class MapOut(BaseModel):
    """A heat map over what the network sees, at the method's resolution."""

    height: int
    width: int
    minimum: float
    maximum: float
    values: list[list[float]]


class ExplanationOut(_ImageAnswer):
    """What of an image speaks for a class."""

    model_config = ConfigDict(populate_by_name=True)

    method: Method
    layer: str | None
    prediction: Prediction = Field(alias="class")
    calibrated: bool
    map: MapOut


class NeuronOut(_ImageAnswer):
    """One value of a layer, and how it comes about."""

    layer: str
    kind: str
    channel: int
    y: int
    x: int
    window: WindowPlace | None
    inputs: list[InputWindow]
    terms: list[Term]
    rest: Rest
    picked: tuple[int, int] | None
    sum: float
    bias: float
    value: float
    computed: float
    after: Activated | None
    folded: list[str]
    receptive_field: Box


def split_names(text: str) -> list[str]:
    """Return the names in a list with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]
