import json
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import (
    GOLDEN,
    MANIFEST,
    NETWORK,
    WEIGHTS,
    Golden,
    read_golden,
    verify_files,
    write_golden,
    write_manifest,
)
from model.errors import CorruptCheckpoint
from model.registry import Registry, StoredVersion


def test_golden_values_of_any_memory_layout_come_back_as_they_were(tmp_path: Path) -> None:
    pixels = np.arange(2 * 8 * 6 * 3, dtype=np.uint8).reshape(2, 8, 6, 3)[:, ::2, ::-1]
    logits = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    write_golden(tmp_path, Golden(pixels, logits))
    golden = read_golden(tmp_path)
    assert np.array_equal(golden.pixels, pixels)
    assert np.array_equal(golden.logits, logits)


@pytest.mark.parametrize("name", [WEIGHTS, NETWORK, GOLDEN, "card.md", "layers.json", "model.explain.onnx"])
def test_a_flipped_bit_in_any_file_is_found(name: str, tiny: StoredVersion) -> None:
    path = tiny.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=f"{name} is not the file that was published"):
        verify_files(tiny.folder, tiny.manifest)


def test_a_missing_file_is_named(tiny: StoredVersion) -> None:
    (tiny.folder / WEIGHTS).unlink()
    with pytest.raises(CorruptCheckpoint, match=f"{WEIGHTS} cannot be read: No such file"):
        verify_files(tiny.folder, tiny.manifest)


def test_a_file_that_the_manifest_does_not_list_is_not_trusted(tiny: StoredVersion) -> None:
    files = {name: record for name, record in tiny.manifest.files.items() if name != NETWORK}
    with pytest.raises(CorruptCheckpoint, match=f"does not list {NETWORK}"):
        verify_files(tiny.folder, tiny.manifest.model_copy(update={"files": files}))


def test_a_manifest_is_never_written_over(tiny: StoredVersion) -> None:
    before = (tiny.folder / MANIFEST).read_bytes()
    with pytest.raises(FileExistsError):
        write_manifest(tiny.folder, tiny.manifest)
    assert (tiny.folder / MANIFEST).read_bytes() == before
    assert not list(tiny.folder.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "a newer hubel wrote it"),
        ({"tolerance": 7}, "tolerance"),
        ({"surprise": 1}, "surprise"),
        ({"labels": ["one"]}, "labels"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "does not name a file inside"),
    ],
)
def test_a_manifest_that_is_not_understood_says_where(
    change: dict[str, object], message: str, tiny: StoredVersion
) -> None:
    path = tiny.folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CorruptCheckpoint, match=message) as caught:
        Registry(tiny.folder.parent.parent).manifest(tiny.name, tiny.number)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_file_that_is_no_manifest_is_refused(content: bytes, tiny: StoredVersion) -> None:
    (tiny.folder / MANIFEST).write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=r"manifest\.json"):
        Registry(tiny.folder.parent.parent).manifest(tiny.name, tiny.number)


def test_golden_values_that_are_no_safetensors_are_refused(tiny: StoredVersion) -> None:
    (tiny.folder / GOLDEN).write_bytes(b"\x80\x04pickle")
    with pytest.raises(CorruptCheckpoint, match=GOLDEN):
        read_golden(tiny.folder)
