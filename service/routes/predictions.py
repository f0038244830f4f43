"""Predictions: images in, class probabilities out."""

import logging

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from model.errors import InferenceFailed
from model.types import ModelRef
from service.callers import caller_of
from service.deadline import Deadline
from service.dependencies import Options
from service.hosting import ModelHost
from service.middleware import record_of
from service.openapi import PREDICTION
from service.problems import problem_of
from service.schemas import ImageOut, PredictionOut, PredictQuery, PredictResponse, ResultOut
from service.served import Answers, ClassifiedImage, Result, ServedModel
from service.settings import Settings
from service.shadow import ShadowCaller
from service.uploads import read_uploads

_MANY_CLASSES = 2000
_USUAL = PredictQuery()
_log = logging.getLogger(__name__)


class PredictionRoute(APIRoute):
    """A route that FastAPI documents and does not resolve dependencies for: that took as long as all the rest."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; what it raises, the application's handlers answer."""
        if scope["method"] != "POST":
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        ref = scope["path_params"].get("ref") or request.app.state.settings.default_model
        response = await _answer(request, ref, _options(scope["query_string"]))
        await response(scope, receive, send)


router = APIRouter(tags=["predictions"], route_class=PredictionRoute)


@router.post("/v1/predict", **PREDICTION)
async def predict_with_default_model(options: Options) -> None:
    """Classify images with the default model."""


@router.post("/v1/models/{ref}/predict", **PREDICTION)
async def predict(ref: str, options: Options) -> None:
    """Classify images with the model `name`, `name:3` or `name@alias`."""


def _options(query: bytes) -> PredictQuery:
    """Read the parameters of a request.

    Raises:
        RequestValidationError: as FastAPI does.
    """
    if not query:
        return _USUAL
    try:
        return PredictQuery.model_validate(dict(QueryParams(query)))
    except ValidationError as error:
        raise RequestValidationError([{**part, "loc": ("query", *part["loc"])} for part in error.errors()]) from error


async def _answer(request: Request, ref: str, options: PredictQuery) -> Response:
    state = request.app.state
    host: ModelHost = state.host
    settings: Settings = state.settings
    shadows: ShadowCaller = state.shadows
    record = record_of(request.scope)
    deadline = Deadline.of(settings, record.arrived, options.timeout_ms)
    with caller_of(request.scope).awaiting():
        asked = ModelRef.parse(ref)
        caller = request.headers.get(host.canary_header(asked.name), "")
        version = host.route(asked, caller, record.request_id)
        record.model = asked.name
        if version.served is not None:
            version.served.check_room(deadline)  # refused now, its body need not be read
        uploads = await read_uploads(request, settings.max_images_per_request)
        record.images = len(uploads)
        version = host.route(asked, caller, record.request_id)  # it may be another one by now
        record.version = str(version.number)
        async with host.lease(version, deadline.seconds_left) as served:
            answers = await served.predict(uploads, deadline)
            record.stages = answers.stages
            body = await _write_answer(served, answers, options.top_k, record.request_id)
            shadows.offer(asked, served, uploads, answers, record.request_id)
    return Response(body, media_type="application/json", headers={"Server-Timing": _server_timing(answers)})


async def _write_answer(served: ServedModel, answers: Answers, top_k: int, request_id: str) -> str:
    if len(answers.results) == 1 and isinstance(answers.results[0], Exception):
        raise answers.results[0]  # the only image's fault is the request's
    if answers.failure is not None:
        if all(isinstance(result, InferenceFailed) for result in answers.results):
            raise answers.failure
        _log.error("request %s failed in part: %s", request_id, answers.failure, exc_info=answers.failure)
    classes = len(answers.results) * (top_k or len(served.classifier.manifest.labels))
    if classes > _MANY_CLASSES:  # this takes a while, and others are waiting
        return await run_in_threadpool(_write, served, answers, top_k)
    return _write(served, answers, top_k)


def _write(served: ServedModel, answers: Answers, top_k: int) -> str:
    body = PredictResponse(
        model=served.version.name,
        version=served.version.number,
        calibrated=served.classifier.manifest.calibration.calibrated,
        results=[_result(served, result, top_k) for result in answers.results],
    )
    return body.model_dump_json(exclude_none=True)


def _result(served: ServedModel, result: Result, top_k: int) -> ResultOut:
    if not isinstance(result, ClassifiedImage):
        return ResultOut(error=problem_of(result))
    predictions = served.classifier.top(result.probabilities, top_k)
    return ResultOut(predictions=[PredictionOut.of(p) for p in predictions], image=ImageOut.of(result.facts))


def _server_timing(answers: Answers) -> str:
    """Write the stages' times in milliseconds, as browsers read them. Source: W3C, Server Timing."""
    return ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in answers.stages.items())
