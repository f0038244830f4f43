import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model import archive, classifier
from model.archive import archive_blocks, is_archive, read_archive, write_archive
from model.checkpoint import CARD, MANIFEST, NETWORK
from model.engines.base import Engine
from model.engines.selection import Candidate, open_engine
from model.errors import CorruptCheckpoint, EngineUnavailable, InvalidReference, RegistryUnavailable
from model.registry import Registry, StoredVersion
from model.types import ModelRef

Entry = tuple[tarfile.TarInfo, bytes]


@pytest.fixture(scope="module")
def packed(published_tiny: Path) -> bytes:
    return b"".join(archive_blocks(Registry(published_tiny).version(ModelRef.parse("tiny"))))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry, in which nothing half made may be left."""
    (tmp_path / "target").mkdir()
    yield Registry(tmp_path / "target")
    left = [path for path in (tmp_path / "target").rglob("*") if ".staging" in path.name]
    assert left == []


class Pipe(io.RawIOBase):
    """Bytes that come a few at a time and cannot be sought."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 1000))


def entries(packed: bytes) -> list[Entry]:
    found = []
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None
            found.append((entry, file.read()))
    return found


def pack(found: list[Entry]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry, data in found:
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def plain(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> Entry:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = len(data), kind, link
    return entry, data


def with_manifest(packed: bytes, **changes: object) -> bytes:
    (entry, text), *rest = entries(packed)
    manifest = {**json.loads(text), **changes}
    del manifest["digest"]  # an older hubel's have none
    data = json.dumps(manifest).encode()
    entry.size = len(data)
    return pack([(entry, data), *rest])


def test_an_exported_version_comes_back_equal_to_the_bit(tiny: StoredVersion, tmp_path: Path, target: Registry) -> None:
    path = tmp_path / "tiny.hubel.tar"
    write_archive(tiny, path)
    again = read_archive(path, target)
    assert again.manifest == tiny.manifest
    for name in (*tiny.manifest.files, MANIFEST):
        assert (again.folder / name).read_bytes() == (tiny.folder / name).read_bytes()
    assert b"".join(archive_blocks(again)) == path.read_bytes()
    assert target.state("tiny").aliases == {"production": 1}
    assert is_archive(path)
    assert not is_archive(tiny.folder / NETWORK)


def test_any_tar_program_reads_it(packed: bytes, tiny: StoredVersion) -> None:
    found = entries(packed)
    assert [entry.name for entry, _ in found] == [MANIFEST, *sorted(tiny.manifest.files)]
    assert {(entry.uid, entry.uname, entry.mode) for entry, _ in found} == {(0, "", 0o644)}


def test_a_stream_gives_a_version_of_another_name_and_an_alias(packed: bytes, target: Registry) -> None:
    version = read_archive(Pipe(packed), target, "other", "canary")  # type: ignore[arg-type]
    assert str(version) == "other:1"
    assert target.version(ModelRef.parse("other@canary")).manifest.name == "other"
    file = io.BytesIO()
    write_archive(version, file)
    assert len(file.getvalue()) == sum(map(len, archive_blocks(version)))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda found: found[:-1], ["lacks model.safetensors"]),
        (lambda found: [*found, plain("extra.txt")], ["'extra.txt'", "does not list"]),
        (lambda found: [*found, plain(CARD)], ["'card.md' twice"]),
        (lambda found: [found[0], found[0], *found[1:]], ["'manifest.json'", "does not list"]),
        (lambda found: [found[0], plain("../card.md"), *found[1:]], ["'../card.md'", "does not list"]),
        (lambda found: [found[0], plain("/tmp/card.md"), *found[1:]], ["'/tmp/card.md'", "does not list"]),
        (lambda found: [found[0], plain(CARD, b"", tarfile.SYMTYPE, "/etc/passwd")], ["'card.md'", "not a plain file"]),
        (lambda found: [found[0], plain(CARD, b"", tarfile.LNKTYPE, MANIFEST)], ["'card.md'", "not a plain file"]),
        (lambda found: [found[0], plain(CARD, b"", tarfile.CHRTYPE)], ["'card.md'", "not a plain file"]),
        (lambda found: [found[0], plain("report", b"", tarfile.DIRTYPE)], ["'report'", "not a plain file"]),
        (lambda found: [found[0], plain("x", b"y", tarfile.XHDTYPE)], ["not a plain file"]),
        (lambda found: [found[0], plain(CARD, b"short")], ["card.md", "has 5 bytes", "export it again"]),
        (lambda found: [found[0], plain(CARD, b"z" * found[1][0].size)], ["card.md", "SHA-256"]),
        (lambda found: found[1:], ["not an archive that 'hubel export' wrote", "'card.md'"]),
        (lambda _: [], ["first file is missing"]),
    ],
)
def test_what_is_not_as_its_manifest_says_is_refused(
    packed: bytes, target: Registry, fault: Callable[[list[Entry]], list[Entry]], words: list[str]
) -> None:
    with pytest.raises(CorruptCheckpoint) as caught:
        read_archive(io.BytesIO(pack(fault(entries(packed)))), target)
    for word in words:
        assert word in str(caught.value)
    assert not target.has("tiny")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, ["schema_version 2", "a newer hubel wrote it"]),
        ({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, ["'../x'", "does not name a file inside"]),
        ({"files": {"a//b": {"bytes": 1, "sha256": "0" * 64}}}, ["'a//b'", "cannot be a file"]),
        ({"files": {"report/manifest.json": {"bytes": 1, "sha256": "0" * 64}}}, ["cannot be a file"]),
        ({"files": {"manifest.json/a": {"bytes": 1, "sha256": "0" * 64}}}, ["cannot be a file"]),
        ({"files": {name: {"bytes": 1, "sha256": "0" * 64} for name in ("a", "a/b")}}, ["'a/b'", "cannot be a file"]),
        ({"files": {name: {"bytes": 1, "sha256": "0" * 64} for name in ("a/b/c", "a")}}, ["'a/b/c'", "cannot be"]),
        ({"labels": ["one"]}, ["labels"]),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    packed: bytes, target: Registry, changes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(CorruptCheckpoint) as caught:
        read_archive(io.BytesIO(with_manifest(packed, **changes)), target)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9])
