"""A diff for people: its figures as rows of text, a picture of the images it is about, and one page of both.

Is given all that it shows; measures nothing. `index.html` needs no network and runs no script.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from model.errors import InvalidImage
from training.contact_sheet import Line, Tile, Tone, whole_picture, write_tiles
from training.diff import ClassChange, Contract, Diff, Difference, Said, Share, Side, Verdict
from training.page import bullets, folded, image, notice, paragraph, section, table, tiles, write_page
from training.sources.place import mention

PAGE: Final = "index.html"
RECORD: Final = "diff.json"
SHEET: Final = "differences.png"
SHOWN_LIMIT: Final = 48  # images in the picture and on the page

_OPEN_ROWS = 30  # a longer table is folded
_MENTIONED = 10
_SURE = 0.05  # the p-value below which chance is not believed in
_MISSING = "–"  # noqa: RUF001 - a dash

# Which side is right, and what stands over such images.
_GROUPS: Final = {
    "": "",
    "A": "Only A is right: lost with B",
    "neither": "Neither is right",
    "B": "Only B is right: won with B",
}

Row = tuple[str, str, str, str]  # what it is, of the baseline, of the candidate, and how they compare


def write_diff(folder: Path, diff: Diff, read: Callable[[int], bytes]) -> None:
    """Write the record, the picture and the page into a folder, which is made if it is not there.

    Args:
        folder: where to.
        diff: what was found.
        read: returns an image's file, by the index that a `Difference` has.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(diff.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_sheet(folder / SHEET, diff, read)
    (folder / PAGE).write_text(_write_page(diff, read), encoding="utf-8", errors="replace")


def write_sheet(path: Path, diff: Diff, read: Callable[[int], bytes]) -> None:
    """Draw up to `SHOWN_LIMIT` of the images on which the versions differ into a PNG.

    Raises:
        OSError: the PNG cannot be written.
    """
    shown = choose_shown(diff.differences)
    heading = (
        f"{diff.baseline.version} and {diff.candidate.version} differ on {_of(len(diff.differences), diff.images)}",
        f"A is {diff.baseline.version}, B is {diff.candidate.version}; the surest answers come first"
        + (f"; {len(shown)} are shown" if len(shown) < len(diff.differences) else ""),
    )
    write_tiles(path, heading, [Tile(each.index, _caption(each)) for each in shown], read)


