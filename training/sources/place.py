"""Where data lies, which of its files are images, and what every form has in common.

Knows nothing of the forms themselves, and never looks into a file.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from model.types import NAME_PATTERN
from training.collection import Collection, PartName
from training.errors import InvalidData

LICENCE_UNKNOWN: Final = "not stated"
# What people call the parts, as the name of a folder or in a table's column.
PART_NAMES: Final[dict[str, PartName]] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
# Also formats that are not decoded: the survey then says so, file by file.
# fmt: off
_IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".svg", ".ico", ".psd",
    ".tga", ".eps",
))
# fmt: on
_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_SUFFIX = re.compile(r"\.(?=[0-9]*[a-z])[0-9a-z]+")
_MENTIONED = 5


@dataclass(frozen=True)
class Place:
    """A folder to read, what to call it before its owner, and what is known of it.

    Attributes:
        folder: where the files are.
        shown: the data as its owner wrote it, for messages.
        name: fit for a model's name.
        origin: where the data comes from, for the card.
        licence: its licence as far as it is known.
        notes: what opening it has already left out.
    """

    folder: Path
    shown: str
    name: str
    origin: str
    licence: str = LICENCE_UNKNOWN
    notes: tuple[str, ...] = ()


@dataclass
class Found:
    """Images below a folder, as POSIX paths from the place's folder, and the suffixes of what was left out."""

    images: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def fit_name(text: str) -> str:
    """Make a model's name of any text; `model` where nothing of it can stay.

    `My Photos!` becomes `my-photos`, `Été 2024` becomes `ete-2024`.
    """
    plain = unicodedata.normalize("NFKD", text).casefold()
    words = re.sub(r"[^a-z0-9._-]", "", re.sub(r"\s+", "-", plain.strip()))
    name = re.sub(r"-{2,}", "-", words).strip("._-")[:64].rstrip("._-")
    return name if re.fullmatch(NAME_PATTERN, name) else "model"


def listing(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of a folder's folders and of its files, each sorted, without what is hidden or junk."""
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not _is_hidden(entry.name)]
    return (
        sorted(entry.name for entry in seen if entry.is_dir()),
        sorted(entry.name for entry in seen if entry.is_file()),
    )


def find_images(root: Path, below: str) -> Found:
    """Look for images at any depth below `root / below`; links to folders are not followed.

    A file counts as an image by its suffix, or if it has none. `images` is sorted.
    """
    found = Found()
    waiting = [below]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{folder}/{entry.name}")
                elif is_image(entry.name) and entry.is_file():
                    found.images.append(f"{folder}/{entry.name}")
                else:
                    found.ignored[suffix(entry.name)] += 1
    found.images.sort()
    return found


def is_image(name: str) -> bool:
    """Say whether a file of this name is taken for an image."""
    return suffix(name) in _IMAGE_SUFFIXES or not suffix(name)


def suffix(name: str) -> str:
    """Return a file's suffix in lower case; "" where what follows the last dot is no suffix, as in `photo.2021`."""
    ending = Path(name).suffix.lower()
    return ending if _SUFFIX.fullmatch(ending) else ""


def ignored_note(ignored: Counter[str]) -> tuple[str, ...]:
    """Say how many files were left out, in no sentence or in one."""
    if not ignored:
        return ()
    counts = ", ".join(f"{count} {ending or 'other'}" for ending, count in sorted(ignored.items()))
    return (f"{_files(ignored.total())} left out, not images by their names: {counts}.",)


def mention(names: Sequence[str], shown: int = _MENTIONED) -> str:
    """Write out the first names and count the others; characters that cannot be printed are escaped."""
    first = ", ".join(printable(name) for name in names[:shown])
    return first if len(names) <= shown else f"{first} and {len(names) - shown} more"


def printable(text: str) -> str:
    """Escape what a terminal or a JSON file could not take: control characters, broken Unicode."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def as_label(text: str) -> str:
    """Bring a class's name to one Unicode form, so that names from different systems agree."""
    return unicodedata.normalize("NFC", text.strip())


def checked(collection: Collection, shown: str) -> Collection:
    """Make sure that there are classes to tell apart and that each can be trained, and note gaps elsewhere.

    Raises:
        InvalidData: there are fewer than two classes; a class has no image outside the validation
            and test parts; a class's name is empty or cannot be printed.
    """
    _check_labels(collection.labels, shown)
    trainable = np.isin(collection.parts, ("train", ""))
    absent = _absent(collection, trainable)
    if absent:
        divided = " to train on" if np.any(collection.parts != "") else ""
        raise InvalidData(
            f"{shown}: no image{divided} of {_classes(absent)}: add images, or take the class away everywhere"
        )
    return replace(collection, notes=(*collection.notes, *_gaps(collection)))


def _check_labels(labels: Sequence[str], shown: str) -> None:
    for label in labels:
        if not label or not label.isprintable():
            raise InvalidData(f"{shown}: {printable(label)!r} cannot be the name of a class: rename it")
    if len(labels) < 2:  # noqa: PLR2004
        known = f"only one class, {labels[0]}" if labels else "no class"
        raise InvalidData(f"{shown} has {known}: training needs at least two to tell apart")


def _gaps(collection: Collection) -> list[str]:
    notes = []
    for part in ("validation", "test"):
        chosen = collection.parts == part
        absent = _absent(collection, chosen) if chosen.any() else []
        if absent:
            notes.append(f"The {part} part has no image of {_classes(absent)}.")
    return notes


def _absent(collection: Collection, chosen: np.typing.NDArray[np.bool_]) -> list[str]:
    counts = np.bincount(collection.targets[chosen], minlength=len(collection.labels))
    return [label for label, count in zip(collection.labels, counts, strict=True) if not count]


def _classes(labels: Sequence[str]) -> str:
    return f"class {mention(labels)}" if len(labels) == 1 else f"classes {mention(labels)}"


def _files(count: int) -> str:
    return "1 file was" if count == 1 else f"{count} files were"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def sorted_classes(labels: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the distinct labels, sorted, and each one's index."""
    classes = tuple(sorted(set(labels)))
    return classes, {label: index for index, label in enumerate(classes)}
