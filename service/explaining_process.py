"""The process that explains: it reads questions from its standard input, one after the other, and writes answers.

It runs at the lowest priority, so that predictions go first whatever it computes, decodes images that nobody has
looked at yet, and ends when its input does: with it goes all the memory that explaining has taken.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from model.checkpoint import MANIFEST
from model.errors import Limit, ModelError
from model.explain.network import ExplainedNetwork
from model.manifest import parse_manifest
from model.registry import StoredVersion
from service.answering import Explained
from service.explaining_messages import LEAVE_OFF, SIZES, TOO_LATE, Bounds, Question, pack
from service.explanations import QUERIES

_LOWEST_PRIORITY = 19
_VERSIONS = 2  # that are kept open: two are compared


class _TooLateError(Exception):
    """The time for an answer is over, or nobody waits for it any more."""


class Questions:
    """What comes through a pipe: one question after the other, and word that nobody waits for the answer to the last.

    It is read without a buffer: what is not read yet can be seen from outside.
    """

    def __init__(self, pipe: FileIO) -> None:
        self._pipe = pipe

    def next(self) -> tuple[dict[str, Any], bytes] | None:
        """Wait for a question, its head and its image; None at the end."""
        while (sizes := self._read(SIZES.size)) == LEAVE_OFF:
            pass  # the answer went out before that was read
        if len(sizes) < SIZES.size:
            return None
        head, body = SIZES.unpack(sizes)
        return json.loads(self._read(head)), self._read(body)

    def is_left(self) -> bool:
        """Whether nobody waits for the answer to the last question; no other question comes before it is out."""
        readable, _, _ = select.select([self._pipe], [], [], 0)
        return bool(readable) and self._read(SIZES.size) in (LEAVE_OFF, b"")  # or nobody is there at all

    def _read(self, size: int) -> bytes:
        """Read that many bytes; fewer at the end."""
        read, place = bytearray(size), 0
        while place < size and (count := self._pipe.readinto(memoryview(read)[place:])):
            place += count
        return bytes(read[:place])


class Explainers:
    """The versions that were asked about last."""

    def __init__(self, bounds: Bounds, is_left: Callable[[], bool]) -> None:
        """Begin with none open; `is_left` tells whether nobody waits for the answer any more."""
        self._bounds = bounds
        self._is_left = is_left
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
            self._open[question.folder] = Explained(network, self._bounds, self._check_wanted)
        self._open.move_to_end(question.folder)
        return self._open[question.folder]

    def _check_wanted(self) -> None:
        if time.monotonic() > self._until or self._is_left():
            raise _TooLateError


def main() -> None:
    """Answer until there are no more questions."""
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started this one stops it, by the end of its input
        signal.signal(number, signal.SIG_IGN)
    _step_back()
    questions, answers = Questions(FileIO(0)), os.fdopen(os.dup(1), "wb")
    explainers = Explainers(Bounds.parse(sys.argv[1]), questions.is_left)
    os.dup2(2, 1)  # what a library prints is no answer
    while (message := questions.next()) is not None:
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
