"""Fixtures that many tests share: the registries, the real test data, the system's tools."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.fakes import tiny_release
from tests.training_runs import train_release
from training.imagenet import import_imagenet
from training.job import Job
from training.publish import publish

ROOT = Path(__file__).parent.parent
_EXTRA = ROOT / "tests" / "extra"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_EXTRA):
            item.add_marker("extra")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def missing(what: str) -> None:
    """Skip a test for what this machine lacks; fail it where everything must be there."""
    if os.environ.get("REQUIRE_TOOLS") == "1":
        pytest.fail(f"{what}, and REQUIRE_TOOLS=1")
    pytest.skip(what)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real test data."""
    folder = Path(os.environ.get("TEST_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        missing(f"the test data folder {folder} is not there; TEST_DATA_DIR names it")
    return folder


@pytest.fixture
def tool() -> "ToolFinder":
    return ToolFinder()


class ToolFinder:
    """Finds a program of the system by its name."""

    def __call__(self, name: str) -> str:
        path = shutil.which(name)
        if path is None:
            missing(f"{name} is not installed")
        return str(path)


@pytest.fixture(scope="session")
def photo() -> bytes:
    """The README's photo of a cat."""
    return (ROOT / "docs" / "cat.jpg").read_bytes()


@pytest.fixture(scope="session")
def default_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hubel setup` makes: imagenet from the published weights, digits from a real training run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the processes of a run have one registry: whoever needs it first makes it
        shared = shared.parent
    with (shared / "default.turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        root = shared / "default"
        if not root.exists():
            made = tmp_path_factory.mktemp("making")
            publish(Registry(made), import_imagenet("imagenet"))
            publish(Registry(made), train_release(Job(data="digits"), "digits", tmp_path_factory.mktemp("runs")))
            made.rename(root)
    return root


@pytest.fixture(scope="session")
def published_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one version of a tiny random network, not to be changed."""
    root = tmp_path_factory.mktemp("tiny")
    publish(Registry(root), tiny_release())
    return root


@pytest.fixture
def tiny_root(published_tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny registry, to be changed at will."""
    root = tmp_path / "registry"
    shutil.copytree(published_tiny, root)
    return root


@pytest.fixture
def tiny(tiny_root: Path) -> StoredVersion:
    """The tiny version."""
    return Registry(tiny_root).version(ModelRef.parse("tiny"))
