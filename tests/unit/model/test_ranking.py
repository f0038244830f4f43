"""Which engine is tried first, with measurements as they are told, and where they are kept."""

import fcntl
import importlib.metadata
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model import classifier
from model.checkpoint import NETWORK
from model.classifier import load_classifier
from model.engines import ranking, selection
from model.engines.measuring import Speed
from model.engines.openvino import OpenVinoEngine
from model.engines.ranking import fastest_first, rank
from model.engines.selection import EngineChoice
from model.errors import EngineUnavailable, RegistryUnavailable
from model.manifest import FileRecord, Precision
from model.registry import StoredVersion
from tests.fakes import FakeEngine

ONNX = Speed(engine="onnx", images_per_second=100, alone_ms=6)
OPENVINO = Speed(engine="openvino", images_per_second=180, alone_ms=4)


class Stopwatch:
    """Tells the speeds that it was given, and counts how often it was asked."""

    def __init__(self, *speeds: Speed, error: Exception | None = None) -> None:
        self.speeds = speeds
        self.error = error
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, version: StoredVersion, engines: Sequence[str], threads: int) -> tuple[Speed, ...]:
        self.asked.append(tuple(engines))
        if self.error is not None:
            raise self.error
        return self.speeds


@pytest.fixture
def choice(tmp_path: Path) -> EngineChoice:
    return EngineChoice(device="cpu", threads=2, measure=True, cache=tmp_path / "cache")


@pytest.fixture
def version(tiny: StoredVersion) -> StoredVersion:
    """The tiny version, offered on every engine."""
    return with_manifest(tiny, engines=("onnx", "openvino", "torch"))


def with_manifest(version: StoredVersion, **changes: object) -> StoredVersion:
    return StoredVersion(version.name, version.number, version.folder, version.manifest.model_copy(update=changes))


def names(version: StoredVersion, choice: EngineChoice, stopwatch: Stopwatch) -> list[str]:
    return [candidate.engine for candidate in fastest_first(version, choice, stopwatch)]


def kept(choice: EngineChoice) -> list[Path]:
    assert choice.cache is not None
    return list((choice.cache / "engines").glob("*.json"))


# ---- the rule


@pytest.mark.parametrize(
    ("openvino", "order"),
    [
        ((180, 9), ["openvino", "onnx"]),  # more images per second win, whatever one alone takes
        ((106, 9), ["openvino", "onnx"]),
        ((104, 9), ["onnx", "openvino"]),  # alike: what one alone takes decides
        ((96, 5), ["openvino", "onnx"]),
        ((104, 5.8), ["onnx", "openvino"]),  # alike in both: the usual order stays
        ((94, 1), ["onnx", "openvino"]),
    ],
)
def test_most_images_per_second_then_the_shortest_time_alone(openvino: tuple[float, float], order: list[str]) -> None:
    other = Speed(engine="openvino", images_per_second=openvino[0], alone_ms=openvino[1])
    assert rank([ONNX, other]) == order


def test_the_fastest_engine_is_tried_first_and_torch_last(version: StoredVersion, choice: EngineChoice) -> None:
    assert names(version, choice, Stopwatch(ONNX, OPENVINO)) == ["openvino", "onnx", "torch"]


def test_an_engine_that_could_not_be_measured_comes_after_those_that_could(
    version: StoredVersion, choice: EngineChoice
) -> None:
    assert names(version, choice, Stopwatch(OPENVINO)) == ["openvino", "onnx", "torch"]


def test_an_engine_that_disagrees_gives_way_to_the_next(
    version: StoredVersion, choice: EngineChoice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        classifier, "fastest_first", lambda one, choice: fastest_first(one, choice, Stopwatch(ONNX, OPENVINO))
    )
    assert load_classifier(version, choice).engine.name == "openvino"
    monkeypatch.setattr(OpenVinoEngine, "infer", FakeEngine().infer)
    assert load_classifier(version, choice).engine.name == "onnx"
    assert "engine openvino on cpu differs" in caplog.text


