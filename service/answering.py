"""From a question about a network to the body of its answer, synchronously. Knows no process and no HTTP."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from pydantic import BaseModel

from model.errors import ExplanationTooLarge, Limit, NotExplainable
from model.explain.class_activation import HeatMap, class_activation, has_class_activation
from model.explain.gradients import GradientNetwork, has_gradients, is_of_torch
from model.explain.heat_colours import Crop, decode_photo, paint_heat, paint_over
from model.explain.layers import INPUT, MAP_DIMENSIONS
from model.explain.network import ExplainedNetwork, Floats
from model.explain.neuron import take_apart
from model.explain.occlusion import occlude
from model.explain.tiles import Tiles, draw_input, draw_tiles, encode_png
from model.preprocessing import PreparedImage, load_decoders, prepare_image
from model.types import Prediction
from service.explaining_messages import Bounds
from service.explanations import (
    ActivationOut,
    ActivationsOut,
    ActivationsQuery,
    ExplainQuery,
    ExplanationOut,
    LayersOut,
    LayersQuery,
    MapOut,
    Method,
    NeuronOut,
    NeuronQuery,
    Query,
    TilesOut,
    split_names,
)

JSON, PNG = "application/json", "image/png"


@dataclass(frozen=True)
class Body:
    """What a question is answered with."""

    media_type: str
    content: bytes


class Explained:
    """A version that questions are answered about; what they need is loaded when the first of them asks for it."""

    def __init__(self, network: ExplainedNetwork, bounds: Bounds, pause: Callable[[], None]) -> None:
        """Begin with nothing loaded.

        Args:
            network: of the version.
            bounds: on questions.
            pause: is called where much is still to do, and may raise.
        """
        load_decoders()
        self._network = network
        self._bounds = bounds
        self._pause = pause
        self._gradients: GradientNetwork | None = None

    def answer(self, query: Query, image: bytes) -> Body:
        """Answer a question.

        Args:
            query: what is asked.
            image: the file; empty where the question is not about one.

        Raises:
            ModelError: the image is none, or the question has no answer; the text says why.
        """
        if isinstance(query, LayersQuery):
            return _json(self.layers())
        prepared = self.prepare(image)
        match query:
            case ActivationsQuery(format="png"):
                return Body(PNG, self._tiles(query, prepared).png)
            case ActivationsQuery():
                return _json(self._activations(query, prepared))
            case NeuronQuery():
                return _json(self._neuron(query, prepared))
            case ExplainQuery():
                return self._paint(query, prepared, image)

    def prepare(self, image: bytes) -> PreparedImage:
        """Decode an image file as the version wants it.

        Raises:
            InvalidImage: as `prepare_image` says.
        """
        return prepare_image(image, self._network.manifest.preprocessing, self._bounds.images)

    def top(self, prepared: PreparedImage, count: int) -> list[Prediction]:
        """Return the most probable classes of an image."""
        (probabilities,) = self._network.probabilities(self._network.infer(prepared.pixels[None]))
        labels = self._network.manifest.labels
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [Prediction(labels[i], int(i), float(probabilities[i])) for i in order]

    def methods(self) -> list[Method]:
        """Return the methods that work, the best first."""
        found: list[Method] = ["occlusion"]
        try:
            layers = self._network.layers
        except NotExplainable:
            return found
        if layers.has_maps and has_gradients() and is_of_torch(self._network):
            found.append("gradcam")  # last: torch takes seconds to come
        if has_class_activation(layers):
            found.insert(0, "cam")
        return found

    def layers(self) -> LayersOut:
        """Describe the network."""
        manifest, layers = self._network.manifest, self._network.layers
        return LayersOut(
            model=self._network.version.name,
            version=self._network.version.number,
            precision=manifest.precision,
            temperature=manifest.calibration.temperature,
            calibrated=manifest.calibration.calibrated,
            methods=self.methods(),
            layers=list(layers.layers.values()),
            filters=layers.filters(),
        )

    def explain(self, query: ExplainQuery, prepared: PreparedImage) -> tuple[ExplanationOut, Floats]:
        """Find what speaks for a class; return the answer and its map (H, W).

        Raises:
            NotExplainable: not in that way.
            NoSuchPart: there is no such class.
            ExplanationTooLarge: the image would be covered too often.
        """
        found = self._find_heat(query, prepared)
        return self._explanation(found, prepared), found.values

    def _find_heat(self, query: ExplainQuery, prepared: PreparedImage) -> HeatMap:
        method = query.method or self.methods()[0]
        if method == "cam":
            return class_activation(self._network, prepared.pixels, query.label)
        if method == "gradcam":
            self._gradients = self._gradients or GradientNetwork(self._network)
            return self._gradients.grad_cam(prepared.pixels, query.label)
        limit = Limit("max_occlusions", self._bounds.max_occlusions)
        if query.windows**2 > limit.value:
            raise ExplanationTooLarge(
                f"windows={query.windows} would cover the image {query.windows**2} times; the limit is {limit.value}",
                limit,
            )
        return occlude(self._network, prepared.pixels, query.label, query.windows, self._pause)

    def _paint(self, query: ExplainQuery, prepared: PreparedImage, image: bytes) -> Body:
        """Find what speaks for a class, in the form that is asked for."""
        answer, values = self.explain(query, prepared)
        if query.format == "heatmap":
            height, width, _ = prepared.pixels.shape
            return Body(PNG, encode_png(paint_heat(values, (height, width))))
        if query.format == "overlay":
            photo = decode_photo(image, prepared.facts, self._bounds.images)
            return Body(PNG, encode_png(paint_over(photo, values, answer.crop, prepared.facts)))
        return _json(answer)

    def _tiles(self, query: ActivationsQuery, prepared: PreparedImage) -> Tiles:
        names = split_names(query.layers)
        if len(names) != 1:
            raise ExplanationTooLarge(
                f"format=png is the picture of one layer, and {len(names)} are named", Limit("layers", 1)
            )
        if names == [INPUT]:
            return draw_input(prepared.pixels)
        values = self._network.activations(prepared.pixels, names)[names[0]]
        if values.ndim != MAP_DIMENSIONS:
            raise NotExplainable(f"layer {names[0]!r} has no maps, but {values.size} values: ask for format=json")
        return draw_tiles(values)

    def _activations(self, query: ActivationsQuery, prepared: PreparedImage) -> ActivationsOut:
        names = list(dict.fromkeys(split_names(query.layers)))
        sizes = [int(np.prod(self._network.layers.find(name).shape)) for name in names]
        limit = Limit("max_explained_values", self._bounds.max_explained_values)
        numbers = sum(
            size
            for name, size in zip(names, sizes, strict=True)
            if query.format == "arrays" or len(self._network.layers.find(name).shape) != MAP_DIMENSIONS
        )
        if numbers > limit.value:
            raise ExplanationTooLarge(
                f"the layers {', '.join(names)} have {numbers} values together; the limit is {limit.value}: ask for "
                "fewer, or for format=json, which draws maps",
                limit,
            )
        found = self._network.activations(prepared.pixels, names)
        return ActivationsOut(
            model=self._network.version.name,
            version=self._network.version.number,
            image=prepared.facts,
            crop=self._crop(prepared),
            layers=[self._activation(name, found[name], prepared, query.format == "arrays") for name in names],
        )

    def _activation(self, name: str, values: Floats, prepared: PreparedImage, all_numbers: bool) -> ActivationOut:
        layer = self._network.layers.find(name)
        are_maps = values.ndim == MAP_DIMENSIONS
        maps = values.reshape(len(values), -1) if are_maps else values.reshape(1, -1)
        tiles = None
        if are_maps and not all_numbers:
            tiles = draw_input(prepared.pixels) if name == INPUT else draw_tiles(values)
        return ActivationOut(
            name=name,
            kind=layer.kind,
            shape=list(layer.shape),
            minimum=float(values.min()),
            maximum=float(values.max()),
            means=maps.mean(axis=1, dtype=np.float64).tolist() if are_maps else None,
            dead=np.flatnonzero(maps.max(axis=1) == maps.min(axis=1)).tolist() if are_maps else [],
            tiles=_describe(tiles) if tiles else None,
            values=values.ravel().tolist() if all_numbers or not are_maps else None,
        )

    def _explanation(self, found: HeatMap, prepared: PreparedImage) -> ExplanationOut:
        manifest = self._network.manifest
        return ExplanationOut(
            model=self._network.version.name,
            version=self._network.version.number,
            image=prepared.facts,
            crop=self._crop(prepared),
            method=cast("Method", found.method),
            layer=found.layer,
            prediction=Prediction(manifest.labels[found.index], found.index, found.probability),
            calibrated=manifest.calibration.calibrated,
            map=MapOut(
                height=found.values.shape[0],
                width=found.values.shape[1],
                minimum=float(found.values.min()),
                maximum=float(found.values.max()),
                values=found.values.tolist(),
            ),
        )

    def _neuron(self, query: NeuronQuery, prepared: PreparedImage) -> NeuronOut:
        place = (query.channel, query.y, query.x)
        neuron = take_apart(self._network, prepared.pixels, query.layer, place, query.channels)
        return NeuronOut(
            model=self._network.version.name,
            version=self._network.version.number,
            image=prepared.facts,
            crop=self._crop(prepared),
            **vars(neuron),
        )

    def _crop(self, prepared: PreparedImage) -> Crop:
        return Crop.of(self._network.manifest.preprocessing, prepared.facts)


def _json(answer: BaseModel) -> Body:
    return Body(JSON, answer.model_dump_json(by_alias=True).encode())


def _describe(tiles: Tiles) -> TilesOut:
    return TilesOut(**{**vars(tiles), "png": base64.b64encode(tiles.png).decode()})
