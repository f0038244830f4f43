"""A CSV file that names each image and its class, and may name its part.

Knows nothing of how the images came to lie beside it, and never opens one.
"""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Final

import numpy as np

from training.collection import Collection, FileImages
from training.errors import InvalidData
from training.sources.place import PART_NAMES, Place, as_label, checked, printable, sorted_classes

TABLE_SUFFIXES: Final = (".csv", ".tsv")
# Each column by the names it is known under; the first one that is there is taken.
FILE_COLUMNS: Final = ("file", "filename", "path", "image")
LABEL_COLUMNS: Final = ("label", "class", "class_name", "category")
_PART_COLUMNS = ("split", "part")
_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class _Columns:
    """Where in a row the file, the label and the part are, and what else could be the label."""

    file: int
    label: int
    part: int | None
    width: int
    other_labels: tuple[str, ...]


@dataclass
class _Rows:
    """Each image's label and part by its path, in the table's order, and the row that gave them."""

    images: dict[str, tuple[str, str]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    repeated: int = 0


@dataclass(frozen=True)
class _Where:
    """A row of a table; the files lie in the table's folder."""

    table: Path
    row: int

    def __str__(self) -> str:
        return f"{self.table.name}, row {self.row}"


def describes_images(path: Path, label_column: str | None) -> bool:
    """Say whether a table has a column for files and one for labels."""
    try:
        _find_columns(path.name, next(_rows(path), []), label_column)
    except InvalidData:
        return False
    return True


def read_table(place: Place, path: Path, label_column: str | None) -> Collection:
    """Read the table at `path`; the files' paths start at its folder, which is the place's.

    UTF-8, with `,`, `;` or tab between the fields, whichever makes a header of the first row. Rows are
    counted from 1, the header. A part is one of `train`, `val`, `test` or their longer names, or empty.

    Raises:
        InvalidData: it is not UTF-8 text, has no such columns, or a row lacks its file or its label,
            names a file that is not there or lies outside the folder, or contradicts an earlier row.
    """
    rows = _rows(path)
    columns = _find_columns(path.name, next(rows, []), label_column)
    read = _Rows()
    for number, row in enumerate(rows, start=2):
        if any(cell.strip() for cell in row):
            _add(read, row, columns, _Where(path, number))
    if not read.images:
        raise InvalidData(f"{path.name} has a header but no rows: add one row for each image")
    return checked(_collection(place, read, columns, path), place.shown)


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidData(f"{path.name} is not UTF-8 text: save it as CSV UTF-8") from error
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    except csv.Error as error:
        raise InvalidData(f"{path.name} is no CSV file: {error}") from error


def _delimiter(text: str) -> str:
    """Take the separator that divides the header most; unlike csv.Sniffer, labels cannot mislead it."""
    header = text.lstrip().partition("\n")[0]
    return max(_DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _find_columns(name: str, header: Sequence[str], label_column: str | None) -> _Columns:
    titles = [title.strip() for title in header]
    lowered = [title.lower() for title in titles]
    file = _position(lowered, FILE_COLUMNS)
    if file is None:
        raise InvalidData(
            f"{name} has no column for the files: call one of its columns ({_written(titles)}) {FILE_COLUMNS[0]}"
        )
    if label_column is None:
        label = _position(lowered, LABEL_COLUMNS)
        if label is None:
            raise InvalidData(
                f"{name} has no column called {_written(LABEL_COLUMNS)}: name one of its columns "
                f"({_written(titles)}) with --label-column"
            )
        others = tuple(titles[at] for at, title in enumerate(lowered) if title in LABEL_COLUMNS and at != label)
    elif titles.count(label_column) == 1:
        label, others = titles.index(label_column), ()
    else:
        trouble = "two columns" if label_column in titles else "no column"
        raise InvalidData(f"{name} has {trouble} called {label_column!r}; its columns are {_written(titles)}")
    return _Columns(file, label, _position(lowered, _PART_COLUMNS), len(titles), others)


def _position(titles: Sequence[str], names: Sequence[str]) -> int | None:
    return next((titles.index(name) for name in names if name in titles), None)


def _written(titles: Sequence[str]) -> str:
    return ", ".join(printable(title) for title in titles) or "none"


def _add(read: _Rows, row: list[str], columns: _Columns, where: _Where) -> None:
    if any(cell.strip() for cell in row[columns.width :]):
        raise InvalidData(f"{where} has {len(row)} fields, but the header {columns.width}: quote what holds separators")
    label = as_label(_cell(row, columns.label))
    if not label:
        raise InvalidData(f"{where}: the label is missing: fill it in, or remove the row")
    path = _path(_cell(row, columns.file), where)
    known = (label, _part(_cell(row, columns.part), where))
    earlier = read.images.setdefault(path, known)
    if earlier != known:
        first, again = _said(*earlier), _said(*known)
        raise InvalidData(
            f"{where}: {printable(path)} is {again}, but row {read.numbers[path]} says {first}: keep one of the two"
        )
    if path in read.numbers:
        read.repeated += 1
    else:
        read.numbers[path] = where.row


def _said(label: str, part: str) -> str:
    return printable(f"{label} in the {part} part" if part else label)


def _cell(row: list[str], column: int | None) -> str:
    return row[column].strip() if column is not None and column < len(row) else ""


def _path(text: str, where: _Where) -> str:
    """Return the path from the folder, in POSIX form."""
    if not text:
        raise InvalidData(f"{where}: the file is missing: fill it in, or remove the row")
    if text.startswith("/") or PureWindowsPath(text).anchor:
        raise InvalidData(f"{where}: {printable(text)} is an absolute path: write it from the table's folder")
    tried = dict.fromkeys((text, text.replace("\\", "/")))
    for path in map(os.path.normpath, tried):
        if path.startswith(os.pardir + os.sep) or path == os.pardir:
            raise InvalidData(f"{where}: {printable(text)} lies outside the table's folder: move the images into it")
        if "\0" not in path and (where.table.parent / path).is_file():
            return Path(path).as_posix()
    raise InvalidData(f"{where}: there is no file {printable(text)}: paths start at the table's folder")


def _part(text: str, where: _Where) -> str:
    if not text:
        return ""
    part = PART_NAMES.get(text.lower())
    if part is None:
        raise InvalidData(
            f"{where}: {printable(text)!r} is no part: write train, validation or test, or leave it empty"
        )
    return part


def _collection(place: Place, read: _Rows, columns: _Columns, path: Path) -> Collection:
    labels, index = sorted_classes(label for label, _ in read.images.values())
    notes = list(place.notes)
    if columns.other_labels:
        notes.append(
            f"{path.name} could name the class in another column too ({_written(columns.other_labels)}); "
            "--label-column chooses."
        )
    if read.repeated:
        notes.append(f"Rows of {path.name} that repeat an earlier one, read once: {read.repeated}.")
    return Collection(
        name=place.name,
        origin=place.origin,
        licence=place.licence,
        labels=labels,
        images=FileImages(place.folder, tuple(read.images)),
        targets=np.asarray([index[label] for label, _ in read.images.values()], dtype=np.int64),
        parts=np.asarray([part for _, part in read.images.values()], dtype=np.str_),
        notes=tuple(notes),
    )
