"""When a version of reduced precision will do, and what is said where it does not."""

import pytest

from training.diff import Share, Verdict
from training.precision import Accuracy, Reduction, Speed, Worth, list_figures


def worth(top1: float | None) -> Worth:
    accuracy = None
    if top1 is not None:
        accuracy = Accuracy(
            top1=top1, top1_interval=(0.7, 0.9), k=5, top_k=0.95, nll=0.5, ece=0.04, ece_uncalibrated=0.06
        )
    return Worth(engine="onnx on cpu", network_bytes=4_000_000, temperature=1.5, calibrated=True, accuracy=accuracy)


def reduction(lost: int | None, won: int = 0, changed: int = 0, max_drop: float = 1.0) -> Reduction:
    verdict = None
    if lost is not None:
        verdict = Verdict(both=160 - lost, only_baseline=lost, only_candidate=won, neither=40 - won, p_value=0.5)
    return Reduction(
        base="birds:2",
        precision="int8",
        data="folder photos",
        fingerprint="f00",
        range_images=100,
        fitted_images=100,
        images=200,
        agreement=Share(count=200 - changed, of=200, value=1 - changed / 200, interval=(0.9, 1.0)),
        mean_probability_change=0.012,
        largest_probability_change=0.2,
        verdict=verdict,
        max_drop=max_drop,
        fp32=worth(None if lost is None else 0.8),
        reduced=worth(None if lost is None else 0.8 + (won - lost) / 200),
        speeds=(Speed(batch=1, fp32=100, reduced=180, ratio=1.8, rounds=5),),
        notes=(),
    )


def test_the_drop_is_what_is_lost_less_what_is_won() -> None:
    assert (reduction(4, 2).drop, reduction(4, 2).refusal) == (1.0, "")
    assert reduction(1, 5).drop == -2.0
    assert reduction(5, 2).refusal == (
        "in int8, birds:2 is right on 78.50% of 200 images, and in fp32 on 80.00%: 1.50 points less, the limit is 1 "
        "(--max-drop)"
    )
    assert reduction(5, 2, max_drop=1.5).refusal == ""


def test_without_labels_no_more_can_be_lost_than_changes() -> None:
    assert reduction(None, changed=2).refusal == ""
    found = reduction(None, changed=3)
    assert found.drop == 1.5
    for words in ("another class for 3 of 200 images", "no labels", "up to 1.50 points"):
        assert words in found.refusal


@pytest.mark.parametrize("lost", [3, None])
def test_every_row_has_a_name_and_both_versions(lost: int | None) -> None:
    rows = {row[0]: row[1:] for row in list_figures(reduction(lost))}
    assert rows["images/s, one by one"] == ("100", "180", "x 1.80")
    assert rows["same first class as in fp32"][1:] == ("100.00%", "95% interval 90.0% to 100.0%")
    assert ("top-1 accuracy" in rows) == (lost is not None)
    if lost is not None:
        assert rows["top-1 accuracy"] == ("80.00%", "78.50%", "-1.50 points")
