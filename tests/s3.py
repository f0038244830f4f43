"""A store that speaks S3 on loopback, and can go away and come back: moto's server, quiet, one request at a time."""

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3  # type: ignore[import-untyped]
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "anything", "AWS_DEFAULT_REGION": REGION}

Hook = Callable[[str], None]


class S3Server:
    """The server, in a thread; what it stores outlives a stop."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.before: Hook = lambda request: None
        self.refusal = ""  # the code of the answer to everything
        self._application = DomainDispatcherApplication(create_backend_app)
        self._one_at_a_time = threading.Lock()  # moto compares and writes in two steps
        self._server: BaseWSGIServer | None = None
        self._port = 0

    @property
    def running(self) -> bool:
        return self._server is not None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment of whoever uses it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    def start(self) -> None:
        """Answer, at the same port as before."""
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=_Quiet)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._server = None

    def new_bucket(self) -> str:
        """Make a bucket that nobody has used; return the address of a registry in it."""
        name = f"models-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}/registry"

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """Collect the requests of a block."""
        before = len(self.requests)
        counted: list[str] = []
        yield counted
        counted += self.requests[before:]

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        with self._one_at_a_time:
            request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            self.requests.append(request)
            self.before(request)
            if self.refusal:
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                return [f"<Error><Code>{self.refusal}</Code><Message>no</Message></Error>".encode()]
            return list(self._application(environ, start_response))


class _Quiet(MotoRequestHandler):
    protocol_version = "HTTP/1.0"  # no connection outlives the server

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002
        pass
