"""The service as it is, with a meter on the CPU time that decoding takes, on whatever thread it happens.

`python -m benchmarks.metered serve --port 8000 --registry registry --workers 1` stands for `hubel serve`. The variable
METER_FOLDER names a folder where each worker keeps a file of two numbers: seconds of decoding on the thread of the
event loop, and on all others. It costs two looks at a clock for each step of an image.
"""

import os
import threading
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
from fastapi import FastAPI

from benchmarks.entry import serve
from model.classifier import Classifier
from model.preprocessing import ImageLimits, PreparedImage

VARIABLE = "METER_FOLDER"
FACTORY = "benchmarks.metered:create_worker_app"


def create_worker_app() -> FastAPI:
    """Build the application of a worker whose decoding is metered."""
    from service import app

    seconds = np.memmap(Path(os.environ[VARIABLE]) / str(os.getpid()), np.float64, "w+", shape=(2,))
    lock = threading.Lock()
    prepare = Classifier.prepare_in_steps

    def prepare_metered(self: Classifier, data: bytes, limits: ImageLimits) -> Generator[int, None, PreparedImage]:
        steps = prepare(self, data, limits)
        elsewhere = threading.current_thread() is not threading.main_thread()
        while True:
            started = time.thread_time()
            try:
                wanted = next(steps)
            except StopIteration as stop:
                prepared: PreparedImage = stop.value
                return prepared
            finally:
                with lock:
                    seconds[int(elsewhere)] += time.thread_time() - started
            yield wanted

    Classifier.prepare_in_steps = prepare_metered  # type: ignore[method-assign]
    return app.create_worker_app()


def read_meters(folder: Path) -> tuple[float, float]:
    """Return the CPU time of decoding so far: on event loops and elsewhere, seconds."""
    loops, elsewhere = sum((np.fromfile(path, np.float64) for path in folder.iterdir()), np.zeros(2))
    return float(loops), float(elsewhere)


if __name__ == "__main__":
    serve(FACTORY)
