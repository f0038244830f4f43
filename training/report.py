"""The report of a training run: one page that needs no network, with its pictures and figures beside it.

Writes `index.html`, `evaluation.json`, `history.json` and the pictures into a folder. Is given all
that it shows; measures nothing, and knows neither networks nor the registry.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Pixels
from training.cost import Latency
from training.evaluation import Evaluation, limits
from training.metrics import most_confused
from training.page import bullets, folded, image, notice, paragraph, section, table, tiles, write_page
from training.pictures import (
    NUMBERED_CLASSES,
    EpochFigures,
    draw_batch,
    draw_classes,
    draw_confusion,
    draw_filters,
    draw_learning,
    draw_reliability,
    encode_figure,
    encode_image,
    encode_photo,
)

Fact = tuple[str, str]  # a name and its value, both for people

PAGE = "index.html"
EVALUATION = "evaluation.json"
HISTORY = "history.json"

_TILE = 240  # pixels of a mistake's longer side
_BATCH = 24
_OPEN_ROWS = 30  # a longer table is folded
_HISTORY_FIELDS = ("epoch", "loss", "validation_loss", "validation_accuracy", "learning_rate", "images_per_second")
_MISSING = "–"  # noqa: RUF001 - a dash


@dataclass(frozen=True)
class MistakenImage:
    """A wrong prediction to show: `pixels` uint8 (H, W, C), labels, the probability given, and the image's name."""

    pixels: Pixels
    truth: str
    predicted: str
    probability: float
    name: str


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        title: what the model is, for people.
        test: the evaluation on images that neither training nor calibration has seen; of `photos`, as far as known.
        parameters: how many numbers training could change.
        validation: the evaluation on the part that the temperature was fitted on.
        history: the epochs in order; empty where there were none.
        mistakes: wrong predictions, the most confident first.
        filters: the first layer's weights, (F, C, kh, kw).
        augmented: a batch as the training saw it, uint8 (N, H, W, C).
        latencies: what answers take on the machine that trained.
        flops: floating-point operations per image, a multiply-add counted as 2.
        facts: names and values of data, split, fingerprint, recipe, seed, versions, machine, ...
        warnings: sentences about what a reader should look into before using the model.
        photos: what the images are, where they are not a held-out part of the training's data.
    """

    title: str
    test: Evaluation
    parameters: int
    validation: Evaluation | None = None
    history: Sequence[EpochFigures] = ()
    mistakes: Sequence[MistakenImage] = ()
    filters: NDArray[np.floating[Any]] | None = None
    augmented: Pixels | None = None
    latencies: Sequence[Latency] = ()
    flops: int | None = None
    facts: Sequence[Fact] = ()
    warnings: Sequence[str] = ()
    photos: str = ""


@dataclass(frozen=True)
class _Picture:
    """A picture's file, its heading, how to read it, and what it shows for those who do not see it."""

    file: str
    data: bytes
    title: str
    reading: str
    alt: str


