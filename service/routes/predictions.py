"""Predictions: images in, class probabilities out."""

import time

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from model.errors import InvalidImage
from model.types import ModelRef
from service.dependencies import CurrentSettings, Host, Options, Shadows
from service.middleware import record_of
from service.openapi import PREDICTION
from service.problems import problem_of
from service.schemas import ImageOut, PredictionOut, PredictResponse, ResultOut
from service.served import Answers, ClassifiedImage, ServedModel
from service.uploads import read_uploads

router = APIRouter(tags=["predictions"])

_MANY_CLASSES = 2000


@router.post("/v1/predict", **PREDICTION)
async def predict_with_default_model(
    request: Request, options: Options, host: Host, shadows: Shadows, settings: CurrentSettings
) -> Response:
    """Classify images with the default model."""
    return await predict(
        request, settings.default_model, options=options, host=host, shadows=shadows, settings=settings
    )


@router.post("/v1/models/{ref}/predict", **PREDICTION)
async def predict(
    request: Request, ref: str, *, options: Options, host: Host, shadows: Shadows, settings: CurrentSettings
) -> Response:
    """Classify images with the model `name`, `name:3` or `name@alias`."""
    asked = ModelRef.parse(ref)
    host.find(asked)  # what is not there is told before the body is read
    record = record_of(request.scope)
    record.model = asked.name
    uploads = await read_uploads(request, settings.max_images_per_request)
    record.images = len(uploads)
    caller = request.headers.get(host.canary_header(asked.name), "")
    version = host.route(asked, caller, record.request_id)
    record.version = str(version.number)
    started = time.monotonic()
    timeout_ms = min(options.timeout_ms or settings.request_timeout_ms, settings.request_timeout_ms)
    async with host.lease(version, timeout_ms / 1000) as served:
        answers = await served.predict(uploads, options.timeout_ms, time.monotonic() - started)
        match answers.results:
            case [InvalidImage() as error]:
                raise error  # the only image's fault is the request's
        classes = len(answers.results) * (options.top_k or len(served.classifier.manifest.labels))
        if classes > _MANY_CLASSES:  # this takes a while, and others are waiting
            body = await run_in_threadpool(_write_answer, served, answers, options.top_k)
        else:
            body = _write_answer(served, answers, options.top_k)
        shadows.offer(asked, served, uploads, answers, record.request_id)
    return Response(body, media_type="application/json", headers={"Server-Timing": _server_timing(answers)})


def _write_answer(served: ServedModel, answers: Answers, top_k: int) -> str:
    body = PredictResponse(
        model=served.version.name,
        version=served.version.number,
        calibrated=served.classifier.manifest.calibration.calibrated,
        results=[_result(served, result, top_k) for result in answers.results],
    )
    return body.model_dump_json(exclude_none=True)


def _result(served: ServedModel, result: ClassifiedImage | InvalidImage, top_k: int) -> ResultOut:
    if isinstance(result, InvalidImage):
        return ResultOut(error=problem_of(result))
    predictions = served.classifier.top(result.probabilities, top_k)
    return ResultOut(predictions=[PredictionOut.of(p) for p in predictions], image=ImageOut.of(result.facts))


def _server_timing(answers: Answers) -> str:
    """Write the stages' times in milliseconds, as browsers read them. Source: W3C, Server Timing."""
    stages = {"decode": answers.decode_seconds, "queue": answers.queue_seconds, "inference": answers.inference_seconds}
    return ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stages.items())
