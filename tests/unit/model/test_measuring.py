"""What is measured, with engines that take as long as they say on a clock that they move."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from model.engines import measuring
from model.engines.base import Engine, Logits
from model.engines.measuring import SPEEDS, Speed, measure, measure_apart
from model.engines.selection import Candidate
from model.errors import EngineUnavailable
from model.preprocessing import Pixels
from model.registry import StoredVersion
from tests.fakes import FakeEngine

ONE = (Speed(engine="onnx", images_per_second=100, alone_ms=6),)
IMAGES = np.zeros((3, 2, 2, 3), np.uint8)


class FakeClock:
    """A clock that stands still but for what is run."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds


class TimedEngine(FakeEngine):
    """An engine whose runs take some time; it may fail from some run on, and its first one takes a second more."""

    def __init__(self, clock: FakeClock, *, image_ms: float, alone_ms: float, fails_at: int | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._image_ms = image_ms
        self._alone_ms = alone_ms
        self._fails_at = fails_at

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        if len(self.batches) == self._fails_at:
            raise RuntimeError("no memory is left")
        if not self.batches:
            self._clock.pass_by(1.0)
        self._clock.pass_by((self._alone_ms if spread else self._image_ms * len(pixels)) / 1000)
        return super().infer(pixels)


class OneCoreEngine(TimedEngine):
    one_core = True


def test_speeds_are_images_per_second_and_milliseconds_without_what_a_first_run_costs() -> None:
    clock = FakeClock()
    engines: dict[str, Engine] = {
        "quick": TimedEngine(clock, image_ms=5, alone_ms=4),
        "slow": TimedEngine(clock, image_ms=10, alone_ms=20),
    }
    quick, slow = measure(engines, IMAGES, threads=2, clock=clock)
    assert (quick.engine, slow.engine) == ("quick", "slow")
    assert quick.images_per_second == pytest.approx(200)
    assert quick.alone_ms == pytest.approx(4)
    assert slow.images_per_second == pytest.approx(100)
    assert slow.alone_ms == pytest.approx(20)


def test_an_engine_of_one_core_runs_on_all_of_them_at_once() -> None:
    clock = FakeClock()
    at_once = threading.Barrier(2, timeout=10)

    class Meeting(OneCoreEngine):
        def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
            if not spread:
                at_once.wait()  # breaks where one run waits for the other
            return super().infer(pixels, spread=spread)

    (speed,) = measure({"meeting": Meeting(clock, image_ms=500, alone_ms=10)}, IMAGES, threads=2, clock=clock)
    assert speed.images_per_second > 0


def test_each_round_ends_in_time_and_rounds_alternate() -> None:
    clock = FakeClock()
    seen: list[str] = []

    class Noted(TimedEngine):
        def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
            seen.append("a" if self._image_ms < 7 else "b")
            return super().infer(pixels, spread=spread)

    engines: dict[str, Engine] = {
        "a": Noted(clock, image_ms=5, alone_ms=5),
        "b": Noted(clock, image_ms=9, alone_ms=9),
    }
    measure(engines, IMAGES, threads=1, clock=clock)
    assert clock.seconds - 100 < 2 * 3 * 0.4 + 2 * 1.0
    assert "".join(seen).replace("aa", "a").count("ab") >= 3


@pytest.mark.parametrize("fails_at", [0, 5])
def test_an_engine_that_fails_is_left_out(fails_at: int, capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    engines: dict[str, Engine] = {
        "broken": TimedEngine(clock, image_ms=1, alone_ms=1, fails_at=fails_at),
        "sound": TimedEngine(clock, image_ms=10, alone_ms=20),
    }
    (speed,) = measure(engines, IMAGES, threads=2, clock=clock)
    assert speed.engine == "sound"
    assert capsys.readouterr().err == "broken: no memory is left\n"


# ---- the process


def test_the_process_measures_the_engines_that_load(
    tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[str] = []

    def run(_: list[str], **options: str) -> "subprocess.CompletedProcess[str]":
        given.append(options["input"])
        return subprocess.CompletedProcess([], 0, stderr="", stdout=SPEEDS.dump_json(ONE).decode())

    monkeypatch.setattr(subprocess, "run", run)
    assert measure_apart(tiny, ["onnx", "openvino", "torch"], 2) == ONE

    def open_engine(version: StoredVersion, candidate: Candidate, threads: int) -> Engine:
        assert version.folder == tiny.folder
        assert version.manifest == tiny.manifest
        assert threads == 2
        if candidate.engine == "openvino":
            raise EngineUnavailable("it is not for this processor")
        return FakeEngine()

    monkeypatch.setattr(measuring, "open_engine", open_engine)
    monkeypatch.setattr(measuring, "_BUSY_SECONDS", 0.001)
    monkeypatch.setattr(measuring, "_ALONE_SECONDS", 0.001)
    monkeypatch.setattr(os, "nice", lambda _: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(given[0]))
    measuring.main()
    out, err = capsys.readouterr()
    assert [speed.engine for speed in SPEEDS.validate_json(out)] == ["onnx", "torch"]
    assert err == "openvino: it is not for this processor\n"


def test_engines_are_measured_in_a_process_that_ends(tiny: StoredVersion) -> None:
    speeds = measure_apart(tiny, ["onnx", "openvino"], 1)
    assert [speed.engine for speed in speeds] == ["onnx", "openvino"]
    assert all(isinstance(speed, Speed) and speed.images_per_second > 10 and speed.alone_ms > 0 for speed in speeds)


def test_engines_that_cannot_be_measured_are_told_of(
    tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    speeds = list(ONE)

    def run(*_: object, **__: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(
            [], 0, stdout=SPEEDS.dump_json(tuple(speeds)).decode(), stderr="openvino: no\n"
        )

    monkeypatch.setattr(subprocess, "run", run)
    assert measure_apart(tiny, ["onnx", "openvino"], 2) == ONE
    assert "tiny:1: not every engine could be measured: openvino: no" in caplog.text
    speeds.clear()
    with pytest.raises(EngineUnavailable, match="no engine could be measured"):
        measure_apart(tiny, ["onnx", "openvino"], 2)


def test_a_process_that_takes_too_long_is_ended(tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LIMIT_SECONDS", 0.01)
    with pytest.raises(EngineUnavailable, match="took more than"):
        measure_apart(tiny, ["onnx"], 1)


@pytest.mark.parametrize(
    ("program", "complaint"),
    [("/bin/false", "ended with 1"), ("/bin/echo", "failed: .*JSON"), ("/nowhere/python", "failed: .*No such file")],
)
def test_a_process_that_fails_says_how(
    program: str, complaint: str, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(EngineUnavailable, match=f"(?s)measuring {complaint}"):
        measure_apart(tiny, ["onnx"], 1)


def test_a_version_in_a_folder_relative_to_this_one_is_found(
    tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def run(_: list[str], **options: str) -> "subprocess.CompletedProcess[str]":
        folders.append(measuring._Task.model_validate_json(options["input"]).folder)
        return subprocess.CompletedProcess([], 0, stdout=SPEEDS.dump_json(ONE).decode())

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(tiny.folder.parent)
    measure_apart(StoredVersion("tiny", 1, Path("1"), tiny.manifest), ["onnx"], 1)
    assert folders == [tiny.folder]
