"""Image files in class folders, with or without folders for the parts around them.

Knows nothing of tables and archives, and never opens an image.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from training.collection import Collection, FileImages, PartName
from training.errors import InvalidData
from training.sources.place import (
    PART_NAMES,
    Place,
    as_label,
    checked,
    find_images,
    ignored_note,
    is_image,
    listing,
    mention,
    sorted_classes,
    suffix,
)

_PARTS: tuple[PartName, ...] = ("train", "validation", "test")
_ORDER = {"": 0, "train": 0, "validation": 1, "test": 2}
_LAYOUT = "put each class's images into a folder of its own, or describe them in a CSV file with columns file and label"


@dataclass
class _Read:
    """What was found: (part, label, path) of every image, what lies outside the class folders, empty classes."""

    images: list[tuple[str, str, str]] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def read_folder(place: Place) -> Collection:
    """Read class folders; a class is called as its folder is.

    A folder that holds `train` beside nothing but other parts' folders, or that holds two parts with
    class folders in them, is read by parts; otherwise every folder is a class. Images of a class may
    lie at any depth. Images are ordered by part, class and path.

    Raises:
        InvalidData: it is empty, has no class folders, a class folder has no images, a class is
            missing from the training part, there is only one class.
    """
    folders, _ = listing(place.folder)
    parts = _part_folders(place, folders)
    read = _Read()
    notes = []
    if parts is None:
        _read_classes(place, "", "", read)
    else:
        for part in _PARTS:
            if part in parts:
                _read_classes(place, part, parts[part], read)
        others = [name for name in folders if name not in parts.values()]
        notes = [f"Folders beside train were left out: {mention(others)}."] if others else []
    _check(place, read)
    return checked(_collection(place, read, notes), place.shown)


def _part_folders(place: Place, folders: list[str]) -> dict[PartName, str] | None:
    """Return each part's folder, or None where the folders are classes."""
    named = [name for name in folders if name.lower() in PART_NAMES]
    others = len(named) < len(folders)
    if not named or (others and not _are_parts(place, named)):
        return None
    parts: dict[PartName, str] = {}
    for name in named:
        part = PART_NAMES[name.lower()]
        if part in parts:
            raise InvalidData(f"{place.shown} has two folders for the {part} part, {parts[part]} and {name}: keep one")
        parts[part] = name
    if "train" not in parts:
        raise InvalidData(f"{place.shown} has {mention(named)} but no train folder: name the training part train")
    return parts


def _are_parts(place: Place, named: list[str]) -> bool:
    """Tell a `train` that is a part from one that is a class, as beside `bus` and `car`."""
    parts = {PART_NAMES[name.lower()] for name in named}
    return "train" in parts and len(parts) > 1 and all(listing(place.folder / name)[0] for name in named)


def _read_classes(place: Place, part: str, below: str, read: _Read) -> None:
    folders, files = listing(place.folder / below)
    prefix = f"{below}/" if below else ""
    for name in files:
        if is_image(name):
            read.loose.append(f"{prefix}{name}")
        else:
            read.ignored[suffix(name)] += 1
    for name in folders:
        found = find_images(place.folder, f"{prefix}{name}")
        read.ignored += found.ignored
        read.images.extend((part, as_label(name), path) for path in found.images)
        if not found.images and part in ("", "train"):
            read.empty.append(f"{prefix}{name}")


def _check(place: Place, read: _Read) -> None:
    if not read.images and not read.empty:
        if read.loose:
            raise InvalidData(f"{place.shown} holds images but no class folders: {_LAYOUT}")
        what = "holds no images" if read.ignored else "is empty"
        raise InvalidData(f"{place.shown} {what}: {_LAYOUT}")
    if read.empty:
        raise InvalidData(
            f"{place.shown}: no images in the class folder {mention(read.empty)}: add images, or remove the folder"
        )


def _collection(place: Place, read: _Read, notes: list[str]) -> Collection:
    images = sorted(read.images, key=lambda image: (_ORDER[image[0]], *image[1:]))
    labels, index = sorted_classes(label for _, label, _ in images)
    if read.loose:
        notes = [*notes, f"Images beside the class folders, left out: {mention(read.loose)}."]
    return Collection(
        name=place.name,
        origin=place.origin,
        licence=place.licence,
        labels=labels,
        images=FileImages(place.folder, tuple(path for _, _, path in images)),
        targets=np.asarray([index[label] for _, label, _ in images], dtype=np.int64),
        parts=np.asarray([part for part, _, _ in images], dtype=np.str_),
        notes=(*place.notes, *notes, *ignored_note(read.ignored)),
    )
