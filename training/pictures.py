"""The pictures of a report, drawn with matplotlib's figures and without its global state.

Each function returns a `Figure` or an image; `encode_figure` and `encode_photo` make files of
them. Knows no page and no folder. Labels may hold any characters: those that no installed font
has are drawn as a box, without a warning.
"""

import io
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, ParamSpec, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray
from PIL import Image

from model.preprocessing import Pixels
from training.evaluation import Evaluation, ProbabilityScores
from training.metrics import interval, most_confused

P = ParamSpec("P")

WIDTH = 720  # CSS pixels that a figure is meant to be shown at; its file has twice as many
_DPI = 200
_INCHES = 2 * WIDTH / _DPI

_INK, _MUTED, _GRID = "#1f2933", "#6b7684", "#e6e9ed"
_BLUE, _ORANGE = "#2f6db5", "#d9822b"
_BLUES = LinearSegmentedColormap.from_list("right", ["#ffffff", "#c3d5ea", "#2f6db5", "#1d4a80"])
_ORANGES = LinearSegmentedColormap.from_list("wrong", ["#ffffff", "#f6dcbc", "#d9822b", "#9c4d12"])
_DIVERGING = LinearSegmentedColormap.from_list("sign", ["#1d4a80", "#8fb3dc", "#f7f7f7", "#e0a49a", "#8f2f1f"])

# The first that are installed are used, each for the characters that those before it lack.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "PingFang SC",
)

NUMBERED_CLASSES = 20  # up to here every cell of the confusion matrix is drawn
_PAIRS = 20
_CLASS_BARS = 20
_ALL_CLASS_BARS = 40
_LABEL_CHARACTERS = 28
_ROW_CHARACTERS = 80  # that fit side by side below the confusion matrix
_MAX_FILTERS = 64
_RGB = 3
_DARK = 0.55  # of a cell's colour, from where its number is white


class EpochFigures(Protocol):
    """What is drawn of an epoch."""

    @property
    def epoch(self) -> int:
        """The epoch's number, from 1."""

    @property
    def loss(self) -> float:
        """Mean training loss."""

    @property
    def validation_loss(self) -> float:
        """Mean loss on the validation part."""

    @property
    def validation_accuracy(self) -> float:
        """Accuracy on the validation part, 0 to 1."""

    @property
    def learning_rate(self) -> float:
        """The learning rate at the epoch's end."""

    @property
    def images_per_second(self) -> float:
        """Training images per second."""


@cache
def _style() -> dict[Any, Any]:
    installed = set(font_manager.fontManager.get_font_names())
    return {
        "font.family": [name for name in _FONTS if name in installed] or ["sans-serif"],
        "font.size": 8.5,
        "text.color": _INK,
        "text.parse_math": False,  # a label may hold dollar signs
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _MUTED,
        "axes.titlecolor": _INK,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "grid.color": _GRID,
        "grid.linewidth": 0.8,
        "xtick.color": _GRID,
        "ytick.color": _GRID,
        "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _INK,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.8,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
    }


