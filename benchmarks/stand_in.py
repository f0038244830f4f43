"""The service with engines that take a known time and have known faults, for measurements and for mischief.

`python -m benchmarks.stand_in serve --port 8000 --registry registry --workers 1` stands for `hubel serve`. The
variable STAND_IN_ENGINE holds a JSON object with the fields of `Behaviour`. Answers are those of the version's own
engine, a moment later.
"""

import json
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from fastapi import FastAPI

from benchmarks.entry import serve
from model import classifier
from model.engines.base import Engine, Logits
from model.engines.selection import Candidate, open_engine
from model.preprocessing import Pixels
from model.registry import StoredVersion

VARIABLE = "STAND_IN_ENGINE"
FACTORY = "benchmarks.stand_in:create_worker_app"
# Pictures of one colour that an engine takes as an order, where it is told to obey.
RAISE, HANG, HANG_UNTIL_STOPPED = (255, 0, 255), (255, 255, 0), (0, 255, 255)
_LOADING_BATCHES = 3  # the golden outputs and two to warm up: what cannot be loaded cannot be measured


@dataclass(frozen=True)
class Behaviour:
    """What a stand-in does.

    Attributes:
        seconds_per_image: what an image takes, without the interpreter's lock.
        failing_share: of the batches, at random.
        obeys: whether pictures of certain colours make it fail or hang.
        hang_seconds: how long it hangs at the most.
        seed: of its chance.
    """

    seconds_per_image: float = 0.01
    failing_share: float = 0.0
    obeys: bool = False
    hang_seconds: float = 60.0
    seed: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Behaviour":
        """Read it from an environment."""
        return cls(**json.loads(environment.get(VARIABLE, "{}")))

    @property
    def variables(self) -> dict[str, str]:
        """The environment that says so."""
        return {VARIABLE: json.dumps(asdict(self))}


class StandIn:
    """An engine in front of another one."""

    def __init__(self, engine: Engine, behaviour: Behaviour) -> None:
        self.name, self.device, self.one_core = engine.name, engine.device, False
        self._engine = engine
        self._behaviour = behaviour
        self._chance = random.Random(behaviour.seed)
        self._stopped = threading.Event()
        self._batches = 0

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        """Answer as the other engine does, after the time that the images are to take."""
        until = time.monotonic() + len(pixels) * self._behaviour.seconds_per_image
        self._stopped.clear()
        self._batches += 1
        if self._batches > _LOADING_BATCHES:
            self._misbehave(pixels)
        logits = self._engine.infer(pixels, spread=spread)
        time.sleep(max(0.0, until - time.monotonic()))
        return logits

    def stop(self) -> None:
        """End what can be stopped."""
        self._stopped.set()

    def release(self) -> None:
        """Give back what the other engine has taken."""
        self._engine.release()

    def _misbehave(self, pixels: Pixels) -> None:
        if self._chance.random() < self._behaviour.failing_share:
            raise RuntimeError("a fault by chance")
        if not self._behaviour.obeys:
            return
        if _holds(pixels, RAISE):
            raise RuntimeError("a fault to order")
        if _holds(pixels, HANG):
            time.sleep(self._behaviour.hang_seconds)
        if _holds(pixels, HANG_UNTIL_STOPPED) and self._stopped.wait(self._behaviour.hang_seconds):
            raise RuntimeError("stopped")


def create_worker_app() -> FastAPI:
    """Build the application of a worker whose engines are stand-ins."""
    from service import app

    behaviour = Behaviour.of(os.environ)

    def open_stand_in(version: StoredVersion, candidate: Candidate, threads: int, shared: Path | None = None) -> Engine:
        return StandIn(open_engine(version, candidate, threads, shared), behaviour)

    classifier.open_engine = open_stand_in  # type: ignore[attr-defined]  # it is not its own, but what it calls
    return app.create_worker_app()


def _holds(pixels: Pixels, colour: tuple[int, int, int]) -> bool:
    """Whether one of the images (N, H, W, C) has no other colour."""
    return bool((pixels == np.array(colour, np.uint8)).all(axis=(1, 2, 3)).any())


if __name__ == "__main__":
    serve(FACTORY)
