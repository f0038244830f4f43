"""What a user asks of an import, and what every imported version says of itself."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from training.errors import InvalidSource
from training.imports.preprocessing import PixelWish

NOT_STATED = "not stated"
_NOTE = (
    "The probabilities are those of the imported network. To fit a temperature on photos of yours: "
    "hubel evaluate {name} PHOTOS --calibrate"
)


@dataclass(frozen=True)
class Wish:
    """A file or folder to import, under which name, and what the user says of it; None for what he does not."""

    source: Path
    name: str
    arch: str | None = None
    labels: str | None = None
    licence: str | None = None
    note: str = ""
    pixels: PixelWish = field(default_factory=PixelWish)

    @property
    def calibration_note(self) -> str:
        """What the version says of its probabilities."""
        return _NOTE.format(name=self.name)


def describe_file(path: Path, note: str) -> str:
    """Name a file so that it can be found again: its name, its SHA-256, the user's note.

    Raises:
        InvalidSource: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read: {error.strerror}") from error
    return "; ".join(filter(None, [f"hubel import, of {path.name} (SHA-256 {digest})", note]))