# ---- when nothing is measured


@pytest.mark.parametrize("engines", [("onnx",), ("onnx", "torch"), ("openvino", "torch"), ("torch",)])
def test_nothing_is_measured_where_there_is_no_choice(
    engines: tuple[str, ...], version: StoredVersion, choice: EngineChoice
) -> None:
    stopwatch = Stopwatch(ONNX, OPENVINO)
    assert names(with_manifest(version, engines=engines), choice, stopwatch) == list(engines)
    assert stopwatch.asked == []
    assert kept(choice) == []


@pytest.mark.parametrize(
    ("engine", "measure", "first"),
    [("auto", False, "onnx"), ("onnx", True, "onnx"), ("openvino", True, "openvino")],
)
def test_nothing_is_measured_where_the_operator_has_chosen(
    engine: str, measure: bool, first: str, version: StoredVersion
) -> None:
    stopwatch = Stopwatch(ONNX, OPENVINO)
    assert names(version, EngineChoice(engine, "cpu", measure=measure), stopwatch)[0] == first
    assert stopwatch.asked == []


def test_nothing_is_measured_beside_a_gpu(
    version: StoredVersion, choice: EngineChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_has_cuda", lambda: True)
    stopwatch = Stopwatch(ONNX, OPENVINO)
    on_gpu = EngineChoice(threads=2, measure=True, cache=choice.cache)
    assert names(version, on_gpu, stopwatch) == ["torch", "onnx", "openvino", "torch"]
    assert stopwatch.asked == []


def test_a_package_that_is_missing_leaves_no_choice(
    version: StoredVersion, choice: EngineChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "is_installed", lambda engine: engine != "openvino")
    stopwatch = Stopwatch(ONNX)
    assert names(version, choice, stopwatch) == ["onnx", "torch"]
    assert stopwatch.asked == []


def test_a_measurement_that_fails_leaves_the_usual_order_and_is_tried_again(
    version: StoredVersion, choice: EngineChoice, caplog: pytest.LogCaptureFixture
) -> None:
    assert names(version, choice, Stopwatch(error=EngineUnavailable("it took too long")))[0] == "onnx"
    assert "it took too long; engines are tried in their usual order" in caplog.text
    assert "HUBEL_MEASURE_ENGINES=false" in caplog.text
    assert names(version, choice, Stopwatch(ONNX, OPENVINO))[0] == "openvino"


# ---- what is kept


def test_a_measurement_is_made_once(version: StoredVersion, choice: EngineChoice) -> None:
    stopwatch = Stopwatch(ONNX, OPENVINO)
    assert names(version, choice, stopwatch) == names(version, choice, stopwatch)
    assert stopwatch.asked == [("onnx", "openvino")]
    (path,) = kept(choice)
    assert json.loads(path.read_text())["speeds"][1]["images_per_second"] == 180


def test_processes_that_load_together_measure_once(version: StoredVersion, choice: EngineChoice) -> None:
    stopwatch = Stopwatch(ONNX, OPENVINO)
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: names(version, choice, stopwatch)[0], range(4))) == {"openvino"}
    assert len(stopwatch.asked) == 1


