"""What happens around every request, as plain ASGI: its id, its access line, its metrics, the bound on its body."""

import logging
import os
import random
import re
import time
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import Limit
from service.errors import BodyTooLarge, QueueFull
from service.headers import protect
from service.logs import AccessLog
from service.metrics import Metrics
from service.settings import Settings

REQUEST_ID_HEADER = "X-Request-ID"

CLIENT_LEFT = 499  # not an HTTP status: the usual sign in logs for a caller that left before its answer
_ID = REQUEST_ID_HEADER.lower().encode()
_RECORD = "hubel.record"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TAKES_ARCHIVES = ("POST", "/v1/models")
_QUIET_PATHS = frozenset({"/health", "/livez", "/readyz", "/metrics"})


@dataclass
class RequestRecord:
    """What is known of a request by its end; handlers fill in what they find out.

    Attributes:
        request_id: the caller's own, or a new one.
        arrived: when its headers were read, monotonic seconds.
        model: the model that it asks for, once it is known that there is one.
        version: the version that answers.
        images: how many it holds.
        key: the name of the caller's API key.
        bytes_in: of its body, as far as it was read.
        bytes_out: of the answer's body.
        stages: where its time went, in seconds.
    """

    request_id: str
    arrived: float = field(default_factory=time.monotonic)
    model: str = ""
    version: str = ""
    images: int = 0
    key: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    stages: dict[str, float] = field(default_factory=dict)


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of a request."""
    record = scope.get(_RECORD)
    return record if isinstance(record, RequestRecord) else RequestRecord("")


def header_of(scope: Scope, name: bytes) -> bytes:
    """Return the first header of a name in lower case; empty where there is none."""
    for found, value in scope["headers"]:
        if found == name:
            return bytes(value)
    return b""


class ObserveRequests:
    """Give every request an id, and note how it ended in the access log and in the metrics.

    A caller's own id is kept if it is 1 to 128 characters that are safe in a log.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self._log = AccessLog()
        # Seeded after the fork, or all workers would give the same ids; not asked of the system for each request, which
        # lets other threads go first.
        self._random_bits = random.Random(os.urandom(16)).getrandbits  # noqa: S311  an id is no secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header_of(scope, _ID).decode("latin-1")
        record = RequestRecord(given if _ACCEPTED_ID.fullmatch(given) else f"{self._random_bits(128):032x}")
        scope[_RECORD] = record
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (_ID, record.request_id.encode("latin-1"))]
                protect(headers, scope["scheme"])
                message["headers"] = headers
            else:
                record.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_LEFT  # there is nobody to answer
        finally:
            self._note(scope, record, status)

    def _note(self, scope: Scope, record: RequestRecord, status: int) -> None:
        seconds = time.monotonic() - record.arrived
        route = getattr(scope.get("route"), "path", "")
        self.metrics.request_ended(route, record.model, record.version, status, seconds)
        fields = {
            "request_id": record.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 6),
            "model": record.model,
            "version": record.version,
            "images": record.images,
            "key": record.key,
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
        }
        for stage, spent in record.stages.items():
            fields[f"{stage}_seconds"] = round(spent, 6)
        self._log.tell(logging.DEBUG if scope["path"] in _QUIET_PATHS else logging.INFO, fields)


class LimitBody:
    """Refuse a request's body as soon as it is known to be over the limit, alone or with all others that are held."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._usual = Limit("max_body_bytes", settings.max_body_bytes)
        self._of_archives = Limit("max_archive_bytes", settings.max_archive_bytes)
        self._together = Limit("max_pending_body_bytes", settings.max_pending_body_bytes)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = header_of(scope, b"content-length")
        is_archive = (scope["method"], scope["path"]) == _TAKES_ARCHIVES  # which goes to disk, as it comes
        limit = self._of_archives if is_archive else self._usual
        record = record_of(scope)

        async def receive_bounded() -> Message:
            if announced.isdigit() and int(announced) > limit.value:
                raise _too_large(int(announced), limit)
            message = await receive()
            size = len(message.get("body", b""))
            record.bytes_in += size
            self._held += 0 if is_archive else size
            if record.bytes_in > limit.value:
                raise _too_large(record.bytes_in, limit)
            if self._held > self._together.value and not is_archive:
                raise self._too_much()
            return message

        try:
            await self.app(scope, receive_bounded, send)
        finally:
            self._held -= 0 if is_archive else record.bytes_in

    def _too_much(self) -> QueueFull:
        return QueueFull(
            f"the bodies of all requests have more than {self._together.value} bytes, the limit",
            self._together,
            retry_after_seconds=1,
        )


def _too_large(found: int, limit: Limit) -> BodyTooLarge:
    return BodyTooLarge(f"the request's body has {found} bytes or more; the limit is {limit.value}", limit)