def test_an_archive_that_was_cut_short_is_refused(packed: bytes, target: Registry, share: float) -> None:
    with pytest.raises(CorruptCheckpoint, match="ends too early"):
        read_archive(io.BytesIO(packed[: int(len(packed) * share)]), target)
    assert not target.has("tiny")


def test_what_is_no_archive_is_refused(target: Registry, tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match="not an archive that 'hubel export' wrote"):
        read_archive(io.BytesIO(b"PK\x03\x04" * 1000), target)
    with pytest.raises(CorruptCheckpoint, match=r"missing\.tar cannot be read"):
        read_archive(tmp_path / "missing.tar", target)


def test_a_header_cannot_ask_for_more_than_the_limit(
    packed: bytes, target: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_MAX_MANIFEST_BYTES", 100)
    with pytest.raises(CorruptCheckpoint, match="the limit is 100 bytes"):
        read_archive(io.BytesIO(packed), target)


@pytest.mark.parametrize(("name", "alias"), [("../evil", None), (None, "7")])
def test_names_are_checked_before_anything_is_written(
    packed: bytes, target: Registry, tmp_path: Path, name: str | None, alias: str | None
) -> None:
    with pytest.raises(InvalidReference):
        read_archive(io.BytesIO(packed), target, name, alias)
    assert not list((tmp_path / "target").iterdir())


def test_a_network_that_does_not_load_is_not_published(packed: bytes, target: Registry) -> None:
    """Sizes and digests agree, but the network is none."""
    files = json.loads(entries(packed)[0][1])["files"]
    broken = b"\xff" * files[NETWORK]["bytes"]
    files[NETWORK]["sha256"] = hashlib.sha256(broken).hexdigest()
    found = entries(with_manifest(packed, files=files))
    found = [(entry, broken if entry.name == NETWORK else data) for entry, data in found]
    with pytest.raises(CorruptCheckpoint, match="ONNX Runtime cannot load"):
        read_archive(io.BytesIO(pack(found)), target)
    assert not target.has("tiny")


def test_an_engine_that_lacks_a_package_here_does_not_stop_another(
    packed: bytes, target: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(version: StoredVersion, candidate: Candidate, threads: int, shared: Path | None) -> Engine:
        if candidate.engine == "torch":
            raise EngineUnavailable("timm is not installed")
        return open_engine(version, candidate, threads, shared)

    monkeypatch.setattr(classifier, "open_engine", refuse)
    assert read_archive(io.BytesIO(packed), target).number == 1
    monkeypatch.setattr(classifier, "is_installed", lambda engine: engine == "torch")
    with pytest.raises(EngineUnavailable, match="timm is not installed"):
        read_archive(io.BytesIO(packed), target)
    assert target.numbers("tiny") == [1]


def test_a_damaged_version_is_not_exported(tiny: StoredVersion, tmp_path: Path) -> None:
    path = tmp_path / "tiny.hubel.tar"
    path.write_text("what was there before")
    data = bytearray((tiny.folder / NETWORK).read_bytes())
    data[50] ^= 1
    (tiny.folder / NETWORK).write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match=r"model\.onnx is not the file that was published"):
        write_archive(tiny, path)
    (tiny.folder / CARD).unlink()
    with pytest.raises(CorruptCheckpoint, match=r"card\.md cannot be read"):
        write_archive(tiny, path)
    assert path.read_text() == "what was there before"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_registry_that_cannot_be_written_is_named(packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RegistryUnavailable):
        read_archive(io.BytesIO(packed), Registry(tmp_path / "file"))


def test_archives_are_read_and_written_without_torch() -> None:
    code = "import sys, model.archive; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
