"""Whether pictures that occur more than once reach over the parts of a collection.

A picture of the training part that occurs again in the test part makes every number measured
there too good. `training.duplicates` finds the pairs; here they are judged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.collection import Collection
from training.duplicates import SMALL_PAIRS_LIMIT, SMALL_SIDE, Pair
from training.errors import LeakageFound

ALLOW_OPTION: Final = "--allow-leakage"
_NAMED = 5  # pairs that an error names


@dataclass(frozen=True)
class Leakage:
    """What the pairs mean for a collection's parts.

    Attributes:
        exact_within: exact pairs inside one part, or where the collection has no parts.
        near_within: near pairs there.
        exact_across: exact pairs of images in two parts.
        near_across: near pairs of images in two parts, small ones too.
        offending: the pairs across parts that make an evaluation worthless: every exact one, and
            the near ones of images that are not small.
        contradictory: the exact pairs whose images have different labels.
        warnings: sentences for the person who trains.
        record: one sentence for the model card.
        refusal: the text of the error; empty where nothing offends or it was allowed.
    """

    exact_within: int
    near_within: int
    exact_across: int
    near_across: int
    offending: tuple[Pair, ...]
    contradictory: tuple[Pair, ...]
    warnings: tuple[str, ...]
    record: str
    refusal: str

    def refuse(self, sheet: Path | None = None) -> None:
        """Stop the run if the parts share pictures and this was not allowed.

        Args:
            sheet: where the offending pairs are shown; the error says so.

        Raises:
            LeakageFound: there are offending pairs, and they were not allowed.
        """
        if self.refusal:
            raise LeakageFound(self.refusal + (f" The pairs are shown in {sheet}." if sheet is not None else ""))


def check_leakage(pairs: Sequence[Pair], collection: Collection, sizes: NDArray[np.integer], *, allow: bool) -> Leakage:
    """Judge pairs by the parts that a collection's owner has made. `Leakage.refuse` acts on it.

    Args:
        pairs: what `find_duplicates` found in the collection's images.
        collection: its parts may be "", then pairs are never across.
        sizes: upright width and height in pixels, (N, 2).
        allow: offending pairs are recorded and warned of, not refused.
    """
    small = np.asarray(sizes).max(axis=1, initial=0) < SMALL_SIDE
    across = [pair for pair in pairs if _is_across(pair, collection)]
    offending = tuple(pair for pair in across if pair.kind == "exact" or not (small[pair.first] or small[pair.second]))
    targets = collection.targets
    contradictory = tuple(
        pair for pair in pairs if pair.kind == "exact" and targets[pair.first] != targets[pair.second]
    )
    exact, near = _count(pairs, "exact"), _count(pairs, "near")
    exact_across, near_across = _count(across, "exact"), _count(across, "near")
    within = _plural(exact - exact_across, near - near_across)
    record = f"{len(collection):,} images with {within}"
    if (collection.parts != "").any():
        record += f" within parts and {_plural(exact_across, near_across)} across parts"
    return Leakage(
        exact_within=exact - exact_across,
        near_within=near - near_across,
        exact_across=exact_across,
        near_across=near_across,
        offending=offending,
        contradictory=contradictory,
        warnings=tuple(_warnings(pairs, across, offending, contradictory, collection, allow=allow)),
        record=record + ("; the run was allowed to go on." if offending and allow else "."),
        refusal=_refusal(offending, collection) if offending and not allow else "",
    )


def _is_across(pair: Pair, collection: Collection) -> bool:
    """Tell a pair of two parts; an image that its owner left over is trained on, or validated with."""
    first, second = (str(collection.parts[index]) for index in (pair.first, pair.second))
    return first != second and {first, second} != {"", "train"}


def _count(pairs: Sequence[Pair], kind: str) -> int:
    return sum(pair.kind == kind for pair in pairs)


def _plural(exact: int, near: int) -> str:
    return f"{exact:,} exact and {near:,} near duplicate pair{'' if exact + near == 1 else 's'}"


def _warnings(
    pairs: Sequence[Pair],
    across: Sequence[Pair],
    offending: Sequence[Pair],
    contradictory: Sequence[Pair],
    collection: Collection,
    *,
    allow: bool,
) -> Iterator[str]:
    """Yield the sentences of `Leakage.warnings`."""
    within = len(pairs) - len(across)
    if offending and allow:
        yield (
            f"{_plural(_count(offending, 'exact'), _count(offending, 'near'))} across parts, allowed by "
            f"{ALLOW_OPTION}: what is measured is too good"
        )
    if small := len(across) - len(offending):
        bound = "at least " if _count(pairs, "near") >= SMALL_PAIRS_LIMIT else ""
        yield (
            f"{bound}{small:,} near duplicate pair{'s' * (small > 1)} across parts of images smaller than "
            f"{SMALL_SIDE} pixels; images so small can be alike by chance"
        )
    if within:
        kept = _plural(_count(pairs, "exact") - _count(across, "exact"), _count(pairs, "near") - _count(across, "near"))
        where = "within parts" if (collection.parts != "").any() else "in the data"
        yield f"{kept} {where}: pictures that occur twice count twice"
    if contradictory:
        pair = contradictory[0]
        first, second = (collection.labels[collection.targets[i]] for i in (pair.first, pair.second))
        yield (
            f"{len(contradictory):,} exact duplicate pair{'s' * (len(contradictory) > 1)} with different labels, first "
            f"{_named(pair, collection)}: {first!r} and {second!r}"
        )


def _refusal(offending: Sequence[Pair], collection: Collection) -> str:
    named = "; ".join(f"{_named(pair, collection)} ({pair.kind})" for pair in offending[:_NAMED])
    more = f"; and {len(offending) - _NAMED:,} more" if len(offending) > _NAMED else ""
    return (
        f"the parts share pictures: {_plural(_count(offending, 'exact'), _count(offending, 'near'))}: {named}{more}. "
        f"Take one image of each pair away, or go on all the same with {ALLOW_OPTION}."
    )


def _named(pair: Pair, collection: Collection) -> str:
    return " = ".join(
        f"{collection.images.name(i)}{f' [{collection.parts[i]}]' if collection.parts[i] else ''}"
        for i in (pair.first, pair.second)
    )
