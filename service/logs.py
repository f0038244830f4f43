"""Logs: one JSON object a line on standard error, from our own code and from the libraries'."""

import asyncio
import datetime as dt
import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping

from pydantic_core import to_json

_ACCESS = logging.getLogger("service.access")


class AccessLog:
    """A line for each request; those of one turn of the event loop are written together.

    To write is to let other threads go on, and to wait for one's turn after it: with a line at a time that took longer
    than all else that is done for a line. Nor do they go by way of the libraries that the other lines go by.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def tell(self, level: int, fields: Mapping[str, object]) -> None:
        """Tell of a request, when the loop turns; a process that is killed until then tells nothing."""
        if not _ACCESS.isEnabledFor(level):
            return
        timestamp = dt.datetime.now(dt.UTC).replace(tzinfo=None).isoformat() + "Z"
        about = {"event": "request", "level": logging.getLevelName(level).lower(), "logger": _ACCESS.name}
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(to_json({**about, **fields, "timestamp": timestamp}, ensure_ascii=True).decode("ascii"))

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        sys.stderr.write("\n".join([*lines, ""]))
        sys.stderr.flush()


class _JsonLines(logging.Formatter):
    """Writes event, level, logger, timestamp (UTC, ISO 8601) and, where there is one, the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        told = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{record.msecs:03.0f}Z",
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def configure_logs(level: str) -> None:
    """Send every logger of this process to standard error as JSON lines."""
    # These speak of what callers send; it would be our log that callers write in.
    warnings.filterwarnings("ignore", module="PIL")
    for library in ("PIL", "python_multipart"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    for library in ("aiobotocore", "botocore"):  # where they have found credentials is not our news
        logging.getLogger(library).setLevel(logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
