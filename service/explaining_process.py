"""The process that explains: it reads questions from its standard input, one after the other, and writes answers.

It runs at the lowest priority, so that predictions go first whatever it computes, decodes images that nobody has
looked at yet, and ends when its input does: with it goes all the memory that explaining has taken.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from model.checkpoint import MANIFEST
from model.errors import Limit, ModelError
from model.explain.network import ExplainedNetwork
from model.manifest import parse_manifest
from model.registry import StoredVersion
from service.answering import Explained
from service.explaining_messages import SIZES, TOO_LATE, Bounds, Question, pack
from service.explanations import QUERIES

_LOWEST_PRIORITY = 19
_VERSIONS = 2  # that are kept open: two are compared


class _TooLateError(Exception):
    """The time for an answer is over."""


class Explainers:
    """The versions that were asked about last."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._open: OrderedDict[str, Explained] = OrderedDict()
        self._until = 0.0

    def answer(self, question: Question, image: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the head and the body of an answer: what was asked for, or the error that says why not."""
        started = time.monotonic()
        self._until = started + question.seconds
        try:
            query = QUERIES[question.kind].model_validate(question.query)
            body = self._explained(question).answer(query, image)
        except _TooLateError:
            return {"error": TOO_LATE, "text": ""}, b""
        except ModelError as error:
            limit = getattr(error, "limit", None)
            told = [limit.name, limit.value] if isinstance(limit, Limit) else None
            return {"error": type(error).__name__, "text": str(error), "limit": told}, b""
        except Exception:  # the process goes on; whoever asked is told where it has failed
            return {"error": "InferenceFailed", "text": traceback.format_exc()}, b""
        return {"media_type": body.media_type, "seconds": time.monotonic() - started}, body.content

    def _explained(self, question: Question) -> Explained:
        if question.folder not in self._open:
            folder = Path(question.folder)
            manifest = parse_manifest((folder / MANIFEST).read_text(encoding="utf-8"), str(folder / MANIFEST))
            network = ExplainedNetwork(StoredVersion(question.name, question.number, folder, manifest))
            while len(self._open) >= _VERSIONS:
                self._open.popitem(last=False)
            self._open[question.folder] = Explained(network, self._bounds, self._check_time)
        self._open.move_to_end(question.folder)
        return self._open[question.folder]

    def _check_time(self) -> None:
        if time.monotonic() > self._until:
            raise _TooLateError


def main() -> None:
    """Answer until there are no more questions."""
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started this one stops it, by the end of its input
        signal.signal(number, signal.SIG_IGN)
    _step_back()
    explainers = Explainers(Bounds.parse(sys.argv[1]))
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while (message := _read(questions)) is not None:
        head, image = message
        told, body = explainers.answer(Question(**head), image)
        answers.writelines(pack(told, body))
        answers.flush()


def _step_back() -> None:
    """Run only where nobody else would: on what processors have left, where the system knows of such a thing."""
    os.nice(_LOWEST_PRIORITY)
    if sys.platform == "linux":
        with suppress(OSError):  # a container may not let it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _read(file: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read a message; None at the end."""
    start = file.read(SIZES.size)
    if len(start) < SIZES.size:
        return None
    head, body = SIZES.unpack(start)
    return json.loads(file.read(head)), file.read(body)
