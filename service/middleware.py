"""What happens around every request, as plain ASGI: its id, its access line, its metrics, the bound on its body."""

import re
import time
import uuid
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import Limit
from service.errors import BodyTooLarge
from service.metrics import Metrics

REQUEST_ID_HEADER = "X-Request-ID"

CLIENT_LEFT = 499  # not an HTTP status: the usual sign in logs for a caller that left before its answer
_RECORD = "hubel.record"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TAKES_ARCHIVES = ("POST", "/v1/models")
_QUIET_PATHS = frozenset({"/health", "/livez", "/readyz", "/metrics"})

_log = structlog.get_logger("service.access")


@dataclass
class RequestRecord:
    """What is known of a request by its end; handlers fill in what they find out."""

    request_id: str
    model: str = ""
    version: str = ""
    images: int = 0


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of a request."""
    record = scope.get(_RECORD)
    return record if isinstance(record, RequestRecord) else RequestRecord("")


class ObserveRequests:
    """Give every request an id, and note how it ended in the access log and in the metrics.

    A caller's own id is kept if it is 1 to 128 characters that are safe in a log.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        record = RequestRecord(given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex)
        scope[_RECORD] = record
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = record.request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_LEFT  # there is nobody to answer
        finally:
            self._note(scope, record, status, time.perf_counter() - started)

    def _note(self, scope: Scope, record: RequestRecord, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "")
        self.metrics.requests.labels(route, record.model, record.version, str(status)).inc()
        self.metrics.request_seconds.labels(route, record.model, record.version).observe(seconds)
        line = _log.debug if scope["path"] in _QUIET_PATHS else _log.info
        line(
            "request",
            request_id=record.request_id,
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=round(seconds, 6),
            model=record.model,
            version=record.version,
            images=record.images,
        )


class LimitBody:
    """Refuse a request's body as soon as it is known to be over the limit."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_archive_bytes: int) -> None:
        self.app = app
        self.usual = Limit("max_body_bytes", max_body_bytes)
        self.of_archives = Limit("max_archive_bytes", max_archive_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        limit = self.of_archives if (scope["method"], scope["path"]) == _TAKES_ARCHIVES else self.usual
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            if announced.isdecimal() and int(announced) > limit.value:
                raise _too_large(int(announced), limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit.value:
                raise _too_large(received, limit)
            return message

        await self.app(scope, receive_bounded, send)


def _too_large(found: int, limit: Limit) -> BodyTooLarge:
    return BodyTooLarge(f"the request's body has {found} bytes or more; the limit is {limit.value}", limit)
