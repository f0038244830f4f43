"""How two versions differ on the same images: their answers, their accuracy, their time, what they promise.

Measures and puts it into one JSON record; draws nothing, and changes nothing in the registry. Needs neither torch
nor anything else that the base installation lacks, unless the version itself runs on it.
"""

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from model.checkpoint import NETWORK, WEIGHTS, read_card
from model.classifier import Classifier, load_classifier
from model.engines.selection import EngineChoice
from model.manifest import Manifest
from model.preprocessing import Pixels
from model.registry import StoredVersion
from training.answers import (
    Answers,
    Session,
    SharedClasses,
    ask_both,
    find_truths,
    name_unreadable,
    share_classes,
)
from training.collection import UNKNOWN, Collection
from training.metrics import expected_calibration_error, interval
from training.sources.place import mention, printable

BATCHES: Final = (1, 8)
SECONDS: Final = 2.0

_FEWEST_RUNS = 5
_WARM_UP_RUNS = 2
_DIFFERING = ("architecture", "preprocessing", "engines", "precision", "tolerance")  # fields of a manifest


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Share(_Record):
    """So many of the images, as a fraction and with its 95% interval by Wilson."""

    count: int = Field(ge=0)
    of: int = Field(ge=1)
    value: float = Field(ge=0, le=1)
    interval: tuple[float, float]


class Reliance(_Record):
    """How far a version's probabilities can be relied on, as it serves them.

    Attributes:
        temperature: what its logits are divided by.
        calibrated: whether that was fitted.
        images: labelled images whose class the version knows; the two figures are of these, null without any.
        nll: negative log-likelihood in nats.
        ece: expected calibration error, 0 to 1.
    """

    temperature: float
    calibrated: bool
    images: int = Field(ge=0)
    nll: float | None
    ece: float | None


class Timing(_Record):
    """What a batch takes on this machine, without decoding: the median, and the time that 95% of the runs stay below.

    The versions ran in turns, so that a machine that slows down slows both.
    """

    batch: int = Field(ge=1)
    median_ms: float
    p95_ms: float
    runs: int = Field(ge=1)


class Side(_Record):
    """One of the two versions; `accuracy` is null without labels, `network_bytes` is the size of the file that runs."""

    version: str
    engine: str
    classes: int
    parameters: int
    network_bytes: int
    accuracy: Share | None
    reliance: Reliance
    timings: tuple[Timing, ...]


class Verdict(_Record):
    """Of the labelled images, how many each version gets right.

    Attributes:
        both: images that both get right.
        only_baseline: images that were right and are wrong now.
        only_candidate: images that were wrong and are right now.
        neither: images that neither gets right.
        p_value: of McNemar's exact test, two-sided: how probable so uneven a split of the images that only one gets
            right is, if neither version is better.
    """

    both: int
    only_baseline: int
    only_candidate: int
    neither: int
    p_value: float = Field(ge=0, le=1)


class ClassChange(_Record):
    """How many of a class's images each version gets right, and the change of that share."""

    label: str
    images: int = Field(ge=1)
    baseline_right: int
    candidate_right: int
    change: float = Field(ge=-1, le=1)


class Said(_Record):
    """A version's answer on one image, and the probability that it gave it."""

    label: str
    probability: float


class Difference(_Record):
    """An image on which the versions differ; `index` is its place among the images, `truth` null without labels."""

    image: str
    index: int
    baseline: Said
    candidate: Said
    truth: str | None


class Unreadable(_Record):
    """An image that was left out, and why."""

    image: str
    reason: str


class FieldChange(_Record):
    """A field of the manifest in which the versions differ, such as `preprocessing.height`."""

    field: str
    baseline: JsonValue
    candidate: JsonValue


class Contract(_Record):
    """What a client or an operator meets that is not the same for both."""

    labels_only_baseline: tuple[str, ...]
    labels_only_candidate: tuple[str, ...]
    labels_reordered: bool
    fields: tuple[FieldChange, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.labels_only_baseline or self.labels_only_candidate or self.labels_reordered or self.fields)


