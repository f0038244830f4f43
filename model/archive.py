"""A version as one file: a tar of its manifest and of every file that the manifest lists.

The tar is not compressed: weights are nearly random bits, which no compressor makes smaller, and
a file without compression holds no more bytes than it sends. The manifest comes first, so that a
reader of a stream knows each file's size and SHA-256 before it arrives. The same version always
gives the same bytes: files by name, the time that of the version, no owner.

Only plain tar headers (ustar) of plain files are read. Whatever else a tar may hold (links,
devices, folders, extended headers) is refused, and so is every file that the manifest does not
list, so that nothing is written but what it announces. Knows nothing of HTTP.
"""

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from model.checkpoint import MANIFEST
from model.classifier import check_staged
from model.errors import CorruptCheckpoint, RegistryUnavailable
from model.manifest import FileRecord, Manifest, parse_manifest, write_manifest_text
from model.registry import Registry, StoredVersion
from model.types import check_alias, check_name

SUFFIX = ".hubel.tar"
MEDIA_TYPE = "application/x-tar"

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_END = b"\0" * (2 * _BLOCK)
_MAGIC = slice(257, 262)
_MAX_MANIFEST_BYTES = 16 << 20


def write_archive(version: StoredVersion, target: Path | BinaryIO) -> None:
    """Write a version as one file, verifying every file on the way.

    A path gets the whole archive or stays as it is; what a binary file has been given when a
    fault is found is for its owner to throw away.

    Raises:
        CorruptCheckpoint: a file of the version is missing or altered.
        OSError: the target cannot be written.
    """
    if isinstance(target, Path):
        replace_file(target, archive_blocks(version))
        return
    for block in archive_blocks(version):
        target.write(block)


def copy_verified(version: StoredVersion, file: str, target: Path) -> None:
    """Copy one of a version's files, whole and verified or not at all.

    Raises:
        CorruptCheckpoint: the file is missing or altered.
        OSError: the target cannot be written.
    """
    replace_file(target, _verified_chunks(version.folder / file, version.manifest.files[file]))


def archive_blocks(version: StoredVersion) -> Iterator[bytes]:
    """Give an archive's bytes piece by piece, as an answer that is streamed wants them.

    Raises:
        CorruptCheckpoint: a file of the version is missing or altered; the pieces before are no archive.
    """
    time = int(version.manifest.provenance.created.timestamp())
    text = write_manifest_text(version.manifest).encode()
    yield _header(MANIFEST, len(text), time)
    yield text
    yield _padding(len(text))
    for name, record in sorted(version.manifest.files.items()):
        yield _header(name, record.bytes, time)
        yield from _verified_chunks(version.folder / name, record)
        yield _padding(record.bytes)
    yield _END


def read_archive(
    source: Path | BinaryIO, registry: Registry, name: str | None = None, alias: str | None = None
) -> StoredVersion:
    """Make an archive the next version of its model, after loading it with every engine that is here.

    Args:
        source: a path, or a binary file that is read once from front to end.
        registry: where the version goes.
        name: of the model; the archive's own by default.
        alias: to move to the new version.

    Raises:
        CorruptCheckpoint: it is no archive, holds other files than its manifest lists, or does not load.
        EngineUnavailable: nothing on this machine runs it.
        InvalidReference: the name or the alias cannot be one.
        RegistryUnavailable: the registry cannot be written.
    """
    if not isinstance(source, Path):
        return _read(source, "the archive", registry, name, alias)
    try:
        file = source.open("rb")
    except OSError as error:
        raise CorruptCheckpoint(f"{source} cannot be read: {error.strerror}") from error
    with file:
        return _read(file, str(source), registry, name, alias)


