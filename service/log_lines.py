"""A log record as one line of JSON, the same from the supervisor and from its workers. Imports the standard library only."""

import json
import logging
import time


class JsonLines(logging.Formatter):
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
