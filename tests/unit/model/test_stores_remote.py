"""A store elsewhere, on a driver that keeps all in memory: what is stale, torn, altered, locked or away."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from model.checkpoint import MANIFEST, NETWORK
from model.errors import (
    AliasNotMoved,
    CorruptCheckpoint,
    ModelError,
    RegistryMissing,
    RegistryUnavailable,
)
from model.registry import Registry, StoredVersion
from model.stores import conditional
from model.stores.cache import default_cache, folder_name
from model.stores.objects import Objects, hide_password
from model.stores.remote import RemoteStore
from model.types import ModelRef
from tests.publishers import check_all, publish_again, raise_share

CALLS = ("find", "cat_file", "pipe_file", "put_file", "rm_file")
FIRST, SECOND = ModelRef("tiny", version=1), ModelRef("tiny", version=2)


class Driver:
    """The memory driver, which counts its calls, can be made to fail at one, and can hide paths from its lists."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.hidden: Callable[[str], bool] = lambda path: False
        self.before: Callable[[str], None] = lambda call: None
        self.torn = 0
        self._one_at_a_time = threading.RLock()
        for name in CALLS:
            monkeypatch.setattr(MemoryFileSystem, name, self._watched(name, getattr(MemoryFileSystem, name)))

    def go_away(self) -> None:
        self.fail_after(0)

    def come_back(self) -> None:
        self.before = lambda call: None

    def fail_after(self, calls: int) -> None:
        """Fail every call after so many."""
        left = iter(range(calls))

        def fail(call: str) -> None:
            if next(left, None) is None:
                raise ConnectionError("no route to it")

        self.before = fail

    def _watched(self, name: str, original: Any) -> Any:
        def call(filesystem: Any, *arguments: Any, **named: Any) -> Any:
            with self._one_at_a_time:  # the driver creates in two steps
                self.calls.append(name)
                self.before(name)
                answer = original(filesystem, *arguments, **named)
                if name == "find":
                    return [path for path in answer if not self.hidden(path)]
                if name == "cat_file" and self.torn and "model.onnx" in arguments[0]:
                    self.torn -= 1
                    return answer[: len(answer) // 2]
                return answer

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(monkeypatch)


@pytest.fixture
def address() -> Iterator[str]:
    root = uuid.uuid4().hex
    yield f"memory://{root}/registry"
    for path in [path for path in MemoryFileSystem.store if path.startswith(f"/{root}/")]:
        del MemoryFileSystem.store[path]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def registry(driver: Driver, address: str, cache: Path, tiny: StoredVersion) -> Registry:
    """A registry of two versions, published from another machine."""
    registry = Registry(address, cache.parent / "publisher")
    publish_again(registry, tiny)
    publish_again(registry, tiny)
    driver.calls.clear()
    return Registry(address, cache)


def content(address: str) -> dict[str, bytes]:
    """All that the store holds."""
    root = address.removeprefix("memory:/")
    return {p.removeprefix(root): f.getvalue() for p, f in MemoryFileSystem.store.items() if p.startswith(root)}


def put(address: str, path: str, text: str | bytes) -> None:
    fsspec.filesystem("memory").pipe_file(f"{address}/{path}", text.encode() if isinstance(text, str) else text)


# What is asked of the store


def test_the_store_has_the_layout_of_a_folder(registry: Registry, address: str, tiny: StoredVersion) -> None:
    files = {*tiny.manifest.files, MANIFEST, ".claim"}
    assert content(address).keys() == {"/tiny/state.json", *(f"/tiny/{n}/{file}" for n in (1, 2) for file in files)}


def test_a_listing_is_one_call(registry: Registry, driver: Driver) -> None:
    assert registry.names() == ["tiny"]
    assert driver.calls == ["find"]


def test_what_is_in_the_cache_is_not_fetched_again(registry: Registry, driver: Driver) -> None:
    registry.version(FIRST)
    driver.calls.clear()
    registry.version(FIRST)
    assert driver.calls == ["cat_file"]  # the manifest


def test_the_manifest_is_written_last(driver: Driver, address: str, cache: Path, tiny: StoredVersion) -> None:
    publish_again(Registry(address, cache), tiny)
    uploads = [call for call in driver.calls if call in ("put_file", "pipe_file")]
    assert uploads == [
        "pipe_file",
        *["put_file"] * len(tiny.manifest.files),
        *["pipe_file"] * 3,
    ]  # then the manifest, the lock, the state


def test_the_registry_loads_neither_fsspec_nor_torch_unless_it_needs_them() -> None:
    code = (
        "import sys, model.registry; assert 'fsspec' not in sys.modules; "
        "import model.stores.remote, model.stores.s3; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Lists that are not what is there


def test_a_version_that_is_not_listed_can_be_read_and_is_not_overwritten(
    registry: Registry, driver: Driver, address: str, tiny: StoredVersion, tmp_path: Path
) -> None:
    driver.hidden = lambda path: "/tiny/2/" in path
    store = RemoteStore(address, tmp_path / "other")
    assert store.numbers("tiny") == [1]
    store.fetch("tiny", 2, tiny.manifest.files)
    assert store.folder("tiny", 2).joinpath(NETWORK).read_bytes() == (tiny.folder / NETWORK).read_bytes()
    assert registry.manifest("tiny", 2).files == tiny.manifest.files
    assert registry.version(SECOND).number == 2
    registry.promote(SECOND)
    assert publish_again(registry, tiny).number == 3


def test_a_version_without_a_claim_that_is_not_listed_is_not_overwritten(
    registry: Registry, driver: Driver, address: str, tiny: StoredVersion
) -> None:
    fsspec.filesystem("memory").rm_file(f"{address}/tiny/2/.claim")
    driver.hidden = lambda path: "/tiny/2/" in path
    assert publish_again(registry, tiny).number == 3


def test_a_listed_version_without_a_manifest_is_told(
    registry: Registry, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fsspec.filesystem("memory")
    listed = store.find(address)
    store.rm_file(f"{address}/tiny/2/{MANIFEST}")
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: listed)
    with pytest.raises(CorruptCheckpoint, match=r"tiny/2/manifest\.json cannot be read: it is not there"):
        registry.version(SECOND)
    assert registry.version(FIRST).number == 1


def test_a_cached_version_that_a_list_misses_stays(registry: Registry, driver: Driver) -> None:
    folder = registry.version(SECOND).folder
    driver.hidden = lambda path: "/tiny/2/" in path
    assert registry.numbers("tiny") == [1]
    assert (folder / NETWORK).is_file()


def test_what_is_no_version_is_passed_over(registry: Registry, address: str) -> None:
    for path in ("README", "lost+found/1/manifest.json", "tiny/007/manifest.json", "tiny/x/manifest.json", "a/b"):
        put(address, path, "mine")
    assert registry.snapshot().keys() == {"tiny"}
    assert registry.numbers("tiny") == [1, 2]


# A store that goes away


def test_reading_goes_on_while_the_store_is_away(registry: Registry, driver: Driver, address: str, cache: Path) -> None:
    registry.names()
    state = registry.state("tiny")
    registry.version(FIRST)
    driver.go_away()
    for reader in (registry, Registry(address, cache)):  # and after a restart
        assert registry.snapshot()["tiny"].numbers == (1, 2)
        assert reader.state("tiny") == state
        assert reader.version(FIRST).manifest.name == "tiny"
        assert reader.away == f"the registry {address} cannot be reached: no route to it"
    driver.come_back()
    registry.names()
    assert not registry.away


def test_what_is_not_in_the_cache_while_the_store_is_away_is_told(
    registry: Registry, driver: Driver, cache: Path
) -> None:
    registry.version(FIRST)
    manifest = registry.manifest("tiny", 2)
    driver.go_away()
    with pytest.raises(RegistryUnavailable, match=rf"no route to it; and tiny/2/.* is not in the cache {cache}"):
        registry.file("tiny", 2, next(iter(manifest.files)))
    with pytest.raises(RegistryUnavailable, match="no route to it; and the manifest of tiny:3 is not in the cache"):
        registry.manifest("tiny", 3)
    with pytest.raises(RegistryUnavailable, match="no route to it; and the state of 'dogs' is not in the cache"):
        registry.state("dogs")


def test_a_store_that_was_never_seen_cannot_be_listed_while_it_is_away(
    driver: Driver, address: str, cache: Path
) -> None:
    driver.go_away()
    with pytest.raises(RegistryUnavailable, match=f"the registry {address} cannot be reached: no route to it"):
        Registry(address, cache).names()


def test_that_there_was_no_state_is_known_while_the_store_is_away(
    driver: Driver, address: str, cache: Path, tiny: StoredVersion
) -> None:
    store = RemoteStore(address, cache)
    assert store.read_state("tiny") is None
    driver.go_away()
    assert store.read_state("tiny") is None


def test_nothing_is_written_while_the_store_is_away(
    registry: Registry, driver: Driver, address: str, tiny: StoredVersion
) -> None:
    registry.version(FIRST)
    before = content(address)
    driver.go_away()
    with pytest.raises(RegistryUnavailable, match="no route"), registry.staging("tiny"):
        pytest.fail("there is nothing to write to")
    with pytest.raises(RegistryUnavailable, match="no route"):
        registry.promote(FIRST, "canary")
    with pytest.raises(RegistryUnavailable, match="no route"):
        registry.remove(SECOND)
    with pytest.raises(RegistryUnavailable, match="no route"):
        registry._store.add(tiny.folder, "tiny", 0)
    driver.come_back()
    assert content(address) == before
    assert "canary" not in registry.state("tiny").aliases


def test_a_store_that_hangs_is_left_alone_for_as_long_as_it_hung(
    registry: Registry, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("model.stores.remote.time.monotonic", lambda: now[0])

    def hang(call: str) -> None:
        now[0] += 8
        raise TimeoutError

    registry.names()
    driver.before = hang
    driver.calls.clear()
    for _ in range(3):
        assert registry.names() == ["tiny"]
    assert registry.away.endswith("it does not answer in time")
    assert driver.calls == ["find"]
    now[0] += 9
    driver.come_back()
    registry.names()
    assert not registry.away


def test_a_store_that_fails_at_any_call_of_a_publication_stays_whole(
    registry: Registry, driver: Driver, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional, "LOCK_SECONDS", 0.02)
    for calls in range(100):
        before = registry.numbers("tiny")
        driver.fail_after(calls)
        try:
            publish_again(registry, tiny)
            failed: ModelError | None = None
        except RegistryUnavailable as error:
            failed = error
        driver.come_back()
        after = check_all(registry)
        there = failed is None or isinstance(failed, AliasNotMoved)
        assert (len(after) - len(before) == 1) is there or "is not known" in str(failed)
        last = publish_again(registry, tiny).number
        assert last > after[-1]
        if failed is None:
            break
    assert failed is None
    assert calls > len(tiny.manifest.files) + 6


def test_a_manifest_whose_answer_was_lost_is_published(
    registry: Registry, driver: Driver, address: str, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Objects.create
    monkeypatch.setattr(Objects, "create", lambda *arguments: original(*arguments) and False)  # "there is one": ours
    assert publish_again(registry, tiny).number == 3
    assert registry.numbers("tiny") == [1, 2, 3]


def test_what_failed_publishers_have_left_is_cleared_after_a_day(
    registry: Registry, address: str, tiny: StoredVersion
) -> None:
    for number, hours in ((3, 25), (4, 23)):
        put(address, f"tiny/{number}/.claim", json.dumps({"id": "other", "time": time.time() - hours * 3600}))
        put(address, f"tiny/{number}/{NETWORK}", "half")
    put(address, f"tiny/5/{NETWORK}", "without a claim")
    assert publish_again(registry, tiny).number == 6
    left = {path for path in content(address) if path.split("/")[2] in ("3", "4", "5")}
    assert left == {"/tiny/3/.claim", "/tiny/4/.claim", f"/tiny/4/{NETWORK}", f"/tiny/5/{NETWORK}"}


def test_a_number_that_failed_is_not_given_again(registry: Registry, address: str, tiny: StoredVersion) -> None:
    put(address, "tiny/3/.claim", "of a publisher that died")
    assert publish_again(registry, tiny).number == 4


# The cache


@pytest.mark.parametrize("restarted", [False, True])
def test_a_cached_file_that_was_altered_is_fetched_again(
    restarted: bool, registry: Registry, address: str, cache: Path
) -> None:
    path = registry.version(FIRST).folder / NETWORK
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (Registry(address, cache) if restarted else registry).version(FIRST)
    assert path.read_bytes() == good


def test_a_cached_file_that_was_altered_is_not_used_while_the_store_is_away(registry: Registry, driver: Driver) -> None:
    path = registry.version(FIRST).folder / NETWORK
    path.write_bytes(b"x")
    driver.go_away()
    with pytest.raises(RegistryUnavailable, match=r"tiny/1/model\.onnx is not in the cache"):
        registry.version(FIRST)


def test_a_file_that_is_not_the_published_one_never_gets_its_name(
    registry: Registry, address: str, tiny: StoredVersion
) -> None:
    put(address, f"tiny/1/{NETWORK}", b"x" * tiny.manifest.files[NETWORK].bytes)
    with pytest.raises(CorruptCheckpoint, match=rf"{address}/tiny/1/model\.onnx is not the file that was published"):
        registry.version(FIRST)
    folder = registry._store.folder("tiny", 1)
    assert not (folder / NETWORK).exists()
    assert not list(folder.glob(".fetching-*"))


def test_a_file_that_is_missing_is_told(registry: Registry, address: str) -> None:
    fsspec.filesystem("memory").rm_file(f"{address}/tiny/1/{NETWORK}")
    with pytest.raises(CorruptCheckpoint, match=rf"{address}/tiny/1/model\.onnx is missing; publish the version again"):
        registry.version(FIRST)


def test_a_download_that_was_torn_is_tried_once_more(registry: Registry, driver: Driver) -> None:
    driver.torn = 1
    registry.version(FIRST)
    driver.torn = 2
    with pytest.raises(CorruptCheckpoint):
        registry.version(SECOND)


def test_several_may_fill_one_cache_at_once(registry: Registry, address: str, cache: Path) -> None:
    stores = [Registry(address, cache) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: check_all(stores[number % 4]), range(16)))
    assert found == [[1, 2]] * 16
    assert not list(cache.rglob(".fetching-*"))


def test_what_was_removed_leaves_the_cache(registry: Registry, address: str, cache: Path, tmp_path: Path) -> None:
    elsewhere = Registry(address, tmp_path / "elsewhere")
    here, there = registry.version(SECOND).folder, elsewhere.version(SECOND).folder
    registry.remove(SECOND)
    assert not here.exists()
    assert there.exists()
    elsewhere.names()
    assert not there.exists()


def test_another_registry_at_the_same_address_is_not_taken_for_the_old_one(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    manifest = registry.version(FIRST).manifest
    fsspec.filesystem("memory").rm(address, recursive=True)
    elsewhere = Registry(address, tmp_path / "elsewhere")
    with elsewhere.staging("tiny") as folder:
        for file in manifest.files:
            (folder / file).write_bytes(b"new")
        elsewhere.publish(folder, manifest)
    assert (registry.version(FIRST).folder / NETWORK).read_bytes() == b"new"


def test_a_cache_that_cannot_be_made_is_told_with_its_setting(registry: Registry, address: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RegistryUnavailable, match=r"the cache .*file.* cannot be written .*HUBEL_CACHE"):
        Registry(address, tmp_path / "file").names()


def test_a_cache_on_a_full_disk_is_told_with_its_setting(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    registry.names()
    monkeypatch.setattr("model.stores.cache.sync", fail)
    with pytest.raises(RegistryUnavailable, match=r"the cache .* cannot be written \(No space left.*HUBEL_CACHE"):
        registry.version(FIRST)
    assert not registry.away


def test_downloads_that_were_left_behind_are_cleared_after_a_day(registry: Registry) -> None:
    folder = registry._store.folder("tiny", 1)
    folder.mkdir(parents=True)
    for name, hours in ((".fetching-old", 25), (".fetching-young", 1)):
        (folder / name).write_bytes(b"half")
        then = time.time() - hours * 3600
        os.utime(folder / name, (then, then))
    registry.version(FIRST)
    assert [path.name for path in folder.glob(".fetching-*")] == [".fetching-young"]


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/hubel")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache() == Path("/home/someone/.cache/hubel")


def test_addresses_have_folders_of_their_own() -> None:
    names = {folder_name(f"s3://bucket/{folder}") for folder in ("models", "Models", "mod-els", "mod/els")}
    assert len(names) == 4
    assert all(name.startswith("s3-bucket-mod") for name in names)


# States


def test_a_state_that_is_no_text_is_told(registry: Registry, address: str) -> None:
    put(address, "tiny/state.json", b"\xff\xfe")
    with pytest.raises(CorruptCheckpoint, match=rf"{address}/tiny/state\.json cannot be read"):
        registry.state("tiny")
    with pytest.raises(CorruptCheckpoint, match=rf"{address}/tiny/state\.json cannot be read"):
        registry.change("tiny", raise_share)


@pytest.mark.parametrize("age", [-conditional.LOCK_SECONDS - 1, -3600.0])
def test_a_lock_that_was_left_behind_is_taken_over(age: float, registry: Registry, address: str) -> None:
    put(address, "tiny/state.lock", json.dumps({"owner": "somebody", "time": time.time() + age}))
    registry.change("tiny", raise_share)
    assert "/tiny/state.lock" not in content(address)


def test_a_lock_that_is_held_is_waited_for(registry: Registry, address: str) -> None:
    put(address, "tiny/state.lock", json.dumps({"owner": "somebody", "time": time.time()}))
    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(registry.change, "tiny", raise_share)
        with pytest.raises(TimeoutError):
            changed.result(0.1)
        fsspec.filesystem("memory").rm_file(f"{address}/tiny/state.lock")
        assert changed.result(10).traffic.canary


@pytest.mark.parametrize("note", ["", '{"time": 1}', "[]"])
def test_a_lock_that_cannot_be_read_is_waited_for_in_vain_and_then_taken_over(
    note: str, registry: Registry, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional, "LOCK_SECONDS", 0.05)
    put(address, "tiny/state.lock", note)
    registry.change("tiny", raise_share)


def test_a_lock_that_others_hold_all_the_time_is_told(
    registry: Registry, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional, "_PATIENCE_SECONDS", 0.05)
    put(address, "tiny/state.lock", json.dumps({"owner": "somebody", "time": time.time()}))
    with pytest.raises(RegistryUnavailable, match=r"tiny/state\.lock is held by others"):
        registry.change("tiny", raise_share)


def test_a_lock_that_was_lost_changes_nothing_and_stays_with_its_new_owner(registry: Registry, address: str) -> None:
    before = content(address)["/tiny/state.json"]
    new = json.dumps({"owner": "somebody", "time": time.time()})

    def change(text: str | None) -> str:
        put(address, "tiny/state.lock", new)
        return "changed"

    with pytest.raises(RegistryUnavailable, match=r"was not changed: .* has taken over .*state\.lock"):
        registry._store.change_state("tiny", change)
    assert content(address)["/tiny/state.json"] == before
    assert content(address)["/tiny/state.lock"] == new.encode()


class Contested:
    """An object that another process raises by ten before each of the first writes."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.found = conditional.Found(b"0", "0")
        self.is_answer_lost = False

    def where(self, path: str) -> str:
        return path

    def find(self, path: str) -> conditional.Found:
        return self.found

    def replace(self, path: str, found: conditional.Found, content: bytes, writer: str) -> bool:
        if self.times:
            self.times -= 1
            raised = str(int(self.found.content or b"") + 10)
            self.found = conditional.Found(raised.encode(), raised, "other")
        if found != self.found:
            return False
        self.found = conditional.Found(content, content.decode(), writer)
        return not self.is_answer_lost


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.stores.conditional.time.sleep", lambda _: None)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("added", [1, 10])  # by ten: what was refused here is what the other one wrote
def test_a_change_that_lost_is_made_on_what_won(added: int) -> None:
    contested = Contested(times=3)
    conditional.change_if_unchanged(contested, "state.json", lambda old: str(int(old or b"") + added).encode())
    assert contested.found.content == str(30 + added).encode()


@pytest.mark.usefixtures("no_pauses")
def test_a_change_that_always_loses_is_told() -> None:
    with pytest.raises(RegistryUnavailable, match="was changed by others 15 times"):
        conditional.change_if_unchanged(Contested(times=99), "state.json", lambda old: b"mine")


@pytest.mark.usefixtures("no_pauses")
def test_a_change_whose_answer_was_lost_is_not_made_twice() -> None:
    contested = Contested(times=0)
    contested.is_answer_lost = True
    conditional.change_if_unchanged(contested, "state.json", lambda old: str(int(old or b"") + 1).encode())
    assert contested.found.content == b"1"


# What is told


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("403"), "access is denied"),
        (TimeoutError(), "does not answer in time"),
        (ValueError(), "ValueError"),
        (OSError("sftp://me:secret@host went away\nmore"), r"sftp://me:\*\*\*@host went away$"),
    ],
)
def test_why_a_store_cannot_be_reached_is_told(
    error: Exception, message: str, driver: Driver, address: str, cache: Path
) -> None:
    def fail(call: str) -> None:
        raise error

    driver.before = fail
    with pytest.raises(RegistryUnavailable, match=rf"{address} cannot be reached: .*{message}"):
        Registry(address, cache).names()


def test_no_password_is_shown() -> None:
    assert hide_password("sftp://me:secret@host/a:b@c") == "sftp://me:***@host/a:b@c"


def test_a_driver_that_is_not_installed_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> None:
        raise ImportError(f"install the driver of {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(RegistryUnavailable, match=r"pip install 'hubel\[s3\]'"):
        Registry("s3://bucket/registry")
    with pytest.raises(RegistryUnavailable, match="install the driver of gs"):
        Registry("gs://bucket/registry")


def test_an_address_of_no_known_kind_is_told() -> None:
    with pytest.raises(RegistryUnavailable, match="addresses that begin with nothing://: name a folder"):
        Registry("nothing://bucket/registry")


def test_a_place_that_was_never_made_is_told(
    driver: Driver, address: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(call: str) -> None:
        raise FileNotFoundError("no such bucket")

    driver.before = fail
    monkeypatch.setattr(Objects, "is_missing", lambda *_: True)
    with pytest.raises(RegistryMissing, match=rf"{address} does not exist \(no such bucket\): make it.*HUBEL_REGISTRY"):
        Registry(address, cache).names()
