"""Whose class is meant: the labels of some data, found among those of a version."""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.errors import InvalidData
from training.sources.place import mention, printable

_NAMED = 5
_INDEX = re.compile(r"[0-9]{1,9}")


def match_labels(found: Sequence[str], known: Sequence[str], who: str) -> NDArray[np.int64]:
    """Return the class index of each label in `found`.

    Labels are the same where they are written the same. Where not all of them are, case is ignored, and `_`, `-` and
    blanks are one. Where names still do not match, plain integers below K are class indices, unless a class of the
    version is called by an integer.

    Args:
        found: the data's labels.
        known: the version's K labels, in the order of their indices.
        who: the version, for messages.

    Raises:
        InvalidData: a label is no class, or could be one of several.
    """
    matches: list[list[int]] = []
    for write in (str, _simplify):
        places = defaultdict(list)
        for index, label in enumerate(known):
            places[write(label)].append(index)
        matches = [places.get(write(label), []) for label in found]
        if all(matches):
            _check_unambiguous(found, matches, known, who)
            return np.asarray([match[0] for match in matches], np.int64)
    indices = [int(label) for label in found if _INDEX.fullmatch(label)]
    if len(indices) == len(found) and max(indices) < len(known) and not any(map(_INDEX.fullmatch, known)):
        return np.asarray(indices, np.int64)
    unknown = [label for label, match in zip(found, matches, strict=True) if not match]
    raise InvalidData(_explain_unknown(unknown, known, who))


def _simplify(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", label).casefold()).strip()


def _check_unambiguous(found: Sequence[str], matches: Sequence[list[int]], known: Sequence[str], who: str) -> None:
    several = [(label, match) for label, match in zip(found, matches, strict=True) if len(match) > 1]
    if several:
        named = "; ".join(
            f"{printable(label)!r} ({', '.join(f'{index} is {known[index]!r}' for index in match)})"
            for label, match in several[:_NAMED]
        )
        raise InvalidData(
            f"labels that could be several classes of {who}: {named}. Name the classes by their indices, in a column "
            "of a CSV file that --label-column names"
        )


def _explain_unknown(unknown: Sequence[str], known: Sequence[str], who: str) -> str:
    by_name = {_simplify(label): label for label in known}
    suggestions = []
    for label in unknown[:_NAMED]:
        close = difflib.get_close_matches(_simplify(label), by_name, n=1)
        suggestions.append(f"{printable(label)!r} ({f'nearest: {by_name[close[0]]!r}' if close else 'none is near'})")
    more = f" and {len(unknown) - _NAMED:,} more" if len(unknown) > _NAMED else ""
    return (
        f"{who} knows {len(known):,} labels, and these of the data are none of them: {', '.join(suggestions)}{more}. "
        f"It knows {mention(known)}; 'hubel models show {who} --json' lists them"
    )
