"""Archives of any form, and archives that mean harm."""

import errno
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes import encode, noise
from training.collection import Collection
from training.errors import InvalidData
from training.sources import archive
from training.sources.open import open_collection

IMAGE = encode(noise(8, 6))
FOLDERS = ("a/1.png", "b/1 2.png")


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        for other in others:
            file.addfile(other)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def names(collection: Collection) -> list[str]:
    return [collection.images.name(index) for index in range(len(collection))]


def write(path: Path, members: dict[str, bytes]) -> Path:
    return (write_zip if path.suffix == ".zip" else write_tar)(path, members)


@pytest.mark.parametrize("ending", archive.ARCHIVE_SUFFIXES)
@pytest.mark.parametrize("top", ["", "Photos/", "x/y/"])
def test_every_archive_reads_as_its_folder(tmp_path: Path, work: Path, ending: str, top: str) -> None:
    path = write(tmp_path / f"My Photos{ending}", {f"{top}{name}": IMAGE for name in FOLDERS})
    collection = open_collection(str(path), work=work)
    assert names(collection) == list(FOLDERS)
    assert (collection.name, collection.origin) == ("my-photos", f"archive My Photos{ending}")
    assert collection.images.read(1) == IMAGE


class Form(NamedTuple):
    members: dict[str, bytes]
    labels: tuple[str, ...]
    parts: set[str]


@pytest.mark.parametrize("top", ["", "top/"])
@pytest.mark.parametrize(
    "form",
    [
        Form({"train/a/1.png": IMAGE, "train/b/1.png": IMAGE, "README.md": b"hello"}, ("a", "b"), {"train"}),
        Form({"l.csv": b"file,label\n1.png,x\n2.png,y\n", "1.png": IMAGE, "2.png": IMAGE}, ("x", "y"), {""}),
        Form({"l.csv": b"file,label\ni/1.png,x\ni/2.png,y\n", "i/1.png": IMAGE, "i/2.png": IMAGE}, ("x", "y"), {""}),
        Form(
            {
                "train-images-idx3-ubyte": bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 9)),
                "train-labels-idx1-ubyte": bytes((0, 0, 8, 1, 0, 0, 0, 2, 0, 1)),
            },
            ("0", "1"),
            {"train"},
        ),
    ],
)
def test_every_form_reads_from_an_archive(tmp_path: Path, work: Path, form: Form, top: str) -> None:
    path = write_zip(tmp_path / "d.zip", {top + name: content for name, content in form.members.items()})
    collection = open_collection(str(path), work=work)
    assert collection.labels == form.labels
    assert set(collection.parts.tolist()) == form.parts


def test_archive_is_known_by_its_content(tmp_path: Path, work: Path) -> None:
    path = write_zip(tmp_path / "download", dict.fromkeys(FOLDERS, IMAGE))
    assert names(open_collection(str(path), work=work)) == list(FOLDERS)


def test_one_class_in_an_archive_is_one_class(tmp_path: Path, work: Path) -> None:
    with pytest.raises(InvalidData, match="only one class, cat"):
        open_collection(str(write_zip(tmp_path / "d.zip", {"top/cat/1.png": IMAGE})), work=work)


def test_links_in_archives_are_left_out_and_counted(tmp_path: Path, work: Path) -> None:
    path = write_tar(
        tmp_path / "d.tar",
        dict.fromkeys(FOLDERS, IMAGE),
        link("a/2.png", "/etc/passwd"),
        link("a/3.png", "a/1.png", tarfile.LNKTYPE),
    )
    collection = open_collection(str(path), work=work)
    assert names(collection) == list(FOLDERS)
    assert collection.notes == ("Links in d.tar, left out: 2.",)


def zip_with(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_zip(folder / "d.zip", {**dict.fromkeys(FOLDERS, IMAGE), name: IMAGE})


def tar_with(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_tar(folder / "d.tar.gz", {**dict.fromkeys(FOLDERS, IMAGE), name: IMAGE})


def encrypted(folder: Path) -> Path:
    path = write_zip(folder / "d.zip", dict.fromkeys(FOLDERS, IMAGE))
    content = bytearray(path.read_bytes())
    for magic, flags_at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(magic)
        while at >= 0:
            content[at + flags_at] |= 1
            at = content.find(magic, at + 1)
    path.write_bytes(content)
    return path


def cut(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write(folder / name, {f"{at}/1.png": encode(noise(60, 60, seed=at)) for at in range(5)})
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return make


def damaged(folder: Path) -> Path:
    path = write_zip(folder / "d.zip", dict.fromkeys(FOLDERS, IMAGE))
    content = path.read_bytes()
    path.write_bytes(
        content.replace(IMAGE[200:220], b"\0" * 20)
        if IMAGE[200:220] in content
        else content[:60] + b"\xff" * 30 + content[90:]
    )
    return path


def device(folder: Path) -> Path:
    return write_tar(folder / "d.tar", dict.fromkeys(FOLDERS, IMAGE), link("a/pipe", "", tarfile.FIFOTYPE))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (zip_with("../out.png"), "would write outside its folder, to ../out.png"),
        (zip_with("a/../../out.png"), "would write outside"),
        (zip_with("/out.png"), "would write outside"),
        (zip_with("..\\out.png"), "would write outside"),
        (zip_with("C:/out.png"), "would write outside"),
        (tar_with("../out.png"), "would write outside its folder, to ../out.png"),
        (tar_with("a/../../out.png"), "would write outside"),
        (device, "a/pipe, which is no plain file"),
        (encrypted, "is encrypted"),
        (cut("d.zip"), "neither a zip nor a tar file, or it is cut short"),
        (cut("d.tar"), "cut short or broken"),
        (cut("d.tar.gz"), "cut short or broken"),
        (cut("d.tar.xz"), "cut short or broken"),
        (damaged, "cut short or broken"),
    ],
)
def test_archive_that_is_wrong_is_refused_and_leaves_nothing(
    tmp_path: Path, work: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(InvalidData, match=message):
        open_collection(str(path), work=work)
    assert list(work.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == [path, work]


@pytest.mark.parametrize("name", ["d.zip", "d.tar"])
@pytest.mark.parametrize("limit", ["MAX_UNPACKED_BYTES", "MAX_UNPACKED_FILES"])
def test_archive_above_a_limit_is_refused_by_the_limits_name(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: str
) -> None:
    value = {"MAX_UNPACKED_BYTES": 150, "MAX_UNPACKED_FILES": 1}[limit]
    monkeypatch.setattr(archive, limit, value)
    with pytest.raises(InvalidData, match=rf"more than {value} .*{limit}"):
        open_collection(str(write(tmp_path / name, dict.fromkeys(FOLDERS, bytes(100)))), work=work)
    assert list(work.iterdir()) == []


def test_archive_that_does_not_fit_is_refused_before_it_is_unpacked(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InvalidData, match=r"unpacks to .* bytes, and .* has 1 free: make room"):
        open_collection(str(write_zip(tmp_path / "d.zip", dict.fromkeys(FOLDERS, IMAGE))), work=work)


def test_disk_that_fills_up_is_named(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    with pytest.raises(InvalidData, match="the disk is full"):
        open_collection(str(write_tar(tmp_path / "d.tar", dict.fromkeys(FOLDERS, IMAGE))), work=work)
    assert list(work.iterdir()) == []
