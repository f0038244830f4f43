"""The engine protocol: all that the rest of hubel knows of a runtime."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels

Logits = NDArray[np.float32]


class Engine(Protocol):
    """A network ready to run. Synchronous, used from one thread but for `stop`, knows no queue."""

    name: str
    device: str

    def infer(self, pixels: Pixels) -> Logits:
        """Map uint8 pixels (N, H, W, C) to float32 logits (N, K), for any N of at least 1."""
        ...

    def stop(self) -> None:
        """Ask the run that is under way to end with an exception; from any thread, without waiting."""
        ...
