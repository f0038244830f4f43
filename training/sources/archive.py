"""Archives, unpacked with distrust: nothing lands outside the folder, and not without bounds.

Knows nothing of what the files inside mean.
"""

import contextlib
import errno
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Final

from training.errors import InvalidData
from training.sources.place import PART_NAMES, is_image, listing, printable, suffix

MAX_UNPACKED_BYTES: Final = 50_000_000_000
MAX_UNPACKED_FILES: Final = 2_000_000
ARCHIVE_SUFFIXES: Final = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz",
)  # fmt: skip
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeError)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ENCRYPTED = 0x1


@dataclass
class _Count:
    """What has been unpacked so far, held against the limits."""

    shown: str
    files: int = 0
    bytes: int = 0
    links: int = 0

    def add(self, size: int) -> None:
        self.files += 1
        self.bytes += size
        if self.files > MAX_UNPACKED_FILES:
            raise InvalidData(
                f"{self.shown} holds more than {MAX_UNPACKED_FILES:,} files, the limit MAX_UNPACKED_FILES: "
                "unpack it yourself and give the folder"
            )
        if self.bytes > MAX_UNPACKED_BYTES:
            raise InvalidData(
                f"{self.shown} unpacks to more than {MAX_UNPACKED_BYTES:,} bytes, the limit MAX_UNPACKED_BYTES: "
                "unpack it yourself and give the folder"
            )


def is_archive(path: Path) -> bool:
    """Say whether a file is a zip or a tar by its content, or is meant to be one by its name."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) or zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def stem(name: str) -> str:
    """Return an archive's name without what says that it is one."""
    endings = [ending for ending in ARCHIVE_SUFFIXES if name.lower().endswith(ending)]
    return name[: -len(max(endings, key=len))] if endings else Path(name).stem


def unpack(path: Path, work: Path) -> tuple[Path, tuple[str, ...]]:
    """Unpack a zip or a tar into a new folder in `work`; return the folder that holds the data, and notes.

    Links are left out. That folder is the archive's only top folder, where it has one. What is unpacked
    of an archive that turns out to be wrong is removed.

    Raises:
        InvalidData: it is broken, encrypted, above the limits, would write outside its folder, or
            the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix="unpacked-", dir=work))
    count = _Count(path.name)
    try:
        with _told(path, work):
            if zipfile.is_zipfile(path):
                _unpack_zip(path, folder, count)
            elif tarfile.is_tarfile(path):
                _unpack_tar(path, folder, count)
            else:
                raise InvalidData(f"{path.name} is neither a zip nor a tar file, or it is cut short: download it again")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    notes = (f"Links in {path.name}, left out: {count.links}.",) if count.links else ()
    return _below_top(folder), notes


def _unpack_zip(path: Path, folder: Path, count: _Count) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for member in members:
            count.add(member.file_size)
        _check_space(path, folder, count.bytes)
        for member in members:
            _check_member(member, path)
            if stat.S_ISLNK(member.external_attr >> 16):
                count.links += 1
            else:
                archive.extract(member, folder)


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or PureWindowsPath(name).anchor or ".." in name.split("/"):
        raise _outside(path, member.filename)
    if member.flag_bits & _ENCRYPTED:
        raise InvalidData(f"{path.name} is encrypted: unpack it with its password and give the folder")


def _check_space(path: Path, folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise InvalidData(
            f"{path.name} unpacks to {wanted:,} bytes, and {folder.parent} has {free:,} free: make room, "
            "or unpack it elsewhere and give the folder"
        )


def _unpack_tar(path: Path, folder: Path, count: _Count) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.issym() or member.islnk():
                count.links += 1
            elif member.isreg():
                count.add(member.size)
                archive.extract(member, folder, filter="data")
            elif not member.isdir():
                raise InvalidData(f"{path.name} holds {printable(member.name)}, which is no plain file: take it out")


def _outside(path: Path, member: str) -> InvalidData:
    return InvalidData(f"{path.name} would write outside its folder, to {printable(member)}: do not use this archive")


@contextlib.contextmanager
def _told(path: Path, work: Path) -> Iterator[None]:
    """Say in this project's words what was wrong with an archive."""
    try:
        yield
    except tarfile.FilterError as error:
        raise _outside(path, error.tarinfo.name) from error
    except _BROKEN as error:
        raise InvalidData(f"{path.name} is cut short or broken: {error}; download it again") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile: a password, an unknown compression
        raise InvalidData(f"{path.name} cannot be unpacked: {error}; unpack it yourself and give the folder") from error
    except OSError as error:
        if error.errno in _FULL:
            raise InvalidData(f"the disk is full: {path.name} does not fit into {work}; make room there") from error
        raise InvalidData(f"{path.name} cannot be unpacked into {work}: {error}") from error


def _below_top(folder: Path) -> Path:
    """Go down while there is one folder and nothing beside it to read, but into no part and no class."""
    folders, files = listing(folder)
    while len(folders) == 1 and not any(map(_is_data, files)) and folders[0].lower() not in PART_NAMES:
        below = folder / folders[0]
        below_folders, below_files = listing(below)
        if not below_folders and not any(map(_is_description, below_files)):
            break
        folder, folders, files = below, below_folders, below_files
    return folder


def _is_data(name: str) -> bool:
    return _is_description(name) or (is_image(name) and suffix(name) != "")


def _is_description(name: str) -> bool:
    return suffix(name) in (".csv", ".tsv") or "idx" in name
