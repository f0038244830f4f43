"""`hubel explain`: a picture in a file, and a few lines."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.server import environment
from service.explanations import ExplanationOut
from tests.conftest import ROOT
from tests.fakes import encode, noise
from tests.inside import hubel


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    path.write_bytes(encode(noise(60, 40)))
    return path


def test_a_picture_and_a_table_are_made(image: Path, published_tiny: Path, tmp_path: Path) -> None:
    ended = hubel("explain", image, "--model", "tiny", "--class", "bee", "--registry", published_tiny, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for word in ("ant", "bee", "cow", "by occlusion", "noise.explained.png"):
        assert word in ended.stdout
    with Image.open(tmp_path / "noise.explained.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    photo = pixels[76:, 12:]
    assert photo.shape[0] > 200  # the small image is enlarged
    assert len(np.unique(photo.reshape(-1, 3), axis=0)) > 1000


def test_json_is_as_the_service_answers(image: Path, published_tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.png"
    ended = hubel(
        *("explain", image, "--model", "tiny", "--method", "gradcam", "--json", "--out", out),
        *("--registry", published_tiny),
    )
    assert ended.returncode == 0, ended.stderr
    body = ExplanationOut.model_validate(json.loads(ended.stdout))
    assert (body.method, body.layer) == ("gradcam", "relu2")
    assert out.is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "wasp"], "there is no class 'wasp'"),
        (["--method", "cam"], "these work: occlusion"),
        (["--method", "guess"], "these are: cam, gradcam, occlusion"),
        (["--model", "dogs"], "dogs"),
        (["--out", "nowhere/found.png"], "nowhere/found.png"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    options: list[str], words: str, image: Path, published_tiny: Path, tmp_path: Path
) -> None:
    ended = hubel("explain", image, "--model", "tiny", "--registry", published_tiny, *options, cwd=tmp_path)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("*.explained.png"))


def test_what_is_no_image_is_told_of(published_tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("hello")
    ended = hubel("explain", text, "--model", "tiny", "--registry", published_tiny)
    assert ended.returncode == 2
    assert "not an image" in ended.stderr


def test_it_works_without_torch(image: Path, published_tiny: Path, tmp_path: Path) -> None:
    arguments = ["hubel", "explain", str(image), "--model", "tiny", "--registry", str(published_tiny)]
    code = (
        f"import importlib.util as u, sys\nsys.path.insert(0, {str(ROOT)!r})\nfind = u.find_spec\n"
        "absent = ('torch', 'captum', 'onnx')\nsys.modules.update(dict.fromkeys(absent))\n"
        "u.find_spec = lambda name, *rest: None if name in absent else find(name, *rest)\n"
        f"sys.argv = {arguments!r} + sys.argv[1:]\nfrom hubel import main\nmain()\n"
    )

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *options]
        return subprocess.run(
            command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    ended = run()
    assert ended.returncode == 0, ended.stderr
    assert "by occlusion" in ended.stdout
    ended = run("--method", "gradcam")
    assert ended.returncode == 2
    assert "pip install 'hubel[torch]'" in ended.stderr
