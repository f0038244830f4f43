"""The engine protocol: all that the rest of hubel knows of a runtime."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels

Logits = NDArray[np.float32]


class Engine(Protocol):
    """A network ready to run. Synchronous, knows no queue.

    Attributes:
        name: of the runtime.
        device: that it runs on.
        one_core: whether a run stays on the core that asks for it, unless it is told otherwise, and others may go on
            beside it, each from a thread of its own. Else the runs come one after the other, from one thread.
    """

    name: str
    device: str
    one_core: bool

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        """Map uint8 pixels (N, H, W, C) to float32 logits (N, K), for any N of at least 1.

        Args:
            pixels: what to classify.
            spread: whether the run may use all cores; it means nothing to an engine that is not `one_core`.
        """
        ...

    def stop(self) -> None:
        """Ask the runs that are under way to end with an exception; from any thread, without waiting."""
        ...

    def release(self) -> None:
        """Give back the memory that runs have needed, as far as the runtime can; the next ones take it anew."""
        ...