class Diff(_Record):
    """How a candidate differs from a baseline.

    Attributes:
        created: when it was measured.
        data: where the images are from.
        fingerprint: SHA-256 of the images with their parts and labels.
        images: how many both versions were asked.
        agreement: the images with the same most probable label.
        mean_probability_change: mean of how far the most probable class's probability differs, 0 to 1.
        largest_probability_change: the largest of these.
        largest_change_image: and the image that it was seen on.
        baseline: the version that was compared with.
        candidate: the version that was looked at.
        verdict: null where the images have no labels.
        per_class: the classes that lost most first; empty without labels.
        contract: what differs beside the answers.
        differences: all images with different labels, those first of which a version is surest.
        unreadable: the images that were left out.
        notes: what a reader of the figures should know, in sentences.
    """

    created: dt.datetime
    data: str
    fingerprint: str
    images: int = Field(ge=1)
    agreement: Share
    mean_probability_change: float
    largest_probability_change: float
    largest_change_image: str
    baseline: Side
    candidate: Side
    verdict: Verdict | None
    per_class: tuple[ClassChange, ...]
    contract: Contract
    differences: tuple[Difference, ...]
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return self.verdict is not None


def compare(
    baseline: StoredVersion,
    candidate: StoredVersion,
    photos: Collection,
    *,
    max_unreadable: float,
    on_progress: Callable[[int], None] = lambda _: None,
    seconds: float = SECONDS,
) -> Diff:
    """Let two versions answer on the best engine that is here for each, and say how they differ.

    Args:
        baseline: the version that is compared with.
        candidate: the version that is looked at.
        photos: as `open_photos` returns them.
        max_unreadable: the share of the images that may be unreadable, 0 to 1.
        on_progress: is told how many images are done.
        seconds: how long both are timed, for each size of batch.

    Raises:
        ModelError: a version cannot be served, as `load_classifier` says.
        InvalidData: the versions have no label in common, the images' labels are none of theirs, or too many
            images cannot be read.
    """
    shared = share_classes(baseline.manifest, candidate.manifest)
    truths = find_truths(photos, shared, (str(baseline), str(candidate)))
    choice = EngineChoice(threads=os.cpu_count() or 1)
    classifiers = load_classifier(baseline, choice), load_classifier(candidate, choice)
    session = ask_both(photos, truths, classifiers, shared, max_unreadable=max_unreadable, on_progress=on_progress)
    truths = truths[session.readable]
    timings = time_in_turns(classifiers, session.examples, seconds=seconds)
    first, second = session.answers
    change = np.abs(first.probabilities - second.probabilities)
    largest = int(change.argmax())
    versions = (baseline, candidate)

    def describe(side: int) -> Side:
        return _describe(
            versions[side],
            classifiers[side],
            timings[side],
            own=shared.own(side),
            answers=session.answers[side],
            truths=truths,
        )

    return Diff(
        created=dt.datetime.now(dt.UTC).replace(microsecond=0),
        data=photos.origin,
        fingerprint=session.fingerprint,
        images=len(truths),
        agreement=share(first.classes == second.classes),
        mean_probability_change=float(change.mean()),
        largest_probability_change=float(change[largest]),
        largest_change_image=photos.images.name(int(session.readable[largest])),
        baseline=describe(0),
        candidate=describe(1),
        verdict=judge_pairs(*(each.classes == truths for each in session.answers)) if photos.labels else None,
        per_class=_compare_classes(session.answers, truths, shared.labels) if photos.labels else (),
        contract=compare_contracts(baseline.manifest, candidate.manifest),
        differences=_list_differences(photos, session, truths, shared.labels),
        unreadable=tuple(
            Unreadable(image=photos.images.name(index), reason=reason) for index, reason in session.unreadable.items()
        ),
        notes=tuple(_notes(versions, photos, session, truths, shared)),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test on the pairs that differ; 1 where there are none.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947, with the
    binomial distribution in place of its approximation.
    """
    pairs, fewer = only_first + only_second, min(only_first, only_second)
    term = total = 1  # C(n, 0)
    for drawn in range(fewer):
        term = term * (pairs - drawn) // (drawn + 1)
        total += term
    return min(1.0, 2 * total / (1 << pairs))


def share(chosen: NDArray[np.bool_]) -> Share:
    """Count the images that are chosen, (N,) with N of at least 1."""
    count, of = int(chosen.sum()), len(chosen)
    return Share(count=count, of=of, value=count / of, interval=interval(count / of, of))


def judge_pairs(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Verdict:
    """Compare which images a baseline gets right, (N,), with those that a candidate gets right, (N,)."""
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    return Verdict(
        both=int((first & second).sum()),
        only_baseline=lost,
        only_candidate=won,
        neither=int((~first & ~second).sum()),
        p_value=mcnemar(lost, won),
    )


def time_in_turns(
    classifiers: tuple[Classifier, Classifier],
    examples: tuple[Pixels, Pixels],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[tuple[Timing, ...], tuple[Timing, ...]]:
    """Time two engines on batches of each size: first, second, second, first, and so on.

    Args:
        classifiers: whose engines are run.
        examples: pixels for each, uint8 (N, H, W, C), N at least 1; they are repeated where a batch is larger.
        seconds: how long both together are timed for each size; five rounds at the least.
        clock: seconds that only grow.
    """
    rows: tuple[list[Timing], list[Timing]] = ([], [])
    for batch in BATCHES:
        pixels = [each[np.arange(batch) % len(each)] for each in examples]
        for _ in range(_WARM_UP_RUNS):
            for side in (0, 1):
                classifiers[side].engine.infer(pixels[side], spread=True)
        times: tuple[list[float], list[float]] = ([], [])
        while len(times[0]) < _FEWEST_RUNS or sum(times[0]) + sum(times[1]) < seconds:
            for side in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
                start = clock()
                classifiers[side].engine.infer(pixels[side], spread=True)
                times[side].append(clock() - start)
        for side in (0, 1):
            rows[side].append(_timing(batch, times[side]))
    return tuple(rows[0]), tuple(rows[1])


def file_that_runs(engine: str) -> str:
    """Return which file of a version an engine loads."""
    return WEIGHTS if engine == "torch" else NETWORK


def compare_contracts(baseline: Manifest, candidate: Manifest) -> Contract:
    """Find what differs in two manifests that a client or an operator would notice."""
    before, after = (dict(_flatten("", _promises(manifest))) for manifest in (baseline, candidate))
    first, second = set(baseline.labels), set(candidate.labels)
    kept = [label for label in baseline.labels if label in second]
    return Contract(
        labels_only_baseline=tuple(dict.fromkeys(label for label in baseline.labels if label not in second)),
        labels_only_candidate=tuple(dict.fromkeys(label for label in candidate.labels if label not in first)),
        labels_reordered=kept != [label for label in candidate.labels if label in first],
        fields=tuple(
            FieldChange(field=field, baseline=before.get(field), candidate=after.get(field))
            for field in dict.fromkeys((*before, *after))
            if before.get(field) != after.get(field)
        ),
    )


def _promises(manifest: Manifest) -> dict[str, JsonValue]:
    whole: dict[str, JsonValue] = manifest.model_dump(mode="json")
    return {field: whole[field] for field in _DIFFERING}


def _flatten(prefix: str, value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    """Give every leaf of nested objects its dotted name."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, value


def _timing(batch: int, times: list[float]) -> Timing:
    median, late = np.percentile(times, [50, 95])
    return Timing(batch=batch, median_ms=1000 * float(median), p95_ms=1000 * float(late), runs=len(times))


def _describe(
    version: StoredVersion,
    classifier: Classifier,
    timings: tuple[Timing, ...],
    *,
    own: NDArray[np.int64],
    answers: Answers,
    truths: NDArray[np.int64],
) -> Side:
    manifest, engine = version.manifest, classifier.engine
    known = own[truths] != UNKNOWN
    nll = ece = None
    right = answers.classes == truths
    if known.any():
        nll = float(-answers.log_likelihoods[known].mean())
        # The error is of the predicted class alone: one column for it, and one that stands for all others.
        scores = np.stack([answers.probabilities[known], np.zeros(known.sum())], axis=1)
        ece = expected_calibration_error(scores, np.where(right[known], 0, 1))
    file = file_that_runs(engine.name)
    calibration = manifest.calibration
    return Side(
        version=str(version),
        engine=f"{engine.name} on {engine.device}",
        classes=len(manifest.labels),
        parameters=manifest.parameters,
        network_bytes=manifest.files[file].bytes,
        accuracy=None if (truths == UNKNOWN).all() else share(right),
        reliance=Reliance(
            temperature=calibration.temperature,
            calibrated=calibration.calibrated,
            images=int(known.sum()),
            nll=nll,
            ece=ece,
        ),
        timings=timings,
    )


def _compare_classes(
    answers: tuple[Answers, Answers], truths: NDArray[np.int64], labels: tuple[str, ...]
) -> tuple[ClassChange, ...]:
    size = len(labels)
    images = np.bincount(truths, minlength=size)
    before, after = (np.bincount(truths[each.classes == truths], minlength=size) for each in answers)
    rows = [
        ClassChange(
            label=labels[place],
            images=int(images[place]),
            baseline_right=int(before[place]),
            candidate_right=int(after[place]),
            change=float((after[place] - before[place]) / images[place]),
        )
        for place in np.flatnonzero(images)
    ]
    return tuple(sorted(rows, key=lambda row: (row.change, -row.images, row.label)))


def _list_differences(
    photos: Collection, session: Session, truths: NDArray[np.int64], labels: tuple[str, ...]
) -> tuple[Difference, ...]:
    first, second = session.answers
    rows = np.flatnonzero(first.classes != second.classes)
    surest = np.maximum(first.probabilities, second.probabilities)[rows]
    found = []
    for row in rows[np.argsort(-surest, kind="stable")].tolist():
        index, truth = int(session.readable[row]), int(truths[row])
        said = [
            Said(label=labels[int(each.classes[row])], probability=float(each.probabilities[row]))
            for each in (first, second)
        ]
        found.append(
            Difference(
                image=printable(photos.images.name(index)),
                index=index,
                baseline=said[0],
                candidate=said[1],
                truth=None if truth == UNKNOWN else labels[truth],
            )
        )
    return tuple(found)


def _notes(
    versions: tuple[StoredVersion, StoredVersion],
    photos: Collection,
    session: Session,
    truths: NDArray[np.int64],
    shared: SharedClasses,
) -> Iterator[str]:
    yield from photos.notes
    if count := len(session.unreadable):
        counted = "1 image cannot be read and is" if count == 1 else f"{count:,} images cannot be read and are"
        yield f"{counted} left out. {name_unreadable(photos, session.unreadable)}."
    for side, version in enumerate(dict.fromkeys(map(str, versions))):
        strange = np.unique(truths[(truths != UNKNOWN) & (shared.own(side)[truths] == UNKNOWN)])
        if len(strange):
            count = int(np.isin(truths, strange).sum())
            named = mention([shared.labels[place] for place in strange])
            yield f"{version} does not know the class of {count:,} images, which it gets wrong therefore: {named}."
    if photos.labels:
        yield from _known_already(versions, session.fingerprint)


def _known_already(versions: tuple[StoredVersion, StoredVersion], fingerprint: str) -> Iterator[str]:
    for name, folder in {str(version): version.folder for version in versions}.items():
        if fingerprint in read_card(folder):
            yield (
                f"{name} was made with these very images, as the fingerprint in its card says: on images that it was "
                "trained or calibrated on, the figures are too good."
            )