def write_report(folder: Path, report: Report) -> None:
    """Write every file of the report; the folder is made if it is not there.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results, insides = _draw_results(report), _draw_insides(report)
    for picture in (*results, *insides):
        (folder / picture.file).write_bytes(picture.data)
    (folder / EVALUATION).write_text(report.test.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / HISTORY).write_text(_dump_history(report.history), encoding="utf-8")
    (folder / PAGE).write_text(_write_page(report, results, insides), encoding="utf-8", errors="replace")


def _dump_history(history: Sequence[EpochFigures]) -> str:
    """Write the epochs as JSON; what is not a finite number becomes null."""
    rows = [{name: getattr(record, name) for name in _HISTORY_FIELDS} for record in history]
    known = [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows]
    return json.dumps(known, indent=1, allow_nan=False) + "\n"


def _draw_results(report: Report) -> list[_Picture]:
    pictures = [_picture_confusion(report.test), _picture_reliability(report.test), _picture_classes(report.test)]
    return [_picture_learning(report.history), *pictures] if report.history else pictures


def _draw_insides(report: Report) -> list[_Picture]:
    pictures = []
    if report.filters is not None and len(report.filters):
        pictures.append(_picture_filters(report.filters))
    if report.augmented is not None and len(report.augmented):
        pictures.append(_picture_batch(report.augmented))
    return pictures


def _picture_learning(history: Sequence[EpochFigures]) -> _Picture:
    last = history[-1]
    return _Picture(
        "learning.png",
        encode_figure(draw_learning(history)),
        "Learning",
        "Both losses should fall and then level off. Where the validation loss rises again while the training loss "
        "falls, the network learns its images by heart. With augmentation, dropout or label smoothing the training "
        "loss may lie above the validation loss.",
        f"Curves over {len(history)} epochs; at the end training loss {last.loss:.3f}, validation loss "
        f"{last.validation_loss:.3f}, validation accuracy {last.validation_accuracy:.1%}.",
    )


def _picture_confusion(test: Evaluation) -> _Picture:
    pairs = most_confused(test.confusion_matrix(), 3)
    labels = test.labels
    named = "; ".join(f"{labels[truth]} taken for {labels[predicted]}: {count}" for truth, predicted, count in pairs)
    reading = (
        "Each row is a class as it is, each column what the network said: right answers lie on the diagonal, in blue; "
        "mistakes beside it, in orange, the darker the larger their share of the row."
        if test.classes <= NUMBERED_CLASSES
        else "The pairs of classes that are mistaken most often: the truth, then what the network said, and how many "
        "of the class's images were so mistaken."
    )
    return _Picture(
        "confusion.png",
        encode_figure(draw_confusion(test)),
        "Which classes are confused",
        reading,
        f"Confusions among {test.classes} classes. Most frequent: {named}." if pairs else "No image was mistaken.",
    )


def _picture_reliability(test: Evaluation) -> _Picture:
    before, after = test.uncalibrated.ece, test.calibrated.ece
    return _Picture(
        "reliability.png",
        encode_figure(draw_reliability(test)),
        "Is it right as often as it says?",
        "Each point is the test images whose prediction had about that confidence: its height is the fraction that was "
        "right, its line the 95% interval of that. On the dashed line the network is right as often as it says; below "
        "it, it is too sure, above it, too modest. A line that crosses the dashed one proves neither.",
        f"Reliability before and after temperature scaling: expected calibration error {before:.3f} and {after:.3f}.",
    )


def _picture_classes(test: Evaluation) -> _Picture:
    return _Picture(
        "classes.png",
        encode_figure(draw_classes(test)),
        "How well each class is recognised",
        "F1 is 1 when every image of a class is found and nothing else is taken for it. The number after it is how "
        "many test images the class has: with a dozen or fewer, one image moves the bar far.",
        f"F1 of the classes; the mean is {test.macro_f1:.3f}.",
    )


def _picture_filters(filters: NDArray[np.floating[Any]]) -> _Picture:
    return _Picture(
        "filters.png",
        encode_image(draw_filters(filters)),
        "What the first layer looks for",
        "Each tile is one filter, on its own scale. A trained layer shows edges, spots and colours; tiles of pure "
        "noise mean that it has hardly learned.",
        f"The weights of {min(len(filters), 64)} of {len(filters)} first-layer filters as small tiles.",
    )


def _picture_batch(augmented: Pixels) -> _Picture:
    shown = augmented[:_BATCH]
    pixels = draw_batch(shown)
    return _Picture(
        "augmented.jpg",
        encode_photo(pixels, max(pixels.shape)),
        "What the training saw",
        "Training images after the random changes. A person should still be able to name each of them.",
        f"{len(shown)} augmented training images.",
    )


def _write_page(report: Report, results: Sequence[_Picture], insides: Sequence[_Picture]) -> str:
    parts = [
        _lead(report.test),
        _tiles(report),
        notice("Before you use it", report.warnings),
        *map(_show, results),
        _mistakes(report.mistakes),
        *map(_show, insides),
        _class_table(report.test),
        _comparison(report),
        _latency_table(report.latencies),
        section("What these figures do not say", bullets(limits(report.test, report.photos))),
        section("How it was made", table((), report.facts)) if report.facts else "",
    ]
    return write_page(report.title, parts)


def _lead(test: Evaluation) -> str:
    low, high = test.top1_interval
    frequent = max(scores.support for scores in test.per_class) / test.images
    return paragraph(
        f"It names the right one of {test.classes:,} classes for {test.top1:.1%} of {test.images:,} test "
        f"images (95% interval {low:.1%} to {high:.1%}). Always naming the most frequent class would be right for "
        f"{frequent:.1%}.",
        "lead",
    )


def _tiles(report: Report) -> str:
    test = report.test
    before, after = test.uncalibrated, test.calibrated
    rows = [("top-1 accuracy", f"{test.top1:.1%}", f"standard error {100 * test.top1_standard_error:.1f} points")]
    if test.k < test.classes:
        rows.append((f"top-{test.k} accuracy", f"{test.top_k:.1%}", f"the class is among the {test.k} most probable"))
    rows += [
        ("macro F1", f"{test.macro_f1:.3f}", "the mean over classes"),
        ("calibration error", f"{after.ece:.3f}", f"{before.ece:.3f} before temperature {test.temperature:.2f}"),
        ("neg. log-likelihood", f"{after.nll:.3f}", f"{before.nll:.3f} before, in nats"),
        ("parameters", _shorten(report.parameters), _describe_flops(report.flops)),
    ]
    alone = [latency for latency in report.latencies if latency.batch == 1]
    if alone:
        fastest = min(alone, key=lambda latency: latency.median_ms)
        rows.append(("time for one image", f"{fastest.median_ms:.1f} ms", f"{fastest.engine}, {_threads(fastest)}"))
    return tiles(rows)


def _describe_flops(flops: int | None) -> str:
    return "" if flops is None else f"{_shorten(flops)} operations per image"


def _threads(latency: Latency) -> str:
    return f"{latency.threads} thread{'' if latency.threads == 1 else 's'}"


def _shorten(number: int) -> str:
    """Write a large number with three digits and its unit."""
    for power, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= power:
            return f"{number / power:.3g}{unit}"
    return str(number)


def _show(picture: _Picture) -> str:
    kind = "photo" if picture.file.endswith(".jpg") or picture.file == "filters.png" else "chart"
    shown = f"<div class={kind}>{image(picture.data, picture.alt)}</div>"
    return section(picture.title, paragraph(picture.reading) + shown)


def _mistakes(mistakes: Sequence[MistakenImage]) -> str:
    if not mistakes:
        return ""
    figures = "".join(map(_mistake, mistakes))
    reading = (
        "Test images that were taken for another class, the most confident first. Look for wrong labels, for images "
        "that show two classes, and for what they have in common."
    )
    return section("The worst mistakes", f"{paragraph(reading)}<div class='gallery dense'>{figures}</div>")


def _mistake(mistake: MistakenImage) -> str:
    truth, predicted = escape(mistake.truth), escape(mistake.predicted)
    photo = image(encode_photo(mistake.pixels, _TILE), f"{mistake.truth}, taken for {mistake.predicted}")
    return (
        f"<figure>{photo}<figcaption><b><bdi>{truth}</bdi></b> → <b class=wrong><bdi>{predicted}</bdi></b> "
        f"{mistake.probability:.0%}<small><bdi>{escape(mistake.name)}</bdi></small></figcaption></figure>"
    )


def _class_table(test: Evaluation) -> str:
    rows = [
        (scores.label, _figure(scores.precision), _figure(scores.recall), _figure(scores.f1), f"{scores.support:,}")
        for scores in test.per_class
    ]
    scores_table = table(("class", "precision", "recall", "F1", "images"), rows)
    if len(rows) > _OPEN_ROWS:
        scores_table = folded(f"all {len(rows):,} classes", scores_table)
    reading = (
        "Precision: how often the network is right when it names the class. Recall: how many of the class's images it "
        "finds."
    )
    return section("Every class", paragraph(reading) + scores_table)


def _comparison(report: Report) -> str:
    parts = [("test", report.test)] + ([("validation", report.validation)] if report.validation else [])
    names = [name for name, _ in _list_figures(report.test)]
    columns = [[value for _, value in _list_figures(part)] for _, part in parts]
    note = (
        "The temperature was fitted on the validation part, and an epoch may have been chosen by it: of the two, "
        "the test figures are the ones to expect."
        if report.validation
        else ""
    )
    figures = table(("", *(name for name, _ in parts)), zip(names, *columns, strict=True))
    return section("All figures", (paragraph(note) if note else "") + figures)


def _list_figures(part: Evaluation) -> list[Fact]:
    before, after = part.uncalibrated, part.calibrated
    return [
        ("images", f"{part.images:,}"),
        ("top-1 accuracy", f"{part.top1:.2%}"),
        ("its standard error", f"{part.top1_standard_error:.2%}"),
        (f"top-{part.k} accuracy", f"{part.top_k:.2%}"),
        ("macro F1", f"{part.macro_f1:.4f}"),
        ("temperature", f"{part.temperature:.3f}"),
        ("negative log-likelihood, before", f"{before.nll:.4f}"),
        ("negative log-likelihood, after", f"{after.nll:.4f}"),
        ("expected calibration error, before", f"{before.ece:.4f}"),
        ("expected calibration error, after", f"{after.ece:.4f}"),
        ("Brier score, before", f"{before.brier:.4f}"),
        ("Brier score, after", f"{after.brier:.4f}"),
    ]


def _latency_table(latencies: Sequence[Latency]) -> str:
    if not latencies:
        return ""
    rows = [
        (row.engine, str(row.threads), str(row.batch), f"{row.median_ms:.2f}", f"{row.images_per_second:,.0f}")
        for row in latencies
    ]
    headings = ("engine", "threads", "batch", "median, ms", "images per second")
    reading = "The network alone, on the machine that trained it: without decoding, and without the server."
    return section("What an answer costs", paragraph(reading) + table(headings, rows))


def _figure(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3f}"
