"""What every store does alike: a folder, and what lies behind one of fsspec's drivers."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from model.checkpoint import CARD, GOLDEN
from model.errors import CorruptCheckpoint, RegistryUnavailable, StateConflict, VersionInUse, VersionNotFound
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.publishers import check_all, publish_again, raise_share


def parse(text: str) -> ModelRef:
    return ModelRef.parse(text)


@pytest.fixture(params=["folder", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "memory":
        make_creation_atomic(monkeypatch)
        return f"memory://{uuid.uuid4().hex}/registry"
    return str(tmp_path / "elsewhere")


@pytest.fixture
def registry(address: str, tmp_path: Path, tiny: StoredVersion) -> Registry:
    """A registry with one version."""
    registry = Registry(address, tmp_path / "cache")
    publish_again(registry, tiny)
    return registry


def make_creation_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver looks and writes in two steps; real stores do it in one."""
    lock, original = threading.Lock(), MemoryFileSystem.pipe_file

    def pipe_file(*arguments: Any, **named: Any) -> None:
        with lock:
            original(*arguments, **named)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)


def test_versions_are_numbered_and_verify(registry: Registry, tiny: StoredVersion) -> None:
    assert publish_again(registry, tiny, alias="canary").number == 2
    assert check_all(registry) == [1, 2]
    assert registry.names() == ["tiny"]
    assert registry.version(parse("tiny")).number == 1
    assert registry.version(parse("tiny@canary")).manifest.files == tiny.manifest.files
    assert not registry.away


def test_a_published_version_is_on_this_machine(registry: Registry, tiny: StoredVersion) -> None:
    folder = publish_again(registry, tiny).folder
    assert {path.name for path in folder.iterdir()} >= tiny.manifest.files.keys()
    assert registry.file("tiny", 2, GOLDEN).read_bytes() == (tiny.folder / GOLDEN).read_bytes()


def test_a_file_that_was_altered_after_it_was_fetched_is_not_given(registry: Registry, tiny: StoredVersion) -> None:
    path, published = registry.file("tiny", 1, CARD), (tiny.folder / CARD).read_bytes()
    for content in (published[:-1], published[:-1] + b"?"):
        path.write_bytes(content)
        try:
            assert registry.file("tiny", 1, CARD).read_bytes() == published  # where there is another copy
        except CorruptCheckpoint as error:
            assert f"{path} is not the file that was published" in str(error)  # noqa: PT017


def test_publishers_at_the_same_time_lose_no_version(registry: Registry, tiny: StoredVersion) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = [version.number for version in pool.map(lambda _: publish_again(registry, tiny), range(8))]
    assert sorted(numbers) == list(range(2, 10))
    assert check_all(registry) == list(range(1, 10))
    assert registry.state("tiny").aliases == {"production": 1}


def test_changes_at_the_same_time_are_all_kept(registry: Registry) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: registry.change("tiny", raise_share), range(12)))
    canary = registry.state("tiny").traffic.canary
    assert canary
    assert canary.percent == 12


def test_a_change_that_fails_changes_nothing_and_locks_nobody_out(registry: Registry) -> None:
    before = registry.state("tiny")
    with pytest.raises(ZeroDivisionError):
        registry.change("tiny", lambda state: state.model_copy(update={"load": (1 // 0,)}))
    with pytest.raises(StateConflict):
        registry.change("tiny", raise_share, expected="another")
    assert registry.state("tiny") == before
    registry.promote(parse("tiny"), "after")


def test_a_removed_number_is_never_given_again(registry: Registry, tiny: StoredVersion) -> None:
    publish_again(registry, tiny)
    with pytest.raises(VersionInUse):
        registry.remove(parse("tiny:1"))
    assert registry.remove(parse("tiny:2")) == 2
    assert registry.numbers("tiny") == [1]
    assert publish_again(registry, tiny).number == 3
    with pytest.raises(VersionNotFound, match="it has 1, 3"):
        registry.version(parse("tiny:2"))


def test_a_version_can_be_removed_once(registry: Registry, tiny: StoredVersion) -> None:
    publish_again(registry, tiny)
    registry._store.remove("tiny", 2)
    with pytest.raises(VersionNotFound, match="has no version 2 any more"):
        registry._store.remove("tiny", 2)


def test_a_manifest_that_is_not_there_is_told(registry: Registry) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"tiny/7/manifest\.json cannot be read"):
        registry.manifest("tiny", 7)


def test_a_state_that_was_never_written_is_none(registry: Registry) -> None:
    assert registry._store.read_state("nobody") is None
    assert registry._store.numbers("nobody") == []


def test_a_model_without_a_version_is_forgotten(registry: Registry) -> None:
    with registry.staging("new"):
        pass
    registry.forget_empty("new")
    assert registry.names() == ["tiny"]


def test_staged_files_are_gone_afterwards(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError), registry.staging("tiny") as folder:
        (folder / "half").write_text(str(1 / 0))
    assert not folder.exists()
    assert registry.numbers("tiny") == [1]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, tiny: StoredVersion) -> None:
    (tmp_path / "file").write_text("in the way")
    for prefix in ("", "local://"):
        registry = Registry(f"{prefix}{tmp_path}/file", tmp_path / "cache")
        with pytest.raises(RegistryUnavailable, match="file"):
            publish_again(registry, tiny)
