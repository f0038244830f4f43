"""What the serving process and the one that explains send each other, and how it lies in a pipe."""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from model.preprocessing import ImageLimits

if TYPE_CHECKING:  # the process that explains begins sooner without it
    from service.settings import Settings

TOO_LATE = "TooLate"  # the error of a question whose time was over, or for whose answer nobody waits
SIZES = struct.Struct("!II")  # in front of each message: bytes of its head, which is JSON, and of its body
LEAVE_OFF = SIZES.pack(0, 0)  # no question, but word that nobody waits for the answer to the last one


@dataclass(frozen=True)
class Bounds:
    """What may be asked at once, and what an image may cost."""

    images: ImageLimits
    max_explained_values: int
    max_occlusions: int

    @classmethod
    def of(cls, settings: "Settings") -> "Bounds":
        """Return what a service's settings bound."""
        return cls(
            ImageLimits(settings.max_image_pixels, settings.max_image_aspect_ratio, settings.max_image_decoded_bytes),
            settings.max_explained_values,
            settings.max_occlusions,
        )

    @classmethod
    def parse(cls, text: str) -> "Bounds":
        """Read what `write` has written."""
        values = json.loads(text)
        return cls(**{**values, "images": ImageLimits(**values["images"])})

    def fields(self) -> dict[str, Any]:
        """Return what `parse` reads, as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """What is asked about a version; the image is the message's body.

    Attributes:
        name: the model's.
        number: the version's.
        folder: where its files are.
        kind: the name of the query's type.
        query: its fields.
        seconds: for the answer.
    """

    name: str
    number: int
    folder: str
    kind: str
    query: dict[str, Any]
    seconds: float


def pack(head: Mapping[str, Any], body: bytes) -> list[bytes]:
    """Return the parts of a message."""
    text = json.dumps(head).encode()
    return [SIZES.pack(len(text), len(body)), text, body]
