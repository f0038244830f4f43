"""The classes of weights that do not name them: a file of labels, or ImageNet's own."""

import json
from pathlib import Path

from training.errors import InvalidSource

IMAGENET = "imagenet"
_FEWEST = 2


def read_labels(source: str | None) -> tuple[str, ...]:
    """Read labels in the order of a network's outputs.

    Args:
        source: a text file of one label a line, a JSON file with a list of them, or the word
            `imagenet` for the 1,000 classes of ImageNet-1k in their usual order.

    Raises:
        InvalidSource: there is no such file, or it does not hold two labels or more.
    """
    if source is None:
        raise InvalidSource(
            "the weights do not name their classes: give --labels FILE, one label a line in the order of the outputs, "
            f"or --labels {IMAGENET} for the 1,000 classes of ImageNet-1k"
        )
    if source == IMAGENET:
        from torchvision.models import EfficientNet_B0_Weights

        return tuple(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidSource(f"the labels {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSource(f"the labels {path} are not UTF-8 text") from error
    labels = _parse_json(path, text) if path.suffix == ".json" else _parse_lines(path, text)
    if len(labels) < _FEWEST:
        raise InvalidSource(f"the labels {path} are {len(labels)}; a classifier has {_FEWEST} or more")
    return labels


def check_width(width: int, labels: tuple[str, ...], source: str | None) -> None:
    """Compare the number of a network's outputs with that of its labels.

    Raises:
        InvalidSource: they differ.
    """
    if width != len(labels):
        raise InvalidSource(
            f"the network has {width:,} outputs, and {source or 'the source'} names {len(labels):,} labels; give the "
            f"{width:,} labels that it was trained with, in its own order, with --labels"
        )


def _parse_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidSource(f"the labels {path} are not JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(label, str) and label.strip() for label in found):
        raise InvalidSource(f"the labels {path} are not a JSON list of texts")
    return tuple(label.strip() for label in found)


def _parse_lines(path: Path, text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    if "" in lines:
        raise InvalidSource(
            f"line {lines.index('') + 1} of the labels {path} is empty; every output of the network needs a label"
        )
    return tuple(lines)
