"""A registry on S3: publishers and readers in processes of their own, killed, at once, and with the store away."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.server import Server, serving
from model.checkpoint import NETWORK
from model.errors import CorruptCheckpoint, RegistryMissing, RegistryUnavailable
from model.registry import Registry, StoredVersion
from model.stores.s3 import S3Objects
from model.types import ModelRef
from tests.extra.test_swaps import wait_for_workers
from tests.fakes import encode, noise
from tests.publishers import check_all, publish_again, start_changing, start_publishing, start_reading, wait
from tests.s3 import S3Server

FIRST = ModelRef("tiny", version=1)
MOST_REQUESTS = 100
DEADLINE_SECONDS = 30


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, and the environment that leads to it."""
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    yield server
    server.before = lambda request: None
    if not server.running:
        server.start()


@pytest.fixture
def registry(s3: S3Server, tmp_path: Path, tiny: StoredVersion) -> Registry:
    """A registry with one version, in a bucket of its own."""
    registry = Registry(s3.new_bucket(), tmp_path / "cache")
    publish_again(registry, tiny)
    return registry


def wait_until_back(registry: Registry) -> None:
    """Wait for the end of the time for which a store that has failed is left alone."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while registry.names() and registry.away:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_version_is_published_listed_fetched_promoted_and_removed(
    registry: Registry, tiny: StoredVersion, tmp_path: Path
) -> None:
    publish_again(registry, tiny, alias="canary")
    other = Registry(registry.address, tmp_path / "other")
    assert check_all(other) == [1, 2]
    assert other.promote(ModelRef.parse("tiny@canary")).number == 2
    assert registry.state("tiny").aliases == {"production": 2, "canary": 2}
    assert registry.remove(FIRST) == 1
    assert other.snapshot()["tiny"].numbers == (2,)
    assert publish_again(other, tiny).number == 3


def test_a_look_at_everything_costs_one_request_and_one_for_each_state(registry: Registry, s3: S3Server) -> None:
    registry.names()
    with s3.counting() as requests:
        registry.names()
    assert len(requests) == 1
    with s3.counting() as requests:
        registry.snapshot()
    assert len(requests) == 2
    with s3.counting() as requests:
        registry.version(FIRST)
    assert len(requests) == 1  # the manifest: the files are in the cache


def test_a_list_of_more_than_a_page_is_whole(registry: Registry, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, _, folder = registry.address.removeprefix("s3://").partition("/")
    client = s3.client()
    for number in range(1050):
        client.put_object(Bucket=bucket, Key=f"{folder}/many/{number + 1}/manifest.json", Body=b"{}")
    assert registry.numbers("many") == list(range(1, 1051))
    monkeypatch.setattr("model.stores.s3._PAGES", 1)
    with pytest.raises(RegistryUnavailable, match="more than 1,000 objects: is that a registry"):
        Registry(registry.address, Path(registry._store.folder("x", 1).parent / "new")).names()


def test_a_file_larger_than_a_piece_arrives_whole(
    registry: Registry, tiny: StoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry.staging("tiny") as folder:
        for file in tiny.manifest.files:
            (folder / file).write_bytes((tiny.folder / file).read_bytes())
        (folder / "large").write_bytes(os.urandom(40 * 2**20))  # three parts, and three pieces
        registry.publish(folder, tiny.manifest)
    assert check_all(Registry(registry.address, tmp_path / "other")) == [1, 2]


def test_a_publisher_that_is_killed_at_any_request_leaves_a_whole_registry(
    registry: Registry, s3: S3Server, tiny: StoredVersion, tmp_path: Path
) -> None:
    added: list[int] = []
    for number in range(1, MOST_REQUESTS):
        before = registry.numbers("tiny")
        with s3.counting() as requests:
            publisher = start_publishing(registry, tmp_path / "publisher", tiny, variables=s3.variables)
            left = iter(range(number - 1))

            def kill(request: str, pid: int | None = publisher.pid, left: Iterator[int] = left) -> None:
                if pid is not None and next(left, None) is None:
                    os.kill(pid, signal.SIGKILL)  # what was asked for is done, and nobody hears of it

            s3.before = kill
            code = wait(publisher)
            s3.before = lambda request: None
        after = check_all(registry)
        assert after[: len(before)] == before
        assert len(after) <= len(before) + 1
        added.append(len(after) - len(before))
        assert publish_again(registry, tiny).number > after[-1]
        if code == 0:
            break
    assert code == 0
    assert len(requests) == len(added) - 1 > len(tiny.manifest.files) + 6
    assert added == sorted(added)
    assert registry.state("tiny").aliases == {"production": 1}


def test_two_processes_that_publish_at_once_get_numbers_in_a_row(
    registry: Registry, s3: S3Server, tiny: StoredVersion, tmp_path: Path
) -> None:
    publishers = [
        start_publishing(registry, tmp_path / name, tiny, count=10, variables=s3.variables) for name in ("one", "two")
    ]
    assert [wait(process) for process in publishers] == [0, 0]
    assert check_all(registry) == list(range(1, 22))
    assert registry.state("tiny").aliases == {"production": 1}


def test_two_processes_that_change_at_once_lose_no_change(registry: Registry, s3: S3Server, tmp_path: Path) -> None:
    changers = [
        start_changing(registry, tmp_path / name, name, count=20, variables=s3.variables) for name in ("one", "two")
    ]
    assert [wait(process) for process in changers] == [0, 0]
    state = registry.state("tiny")
    assert len(state.aliases) == 41
    assert state.traffic.canary
    assert state.traffic.canary.percent == 40


def test_two_processes_may_fill_one_cache_at_once(registry: Registry, s3: S3Server, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    readers = [
        start_reading(registry, tmp_path / "shared", tmp_path / name, variables=s3.variables) for name in ("one", "two")
    ]
    assert [wait(process) for process in readers] == [0, 0]
    assert not list((tmp_path / "shared").rglob(".fetching-*"))


def test_reading_goes_on_from_the_cache_while_the_store_is_away(
    registry: Registry, s3: S3Server, tiny: StoredVersion, tmp_path: Path
) -> None:
    publish_again(Registry(registry.address, tmp_path / "elsewhere"), tiny)
    registry.names()
    registry.version(FIRST)
    registry.manifest("tiny", 2)
    s3.stop()
    assert registry.snapshot()["tiny"].numbers == (1, 2)
    assert registry.version(FIRST).manifest == registry.manifest("tiny", 1)
    assert "nothing answers at its endpoint" in registry.away
    with pytest.raises(RegistryUnavailable, match=r"nothing answers .* and tiny/2/.* is not in the cache"):
        registry.version(ModelRef("tiny", version=2))
    with pytest.raises(RegistryUnavailable, match="nothing answers"):
        registry.promote(FIRST, "canary")
    with pytest.raises(RegistryUnavailable, match="nothing answers"):
        publish_again(registry, tiny)
    s3.start()
    wait_until_back(registry)
    assert check_all(registry) == [1, 2]
    assert registry.state("tiny").aliases == {"production": 1}


def test_a_fresh_process_starts_from_the_cache_while_the_store_is_away(
    registry: Registry, s3: S3Server, tmp_path: Path
) -> None:
    assert wait(start_reading(registry, tmp_path / "cache", tmp_path, variables=s3.variables)) == 0
    assert (tmp_path / "away").read_text() == ""
    s3.stop()
    assert wait(start_reading(registry, tmp_path / "cache", tmp_path, variables=s3.variables)) == 0
    assert "nothing answers" in (tmp_path / "away").read_text()
    s3.start()
    assert wait(start_reading(registry, tmp_path / "cache", tmp_path, variables=s3.variables)) == 0
    assert (tmp_path / "away").read_text() == ""


def test_a_store_that_hangs_does_not_hang_its_users(
    registry: Registry, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(S3Objects.options["config_kwargs"], "read_timeout", 0.3)
    impatient = Registry(registry.address, tmp_path / "cache")
    assert impatient.names() == ["tiny"]
    s3.before = lambda request: time.sleep(1)
    began = time.monotonic()
    assert impatient.names() == ["tiny"]
    assert time.monotonic() - began < 6  # two attempts, and the pause between them
    assert impatient.away.endswith("it does not answer in time")


def test_a_file_that_was_altered_on_the_store_is_told(registry: Registry, s3: S3Server, tmp_path: Path) -> None:
    bucket, _, folder = registry.address.removeprefix("s3://").partition("/")
    s3.client().put_object(Bucket=bucket, Key=f"{folder}/tiny/1/{NETWORK}", Body=b"short")
    with pytest.raises(CorruptCheckpoint, match=rf"{registry.address}/tiny/1/model\.onnx is not the file"):
        Registry(registry.address, tmp_path / "other").version(FIRST)


def test_a_bucket_that_was_never_made_is_told(s3: S3Server, tmp_path: Path) -> None:
    with pytest.raises(RegistryMissing, match="there is no bucket 'nobody-made-this'"):
        Registry("s3://nobody-made-this/registry", tmp_path).names()
    with pytest.raises(RegistryMissing, match="there is no bucket 'nobody-made-this'"):
        Registry("s3://nobody-made-this/registry", tmp_path).state("tiny")


def test_a_bucket_without_versions_is_an_empty_registry(s3: S3Server, tmp_path: Path) -> None:
    assert Registry(s3.new_bucket(), tmp_path).names() == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDenied", r"access is denied: check the credentials"),
        ("InvalidAccessKeyId", r"the credentials are not accepted \(InvalidAccessKeyId\)"),
    ],
)
def test_a_refusal_is_told_without_the_secret(
    code: str, message: str, registry: Registry, s3: S3Server, tmp_path: Path
) -> None:
    s3.refusal = code
    try:
        with pytest.raises(RegistryUnavailable, match=message) as caught:
            Registry(registry.address, tmp_path / "other").names()
    finally:
        s3.refusal = ""
    assert s3.variables["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_missing_credentials_are_told(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(RegistryUnavailable, match="no credentials were found: set AWS_ACCESS_KEY_ID"):
        Registry(registry.address, tmp_path / "other").names()


def test_a_service_swaps_lives_without_its_store_and_starts_again_from_its_cache(
    registry: Registry, s3: S3Server, tiny: StoredVersion, tmp_path: Path
) -> None:
    publish_again(registry, tiny)
    variables = {**s3.variables, "HUBEL_DEFAULT_MODEL": "tiny", "HUBEL_CACHE": str(tmp_path / "cache of the service")}
    with serving(registry.address, tmp_path / "log", workers=2, **variables) as server:
        wait_for_workers(server, 2)
        assert answering(server) == {1}
        registry.promote(ModelRef("tiny", version=2))
        until(lambda: answering(server) == {2})
        s3.stop()
        until(lambda: bool(server.get("/health").json()["registry_away"]))
        assert answering(server) == {2}
        assert server.get("/readyz").is_success
    with serving(registry.address, tmp_path / "log", workers=2, **variables) as server:
        wait_for_workers(server, 2)
        assert answering(server) == {2}
        assert "cannot be reached" in server.get("/health").json()["registry_away"]
        assert "the registry is away" in server.log.read_text()
        s3.start()
        until(lambda: not server.get("/health").json()["registry_away"])
        registry.promote(ModelRef("tiny", version=1))
        until(lambda: answering(server) == {1})


def answering(server: Server) -> set[int]:
    """The versions that answer a few requests."""
    answers = [server.post("/v1/predict", encode(noise())) for _ in range(8)]
    assert all(answer.is_success for answer in answers), [answer.text for answer in answers]
    return {answer.json()["version"] for answer in answers}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
