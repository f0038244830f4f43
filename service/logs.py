"""Logs: one JSON object a line on standard error, from our own code and from the libraries'."""

import logging
import sys
import warnings

import structlog
from structlog.typing import EventDict, WrappedLogger

_ACCESS = logging.getLogger("service.access")


class _StandardError:
    """Standard error, whatever it is by then."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _of_a_request(_: WrappedLogger, level: str, event: EventDict) -> EventDict:
    if not _ACCESS.isEnabledFor(logging.DEBUG if level == "debug" else logging.INFO):
        raise structlog.DropEvent
    return {"logger": _ACCESS.name, "level": level, **event}


# Of every request: it does not go by way of the standard library, which takes as long as all that a handler does.
access_log = structlog.wrap_logger(
    structlog.WriteLogger(_StandardError()),  # type: ignore[arg-type]
    processors=[
        _of_a_request,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
)


def configure_logs(level: str) -> None:
    """Send every logger of this process to standard error as JSON lines."""
    # These speak of what callers send; it would be our log that callers write in.
    warnings.filterwarnings("ignore", module="PIL")
    for library in ("PIL", "python_multipart"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    for library in ("aiobotocore", "botocore"):  # where they have found credentials is not our news
        logging.getLogger(library).setLevel(logging.WARNING)
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
