"""Predictions: images in, class probabilities out."""

import logging
import re

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import InferenceFailed
from model.types import ModelRef
from service.callers import caller_of
from service.deadline import Deadline
from service.dependencies import Options
from service.hosting import ModelHost
from service.middleware import record_of
from service.openapi import PREDICTION
from service.problems import FORESEEN, foreseen_response, problem_of, unforeseen_response
from service.schemas import PredictQuery
from service.served import Answers, ClassifiedImage, Result, ServedModel
from service.settings import Settings
from service.shadow import ShadowCaller
from service.uploads import read_uploads

_PATH = re.compile(r"/v1/(?:models/(?P<ref>[^/]+)/)?predict")
_MANY_CLASSES = 2000
_USUAL = PredictQuery()
_log = logging.getLogger(__name__)


router = APIRouter(tags=["predictions"])


@router.post("/v1/predict", **PREDICTION)
async def predict_with_default_model(options: Options, request: Request) -> Response:
    """Classify images with the default model."""
    return await _answer(request, request.app.state.settings.default_model, options)


@router.post("/v1/models/{ref}/predict", **PREDICTION)
async def predict(ref: str, options: Options, request: Request) -> Response:
    """Classify images with the model `name`, `name:3` or `name@alias`."""
    return await _answer(request, ref, options)


class Shortcut:
    """The way to these routes past FastAPI, which documents them, and would take as long as all the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._routes = {endpoint: route for route in router.routes if (endpoint := getattr(route, "endpoint", None))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what is no prediction goes the usual way."""
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = self._routes[predict if found["ref"] else predict_with_default_model]
        request = Request(scope, receive, send)
        try:
            ref = found["ref"] or request.app.state.settings.default_model
            response = await _answer(request, ref, _options(scope["query_string"]))
        except FORESEEN as error:
            response = foreseen_response(request, error)
        except ClientDisconnect:
            raise
        except Exception as error:  # as FastAPI does: it is answered, and goes on to whoever serves
            await unforeseen_response(request, error)(scope, receive, send)
            raise
        await response(scope, receive, send)


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
    with caller_of(request.scope):
        asked = ModelRef.parse(ref)
        canary_header = host.canary_header(asked.name)
        caller = request.headers.get(canary_header, "") if canary_header else ""
        version = host.route(asked, caller, record.request_id)
        record.model = asked.name
        if version.served is not None:
            version.served.check_room(deadline)  # refused now, its body need not be read
        uploads = await read_uploads(request, settings.max_images_per_request)
        record.images = len(uploads)
        version = host.route(asked, caller, record.request_id)  # it may be another one by now
        record.version = str(version.number)
        with await host.lease(version, deadline.seconds_left) as served:
            answers = await served.predict(uploads, deadline)
            record.stages = answers.stages
            body = await _write_answer(served, answers, options.top_k, record.request_id)
            shadows.offer(asked, served, uploads, answers, record.request_id)
    return Response(body, media_type="application/json", headers={"Server-Timing": _server_timing(answers)})


async def _write_answer(served: ServedModel, answers: Answers, top_k: int, request_id: str) -> bytes:
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


def _write(served: ServedModel, answers: Answers, top_k: int) -> bytes:
    """Write a `PredictResponse`, from plain values: to make and check its models takes five times as long."""
    return to_json(
        {
            "model": served.version.name,
            "version": served.version.number,
            "calibrated": served.classifier.manifest.calibration.calibrated,
            "results": [_result(served, result, top_k) for result in answers.results],
        },
        inf_nan_mode="null",  # as models are written
    )


def _result(served: ServedModel, result: Result, top_k: int) -> dict[str, object]:
    """Return a `ResultOut`."""
    if not isinstance(result, ClassifiedImage):
        return {"error": problem_of(result).model_dump(exclude_none=True)}
    facts = result.facts
    return {
        "predictions": [
            {"label": found.label, "index": found.index, "probability": found.probability}
            for found in served.classifier.top(result.probabilities, top_k)
        ],
        "image": {"width": facts.width, "height": facts.height, "format": facts.format, "applied": facts.applied},
    }


def _server_timing(answers: Answers) -> str:
    """Write the stages' times in milliseconds, as browsers read them. Source: W3C, Server Timing."""
    return ", ".join([f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in answers.stages.items()])