def is_archive(path: Path) -> bool:
    """Say whether a file begins as an archive does, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(_BLOCK)[_MAGIC] == b"ustar"
    except OSError:
        return False


def _read(file: BinaryIO, where: str, registry: Registry, name: str | None, alias: str | None) -> StoredVersion:
    manifest = _read_manifest(file, where)
    if name is not None:
        manifest = manifest.model_copy(update={"name": name, "digest": None})
    check_name(manifest.name)
    if alias is not None:
        check_alias(alias)
    try:
        with registry.staging(manifest.name) as folder:
            _unpack(file, where, folder, manifest)
            check_staged(folder, manifest)
            return registry.publish(folder, manifest, alias)
    finally:
        registry.forget_empty(manifest.name)


def _read_manifest(file: BinaryIO, where: str) -> Manifest:
    entry = _next_entry(file, where)
    if entry is None or entry.name != MANIFEST:
        raise CorruptCheckpoint(
            f"{where} is not an archive that 'hubel export' wrote: its first file is "
            f"{repr(entry.name) if entry else 'missing'}, not {MANIFEST!r}"
        )
    if entry.size > _MAX_MANIFEST_BYTES:
        raise CorruptCheckpoint(
            f"{where} has a {MANIFEST} of {entry.size} bytes; the limit is {_MAX_MANIFEST_BYTES} bytes"
        )
    data = b"".join(_chunks(file, entry.size, where))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptCheckpoint(f"the {MANIFEST} in {where} is not UTF-8") from error
    manifest = parse_manifest(text, f"the {MANIFEST} in {where}")
    for name in manifest.files:
        path = PurePosixPath(name)
        in_a_file = any(str(parent) in (MANIFEST, *manifest.files) for parent in path.parents)
        if str(path) != name or path.name in ("", MANIFEST) or in_a_file:
            raise CorruptCheckpoint(f"the {MANIFEST} in {where} lists {name!r}, which cannot be a file of a version")
    return manifest


def _unpack(file: BinaryIO, where: str, folder: Path, manifest: Manifest) -> None:
    """Write each file that follows if it is the one that the manifest lists."""
    missing = dict(manifest.files)
    while (entry := _next_entry(file, where)) is not None:
        record = missing.pop(entry.name, None)
        if record is None:
            kind = "twice" if entry.name in manifest.files else f"which its {MANIFEST} does not list"
            raise CorruptCheckpoint(f"{where} holds {entry.name!r} {kind}; nothing was imported")
        if entry.size != record.bytes:
            raise CorruptCheckpoint(
                f"{entry.name} in {where} has {entry.size} bytes, its {MANIFEST} says {record.bytes}; copy the archive "
                "again or export it again"
            )
        try:
            _write_file(file, where, folder / entry.name, record)
        except OSError as error:
            raise RegistryUnavailable(
                f"{entry.name} of {where} cannot be written into the registry: {error.strerror}; nothing was imported"
            ) from error
    if missing:
        raise CorruptCheckpoint(
            f"{where} lacks {', '.join(sorted(missing)[:3])}, which its {MANIFEST} lists; copy the archive again or "
            "export it again"
        )


def _write_file(file: BinaryIO, where: str, path: Path, record: FileRecord) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as target:
        for chunk in _chunks(file, record.bytes, where):
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != record.sha256:
        raise CorruptCheckpoint(
            f"{path.name} in {where} is not the file that was exported: its SHA-256 is {digest.hexdigest()[:12]}..., "
            f"its {MANIFEST} says {record.sha256[:12]}...; copy the archive again or export it again"
        )


def _next_entry(file: BinaryIO, where: str) -> tarfile.TarInfo | None:
    """Read a header; None at the end of the archive.

    Raises:
        CorruptCheckpoint: it is no header, or one of something else than a plain file.
    """
    block = _exactly(file, _BLOCK, where)
    if block == bytes(_BLOCK):
        return None
    try:
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except tarfile.HeaderError as error:
        raise CorruptCheckpoint(
            f"{where} is not an archive that 'hubel export' wrote, or is damaged: {error}"
        ) from error
    except ValueError as error:
        raise CorruptCheckpoint(f"{where} has a file whose name is not UTF-8") from error
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.size < 0:
        raise CorruptCheckpoint(
            f"{where} holds {entry.name!r}, which is not a plain file (tar type {entry.type.decode('latin-1')!r}); "
            "only archives that 'hubel export' wrote are imported"
        )
    return entry


def _chunks(file: BinaryIO, size: int, where: str) -> Iterator[bytes]:
    """Give an entry's content, and read the padding behind it."""
    left = size
    while left:
        chunk = _exactly(file, min(left, _CHUNK), where)
        left -= len(chunk)
        yield chunk
    _exactly(file, len(_padding(size)), where)


def _exactly(file: BinaryIO, size: int, where: str) -> bytes:
    """Read so many bytes, from a file that may give fewer at a time."""
    parts: list[bytes] = []
    left = size
    while left:
        try:
            part = file.read(left)
        except OSError as error:
            raise CorruptCheckpoint(f"{where} cannot be read: {error.strerror or error}") from error
        if not part:
            raise CorruptCheckpoint(f"{where} ends too early; copy the archive again or export it again")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _verified_chunks(path: Path, record: FileRecord) -> Iterator[bytes]:
    """Give a file's content, and find at its end whether it is the one that was published."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > record.bytes:
                    break
                digest.update(chunk)
                yield chunk
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {error.strerror}; publish the version again") from error
    if size != record.bytes or digest.hexdigest() != record.sha256:
        raise CorruptCheckpoint(
            f"{path} is not the file that was published: {MANIFEST} names another size or SHA-256; restore the file or "
            "publish the version again"
        )


def replace_file(target: Path, blocks: Iterable[bytes]) -> None:
    """Write a file beside the target and put it in its place when it is whole."""
    descriptor, name = tempfile.mkstemp(prefix=".", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _header(name: str, size: int, time: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, time, 0o644
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise CorruptCheckpoint(f"{name!r} cannot be put into an archive: {error}") from error


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)
