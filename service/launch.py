"""From settings to a service: the sockets that it listens on, then the supervisor with its workers.

What is wrong with an address, a certificate or a key is found here, before any model is loaded.
"""

import errno
import os
import socket
import sys
from typing import NoReturn

from service import supervisor
from service.errors import SettingsError
from service.keys import check_keys
from service.settings import Settings, variables_of
from service.supervisor import Plan
from service.tls import tls_context

WORKER_APP = "service.app:create_worker_app"
BACKLOG = 2048  # connections that wait to be accepted, while a worker is replaced, say
_STOP_SECONDS = 5.0  # for a worker to stop its engines, after the last answer


def serve(settings: Settings, app: str = WORKER_APP) -> NoReturn:
    """Turn this process into one that serves; `app` ("module:function") makes the application of each worker.

    Raises:
        SettingsError: the keys or the certificate cannot be read, or the address cannot be listened on.
    """
    from service.logs import configure_logs  # a tenth of a second that other commands need not wait

    # To see whether a model is of pydantic's first version FastAPI imports that, in 0.07 s. None of ours is: where the
    # import fails, which is what None stands for, FastAPI takes that for an answer.
    sys.modules.setdefault("pydantic.v1", None)  # type: ignore[arg-type]
    configure_logs(settings.log_level)
    settings = settings.with_processes()
    check_keys(settings)
    if settings.tls_cert and settings.tls_key:
        tls_context(settings.tls_cert, settings.tls_key)
    listeners = listen(settings.host, settings.port)
    supervisor.become(plan_of(settings, app, listeners), {**os.environ, **variables_of(settings)})


def plan_of(settings: Settings, app: str, listeners: list[socket.socket]) -> Plan:
    """Return what the supervisor is to do."""
    port = listeners[0].getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return Plan(
        app=app,
        address=f"{'https' if settings.tls_cert else 'http'}://{host}:{port}",
        listeners=[listener.fileno() for listener in listeners],
        workers=settings.processes,
        stop_seconds=settings.shutdown_delay_ms / 1000 + settings.longest_timeout_seconds + _STOP_SECONDS,
        log_level=settings.log_level,
    )


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address that a name stands for.

    Raises:
        SettingsError: there is none, or another process has the port.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(f"HUBEL_HOST is {host!r}, which is no address: {error.strerror}") from error
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in addresses:
        if listeners:  # a free port, once found, is the same for all
            port = listeners[0].getsockname()[1]
        try:
            listeners.append(_listen(family, (address[0], port, *address[2:]), shares=len(addresses) > 1))
        except OSError as error:
            failure = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # "localhost" may be more than there is
                break
    if failure is not None and (not listeners or failure.errno == errno.EADDRINUSE):
        raise SettingsError(
            f"{host}:{port} (HUBEL_HOST, HUBEL_PORT) cannot be listened on: {failure.strerror}"
        ) from failure
    return listeners


def _listen(family: int, address: tuple[str | int, ...], *, shares: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # alone, it takes what comes by IPv4 as well
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(shares))
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
