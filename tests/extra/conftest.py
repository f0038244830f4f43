"""One service and one browser for all tests of the page."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import Browser

from benchmarks.server import Server, serving
from model.registry import Registry
from tests.conftest import ToolFinder
from tests.fakes import reported_release, tiny_release
from tests.pages import Visit, browser_of, visiting
from training.imports.onnx_version import publish_onnx
from training.imports.wish import Wish
from training.publish import publish

SIDE = 12


@pytest.fixture(scope="session")
def page_service(default_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The default models; two versions of a tiny one, the second with a report; one without convolutions."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(default_registry, folder / "registry")
    registry = Registry(folder / "registry")
    publish(registry, tiny_release(seed=1))
    publish(registry, reported_release())
    (folder / "labels.txt").write_text("ant\nbee\ncow\n")
    publish_onnx(registry, Wish(write_flat(folder / "flat.onnx"), "flat", labels=str(folder / "labels.txt")))
    with serving(folder / "registry", folder / "log", HUBEL_PRELOAD="imagenet,digits,tiny,flat") as server:
        yield server


def write_flat(path: Path) -> Path:
    """Write a network of one fully connected layer."""
    generator = np.random.default_rng(0)
    weights = {"w": generator.normal(0, 0.02, (3 * SIDE * SIDE, 3)), "b": np.zeros(3)}
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["row"]), helper.make_node("Gemm", ["row", "w", "b"], ["out"])],
        "flat",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; the event loop that drives it must be gone when tests of another kind run their own."""
    with browser_of(ToolFinder()("chromium")) as started:
        yield started


@pytest.fixture
def visit(browser: Browser, page_service: Server) -> Iterator[Visit]:
    with visiting(browser, page_service.url) as opened:
        yield opened