def test_another_network_precision_number_of_threads_processor_or_runtime_is_measured_anew(
    version: StoredVersion, choice: EngineChoice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stopwatch = Stopwatch(ONNX, OPENVINO)

    def measurements() -> int:
        names(version, choice, stopwatch)
        return len(stopwatch.asked)

    assert measurements() == 1
    other_labels = with_manifest(version, labels=("x", "y", "z"))
    names(other_labels, choice, stopwatch)
    assert len(stopwatch.asked) == 1
    files = {**version.manifest.files, NETWORK: FileRecord(bytes=1, sha256="0" * 64)}
    names(with_manifest(version, files=files), choice, stopwatch)
    precision: Precision = "int8"
    names(with_manifest(version, precision=precision), choice, stopwatch)
    names(version, EngineChoice(device="cpu", threads=3, measure=True, cache=choice.cache), stopwatch)
    assert len(stopwatch.asked) == 4
    (tmp_path / "cpuinfo").write_text("model name\t: Another\nflags\t\t: fpu\ncpu MHz\t\t: 2596\n\nprocessor\t: 1\n")
    monkeypatch.setattr(ranking, "_CPU", tmp_path / "cpuinfo")
    assert measurements() == 5
    (tmp_path / "cpuinfo").write_text("model name\t: Another\nflags\t\t: fpu\ncpu MHz\t\t: 3000\n\nprocessor\t: 1\n")
    assert measurements() == 5
    monkeypatch.setattr(ranking, "_CPU", tmp_path / "nothing")
    assert measurements() == 6
    monkeypatch.setattr(importlib.metadata, "version", lambda package: f"{package} 99")
    assert measurements() == 7


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"speeds": 3}', b"[]"])
def test_what_is_kept_and_not_understood_is_measured_again(
    content: bytes, version: StoredVersion, choice: EngineChoice, caplog: pytest.LogCaptureFixture
) -> None:
    stopwatch = Stopwatch(ONNX, OPENVINO)
    names(version, choice, stopwatch)
    (path,) = kept(choice)
    path.write_bytes(content)
    assert names(version, choice, stopwatch)[0] == "openvino"
    assert len(stopwatch.asked) == 2
    assert "engines are measured again" in caplog.text
    caplog.clear()
    names(version, choice, stopwatch)
    assert len(stopwatch.asked) == 2
    assert caplog.text == ""


def test_what_was_kept_for_others_is_not_taken(version: StoredVersion, choice: EngineChoice) -> None:
    stopwatch = Stopwatch(ONNX, OPENVINO)
    names(version, choice, stopwatch)
    (path,) = kept(choice)
    measurement = json.loads(path.read_text())
    measurement["circumstances"]["threads"] = 64
    path.write_text(json.dumps(measurement))
    names(version, choice, stopwatch)
    assert len(stopwatch.asked) == 2


def test_a_folder_that_cannot_be_made_costs_a_measurement_at_every_load(
    version: StoredVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    stopwatch = Stopwatch(ONNX, OPENVINO)
    nowhere = EngineChoice(device="cpu", threads=2, measure=True, cache=tmp_path / "file")
    for times in (1, 2):
        assert names(version, nowhere, stopwatch)[0] == "openvino"
        assert len(stopwatch.asked) == times
    assert "engines are measured at every load, since nothing can be kept" in caplog.text


def test_a_user_without_a_home_has_no_cache(
    version: StoredVersion, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RegistryUnavailable("there is no home folder")

    monkeypatch.setattr(ranking, "default_cache", homeless)
    choice = EngineChoice(device="cpu", threads=2, measure=True)
    assert names(version, choice, Stopwatch(ONNX, OPENVINO))[0] == "openvino"
    assert "nothing can be kept: there is no home folder" in caplog.text


def test_a_folder_that_cannot_be_written_is_read(
    version: StoredVersion, choice: EngineChoice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(folder: Path, text: str) -> Path:
        raise OSError(28, os.strerror(28))

    caplog.set_level(logging.WARNING)
    stopwatch = Stopwatch(ONNX, OPENVINO)
    names(version, choice, stopwatch)
    monkeypatch.setattr(ranking, "write_temporary", full)
    names(version, choice, stopwatch)
    assert len(stopwatch.asked) == 1
    assert caplog.text == ""
    other = EngineChoice(device="cpu", threads=5, measure=True, cache=choice.cache)
    assert names(version, other, stopwatch)[0] == "openvino"
    assert "cannot be written" in caplog.text


def test_where_no_turn_can_be_taken_nobody_waits(
    version: StoredVersion, choice: EngineChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlockable(*_: object) -> None:
        raise OSError(37, os.strerror(37))  # no locks, as on some network file systems

    monkeypatch.setattr(fcntl, "flock", unlockable)
    assert names(version, choice, Stopwatch(ONNX, OPENVINO))[0] == "openvino"
