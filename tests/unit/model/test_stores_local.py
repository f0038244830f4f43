"""Publishing into a folder, walked step by step: killed, with a full disk, and against another process."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from model.errors import AliasNotMoved, CorruptCheckpoint, RegistryUnavailable
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.publishers import (
    check_all,
    instrument,
    publish_again,
    start_changing,
    start_publishing,
    wait,
)

MOST_STEPS = 100


def test_a_publisher_that_is_killed_at_any_step_leaves_a_whole_registry(
    tiny_root: Path, tiny: StoredVersion, tmp_path: Path
) -> None:
    registry = Registry(tiny_root)
    outcomes: list[tuple[int, int]] = []
    for step in range(1, MOST_STEPS):
        before = registry.numbers("tiny")
        code = wait(start_publishing(registry, tmp_path, tiny, killed_at=step))
        after = check_all(registry)
        assert after in (before, [*before, before[-1] + 1])
        outcomes.append((code, len(after) - len(before)))
        last = publish_again(registry, tiny).number
        assert last == after[-1] + 1
        for number in after[1:]:  # to keep the next round short
            registry.remove(ModelRef("tiny", version=number))
        if code == 0:
            break
    assert outcomes[-1] == (0, 1)
    assert len(outcomes) > 20
    added = [count for _, count in outcomes]
    assert added == sorted(added)  # there is one step before which the version is not there, and after which it is
    assert registry.state("tiny").aliases == {"production": 1}


def test_a_disk_that_is_full_at_any_step_leaves_no_version(
    tiny_root: Path, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tiny_root)
    for step in range(1, MOST_STEPS):
        steps = iter(range(1, step))
        failed: list[str] = []

        def fail(name: str, steps: object = steps, failed: list[str] = failed) -> None:
            if name not in ("unlink", "rmdir") and next(steps, None) is None and not failed:  # type: ignore[call-overload]
                failed.append(name)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before = registry.numbers("tiny")
        told: Exception | None = None
        with monkeypatch.context() as patch, registry.staging("tiny") as folder:
            for path in tiny.folder.iterdir():
                if path.name != "manifest.json":
                    shutil.copy(path, folder)
            instrument(patch.setattr, fail)
            try:
                registry.publish(folder, tiny.manifest)
            except RegistryUnavailable as error:
                told = error
        if not failed:
            break
        assert "No space left" in str(told)
        assert str(tiny_root) in str(told)
        assert check_all(registry) == before + [before[-1] + 1] * isinstance(told, AliasNotMoved)
    assert told is None
    assert step > 10


def test_staging_on_a_full_disk_names_the_registry(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkdtemp", fail)
    with (
        pytest.raises(RegistryUnavailable, match=r"registry .* cannot be written: No space left"),
        Registry(tiny_root).staging("tiny"),
    ):
        pass


def test_two_processes_that_publish_at_once_get_numbers_in_a_row(
    tiny_root: Path, tiny: StoredVersion, tmp_path: Path
) -> None:
    registry = Registry(tiny_root)
    publishers = [start_publishing(registry, tmp_path, tiny, count=10) for _ in range(2)]
    assert [wait(process) for process in publishers] == [0, 0]
    assert check_all(registry) == list(range(1, 22))


def test_two_processes_that_change_at_once_lose_no_change(tiny_root: Path, tmp_path: Path) -> None:
    registry = Registry(tiny_root)
    changers = [start_changing(registry, tmp_path, name, count=20) for name in ("one", "two")]
    assert [wait(process) for process in changers] == [0, 0]
    state = registry.state("tiny")
    assert len(state.aliases) == 41
    assert state.traffic.canary
    assert state.traffic.canary.percent == 40


@pytest.mark.parametrize("content", [b'{"aliases": [', b"\xff\xfe", b""])
def test_a_state_that_cannot_be_read_is_an_error_and_stays(
    content: bytes, tiny_root: Path, tiny: StoredVersion
) -> None:
    path = tiny_root / "tiny" / "state.json"
    path.write_bytes(content)
    registry = Registry(tiny_root)
    with pytest.raises(CorruptCheckpoint, match=r"tiny/state\.json"):
        publish_again(registry, tiny)
    with pytest.raises(CorruptCheckpoint, match=r"tiny/state\.json"):
        registry.promote(ModelRef("tiny", version=1), "canary")
    assert path.read_bytes() == content
    assert registry.numbers("tiny") == [1]


@pytest.mark.parametrize("prefix", [".staging-", ".removed-"])
def test_what_was_left_behind_is_cleared_after_a_day(prefix: str, tiny_root: Path, tiny: StoredVersion) -> None:
    old, young = (tiny_root / "tiny" / f"{prefix}{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    then = time.time() - 25 * 3600
    os.utime(old, (then, then))
    publish_again(Registry(tiny_root), tiny)
    assert not old.exists()
    assert young.exists()