def choose_shown(differences: Sequence[Difference]) -> list[Difference]:
    """Choose up to `SHOWN_LIMIT` differences, the surest, and of them half for what is wrong now where there is more.

    They stay in their order.
    """
    lost = [place for place, each in enumerate(differences) if _side_that_is_right(each) == "A"]
    chosen = lost[: SHOWN_LIMIT // 2]
    others = [place for place in range(len(differences)) if place not in set(chosen)]
    return [differences[place] for place in sorted(chosen + others[: SHOWN_LIMIT - len(chosen)])]


def summarise(diff: Diff) -> str:
    """Say in one sentence on how many images the versions agree."""
    low, high = diff.agreement.interval
    return (
        f"They say the same on {diff.agreement.count:,} of {diff.images:,} images of {diff.data}: "
        f"{diff.agreement.value:.1%} (95% interval {low:.1%} to {high:.1%})."
    )


def judge(verdict: Verdict, baseline: str, candidate: str) -> str:
    """Say in one sentence what the labels prove."""
    lost, won = verdict.only_baseline, verdict.only_candidate
    if not lost + won:
        return "Both are right on the same images."
    better = candidate if won > lost else baseline
    found = f"{better} is right" if verdict.p_value < _SURE else "Neither is shown to be right"
    return (
        f"{found} more often: only A is right on {_images(lost)}, only B on {_images(won)} "
        f"(McNemar's exact test, p = {verdict.p_value:.2g})."
    )


def list_figures(diff: Diff) -> list[Row]:
    """Put the figures of both versions side by side."""
    a, b = diff.baseline, diff.candidate
    return [*_accuracy_rows(diff), *_reliance_rows(a, b), *_cost_rows(a, b)]


def list_contract(contract: Contract) -> list[tuple[str, str, str]]:
    """List what differs beside the answers: the field, and its value for either version."""
    rows = [(change.field, _write(change.baseline), _write(change.candidate)) for change in contract.fields]
    if contract.labels_only_baseline or contract.labels_only_candidate:
        first, second = contract.labels_only_baseline, contract.labels_only_candidate
        rows.insert(0, ("labels that the other lacks", _mention(first), _mention(second)))
    if contract.labels_reordered:
        rows.insert(0, ("order of the labels", "", "another"))
    return rows


def list_losses(diff: Diff, count: int) -> list[tuple[str, str, str, str]]:
    """List the classes that lost, the worst first, and then those that won."""
    changed = [row for row in diff.per_class if row.change]
    lost = [row for row in changed if row.change < 0]
    won = [row for row in reversed(changed) if row.change > 0]
    half = max(count // 2, count - len(won))
    chosen = lost[:half] + won[: count - len(lost[:half])]
    return [_class_row(row) for row in chosen]


def _accuracy_rows(diff: Diff) -> Iterator[Row]:
    a, b = diff.baseline, diff.candidate
    if a.accuracy is None or b.accuracy is None or diff.verdict is None:
        return
    points = 100 * (b.accuracy.value - a.accuracy.value)
    yield "top-1 accuracy", f"{a.accuracy.value:.2%}", f"{b.accuracy.value:.2%}", f"{points:+.2f} points"
    yield "its 95% interval", _interval(a.accuracy), _interval(b.accuracy), ""
    verdict = diff.verdict
    odds = f"p = {verdict.p_value:.2g}"
    yield "right where the other is wrong", f"{verdict.only_baseline:,}", f"{verdict.only_candidate:,}", odds


def _reliance_rows(a: Side, b: Side) -> Iterator[Row]:
    for name, field in (("calibration error", "ece"), ("negative log-likelihood", "nll")):
        before, after = getattr(a.reliance, field), getattr(b.reliance, field)
        if before is not None or after is not None:
            change = "" if None in (before, after) else f"{after - before:+.4f}"
            yield name, _number(before), _number(after), change
    yield "temperature", f"{a.reliance.temperature:.3f}", f"{b.reliance.temperature:.3f}", ""
    yield "calibrated", _yes(a.reliance.calibrated), _yes(b.reliance.calibrated), ""


def _cost_rows(a: Side, b: Side) -> Iterator[Row]:
    for before, after in zip(a.timings, b.timings, strict=True):
        what = "one image" if before.batch == 1 else f"{before.batch} images"
        yield (
            f"{what}: median, 95th percentile",
            f"{before.median_ms:.2f}, {before.p95_ms:.2f} ms",
            f"{after.median_ms:.2f}, {after.p95_ms:.2f} ms",
            _factor(before.median_ms, after.median_ms),
        )
    yield "engine", a.engine, b.engine, ""
    yield "network", _size(a.network_bytes), _size(b.network_bytes), _factor(a.network_bytes, b.network_bytes)
    yield "parameters", f"{a.parameters:,}", f"{b.parameters:,}", _factor(a.parameters, b.parameters)
    yield "classes", f"{a.classes:,}", f"{b.classes:,}", ""


def _class_row(row: ClassChange) -> tuple[str, str, str, str]:
    a, b = (f"{right:,} of {row.images:,}" for right in (row.baseline_right, row.candidate_right))
    return row.label, a, b, f"{100 * row.change:+.1f} points"


def _write_page(diff: Diff, read: Callable[[int], bytes]) -> str:
    a, b = diff.baseline, diff.candidate
    lead = summarise(diff)
    if diff.verdict is not None:
        lead += " " + judge(diff.verdict, a.version, b.version)
    headings = ("", f"A: {a.version}", f"B: {b.version}", "B against A")
    parts = [
        paragraph(lead, "lead"),
        tiles(_large_figures(diff)),
        notice("Before you decide", diff.notes),
        section("Side by side", table(headings, list_figures(diff))),
        _contract(diff),
        _class_table(diff),
        _gallery(diff, read),
        section("What these figures do not say", bullets(_limits(diff))),
        section("How it was measured", table((), _facts(diff))),
    ]
    return write_page(f"{a.version} (A) and {b.version} (B)", parts)


def _large_figures(diff: Diff) -> Iterator[tuple[str, str, str]]:
    a, b = diff.baseline, diff.candidate
    yield "agreement", f"{diff.agreement.value:.1%}", f"of {_images(diff.images)}"
    if a.accuracy is not None and b.accuracy is not None:
        points = f"{100 * (b.accuracy.value - a.accuracy.value):+.1f}"
        yield "accuracy, points", points, f"{a.accuracy.value:.1%} to {b.accuracy.value:.1%}"
    largest = f"in the mean, {diff.largest_probability_change:.3f} at most"
    yield "probabilities differ by", f"{diff.mean_probability_change:.3f}", largest
    before, after = a.timings[0].median_ms, b.timings[0].median_ms
    yield "time for one image", _factor(before, after), f"{before:.2f} to {after:.2f} ms"


def _gallery(diff: Diff, read: Callable[[int], bytes]) -> str:
    shown = choose_shown(diff.differences)
    if not shown:
        return section("Where they differ", paragraph("On no image: both name the same class everywhere."))
    reading = f"{_of(len(diff.differences), diff.images)}; those come first of which a version is surest." + (
        f" {len(shown)} are shown, {RECORD} has all." if len(shown) < len(diff.differences) else ""
    )
    groups = []
    for side, heading in _GROUPS.items():
        members = [each for each in shown if _side_that_is_right(each) == side]
        if members:
            figures = "".join(_figure(each, read) for each in members)
            groups.append(f"{f'<h3>{heading}</h3>' if heading else ''}<div class=gallery>{figures}</div>")
    return section("Where they differ", paragraph(reading) + "".join(groups))


def _figure(difference: Difference, read: Callable[[int], bytes]) -> str:
    said = "".join(
        f"<span class={line.tone}><bdi>{escape(line.text)}</bdi></span>" for line in _caption(difference)[:-1]
    )
    name = f"<small><bdi>{escape(difference.image)}</bdi></small>"
    return f"<figure>{_picture(difference, read)}<figcaption>{said}{name}</figcaption></figure>"


def _side_that_is_right(difference: Difference) -> str:
    """Return A, B or neither, and nothing where there is no label."""
    truth = difference.truth
    if truth is None:
        return ""
    if difference.baseline.label == truth:
        return "A"
    return "B" if difference.candidate.label == truth else "neither"


def _picture(difference: Difference, read: Callable[[int], bytes]) -> str:
    try:
        picture = whole_picture(read(difference.index))
    except (InvalidImage, OSError):
        return ""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85, optimize=True)
    return image(file.getvalue(), difference.image)


def _caption(difference: Difference) -> tuple[Line, ...]:
    """Return what A said, what B said, what it is, and the image's name."""
    truth = difference.truth
    lines = [_answer("A", difference.baseline, truth), _answer("B", difference.candidate, truth)]
    if truth is not None:
        lines.append(Line(f"it is: {truth}", "faint"))
    return (*lines, Line(difference.image, "faint"))


def _answer(letter: str, said: Said, truth: str | None) -> Line:
    tone: Tone = "plain" if truth is None else "right" if said.label == truth else "wrong"
    return Line(f"{letter}: {said.label}, {_percent(said.probability)}", tone)


def _percent(probability: float) -> str:
    """Write a probability without rounding it to a certainty."""
    return ">99%" if probability > 0.995 else f"{probability:.0%}"  # noqa: PLR2004


def _class_table(diff: Diff) -> str:
    if not diff.per_class:
        return ""
    changed = [_class_row(row) for row in diff.per_class if row.change]
    same = len(diff.per_class) - len(changed)
    reading = "How many of a class's images each version gets right; the classes that lost most come first. " + (
        f"{same:,} of {len(diff.per_class):,} classes have not changed."
    )
    rows = table(("class", "A", "B", "change"), changed) if changed else ""
    if len(changed) > _OPEN_ROWS:
        rows = folded(f"all {len(changed):,} classes that changed", rows)
    return section("Every class that changed", paragraph(reading) + rows)


def _contract(diff: Diff) -> str:
    rows = list_contract(diff.contract)
    if not rows:
        return section(
            "What else differs", paragraph("Nothing: labels, preprocessing, architecture and engines are the same.")
        )
    return section("What else differs", table(("", "A", "B"), rows, prose=True))


def _limits(diff: Diff) -> Iterator[str]:
    yield (
        f"The figures are of {_images(diff.images)} of {diff.data} and hold for images like them; with another camera, "
        "light or mixture of classes the versions may differ more or less."
    )
    if not diff.labelled:
        yield "Agreement is not accuracy: two versions can agree and both be wrong."
    yield (
        "The times are of the network alone, without decoding and without the server, on this machine; both versions "
        "ran in turns."
    )


def _facts(diff: Diff) -> list[tuple[str, str]]:
    runs = ", ".join(f"{timing.runs:,} of {timing.batch}" for timing in diff.baseline.timings)
    return [
        ("images", f"{diff.images:,} of {diff.data}; {len(diff.unreadable):,} more cannot be read"),
        ("fingerprint of the images", diff.fingerprint),
        ("largest change of a probability", f"{diff.largest_probability_change:.4f}, on {diff.largest_change_image}"),
        ("timed batches", f"{runs}, for each version"),
        ("measured", diff.created.isoformat()),
    ]


def _mention(labels: tuple[str, ...]) -> str:
    return mention(labels, _MENTIONED) or _MISSING


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _write(value: JsonValue) -> str:
    if value is None:
        return _MISSING
    if isinstance(value, list):
        return ", ".join(_write(each) for each in value)
    return str(value)


def _interval(share: Share) -> str:
    low, high = share.interval
    return f"{low:.1%} to {high:.1%}"


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.4f}"


def _factor(before: float, after: float) -> str:
    return f"x {after / before:.2f}" if before else ""


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _of(count: int, images: int) -> str:
    return f"{count:,} of {_images(images)}"
