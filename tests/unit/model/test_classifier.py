import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.checkpoint import GOLDEN, Golden, digest_files, read_golden, write_golden
from model.classifier import Classifier, _places_of_least, check_golden, load_classifier, softmax
from model.engines import selection
from model.engines.base import Logits
from model.engines.onnx import OnnxEngine
from model.engines.selection import EngineChoice
from model.engines.torch import TorchEngine
from model.errors import CorruptCheckpoint, EngineUnavailable, GoldenMismatch
from model.preprocessing import ImageLimits, Pixels
from model.registry import StoredVersion
from tests.fakes import FakeEngine, encode, noise

CPU = EngineChoice(device="cpu", threads=1)


def test_a_version_is_loaded_and_answers_with_probabilities(tiny: StoredVersion) -> None:
    classifier = load_classifier(tiny, CPU)
    assert classifier.engine.name == "onnx"
    prepared = classifier.prepare(encode(noise()), ImageLimits())
    (probabilities,) = classifier.classify(prepared.pixels[None])
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)
    top = classifier.top(probabilities, 0)
    assert [p.label for p in classifier.top(probabilities, 2)] == [p.label for p in top[:2]]
    assert [p.probability for p in top] == sorted(map(float, probabilities), reverse=True)
    assert {p.label: p.index for p in top} == {"ant": 0, "bee": 1, "cow": 2}


def test_onnx_and_torch_agree(tiny: StoredVersion) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (50, 12, 12, 3), dtype=np.uint8)
    onnx, torch = (load_classifier(tiny, EngineChoice(name, "cpu")).classify(pixels) for name in ("onnx", "torch"))
    assert np.abs(onnx - torch).max() < 1e-5


def with_golden(version: StoredVersion, golden: Golden) -> StoredVersion:
    """The version as if it had been published with other golden values."""
    write_golden(version.folder, golden)
    manifest = version.manifest.model_copy(update={"files": digest_files(version.folder)})
    return StoredVersion(version.name, version.number, version.folder, manifest)


def test_a_version_whose_engines_do_not_repeat_its_golden_outputs_is_not_served(tiny: StoredVersion) -> None:
    golden = read_golden(tiny.folder)
    wrong = with_golden(tiny, Golden(golden.pixels, golden.logits + np.array([0.1, 0, 0], np.float32)))
    with pytest.raises(
        GoldenMismatch, match=r"tiny:1 is not served: engine onnx .* differs .*; engine torch .* differs"
    ):
        load_classifier(wrong, CPU)


def test_the_next_engine_is_taken_where_the_first_disagrees(
    tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OnnxEngine, "infer", FakeEngine().infer)
    assert load_classifier(tiny, CPU).engine.name == "torch"
    assert "engine onnx on cpu differs" in caplog.text


def test_the_next_engine_is_taken_where_the_device_is_not_what_it_seemed(
    tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_has_cuda", lambda: True)
    for fault in (EngineUnavailable("no device"), RuntimeError("CUDA out of memory")):

        def fail(*_: object, fault: Exception = fault) -> None:
            raise fault

        monkeypatch.setattr(TorchEngine, "__init__", fail)
        assert load_classifier(tiny, EngineChoice()).engine.name == "onnx"


def test_golden_outputs_that_are_not_numbers_are_refused(tiny: StoredVersion) -> None:
    golden = read_golden(tiny.folder)
    broken = Golden(golden.pixels, np.full_like(golden.logits, np.nan))
    with pytest.raises(GoldenMismatch):
        check_golden(FakeEngine(), broken, tiny.manifest)


def test_a_wrong_number_of_classes_is_refused(tiny: StoredVersion) -> None:
    with pytest.raises(GoldenMismatch, match=r"shape \(4, 2\)"):
        check_golden(FakeEngine(classes=2), read_golden(tiny.folder), tiny.manifest)


def test_a_tampered_file_is_never_loaded(tiny: StoredVersion) -> None:
    with (tiny.folder / GOLDEN).open("ab") as file:
        file.write(b"more")
    with pytest.raises(CorruptCheckpoint, match=GOLDEN):
        load_classifier(tiny, CPU)


def test_temperature_flattens_and_large_logits_do_not_overflow() -> None:
    logits = np.array([[1000.0, 998.0], [0.0, 0.0]], dtype=np.float32)
    assert softmax(logits, 1.0)[0, 0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert softmax(logits, 2.0)[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert softmax(logits, 1.0)[1].tolist() == [0.5, 0.5]


def test_equal_probabilities_keep_the_classes_order(tiny: StoredVersion) -> None:
    classifier = Classifier(tiny.manifest, FakeEngine())
    assert [p.index for p in classifier.top(np.array([0.2, 0.4, 0.4], np.float32), 3)] == [1, 2, 0]


@given(st.integers(1, 400), st.integers(1, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_the_first_places_are_those_of_sorting_all(size: int, count: int, seed: int, broken: bool) -> None:
    values = np.random.default_rng(seed).integers(0, 30, size).astype(np.float32)
    values[: size // 2 * broken] = np.nan
    assert _places_of_least(values, count).tolist() == np.argsort(values, kind="stable")[:count].tolist()


class Answers(FakeEngine):
    """An engine that gives these probabilities."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.logits = np.log(np.array(probabilities, np.float32))

    def infer(self, pixels: Pixels, *, spread: bool = False) -> Logits:
        return self.logits


def check_answers(tiny: StoredVersion, found: list[float], expected: list[float], **changes: object) -> float:
    golden = Golden(np.zeros((1, 12, 12, 3), np.uint8), np.log(np.array([expected], np.float32)))
    return check_golden(Answers([found]), golden, tiny.manifest.model_copy(update=changes))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_version_of_reduced_precision_may_differ_by_its_tolerance(tiny: StoredVersion, precision: str) -> None:
    changes = {"precision": precision, "tolerance": 0.1}
    assert check_answers(tiny, [0.56, 0.24, 0.2], [0.65, 0.2, 0.15], **changes) == pytest.approx(0.09, abs=1e-6)
    with pytest.raises(GoldenMismatch, match=r"the tolerance is 0\.1"):
        check_answers(tiny, [0.53, 0.27, 0.2], [0.65, 0.2, 0.15], **changes)
    with pytest.raises(GoldenMismatch, match=r"the tolerance is 0\.001"):
        check_answers(tiny, [0.56, 0.24, 0.2], [0.65, 0.2, 0.15])


def test_where_golden_outputs_leave_no_doubt_reduced_precision_must_name_the_same_class(tiny: StoredVersion) -> None:
    wide = {"precision": "int8", "tolerance": 0.4}
    with pytest.raises(GoldenMismatch, match="another class than the golden outputs for 1 of 1 images"):
        check_answers(tiny, [0.4, 0.45, 0.15], [0.55, 0.3, 0.15], **wide)
    assert check_answers(tiny, [0.4, 0.45, 0.15], [0.45, 0.4, 0.15], **wide) == pytest.approx(0.05, abs=1e-6)
    assert check_answers(tiny, [0.4, 0.45, 0.15], [0.55, 0.3, 0.15], tolerance=0.4) == pytest.approx(0.15, abs=1e-6)
