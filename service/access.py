"""Who may come in: whose key a request carries, what that key may do, and how much.

`Access` decides, from headers as pairs of bytes, which HTTP and gRPC both have. `LetIn` asks it for every HTTP
request before anything of the body is read. What is not in the list of open paths asks for a key where there are any.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from model.errors import Limit
from service.errors import Forbidden, RateLimited, ServiceError, TooManyRequests, Unauthorized
from service.keys import Key, KeyRing, KeyStore, Role
from service.metrics import Metrics
from service.middleware import record_of
from service.problems import error_response
from service.rates import Allowance
from service.settings import Settings

OPEN_PATHS = frozenset({"/", "/docs", "/health", "/livez", "/openapi.json", "/readyz"})
OPEN_FOLDERS = ("/docs/files/", "/page/")
METRICS_PATH = "/metrics"  # open as well, unless it has a key of its own

_KEY = "hubel.key"
_NOTHING_HELD = nullcontext()


class Access:
    """Decides who may come in; one of a process, used on its event loop."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the keys.

        Raises:
            SettingsError: not all of them can be read.
        """
        self.asks_for_keys = settings.asks_for_keys
        self.keys = KeyStore.of(settings, metrics.keys_readable.set)
        self._metrics_ask = settings.metrics_key is not None
        self._settings = settings
        self._refused = metrics.refused
        self._clock = clock
        self._ring: KeyRing | None = None
        self._allowances: dict[Key, Allowance] = {}  # one for each key there is, and no other

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Key | None:
        """Return the key that headers carry, if it is one; their names are in lower case."""
        secret = _secret_in(headers)
        return self.keys.ring.find(secret) if secret else None

    def require(self, key: Key | None, needed: Role) -> None:
        """Let a caller pass whose key is enough.

        Raises:
            Unauthorized: there is no key.
            Forbidden: it is not enough.
        """
        if key is None:
            self._refused.labels("", "unauthorized").inc()
            raise Unauthorized(
                f"this needs {'an admin key' if needed is Role.ADMIN else 'a key'} that is known here: "
                "Authorization: Bearer KEY, or X-API-Key: KEY"
            )
        if not key.may(needed):
            self._refused.labels(key.name, "forbidden").inc()
            raise Forbidden(f"this needs a key of the role {needed}; the role of this one is {key.role}")

    @contextmanager
    def admit(self, key: Key | None) -> Iterator[None]:
        """Count a request against the limits of its key until it is answered.

        Raises:
            RateLimited: the key has made too many requests.
            TooManyRequests: it has too many under way.
        """
        if key is None:
            yield
            return
        with ExitStack() as held:
            try:
                held.enter_context(self._allowance(key).use())
            except (RateLimited, TooManyRequests) as error:
                self._refused.labels(key.name, error.limit.name).inc()
                raise
            yield

    def needed_for(self, path: str) -> Role | None:
        """Return the role that a path asks for before it is known what is there."""
        if path == METRICS_PATH:
            return Role.METRICS if self._metrics_ask else None
        return Role.PREDICT if self.asks_for_keys and not is_open(path) else None

    def may_know_more(self, key: Key | None) -> bool:
        """Whether a caller of an open path may see how everything stands."""
        return not self.asks_for_keys or (key is not None and key.may(Role.PREDICT))

    def fault_for(self, key: Key | None) -> str | None:
        """Return why the file of keys cannot be read, where it cannot, to those who can see to it."""
        return (self.keys.fault or None) if key is not None and key.may(Role.ADMIN) else None

    def _allowance(self, key: Key) -> Allowance:
        if self._ring is not self.keys.ring:
            self._ring = self.keys.ring
            kept = self._allowances
            self._allowances = {known: kept.get(known) or self._make_allowance(known) for known in self._ring}
        # The file may have lost the key since it was found.
        return self._allowances.get(key) or self._make_allowance(key)

    def _make_allowance(self, key: Key) -> Allowance:
        return Allowance(
            _limit("requests_per_second", key.requests_per_second, self._settings.requests_per_second),
            _limit("concurrent_requests", key.concurrent_requests, self._settings.concurrent_requests),
            self._settings.processes,
            self._clock,
        )


class LetIn:
    """Refuse a request that may not come in before anything else is done for it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        key = scope[_KEY] = self.access.authenticate(scope["headers"])
        if key is not None:
            record_of(scope).key = key.name
        with ExitStack() if key is not None else _NOTHING_HELD as held:
            try:
                if needed := self.access.needed_for(path):
                    self.access.require(key, needed)
                if held is not None and not (is_open(path) or path == METRICS_PATH):
                    held.enter_context(self.access.admit(key))
            except ServiceError as error:
                await error_response(Request(scope), error)(scope, receive, send)
                return
            await self.app(scope, receive, send)


def key_of(scope: Scope) -> Key | None:
    """Return the key that a request carries."""
    key = scope.get(_KEY)
    return key if isinstance(key, Key) else None


def is_open(path: str) -> bool:
    """Whether a path never asks for a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _secret_in(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the key itself; a proxy may have a bearer token of its own, so X-API-Key goes first."""
    secret = b""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() == b"bearer":
                secret = credentials.strip()
    return secret


def _limit(name: str, own: float | None, usual: float) -> Limit:
    """Return a key's limit; one of its own has another name, since no setting moves it."""
    return Limit(name, usual) if own is None else Limit(f"key_{name}", own)
