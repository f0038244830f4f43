import io
import json
import os
import signal
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console

from training import progress as progress_module
from training.config import TrainConfig
from training.loop import EpochResult
from training.progress import Display, FollowingObserver, RunObserver
from training.run_folder import RunFolder

RESULT = EpochResult(1, 0.5, 0.4, 0.9, 0.001, 1234.5, 6.7)


def observer(
    tmp_path: Path, *, terminal: bool = False, quiet: bool = False
) -> tuple[RunObserver, RunFolder, io.StringIO]:
    text = io.StringIO()
    folder = RunFolder(tmp_path)
    display = Display(Console(file=text, force_terminal=terminal, width=150), quiet=quiet)
    return RunObserver(folder, {"data": "f00"}, TrainConfig(epochs=2, batch_size=10), display), folder, text


def test_an_epoch_is_a_line_for_people_and_a_line_of_json(tmp_path: Path) -> None:
    watching, folder, text = observer(tmp_path)
    watching.on_epoch(RESULT)
    assert "epoch   1/2  loss 0.5000  validation 90.00% (loss 0.4000)  1,234 images/s" in text.getvalue()
    (line,) = folder.log.read_text().splitlines()
    assert json.loads(line).items() >= {"event": "epoch", "epoch": 1, "validation_loss": 0.4}.items()


def test_a_terminal_sees_a_bar_with_epoch_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_REFRESH_SECONDS", 0.0)
    watching, _, text = observer(tmp_path, terminal=True)
    with watching.watching(steps=5):
        for step in range(1, 6):
            watching.on_step(1, step, 5)
        watching.on_epoch(RESULT)
        watching.on_step(2, 1, 5)
    shown = text.getvalue()
    for words in ("training", "6/10", "epoch 2/2", "images/s", "loss 0.500, validation 90.00%", "0:00:"):
        assert words in shown


def test_quiet_says_nothing(tmp_path: Path) -> None:
    watching, _, text = observer(tmp_path, quiet=True, terminal=True)
    with watching.watching(5):
        watching.on_step(1, 1, 5)
        watching.on_epoch(RESULT)
    assert text.getvalue() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop_and_the_second_acts(tmp_path: Path, number: signal.Signals) -> None:
    watching, _, _ = observer(tmp_path)
    hit = []
    before = signal.signal(number, lambda *_: hit.append(1))
    try:
        with watching.watching(5):
            assert not watching.stop_wanted()
            os.kill(os.getpid(), number)
            assert watching.stop_wanted()
            assert not hit
            os.kill(os.getpid(), number)
            assert hit
        os.kill(os.getpid(), number)
        assert len(hit) == 2
    finally:
        signal.signal(number, before)


def test_what_is_not_said_to_a_person_is_markup_free(tmp_path: Path) -> None:
    text = io.StringIO()
    display = Display(Console(file=text, width=200))
    display.warn("the label [red]x[/red] is odd")
    display.say("[b]plain[/b]")
    assert text.getvalue() == "note: the label [red]x[/red] is odd\n[b]plain[/b]\n"


def test_tensorboard_is_told_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def close(self) -> None:
            told.append(("closed", 0, 0))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    watching, _, _ = observer(tmp_path)
    with watching.watching(5):
        watching.on_epoch(RESULT)
    assert ("validation_accuracy", 0.9, 1) in told
    assert told[-1][0] == "closed"


def test_the_other_processes_never_ask() -> None:
    following = FollowingObserver()
    following.on_step(1, 1, 1)
    following.on_epoch(RESULT)
    following.on_checkpoint({})
    assert not following.stop_wanted()
