"""Explanations for requests: the process that computes them, and the line in front of it.

The process begins with the first question and ends when nothing was asked for a while: where nobody explains,
predictions pay nothing. Questions are computed one at a time. Knows no HTTP, and of explanations only their names.
"""

import asyncio
import json
import logging
import math
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model import errors as model_errors
from model.errors import InferenceFailed, Limit, ModelError
from model.registry import StoredVersion
from service.deadline import Deadline
from service.errors import ModelNotReady, QueueFull
from service.explaining_messages import LEAVE_OFF, SIZES, TOO_LATE, Bounds, Question, pack
from service.explanations import Query
from service.settings import PREFIX, Settings

_BUFFER_BYTES = 2**20
_STOP_SECONDS = 5.0  # for the process to end, once its input has
_GRACE_SECONDS = 30.0  # beyond a question's time: under load, the lowest priority gets little of a processor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Explanation:
    """An answer, and what it took: seconds in the line (and for the process to begin), and to compute."""

    media_type: str
    content: bytes
    queue_seconds: float
    explain_seconds: float

    @property
    def stages(self) -> dict[str, float]:
        """Where the time went, in seconds."""
        return {"queue": self.queue_seconds, "explain": self.explain_seconds}


class Explainer:
    """The process that explains, while there is one, and those who wait for it."""

    def __init__(self, settings: Settings) -> None:
        self._bounds = Bounds.of(settings)
        self._places = Limit("max_explanations", settings.max_explanations)
        self._idle_seconds = settings.explain_idle_seconds
        self._held = 0
        self._turn = asyncio.Lock()
        self._computing: asyncio.Task[tuple[dict[str, Any], bytes]] | None = None
        self._process: Process | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._usual_seconds = 0.0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def check_room(self) -> None:
        """Refuse a question now that would be refused in any case once its body is read.

        Raises:
            QueueFull: there is no place in the line.
        """
        if self._held >= self._places.value:
            raise QueueFull(
                f"{self._held} explanations are computed or wait for it; the limit is {self._places.value}",
                self._places,
                retry_after_seconds=max(1, math.ceil(self._held * self._usual_seconds)),
            )

    async def ask(self, version: StoredVersion, query: Query, image: bytes, deadline: Deadline) -> Explanation:
        """Have a question about a version answered.

        Args:
            version: which one; its files must stay until then.
            query: what is asked.
            image: the file; empty where the question is not about one.
            deadline: by when.

        Raises:
            QueueFull: there is no place in the line.
            DeadlineExceeded: the answer was not there in time.
            ModelError: the image is none, or the question has no answer.
            ModelNotReady: the process cannot be started.
        """
        self.check_room()
        self._held += 1
        arrived = time.monotonic()
        try:
            async with asyncio.timeout(deadline.seconds_left):
                async with self._turn:
                    if self._computing is not None:  # for somebody who has left; a pipe holds one question at a time
                        await asyncio.wait({self._computing})
                    seconds = deadline.seconds_left
                    question = Question(
                        version.name,
                        version.number,
                        str(version.folder),
                        type(query).__name__,
                        query.model_dump(mode="json"),
                        seconds,
                    )
                    self._computing = asyncio.get_running_loop().create_task(self._compute(question, image))
                    self._computing.add_done_callback(_notice)
                    head, body = await self._wait_for(self._computing)
        except TimeoutError:
            raise deadline.exceeded() from None
        finally:
            self._held -= 1
        if head.get("error") == TOO_LATE:
            raise deadline.exceeded()
        if "error" in head:
            raise _error_of(head)
        self._usual_seconds = head["seconds"]
        return Explanation(head["media_type"], body, time.monotonic() - arrived - head["seconds"], head["seconds"])

    async def _wait_for(self, computing: asyncio.Task[tuple[dict[str, Any], bytes]]) -> tuple[dict[str, Any], bytes]:
        """Wait for an answer; tell the process where nobody does any more."""
        try:
            return await asyncio.shield(computing)
        except asyncio.CancelledError:
            if self._process is not None and self.pid is not None and not computing.done():
                assert self._process.stdin is not None
                self._process.stdin.write(LEAVE_OFF)
            raise

    async def close(self) -> None:
        """Answer nothing more, and end the process."""
        self._closed = True
        if self._ending is not None:
            self._ending.cancel()
        if self._computing is not None:
            self._computing.cancel()
        self._let_go(now=True)
        await asyncio.gather(*self._endings, return_exceptions=True)

    async def _compute(self, question: Question, image: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a question and read its answer."""
        if self._ending is not None:
            self._ending.cancel()
        try:
            async with asyncio.timeout(max(question.seconds, 0) + _GRACE_SECONDS):
                if self.pid is None:  # none was started, or it was killed meanwhile
                    self._process = await self._start()
                process = self._process
                assert process is not None
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.writelines(pack(asdict(question), image))
                await process.stdin.drain()
                head, body = SIZES.unpack(await process.stdout.readexactly(SIZES.size))
                told = json.loads(await process.stdout.readexactly(head))
                answer = told, await process.stdout.readexactly(body)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self._let_go(now=True)
            raise InferenceFailed(f"the process that explains has ended while it explained {question}") from error
        except TimeoutError:
            self._let_go(now=True)
            raise InferenceFailed(f"the process that explains does not answer: {question}") from None
        except OSError as error:
            raise ModelNotReady(f"no process that explains can be started: {error.strerror}", 1) from error
        except asyncio.CancelledError:
            self._let_go(now=True)
            raise
        self._ending = asyncio.get_running_loop().call_later(self._idle_seconds, self._let_go)
        return answer

    async def _start(self) -> Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return await asyncio.create_subprocess_exec(
            *_command(self._bounds),
            env=environment,  # without the keys: it decodes whatever is sent
            stdin=PIPE,
            stdout=PIPE,
            limit=_BUFFER_BYTES,
        )

    def _let_go(self, *, now: bool = False) -> None:
        """Let the process end; the next question begins another one."""
        if self._process is None:
            return
        process, self._process = self._process, None
        ending = asyncio.get_running_loop().create_task(_end(process, now=now))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)


async def _end(process: Process, *, now: bool) -> None:
    """End a process: by the end of its input, or at once."""
    assert process.stdin is not None
    process.stdin.close()
    if now:
        with suppress(ProcessLookupError):
            process.kill()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    if not now:
        _log.info("nothing was explained for a while: the process that explains has ended")


def _error_of(head: dict[str, Any]) -> ModelError:
    """Return the error that the process tells of."""
    kind: type[ModelError] = getattr(model_errors, head["error"])
    if head.get("limit"):
        name, value = head["limit"]
        return kind(head["text"], Limit(name, value))
    return kind(head["text"])


def _notice(task: asyncio.Task[tuple[dict[str, Any], bytes]]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


def _command(bounds: Bounds) -> list[str]:
    """Return the command that runs a process that explains, which finds modules where this process does."""
    here = not {"", str(Path.cwd())}.isdisjoint(sys.path)
    run = "from service.explaining_process import main; main()"
    return [sys.executable, *([] if here else ["-P"]), "-c", run, json.dumps(bounds.fields())]
