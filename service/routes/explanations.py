"""Explanations: what the network sees, layer by layer, and why it says what it says."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from model.errors import InvalidImage
from model.types import ModelRef
from service.callers import caller_of
from service.deadline import Deadline
from service.errors import InvalidRequest
from service.explaining import Explainer
from service.explanations import (
    ActivationsOut,
    ActivationsQuery,
    ExplainQuery,
    ExplanationOut,
    LayersOut,
    LayersQuery,
    NeuronOut,
    NeuronQuery,
)
from service.explanations import Query as AnyQuery
from service.hosting import ModelHost
from service.middleware import record_of
from service.openapi import EXPLANATION, explanation
from service.settings import Settings
from service.uploads import read_uploads

router = APIRouter(prefix="/v1/models", tags=["explanations"])


@router.get("/{ref}/layers", **explanation(LayersOut, 404, 422, 503, 504))
async def show_layers(ref: str, query: Annotated[LayersQuery, Query()], request: Request) -> Response:
    """Show the network as a graph: layers, shapes, parameters, receptive fields, the first filters."""
    return await _answer(request, ref, query, of_image=False)


@router.post("/{ref}/activations", **EXPLANATION, **explanation(ActivationsOut, png=True))
async def show_activations(ref: str, query: Annotated[ActivationsQuery, Query()], request: Request) -> Response:
    """Show what chosen layers make of an image."""
    return await _answer(request, ref, query)


@router.post("/{ref}/explain", **EXPLANATION, **explanation(ExplanationOut, png=True))
async def explain(ref: str, query: Annotated[ExplainQuery, Query()], request: Request) -> Response:
    """Show which part of an image speaks for a class."""
    return await _answer(request, ref, query)


@router.post("/{ref}/neuron", **EXPLANATION, **explanation(NeuronOut))
async def show_neuron(ref: str, query: Annotated[NeuronQuery, Query()], request: Request) -> Response:
    """Take one value of a layer apart: patch, kernel, products, sum, bias."""
    return await _answer(request, ref, query)


async def _answer(request: Request, ref: str, query: AnyQuery, *, of_image: bool = True) -> Response:
    state: Any = request.app.state
    host: ModelHost = state.host
    settings: Settings = state.settings
    explainer: Explainer = state.explainer
    record = record_of(request.scope)
    deadline = Deadline.of(settings, record.arrived, query.timeout_ms)
    with caller_of(request.scope):
        asked = ModelRef.parse(ref)
        host.find(asked)
        record.model = asked.name
        explainer.check_room()  # refused now, its body need not be read
        image = await _read_image(request, settings) if of_image else b""
        record.images = int(of_image)
        version = host.find(asked)
        record.version = str(version.number)
        with await host.lease(version, deadline.seconds_left) as served:
            answer = await explainer.ask(served.version, query, image, deadline)
    record.stages = answer.stages
    timing = ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in answer.stages.items())
    return Response(answer.content, media_type=answer.media_type, headers={"Server-Timing": timing})


async def _read_image(request: Request, settings: Settings) -> bytes:
    uploads = await read_uploads(request, settings.max_images_per_request)
    if len(uploads) != 1:
        raise InvalidRequest(f"one image is explained at a time, and the request holds {len(uploads)}")
    (image,) = uploads
    if isinstance(image, InvalidImage):
        raise image
    return image
