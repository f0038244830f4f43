"""From what a person calls their data to a collection: which form it has is told by looking.

Knows which reader is for which form, and nothing of how any of them reads.
"""

import difflib
from dataclasses import replace
from pathlib import Path

from training.collection import Collection
from training.errors import InvalidData
from training.sources.archive import is_archive, stem, unpack
from training.sources.folder import read_folder
from training.sources.idx import holds_idx, read_idx
from training.sources.named import NAMES, open_named
from training.sources.place import Place, fit_name, is_image, listing, mention
from training.sources.table import TABLE_SUFFIXES, describes_images, read_table

_FORMS = "a folder of class folders, a CSV file, a folder of MNIST's IDX files, or a zip or tar of one of them"


def open_collection(
    data: str,
    *,
    root: Path | None = None,
    download: bool = False,
    work: Path,
    label_column: str | None = None,
) -> Collection:
    """Read labelled images from wherever `data` says, without decoding them.

    A word that is one of `named.NAMES` is that data set, also where a folder of that name lies here;
    `./mnist` is the folder. Anything else is a path: a folder of class folders, with or without
    folders for the parts; a folder of IDX files; a CSV file, or a folder with one beside its images,
    which then decides; an archive of any of these.

    Args:
        data: a name or a path.
        root: where a named data set lies.
        download: fetch a named data set to `root` if it is not there.
        work: an existing folder in which archives are unpacked; the collection reads from it.
        label_column: the table's column of classes, if it is not called as usual.

    Raises:
        InvalidData: nothing is there, or it is in no form that is known, or not consistent.
    """
    if data in NAMES:
        return open_named(data, root.expanduser() if root else None, download=download)
    check_there(data)
    try:
        return _open_path(Path(data).expanduser(), data, work, label_column)
    except OSError as error:
        raise InvalidData(f"{data} cannot be read: {error}") from error


def check_there(data: str) -> None:
    """Make sure that `data` is a known name or a path of something, without reading it.

    Raises:
        InvalidData: it is neither.
    """
    if not data.strip():
        raise InvalidData(f"no data is named: give {_FORMS}, or one of {', '.join(NAMES)}")
    if data in NAMES:
        return
    try:
        there = Path(data).expanduser().exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that is nobody's
        raise InvalidData(f"{data} cannot be read: {error}") from error
    if not there:
        raise InvalidData(f"there is no {data}: give {_FORMS}, or one of {', '.join(NAMES)}{_meant(data)}")


def name_of(data: str) -> str:
    """Return the name that a model trained on `data` has, if it is given none."""
    if data in NAMES:
        return data
    path = Path(data).expanduser().resolve()
    return fit_name(path.name if path.is_dir() else stem(path.name))


def _open_path(path: Path, data: str, work: Path, label_column: str | None) -> Collection:
    if path.is_dir():
        name = path.resolve().name
        return _open_folder(Place(path, data, name_of(data), f"folder {name}"), label_column)
    if not path.is_file():
        raise InvalidData(f"{data} is neither a file nor a folder: give {_FORMS}")
    if path.name.lower().endswith(TABLE_SUFFIXES):
        place = Place(path.parent, data, name_of(data), f"table {path.name}")
        return read_table(place, path, label_column)
    if is_archive(path):
        folder, notes = unpack(path, work)
        place = Place(folder, data, name_of(data), f"archive {path.name}", notes=notes)
        return _open_folder(place, label_column)
    raise InvalidData(f"{data} is one file of no form that is known: give {_FORMS}")


def _meant(data: str) -> str:
    close = difflib.get_close_matches(data.lower(), NAMES, n=1)
    return f"; {close[0]} is the nearest" if close else ""


def _open_folder(place: Place, label_column: str | None) -> Collection:
    if holds_idx(place.folder):
        return read_idx(place)
    folders, files = listing(place.folder)
    tables = [name for name in files if name.lower().endswith(TABLE_SUFFIXES)]
    telling = [name for name in tables if describes_images(place.folder / name, label_column)]
    if len(telling) > 1:
        raise InvalidData(f"{place.shown} has several tables of images, {mention(telling)}: give one of them")
    if telling:
        return _with_loose_images(read_table(place, place.folder / telling[0], label_column), files)
    if tables and (label_column or not folders):  # its reader says what the table lacks
        return read_table(place, place.folder / tables[0], label_column)
    return read_folder(place)


def _with_loose_images(collection: Collection, files: list[str]) -> Collection:
    """Note the images beside a table of which it says nothing."""
    named = {collection.images.name(index) for index in range(len(collection))}
    loose = [name for name in files if is_image(name) and name not in named]
    if not loose:
        return collection
    return replace(
        collection, notes=(*collection.notes, f"Images that the table does not name, left out: {mention(loose)}.")
    )
