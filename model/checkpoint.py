"""A version's files on disk: their names, their digests, and reading them back verified.

Weights and golden values are safetensors, networks are ONNX, all else is JSON and Markdown:
nothing here can run code when it is read. Knows nothing of versions' numbers or aliases.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.errors import CorruptCheckpoint
from model.manifest import FileRecord, Manifest, write_manifest_text
from model.preprocessing import Pixels

MANIFEST = "manifest.json"
STATE = "state.json"  # of all versions of a model, beside their folders
CLAIM = ".claim"  # beside the manifest, and in its place once the version was removed: the number is taken
WRITING = ".writing-"  # a prefix
WEIGHTS = "model.safetensors"
NETWORK = "model.onnx"
EXPLAIN_NETWORK = "model.explain.onnx"
LAYERS = "layers.json"
GOLDEN = "golden.safetensors"
CARD = "card.md"
REPORT = "report"  # a folder


@dataclass(frozen=True)
class Golden:
    """A few real inputs, uint8 (N, H, W, C), and the reference logits, float32 (N, K)."""

    pixels: Pixels
    logits: NDArray[np.float32]


def digest_files(folder: Path) -> dict[str, FileRecord]:
    """Return a record of every file in `folder` but the manifest and the claim, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and path != folder / CLAIM
    }


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its record in the manifest.

    Raises:
        CorruptCheckpoint: a file is missing or is not the one that was published.
    """
    unlisted = {WEIGHTS, NETWORK, GOLDEN} - manifest.files.keys()
    if unlisted:
        raise CorruptCheckpoint(f"{folder / MANIFEST} does not list {', '.join(sorted(unlisted))}")
    for name, record in manifest.files.items():
        verify_file(folder / name, record)


def verify_file(path: Path, record: FileRecord) -> None:
    """Compare a file with its record in the manifest.

    Raises:
        CorruptCheckpoint: it is missing or is not the one that was published.
    """
    try:
        size, digest = path.stat().st_size, _sha256(path)
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {error.strerror}; publish the version again") from error
    if size != record.bytes or digest != record.sha256:
        raise CorruptCheckpoint(
            f"{path} is not the file that was published: its SHA-256 is {digest[:12]}..., {MANIFEST} says "
            f"{record.sha256[:12]}...; restore the file or publish the version again"
        )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a version's manifest, whole or not at all, and never over one that is there.

    Raises:
        FileExistsError: the folder has a manifest already.
    """
    temporary = write_temporary(folder, write_manifest_text(manifest))
    try:
        os.link(temporary, folder / MANIFEST)
    finally:
        temporary.unlink()


def write_temporary(folder: Path, text: str) -> Path:
    """Write `text` to a new hidden file in `folder`, and wait until it is on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=WRITING, dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of entries, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_card(folder: Path) -> str:
    """Return a version's card, as much of it as can be read."""
    try:
        return (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def write_golden(folder: Path, golden: Golden) -> None:
    """Store golden inputs and outputs."""
    # safetensors writes memory as it lies: a view with strides would be stored in the wrong order
    tensors: dict[str, NDArray[np.generic]] = {
        "pixels": np.ascontiguousarray(golden.pixels),
        "logits": np.ascontiguousarray(golden.logits),
    }
    save_file(tensors, folder / GOLDEN)


def read_golden(folder: Path) -> Golden:
    """Read golden inputs and outputs.

    Raises:
        CorruptCheckpoint: the file is missing or not understood.
    """
    try:
        tensors = load_file(folder / GOLDEN)
        return Golden(pixels=tensors["pixels"], logits=tensors["logits"])
    except (OSError, SafetensorError, KeyError) as error:
        raise CorruptCheckpoint(f"{folder / GOLDEN} cannot be read: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
