"""What a version of reduced precision gives and what it costs, beside the fp32 version that it was made of.

Puts figures into one JSON record and says whether they will do; runs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.diff import Share, Verdict

ReducedPrecision = Literal["int8", "bf16"]

CALIBRATION_IMAGES: Final = 200
MAX_DROP: Final = 1.0

Row = tuple[str, str, str, str]

_PROBABILITY_FIGURES = (
    ("calibration error", "ece"),
    ("calibration error at temperature 1", "ece_uncalibrated"),
    ("negative log-likelihood, nats", "nll"),
)


@dataclass(frozen=True)
class Goal:
    """What is wanted.

    Attributes:
        precision: of the new version.
        max_drop: how many points of top-1 accuracy may be lost, of a hundred.
        calibration_images: how many of the images that are set aside the ranges of int8 are taken from, at the most.
        seed: of their choice.
    """

    precision: ReducedPrecision = "int8"
    max_drop: float = MAX_DROP
    calibration_images: int = CALIBRATION_IMAGES
    seed: int = 0


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Accuracy(_Record):
    """How well a version answers, its probabilities as it serves them.

    Attributes:
        top1: fraction of images whose most probable class is right.
        top1_interval: its 95% interval by Wilson.
        k: 5, or the number of classes if that is less.
        top_k: fraction of images whose class is among the k most probable.
        nll: negative log-likelihood in nats.
        ece: expected calibration error, 0 to 1.
        ece_uncalibrated: the same at temperature 1.
    """

    top1: float
    top1_interval: tuple[float, float]
    k: int
    top_k: float
    nll: float
    ece: float
    ece_uncalibrated: float


class Worth(_Record):
    """What one of the two versions is; `accuracy` is null without labels.

    Attributes:
        engine: that answered, and its device.
        network_bytes: the size of the file that it runs.
        temperature: what the logits are divided by.
        calibrated: whether that was fitted on labels.
        accuracy: of the measured images.
    """

    engine: str
    network_bytes: int
    temperature: float
    calibrated: bool
    accuracy: Accuracy | None


class Speed(_Record):
    """Images per second with all cores at work, both versions in turns; `ratio` is the median over the rounds."""

    batch: int = Field(ge=1)
    fp32: float
    reduced: float
    ratio: float
    rounds: int = Field(ge=1)


class Reduction(_Record):
    """A version of reduced precision beside the one that it was made of.

    Attributes:
        base: the fp32 version.
        precision: of the other.
        published: the version that it became; null where it was not published.
        data: where the images are from.
        fingerprint: SHA-256 of the images with their parts and labels.
        range_images: calibration images that the ranges of int8 were taken from; 0 for bf16.
        fitted_images: calibration images that the temperature was fitted on; 0 where it was not.
        images: others, on which all figures are measured.
        agreement: of these, the ones with the same most probable class.
        mean_probability_change: mean of how far the probability of the fp32 version's class moves, 0 to 1, both at
            the temperature of the fp32 version: what the precision alone does.
        largest_probability_change: the largest of these.
        verdict: how many each gets right; null without labels.
        max_drop: how much may be lost, in points of a hundred.
        fp32: the one.
        reduced: and the other.
        speeds: by the size of a batch.
        notes: what a reader of the figures should know, in sentences.
    """

    base: str
    precision: ReducedPrecision
    published: str | None = None
    data: str
    fingerprint: str
    range_images: int = Field(ge=0)
    fitted_images: int = Field(ge=0)
    images: int = Field(ge=1)
    agreement: Share
    mean_probability_change: float
    largest_probability_change: float
    verdict: Verdict | None
    max_drop: float = Field(ge=0, le=100)
    fp32: Worth
    reduced: Worth
    speeds: tuple[Speed, ...]
    notes: tuple[str, ...]

    @property
    def drop(self) -> float:
        """Points of top-1 accuracy that are lost; without labels, the most that can be.

        Without labels nothing says which of two answers is right, so that each image whose class changes may be one
        that was right before: no more can be lost than changes.
        """
        if self.verdict is None:
            return 100 * (self.agreement.of - self.agreement.count) / self.agreement.of
        return 100 * (self.verdict.only_baseline - self.verdict.only_candidate) / self.images

    @property
    def refusal(self) -> str:
        """Why the version is not to be published; empty where it may be."""
        if self.drop <= self.max_drop:
            return ""
        limit = f"the limit is {self.max_drop:g} (--max-drop)"
        if self.verdict is None:
            changed = self.agreement.of - self.agreement.count
            return (
                f"in {self.precision}, {self.base} names another class for {changed:,} of {self.images:,} images; they "
                f"have no labels, and each of these may have been right: up to {self.drop:.2f} points of accuracy are "
                f"lost, {limit}"
            )
        right = (self.verdict.both + self.verdict.only_candidate, self.verdict.both + self.verdict.only_baseline)
        now, before = (f"{count / self.images:.2%}" for count in right)
        return (
            f"in {self.precision}, {self.base} is right on {now} of {self.images:,} images, and in fp32 on {before}: "
            f"{self.drop:.2f} points less, {limit}"
        )


def list_figures(found: Reduction) -> list[Row]:
    """Put the figures of both versions side by side: a name, fp32, reduced, the change."""
    return [*_accuracy_rows(found), *_cost_rows(found)]


def _accuracy_rows(found: Reduction) -> Iterator[Row]:
    before, after, verdict = found.fp32.accuracy, found.reduced.accuracy, found.verdict
    if before is not None and after is not None and verdict is not None:
        yield "top-1 accuracy", f"{before.top1:.2%}", f"{after.top1:.2%}", f"{-found.drop:+.2f} points"
        yield "its 95% interval", _interval(before.top1_interval), _interval(after.top1_interval), ""
        odds = f"p = {verdict.p_value:.2g}"
        yield "right where the other is wrong", f"{verdict.only_baseline:,}", f"{verdict.only_candidate:,}", odds
        points = 100 * (after.top_k - before.top_k)
        yield f"top-{before.k} accuracy", f"{before.top_k:.2%}", f"{after.top_k:.2%}", f"{points:+.2f} points"
        for name, field in _PROBABILITY_FIGURES:
            first, second = getattr(before, field), getattr(after, field)
            yield name, f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}"
    yield "temperature", f"{found.fp32.temperature:.3f}", f"{found.reduced.temperature:.3f}", ""
    agreement = found.agreement
    yield "same first class as in fp32", "", f"{agreement.value:.2%}", f"95% interval {_interval(agreement.interval)}"
    mean, largest = found.mean_probability_change, found.largest_probability_change
    yield "its probability moves, at one temperature", "", f"{mean:.3f} in the mean", f"{largest:.3f} at most"


def _cost_rows(found: Reduction) -> Iterator[Row]:
    for speed in found.speeds:
        what = "one by one" if speed.batch == 1 else f"in batches of {speed.batch}"
        yield f"images/s, {what}", f"{speed.fp32:,.0f}", f"{speed.reduced:,.0f}", f"x {speed.ratio:.2f}"
    before, after = found.fp32.network_bytes, found.reduced.network_bytes
    yield "network, MB", f"{before / 1e6:.2f}", f"{after / 1e6:.2f}", f"x {after / before:.2f}"
    yield "engine", found.fp32.engine, found.reduced.engine, ""


def _interval(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:.1%} to {high:.1%}"
