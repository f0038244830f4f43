"""The default model in int8 and bf16, on real photos."""

import json
from pathlib import Path

import pytest

from benchmarks.server import serving
from model.registry import Registry
from model.types import ModelRef
from tests.inside import hubel
from training.imagenet import import_imagenet
from training.precision import Reduction
from training.publish import publish

LEAST_AGREEMENT = 0.95


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the default model."""
    folder = tmp_path_factory.mktemp("optimized")
    publish(Registry(folder), import_imagenet("imagenet"))
    return folder


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_imagenet_loses_little(precision: str, root: Path, data: Path) -> None:
    """A half of the 500 photos calibrates, the other is measured; one photo of it is 0.4 points."""
    arguments = ("imagenet:1", data / "imagenet-sample", "--label-column", "class_index", f"--{precision}")
    result = hubel("optimize", *arguments, "--max-drop", "4", "--json", "--registry", root)
    assert result.returncode == 0, result.stderr
    found = Reduction.model_validate(json.loads(result.stdout))
    print("\n", precision, found.drop, found.agreement, found.fp32, found.reduced, found.speeds, sep="\n  ")
    assert (found.images, found.fitted_images) == (250, 250)
    assert found.agreement.value > LEAST_AGREEMENT
    assert found.reduced.accuracy is not None
    assert found.reduced.accuracy.ece < found.reduced.accuracy.ece_uncalibrated
    version = Registry(root).version(ModelRef.parse(str(found.published)))
    assert version.manifest.precision == precision
    if precision == "int8":
        assert found.reduced.network_bytes < 0.3 * found.fp32.network_bytes
        assert min(speed.ratio for speed in found.speeds) > 1.1


def test_what_was_made_is_served(root: Path, photo: bytes, tmp_path: Path) -> None:
    """Also in int8 without torch."""
    with serving(root, tmp_path / "server.log") as server:
        answers = [server.post(f"/v1/models/imagenet:{number}/predict", photo).json() for number in (1, 2)]
        (worker,) = server.workers
        assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text()
    cats = [{p["label"] for p in answer["results"][0]["predictions"]} for answer in answers]
    assert all({"tabby", "tiger cat", "Egyptian cat"} <= found for found in cats)
