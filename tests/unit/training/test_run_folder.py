import json
from pathlib import Path

import pytest
import torch

from training.errors import RunNotFound, RunNotWritable
from training.run_folder import RunFolder

IDENTITY = {"data": "f00", "recipe": {"epochs": 3, "betas": (0.9, 0.99)}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "cats")


def test_a_state_comes_back_as_it_was(folder: RunFolder) -> None:
    state = {"step": 3, "weights": {"a": torch.rand(4)}, "best": None, "history": [{"loss": 0.5}]}
    folder.save(IDENTITY, state)
    loaded = folder.load(IDENTITY)
    assert torch.equal(loaded.pop("weights")["a"], state.pop("weights")["a"])  # type: ignore[index]
    assert loaded == state


def test_nothing_to_go_on_with_says_so(folder: RunFolder) -> None:
    with pytest.raises(RunNotFound, match="leave --resume away"):
        folder.load(IDENTITY)


def test_another_recipe_is_refused_by_what_changed(folder: RunFolder) -> None:
    folder.save(IDENTITY, {})
    with pytest.raises(RunNotFound, match=r"data was 'f00' and is 'ba4'"):
        folder.load({**IDENTITY, "data": "ba4"})


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut"])
def test_a_broken_checkpoint_is_told(folder: RunFolder, content: bytes) -> None:
    folder.checkpoint.write_bytes(content)
    with pytest.raises(RunNotFound, match="cannot be read"):
        folder.load(IDENTITY)


def test_a_pickle_that_would_run_code_is_not_loaded(folder: RunFolder) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("run",))

    torch.save({"identity": "{}", "state": Hostile()}, folder.checkpoint)
    with pytest.raises(RunNotFound, match="cannot be read"):
        folder.load({})


def test_a_write_that_fails_keeps_the_checkpoint_before(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save(IDENTITY, {"step": 1})

    def fail(*_: object) -> None:
        raise RuntimeError("write failed: No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RunNotWritable, match=r"No space left.*go on with --resume"):
        folder.save(IDENTITY, {"step": 2})
    monkeypatch.undo()
    assert folder.load(IDENTITY) == {"step": 1}
    assert [path.name for path in folder.path.iterdir()] == ["checkpoint.pt"]


def test_a_run_begins_without_what_another_left_but_keeps_checkpoint_and_features(folder: RunFolder) -> None:
    folder.save(IDENTITY, {})
    folder.note("begin")
    folder.cache.mkdir()
    folder.begin()
    assert {path.name for path in folder.path.iterdir()} == {"cache", "checkpoint.pt"}


def test_a_finished_run_leaves_its_log(folder: RunFolder) -> None:
    folder.save(IDENTITY, {})
    folder.note("epoch", loss=0.25, labels=["Käfer"])
    (folder.scratch / "pixels").write_bytes(b"x")
    folder.finish()
    assert [path.name for path in folder.path.iterdir()] == ["log.jsonl"]
    (line,) = folder.log.read_text(encoding="utf-8").splitlines()
    assert json.loads(line).items() >= {"event": "epoch", "loss": 0.25, "labels": ["Käfer"]}.items()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunNotWritable, match="cannot be made"):
        RunFolder(tmp_path / "file" / "cats")
