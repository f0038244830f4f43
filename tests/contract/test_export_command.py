"""`hubel export`: what it writes, what it says of it, what it refuses."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from model.archive import archive_blocks
from model.checkpoint import NETWORK
from model.registry import Registry, StoredVersion
from tests.inside import hubel


def test_a_version_is_exported_whole_and_never_over_a_file_without_force(
    tiny_root: Path, tiny: StoredVersion, tmp_path: Path
) -> None:
    first = hubel("export", "tiny", "--registry", tiny_root, cwd=tmp_path)
    path = tmp_path / "tiny-1.hubel.tar"
    assert first.stdout.splitlines()[0].startswith("tiny:1 is in tiny-1.hubel.tar (0.")
    assert "hubel import tiny-1.hubel.tar" in first.stdout
    assert path.read_bytes() == b"".join(archive_blocks(tiny))
    path.write_text("mine")
    second = hubel("export", "tiny", "--registry", tiny_root, "--output", tmp_path)
    assert (second.returncode, path.read_text()) == (2, "mine")
    assert "--force" in second.stderr
    assert hubel("export", "tiny:1", "--registry", tiny_root, "--output", path, "--force").returncode == 0
    assert path.read_bytes() == b"".join(archive_blocks(tiny))


def test_a_network_is_exported_with_its_labels_and_the_form_of_its_input(published_tiny: Path, tmp_path: Path) -> None:
    result = hubel("export", "tiny", "--format", "onnx", "--registry", published_tiny, cwd=tmp_path)
    assert result.returncode == 0
    for words in ("uint8 (N, 12, 12, 3), RGB, stretched", "float32 (N, 3)", "tiny-1.labels.txt", "softmax(logits / 1)"):
        assert words in result.stdout
    assert (tmp_path / "tiny-1.labels.txt").read_text() == "ant\nbee\ncow\n"
    session = onnxruntime.InferenceSession(str(tmp_path / "tiny-1.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": np.zeros((2, 12, 12, 3), np.uint8)})
    assert logits.shape == (2, 3)


@pytest.mark.parametrize("form", ["archive", "onnx"])
def test_a_damaged_version_is_not_exported(tiny_root: Path, tiny: StoredVersion, tmp_path: Path, form: str) -> None:
    (tiny.folder / NETWORK).write_bytes(b"broken")
    output = tmp_path / "out"
    output.mkdir()
    result = hubel("export", "tiny", "--format", form, "--registry", tiny_root, "--output", output)
    assert result.returncode == 2
    assert "is not the file that was published" in result.stderr
    assert list(output.iterdir()) == []


def test_where_nothing_can_be_written_is_said(published_tiny: Path, tmp_path: Path) -> None:
    result = hubel("export", "tiny", "--registry", published_tiny, "--output", tmp_path / "missing" / "file.tar")
    assert result.returncode == 2
    assert "cannot be written" in result.stderr
    result = hubel("export", "dogs", "--registry", published_tiny, cwd=tmp_path)
    assert (result.returncode, "no model 'dogs'" in result.stderr) == (2, True)
    assert Registry(published_tiny).names() == ["tiny"]
