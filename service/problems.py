"""Failures as HTTP: the one table from error to problem, the RFC 9457 body, the handlers.

A problem's `detail` is the error's own text, except for faults of ours (500): their cause is
in the log under the request's id, not in the answer.
"""

import logging
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match

from model import errors as model_errors
from model.errors import Limit, ModelError
from service import errors as service_errors
from service.errors import ModelNotReady, QueueFull, RateLimited, ServiceError, Unauthorized, UnsupportedEncoding
from service.middleware import CLIENT_LEFT, record_of
from service.schemas import Problem
from service.settings import Settings, variable_of

MEDIA_TYPE = "application/problem+json"
FORESEEN = (ModelError, ServiceError, RequestValidationError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """How an error is told: the last part of its type, its title, its status."""

    slug: str
    title: str
    status: int


TABLE: dict[type[Exception], Row] = {
    model_errors.ModelError: Row("internal-error", "Something is wrong with the server", 500),
    model_errors.InvalidImage: Row("invalid-image", "Not an image that can be read", 422),
    model_errors.UnsupportedFormat: Row("unsupported-format", "Image format not supported", 415),
    model_errors.ImageTooLarge: Row("image-too-large", "Image too large", 413),
    model_errors.InvalidReference: Row("invalid-reference", "Not a model reference", 404),
    model_errors.ModelNotFound: Row("model-not-found", "No such model", 404),
    model_errors.VersionNotFound: Row("version-not-found", "No such version", 404),
    model_errors.ReportNotFound: Row("report-not-found", "No such report", 404),
    model_errors.AliasNotFound: Row("alias-not-found", "No such alias", 404),
    model_errors.RegistryUnavailable: Row("registry-unavailable", "The registry cannot be read", 503),
    model_errors.RegistryMissing: Row("registry-missing", "The registry cannot be read", 503),
    model_errors.AliasNotMoved: Row("alias-not-moved", "The registry cannot be written", 503),
    model_errors.StateConflict: Row("state-conflict", "The model's state has changed meanwhile", 412),
    model_errors.VersionInUse: Row("version-in-use", "The version is needed", 409),
    model_errors.PromotionRefused: Row("promotion-refused", "The version may not be promoted yet", 409),
    model_errors.NothingToRollBack: Row("nothing-to-roll-back", "There is no earlier version", 409),
    model_errors.CorruptCheckpoint: Row("corrupt-checkpoint", "A stored model is damaged", 500),
    model_errors.GoldenMismatch: Row("golden-mismatch", "A model does not repeat its stored answers", 500),
    model_errors.EngineUnavailable: Row("engine-unavailable", "The engine is not available", 500),
    model_errors.UnknownArchitecture: Row("unknown-architecture", "The architecture is not known", 500),
    model_errors.NotExplainable: Row("not-explainable", "That cannot be explained", 422),
    model_errors.NoSuchPart: Row("no-such-part", "The network has no such part", 422),
    model_errors.ExplanationTooLarge: Row("explanation-too-large", "Too much to explain at once", 413),
    model_errors.InferenceFailed: Row("inference-failed", "The model failed on this request", 500),
    model_errors.EngineTimeout: Row("engine-timeout", "The model did not answer in time", 504),
    service_errors.ServiceError: Row("internal-error", "Something is wrong with the server", 500),
    service_errors.SettingsError: Row("invalid-settings", "A setting is not allowed", 500),
    service_errors.InvalidRequest: Row("invalid-request", "The request cannot be understood", 422),
    service_errors.UnsupportedEncoding: Row("unsupported-encoding", "Content encoding not supported", 415),
    service_errors.LimitReached: Row("limit-reached", "A limit was reached", 503),
    service_errors.BodyTooLarge: Row("body-too-large", "Request body too large", 413),
    service_errors.TooManyImages: Row("too-many-images", "Too many images in one request", 413),
    service_errors.Unauthorized: Row("unauthorized", "The key is missing or wrong", 401),
    service_errors.Forbidden: Row("forbidden", "The key may not do this", 403),
    service_errors.RateLimited: Row("rate-limited", "Too many requests with this key", 429),
    service_errors.TooManyRequests: Row("too-many-requests", "Too many requests with this key at once", 429),
    service_errors.NoRoom: Row("no-room", "No more models may be loaded", 503),
    service_errors.QueueFull: Row("queue-full", "The queue is full", 503),
    service_errors.DeadlineExceeded: Row("deadline-exceeded", "No answer in time", 504),
    service_errors.CallerLeft: Row("caller-left", "The caller has left", CLIENT_LEFT),
    service_errors.ModelNotReady: Row("model-not-ready", "The model is not ready", 503),
}
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_LONGEST_ECHO = 100  # characters of what a caller sent
_OURS = "the server failed on this request; its log has the cause under this request's id"


def problem_of(error: Exception) -> Problem:
    """Put an error into the form of RFC 9457."""
    row = TABLE[type(error)]
    limit = getattr(error, "limit", None)
    return Problem(
        type=f"urn:hubel:problem:{row.slug}",
        title=row.title,
        status=row.status,
        detail=_OURS if row.status == HTTPStatus.INTERNAL_SERVER_ERROR else str(error),
        limit=limit.name if isinstance(limit, Limit) else None,
        value=limit.value if isinstance(limit, Limit) else None,
        setting=_setting(limit.name) if isinstance(limit, Limit) else None,
    )


def problem_response(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """Answer with a problem that names the request."""
    request_id = record_of(request.scope).request_id
    named = problem.model_copy(update={"instance": request.url.path, "request_id": request_id})
    return Response(
        named.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def add_handlers(app: FastAPI) -> None:
    """Answer every failure of the application with a problem."""
    for foreseen in FORESEEN:
        app.add_exception_handler(foreseen, _on_foreseen)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unforeseen)


def _setting(limit: str) -> str | None:
    return variable_of(limit) if limit in Settings.model_fields else None


def foreseen_response(request: Request, error: Exception) -> Response:
    """Answer with the problem that an error of `FORESEEN` is."""
    if not isinstance(error, RequestValidationError):
        return error_response(request, error)
    details = [
        f"{'.'.join(map(str, part['loc']))} is {repr(part['input'])[:_LONGEST_ECHO]}: {part['msg']}"
        for part in error.errors()
    ]
    return problem_response(request, problem_of(service_errors.InvalidRequest("; ".join(details))))


def error_response(request: Request, error: Exception) -> Response:
    """Answer with the problem that an error of the table is."""
    problem = problem_of(error)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("request %s failed: %s", record_of(request.scope).request_id, error, exc_info=error)
    headers = {}
    if isinstance(error, QueueFull | ModelNotReady | RateLimited) and error.retry_after_seconds:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = "identity"
    return problem_response(request, problem, headers)


async def _on_foreseen(request: Request, error: Exception) -> Response:
    return foreseen_response(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer the framework's 404, 405 and the like."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ServiceError):  # which FastAPI met while it read the body
        return error_response(request, error.__cause__)
    if isinstance(error.__cause__, ClientDisconnect):
        raise error.__cause__
    status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
    if status is HTTPStatus.BAD_REQUEST:  # a body that is not even text, where JSON was expected
        return problem_response(request, problem_of(service_errors.InvalidRequest(str(error.detail))))
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods_at(request))
    detail = {
        HTTPStatus.NOT_FOUND: f"there is nothing at {request.url.path}; GET /docs shows every route",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not allowed at {request.url.path}; "
        f"allowed: {headers.get('Allow')}",
    }.get(status, str(error.detail))
    slug = status.phrase.lower().replace(" ", "-")
    problem = Problem(type=f"urn:hubel:problem:{slug}", title=status.phrase, status=status, detail=detail)
    return problem_response(request, problem, headers)


def _methods_at(request: Request) -> list[str]:
    """Return what is allowed at a path; the framework tells the methods of the first route there alone."""
    routes: list[BaseRoute] = request.app.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def unforeseen_response(request: Request, error: Exception) -> Response:
    """Answer what nobody foresaw, and tell the log."""
    _log.error("request %s failed: %s", record_of(request.scope).request_id, error, exc_info=error)
    problem = Problem(
        type="urn:hubel:problem:internal-error", title="Something is wrong with the server", status=500, detail=_OURS
    )
    return problem_response(request, problem)


async def _on_unforeseen(request: Request, error: Exception) -> Response:
    return unforeseen_response(request, error)
