"""The models that `hubel setup` makes, served for real and asked over HTTP."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.server import Server, serving
from model.classifier import load_classifier
from model.engines.selection import EngineChoice
from model.preprocessing import ImageLimits
from model.registry import Registry
from model.types import ModelRef
from tests.command import hubel
from tests.fakes import encode

READY_LIMIT_SECONDS = 6.0
RESIDENT_LIMIT_KB = 400 * 1024
PUBLISHED_TOP1, PUBLISHED_TOP5 = 0.882, 0.980


@pytest.fixture(scope="module")
def server(default_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(default_registry, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


@pytest.fixture(scope="module")
def photos(data: Path) -> list[tuple[bytes, int]]:
    """The 500 photos and their classes."""
    folder = data / "imagenet-sample"
    with (folder / "labels.csv").open() as labels:
        return [((folder / row["file"]).read_bytes(), int(row["class_index"])) for row in csv.DictReader(labels)]


def indices(answers: httpx.Response) -> list[list[int]]:
    return [[p["index"] for p in result["predictions"]] for result in answers.raise_for_status().json()["results"]]


def send(server: Server, path: str, images: Sequence[bytes]) -> list[list[int]]:
    """Classify images, 50 in a request."""
    found = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for start in range(0, len(images), 50):
            form = [("images", (str(n), data)) for n, data in enumerate(images[start : start + 50])]
            found += indices(client.post(path, files=form))
    return found


def test_the_readme_s_photo_is_a_cat(server: Server, photo: bytes) -> None:
    body = server.post("/v1/predict", photo).json()
    assert (body["model"], body["version"]) == ("imagenet", 1)
    best = body["results"][0]["predictions"]
    assert "cat" in best[0]["label"]
    assert sum(p["probability"] for p in best if p["label"] in ("tabby", "tiger cat", "Egyptian cat")) > 0.8
    assert body["results"][0]["image"] == {"width": 451, "height": 300, "format": "JPEG", "applied": []}


def test_it_is_ready_soon_without_torch_and_in_little_memory(server: Server, photo: bytes) -> None:
    for _ in range(5):
        server.post("/v1/predict", photo)
        server.post("/v1/models/digits/predict", photo)
    (worker,) = server.workers
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert "libonnxruntime" in maps or "onnxruntime" in maps
    assert "libtorch" not in maps
    assert server.status("VmRSS") < RESIDENT_LIMIT_KB
    assert server.seconds_to_ready < READY_LIMIT_SECONDS


def test_real_photos_are_classified_as_by_the_model_run_directly(
    server: Server, photos: list[tuple[bytes, int]]
) -> None:
    top = send(server, "/v1/predict", [data for data, _ in photos])
    wanted = [label for _, label in photos]
    top1 = np.mean([found[0] == label for found, label in zip(top, wanted, strict=True)])
    top5 = np.mean([label in found for found, label in zip(top, wanted, strict=True)])
    assert abs(top1 - PUBLISHED_TOP1) <= 0.004 + 1e-9
    assert abs(top5 - PUBLISHED_TOP5) <= 0.004 + 1e-9
    assert server.status("VmRSS") < RESIDENT_LIMIT_KB


@pytest.mark.extra
def test_the_engines_agree_on_real_photos(default_registry: Path, photos: list[tuple[bytes, int]]) -> None:
    version = Registry(default_registry).version(ModelRef.parse("imagenet"))
    onnx, torch = (load_classifier(version, EngineChoice(name, "cpu", threads=2)) for name in ("onnx", "torch"))
    for start in range(0, len(photos), 60):
        chunk = [onnx.prepare(data, ImageLimits()).pixels for data, _ in photos[start : start + 20]]
        assert np.abs(onnx.classify(np.stack(chunk)) - torch.classify(np.stack(chunk))).max() < 1e-3


def test_the_digits_are_read(server: Server, data: Path, default_registry: Path) -> None:
    """On the 1,000 digits held out of training, and on the 10,000 of MNIST's t10k through the service."""
    manifest = Registry(default_registry).version(ModelRef.parse("digits")).manifest
    assert manifest.metrics["test_accuracy"] >= 0.975
    folder = data / "mnist"
    pixels = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    files = [encode(Image.fromarray(image)) for image in pixels.reshape(-1, 28, 28)]
    found = np.array([top[0] for top in send(server, "/v1/models/digits/predict", files)])
    assert (found == labels).mean() >= 0.97


def test_the_command_asks_a_running_service(server: Server, pytestconfig: pytest.Config) -> None:
    cat = pytestconfig.rootpath / "docs" / "cat.jpg"
    remote = json.loads(hubel("predict", cat, "--url", server.url, "--json").stdout)
    assert "cat" in remote[0]["predictions"][0]["label"]
    missing = hubel("predict", cat, "--url", server.url, "--model", "dogs", "--json")
    assert missing.returncode == 1
    assert json.loads(missing.stdout)[0]["error"]["status"] == 404


def test_setup_leaves_alone_what_is_there(default_registry: Path) -> None:
    before = sorted(default_registry.rglob("*"))
    result = hubel("setup", "--registry", default_registry)
    assert result.returncode == 0
    assert result.stdout.count("already") == 2
    assert sorted(default_registry.rglob("*")) == before


def test_the_client_can_be_imported_from_hubel(server: Server, photo: bytes) -> None:
    script = (
        "import sys\nfrom hubel import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    answer = client.predict([sys.stdin.buffer.read()] * 2, top_k=1)\n"
        "print(len(answer.results), answer.results[0].predictions[0].label)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, server.url], input=photo, capture_output=True, timeout=60, check=True
    )
    assert result.stdout.decode().startswith("2 ")
    assert b"cat" in result.stdout