@contextmanager
def _styled() -> Iterator[None]:
    with mpl.rc_context(_style()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support", category=UserWarning)
        yield


def _in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def draw_in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _styled():
            return draw(*args, **kwargs)

    return draw_in_style


def encode_figure(figure: Figure) -> bytes:
    """Render a figure as a PNG of at most 256 colours, which is a third of the size and looks the same."""
    file = io.BytesIO()
    with _styled():
        figure.savefig(file, format="png", dpi=_DPI)
    image = Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def encode_photo(pixels: Pixels, side: int) -> bytes:
    """Encode uint8 (H, W, C) as a JPEG whose longer side has at most `side` pixels; a tiny image is enlarged first."""
    image = _to_image(pixels)
    factor = side // max(image.size)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82, optimize=True, subsampling=0)
    return file.getvalue()


def encode_image(pixels: Pixels) -> bytes:
    """Encode uint8 (H, W, C) as it is, as a PNG."""
    file = io.BytesIO()
    _to_image(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


@_in_style
def draw_confusion(evaluation: Evaluation) -> Figure:
    """Draw the confusion matrix with its numbers, or the most confused pairs where there are over 20 classes."""
    if evaluation.classes > NUMBERED_CLASSES:
        return _draw_pairs(evaluation)
    matrix = evaluation.confusion_matrix()
    classes = len(matrix)
    side = min(_INCHES, 2.6 + 0.42 * classes)
    figure = Figure(figsize=(_INCHES, max(2.8, 0.86 * side)))
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    colours = np.where(np.eye(classes, dtype=bool)[..., None], _BLUES(shares), _ORANGES(np.sqrt(shares)))
    axes.imshow(colours, aspect="auto")
    for row in range(classes):
        for column in range(classes):
            _write_cell(axes, row, column, int(matrix[row, column]), float(shares[row, column]))
    labels = [_fit_label(label) for label in evaluation.labels]
    crowded = max(map(len, labels)) > _ROW_CHARACTERS // classes
    slanted: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(range(classes), labels, color=_INK, **slanted)
    axes.set_yticks(range(classes), labels)
    axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
    axes.grid(visible=False, which="major")
    axes.grid(visible=True, which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="predicted", ylabel="truth")
    _frame(axes)
    return figure


def _write_cell(axes: Axes, row: int, column: int, count: int, share: float) -> None:
    depth = share if row == column else share**0.5
    colour = "white" if depth > _DARK else _INK if count else "#c4cad1"
    axes.text(column, row, f"{count:,}" if count else "·", ha="center", va="center", color=colour, fontsize=8)


def _frame(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set(visible=True, color=_GRID)


def _draw_pairs(evaluation: Evaluation) -> Figure:
    matrix, labels = evaluation.confusion_matrix(), evaluation.labels
    pairs = most_confused(matrix, _PAIRS)
    if not pairs:
        return _draw_sentence("No image of this part was taken for another class.")
    support = matrix.sum(axis=1)
    figure = Figure(figsize=(_INCHES, 0.9 + 0.24 * len(pairs)))
    axes = figure.add_subplot()
    counts = [count for _, _, count in pairs]
    names = [f"{_fit_label(labels[t])}  →  {_fit_label(labels[p])}" for t, p, _ in pairs]
    axes.barh(range(len(pairs)), counts, color=_ORANGE, height=0.66)
    for place, (truth, _, count) in enumerate(pairs):
        axes.text(count, place, f"  {count} of {support[truth]}", va="center", color=_MUTED, fontsize=7.5)
    axes.set_yticks(range(len(pairs)), names)
    axes.set(xlabel="images", xlim=(0, 1.15 * max(counts)), ylim=(len(pairs) - 0.4, -0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _only_vertical_grid(axes)
    return figure


def _only_vertical_grid(axes: Axes) -> None:
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_sentence(sentence: str) -> Figure:
    figure = Figure(figsize=(_INCHES, 0.8))
    figure.text(0.5, 0.5, sentence, ha="center", va="center", color=_MUTED, fontsize=9.5)
    return figure


@_in_style
def draw_reliability(evaluation: Evaluation) -> Figure:
    """Draw reliability before and after the temperature, with 95% intervals and the images in each bin."""
    figure = Figure(figsize=(_INCHES, 4.3))
    grid = figure.add_gridspec(2, 2, height_ratios=(3.2, 1))
    sides = (
        ("before", evaluation.uncalibrated, _ORANGE),
        (f"after temperature {evaluation.temperature:.2f}", evaluation.calibrated, _BLUE),
    )
    most = max(bin_.count for _, scores, _ in sides for bin_ in scores.reliability)
    for column, (title, scores, colour) in enumerate(sides):
        above = figure.add_subplot(grid[0, column])
        below = figure.add_subplot(grid[1, column], sharex=above)
        _draw_bins(above, scores, colour)
        above.set_title(title)
        _draw_counts(below, scores, colour, most)
        if column == 0:
            above.set_ylabel("accuracy")
            below.set_ylabel("images")
    return figure


def _draw_bins(axes: Axes, scores: ProbabilityScores, colour: str) -> None:
    filled = [(b.confidence or 0.0, b.accuracy or 0.0, b.count) for b in scores.reliability if b.count]
    axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for confidence, accuracy, count in filled:
        axes.plot([confidence] * 2, interval(accuracy, count), color=colour, linewidth=1.6, alpha=0.45)
    confidences, accuracies, _ = zip(*filled, strict=True)
    axes.plot(confidences, accuracies, "o", color=colour, markersize=5, label=f"ECE {scores.ece:.3f}")
    axes.set(xlim=(-0.01, 1.02), ylim=(-0.02, 1.04))
    axes.tick_params(axis="x", labelbottom=False)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="y", labelcolor=_MUTED)
    axes.legend(loc="upper left", handletextpad=0.2)


def _draw_counts(axes: Axes, scores: ProbabilityScores, colour: str, most: int) -> None:
    bins = scores.reliability
    axes.bar(
        [bin_.low for bin_ in bins],
        [bin_.count for bin_ in bins],
        width=[bin_.high - bin_.low for bin_ in bins],
        align="edge",
        color=colour,
        alpha=0.45,
        edgecolor="white",
        linewidth=0.8,
    )
    axes.set_yscale("log")
    axes.set(xlabel="confidence", ylim=(0.7, 2 * most))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="y", labelcolor=_MUTED)


@_in_style
def draw_learning(history: Sequence[EpochFigures]) -> Figure:
    """Draw losses, validation accuracy and learning rate by epoch."""
    figure = Figure(figsize=(_INCHES, 5.4))
    grid = figure.add_gridspec(3, 1, height_ratios=(2, 1.6, 0.9))
    losses = figure.add_subplot(grid[0])
    accuracies = figure.add_subplot(grid[1], sharex=losses)
    rates = figure.add_subplot(grid[2], sharex=losses)
    epochs = [record.epoch for record in history]
    marker: dict[str, Any] = {"marker": "o", "markersize": 3.2} if len(history) <= 60 else {}  # noqa: PLR2004 - they would touch
    losses.plot(epochs, [record.loss for record in history], color=_BLUE, label="training", **marker)
    losses.plot(epochs, [record.validation_loss for record in history], color=_ORANGE, label="validation", **marker)
    losses.set_title("loss")
    losses.set_ylim(bottom=0)
    losses.legend(loc="upper right")
    _draw_accuracy(accuracies, epochs, [record.validation_accuracy for record in history], marker)
    rates.plot(epochs, [record.learning_rate for record in history], color=_MUTED, **marker)
    rates.set_title("learning rate")
    rates.set_ylim(bottom=0)
    rates.set_xlabel("epoch")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, accuracies, rates):
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="y", labelcolor=_MUTED, length=0)
    for axes in (losses, accuracies):
        axes.tick_params(axis="x", labelbottom=False, length=0)
    return figure


def _draw_accuracy(axes: Axes, epochs: list[int], values: list[float], marker: dict[str, Any]) -> None:
    axes.plot(epochs, values, color=_ORANGE, **marker)
    title = "validation accuracy"
    if np.isfinite(values).any():
        best = int(np.nanargmax(values))
        axes.plot(epochs[best], values[best], "o", color=_ORANGE, markersize=8, alpha=0.3, markeredgewidth=0)
        title += f", at best {values[best]:.1%} in epoch {epochs[best]}"
    axes.set_title(title)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(y=0.15)


@_in_style
def draw_classes(evaluation: Evaluation) -> Figure:
    """Draw each class's F1, the worst first; the 20 worst and the 20 best where there are over 40."""
    known = [(scores.f1, scores.label, scores.support) for scores in evaluation.per_class if scores.f1 is not None]
    known.sort(key=lambda row: (row[0], row[1]))
    if len(known) <= _ALL_CLASS_BARS:
        figure = Figure(figsize=(_INCHES, 0.9 + 0.22 * len(known)))
        _draw_bars(figure.add_subplot(), known, _BLUE)
        return figure
    figure = Figure(figsize=(_INCHES, 1.1 + 0.21 * _CLASS_BARS))
    left, right = figure.subplots(1, 2)
    _draw_bars(left, known[:_CLASS_BARS], _ORANGE)
    _draw_bars(right, known[-_CLASS_BARS:], _BLUE)
    left.set_title(f"the {_CLASS_BARS} worst of {len(known)}")
    right.set_title(f"the {_CLASS_BARS} best")
    return figure


def _draw_bars(axes: Axes, rows: list[tuple[float, str, int]], colour: str) -> None:
    places = range(len(rows))
    axes.barh(places, [f1 for f1, _, _ in rows], color=colour, height=0.66)
    for place, (f1, _, support) in enumerate(rows):
        axes.text(f1 + 0.012, place, f"{f1:.2f}  n = {support:,}", va="center", color=_MUTED, fontsize=7)
    axes.set_yticks(places, [_fit_label(label, 20) for _, label, _ in rows])
    axes.set(xlabel="F1", xlim=(0, 1.28), ylim=(len(rows) - 0.4, -0.6))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    _only_vertical_grid(axes)


def draw_filters(weights: NDArray[np.floating[Any]]) -> Pixels:
    """Draw up to 64 first-layer filters (F, C, kh, kw): in colour for three channels, else their mean by sign.

    Each filter is on its own scale. In colour, middle gray is 0; by sign, white is 0, blue below it and red above.
    """
    shown = np.asarray(weights[:_MAX_FILTERS], dtype=np.float64)
    if shown.shape[1] != _RGB:
        shown = shown.mean(axis=1, keepdims=True)  # (F, 1, kh, kw)
    level = shown / np.maximum(np.abs(shown).max(axis=(1, 2, 3), keepdims=True), 1e-12) / 2 + 0.5
    coloured = level.transpose(0, 2, 3, 1) if shown.shape[1] == _RGB else _DIVERGING(level[:, 0])[..., :3]
    tiles = np.rint(255 * coloured).astype(np.uint8)  # (F, kh, kw, 3)
    return draw_batch(tiles, columns=16 if len(tiles) > 32 else 8)  # noqa: PLR2004 - two to four rows


def draw_batch(pixels: Pixels, columns: int = 8) -> Pixels:
    """Lay out images uint8 (N, H, W, C) in rows, white between them, as wide as two pixels for each of `WIDTH`."""
    gap = 8
    side = (2 * WIDTH + gap) // columns - gap
    rows = -(-len(pixels) // columns)
    height = side * pixels.shape[1] // pixels.shape[2]
    sheet = Image.new("RGB", (columns * (side + gap) - gap, rows * (height + gap) - gap), "white")
    for number, image in enumerate(pixels):
        row, column = divmod(number, columns)
        method = Image.Resampling.NEAREST if pixels.shape[2] < side // 2 else Image.Resampling.LANCZOS
        tile = _to_image(image).resize((side, height), method)
        sheet.paste(tile, (column * (side + gap), row * (height + gap)))
    return np.asarray(sheet)


def _to_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")


def _fit_label(label: str, characters: int = _LABEL_CHARACTERS) -> str:
    """Shorten a label to one line, without the characters that have no form."""
    plain = "".join("?" if unicodedata.category(c)[0] == "C" else c for c in " ".join(label.split()))
    return plain if len(plain) <= characters else plain[: characters - 1].rstrip() + "…"
