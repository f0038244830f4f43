"""A folder of nothing but images: no class folders, no table, and so no labels."""

from pathlib import Path

import numpy as np

from training.collection import UNKNOWN, Collection, FileImages
from training.sources.idx import holds_idx
from training.sources.named import NAMES
from training.sources.place import LICENCE_UNKNOWN, is_image, listing
from training.sources.table import TABLE_SUFFIXES, describes_images


def find_loose(data: str) -> Collection | None:
    """Return the images of a folder that has no class folders and no table of labels; None for any other data.

    They have no `labels`, and `UNKNOWN` for a target.
    """
    folder = Path(data).expanduser()
    if data in NAMES or not data.strip() or not folder.is_dir() or holds_idx(folder):
        return None
    folders, files = listing(folder)
    paths = tuple(name for name in files if is_image(name))
    tables = [folder / name for name in files if name.lower().endswith(TABLE_SUFFIXES)]
    if folders or not paths or any(describes_images(table, None) for table in tables):
        return None
    name = folder.resolve().name
    return Collection(
        name=name,
        origin=f"folder {name}",
        licence=LICENCE_UNKNOWN,
        labels=(),
        images=FileImages(folder, paths),
        targets=np.full(len(paths), UNKNOWN, np.int64),
        parts=np.full(len(paths), "", "<U10"),
        notes=("The images have no labels: nothing says which of two answers is right.",),
    )
