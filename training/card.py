"""The model card: what a reader should know before using a version, in Markdown.

Says what the manifest and the evaluation say, in words; measures nothing and writes no file. A
version without an evaluation has a card too: it says what is not known, and how to find out.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from model.manifest import Manifest
from training.evaluation import ClassScores, Evaluation, limits
from training.precision import Reduction, list_figures

_ALL_CLASSES = 30
_WORST_CLASSES = 10

Row = tuple[str, ...]


def write_card(
    manifest: Manifest,
    *,
    title: str,
    difference: float,
    evaluation: Evaluation | None = None,
    facts: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
    photos: str = "",
    reduction: Reduction | None = None,
) -> str:
    """Return the card of a version.

    Args:
        manifest: of the version.
        title: what the model is, for people.
        difference: the largest difference of a probability between ONNX Runtime and torch, or for a version of
            reduced precision between the engines and its own golden outputs.
        evaluation: on the test part or on `photos`; None where hubel has not measured any.
        facts: further names and values: split, fingerprint, machine, ...
        warnings: sentences about what a reader should look into before using the version.
        photos: what was measured, where it is not a held-out part of the training's data.
        reduction: of a version of reduced precision, its figures beside those in fp32.
    """
    fitted = photos if reduction is None or reduction.fitted_images else ""
    parts = [
        f"# {_plain(title)}",
        _introduce(manifest, evaluation),
        _section("Before you use it", _list(warnings)) if warnings else "",
        _section(f"What {reduction.precision} costs", _compare_precisions(reduction)) if reduction else "",
        _section("Results", _tabulate_results(evaluation)) if evaluation else "",
        _section("How sure it says it is", _explain_calibration(manifest, evaluation, fitted)),
        _section("Classes", _tabulate_classes(evaluation)) if evaluation else "",
        _section("What these figures do not say", _list(limits(evaluation, photos))) if evaluation else "",
        _section("How it was made", _tabulate_facts(manifest, difference, facts)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _introduce(manifest: Manifest, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return (
            f"It names one of {len(manifest.labels):,} classes. How often it is right on photos like yours has not "
            f"been measured; `{_command(manifest)}` measures it, on photos of yours whose class is known."
        )
    low, high = evaluation.top1_interval
    return (
        f"It names the right one of {evaluation.classes:,} classes for {evaluation.top1:.1%} of {evaluation.images:,} "
        f"test images (95% interval {low:.1%} to {high:.1%})."
    )


def _compare_precisions(found: Reduction) -> str:
    how = (
        f"The network computes in int8; the ranges of its activations are those of {found.range_images:,} calibration "
        "images. Its weights in `model.safetensors`, and the network that explanations read, are those in fp32."
        if found.precision == "int8"
        else "The files are those in fp32; convolutions and matrix products are computed in bf16."
    )
    table = _table(("", "fp32", found.precision, "change"), list_figures(found))
    return (
        f"Made of {found.base} by `hubel optimize --{found.precision}`. {how} The figures are of {found.images:,} "
        f"other images of {_plain(found.data)}; both versions ran in turns, with all cores at work.\n\n{table}"
    )


def _tabulate_results(evaluation: Evaluation) -> str:
    before, after = evaluation.uncalibrated, evaluation.calibrated
    top1 = f"{evaluation.top1:.2%} ± {evaluation.top1_standard_error:.2%}"
    top_k = f"{evaluation.top_k:.2%}"
    macro_f1 = f"{evaluation.macro_f1:.4f}"
    rows = [("top-1 accuracy ± standard error", top1, top1)]
    if evaluation.k < evaluation.classes:
        rows.append((f"top-{evaluation.k} accuracy", top_k, top_k))
    rows += [
        ("macro F1", macro_f1, macro_f1),
        ("negative log-likelihood, nats", f"{before.nll:.4f}", f"{after.nll:.4f}"),
        ("expected calibration error, 15 bins", f"{before.ece:.4f}", f"{after.ece:.4f}"),
        ("Brier score, summed over classes", f"{before.brier:.4f}", f"{after.brier:.4f}"),
    ]
    head = (f"{evaluation.images:,} test images", "before calibration", f"temperature {evaluation.temperature:.3f}")
    return _table(head, rows)


def _explain_calibration(manifest: Manifest, evaluation: Evaluation | None, photos: str) -> str:
    calibration = manifest.calibration
    if not calibration.calibrated:
        return _explain_missing(manifest, evaluation)
    effect = ""
    if evaluation is not None:
        effect = (
            f" On the test images it moves the expected calibration error from {evaluation.uncalibrated.ece:.3f} to "
            f"{evaluation.calibrated.ece:.3f}."
        )
    fitted = f"the labels of {_plain(photos)}" if photos else "images which were not trained on"
    return (
        f"`calibrated: true`. A probability is softmax(logits / T) with T = {calibration.temperature:.3f}, the "
        f"temperature that makes {fitted} most likely (temperature scaling, Guo et al. 2017), with a weak prior at "
        "T = 1 that counts only where they are few. It changes how sure the network says it is, "
        f"and none of its answers.{effect} {_plain(calibration.note)}".rstrip()
    )


def _explain_missing(manifest: Manifest, evaluation: Evaluation | None) -> str:
    known = (
        "nobody has compared its probabilities with how often it is right."
        if evaluation is None
        else f"on the test images the expected calibration error is {evaluation.uncalibrated.ece:.3f}."
    )
    command = _command(manifest)
    invitation = "" if command in manifest.calibration.note else f"\n\nTo calibrate it on your photos: `{command}`."
    return (
        "`calibrated: false`. A probability of 0.9 need not mean that the network is right nine times out of ten: "
        f"{known} {_plain(manifest.calibration.note)}".rstrip()
        + invitation
    )


def _command(manifest: Manifest) -> str:
    return f"hubel evaluate {manifest.name} PHOTOS --calibrate"


def _tabulate_classes(evaluation: Evaluation) -> str:
    chosen: Sequence[ClassScores] = evaluation.per_class
    sentence = ""
    if len(chosen) > _ALL_CLASSES:
        known = [scores for scores in chosen if scores.f1 is not None]
        chosen = sorted(known, key=lambda scores: (scores.f1 or 0.0, scores.label))[:_WORST_CLASSES]
        sentence = f"The {len(chosen)} worst of {evaluation.classes:,} by F1:\n\n"
    rows = [
        (scores.label, _figure(scores.precision), _figure(scores.recall), _figure(scores.f1), f"{scores.support:,}")
        for scores in chosen
    ]
    return sentence + _table(("class", "precision", "recall", "F1", "test images"), rows)


def _tabulate_facts(manifest: Manifest, difference: float, facts: Sequence[tuple[str, str]]) -> str:
    shape = "x".join(map(str, manifest.preprocessing.shape))
    origin = manifest.provenance
    rows = [
        ("architecture", f"{manifest.architecture.name}, {manifest.parameters:,} parameters"),
        ("input", f"{shape} (H x W x C), resize '{manifest.preprocessing.resize}'"),
        ("classes", f"{len(manifest.labels)}"),
        ("data", origin.data),
        ("source", origin.source),
        ("licence", origin.licence),
        ("calibrated", "yes" if manifest.calibration.calibrated else "no"),
        (_compared(manifest), f"largest difference of a probability {difference:.1e}"),
        *((name.replace("_", " "), f"{value:.4f}") for name, value in manifest.metrics.items()),
        *facts,
        ("recipe", _enumerate(origin.recipe)),
        ("seed", "" if origin.seed is None else str(origin.seed)),
        ("versions", _enumerate(origin.versions)),
        ("created", origin.created.isoformat()),
    ]
    return _table(("", ""), [row for row in rows if row[1]])


def _compared(manifest: Manifest) -> str:
    if manifest.precision != "fp32":
        return "engines against the golden outputs"
    return f"ONNX Runtime against {'torch' if 'torch' in manifest.engines else 'the imported file'}"


def _enumerate(values: Mapping[str, JsonValue]) -> str:
    """Write names and values in one line."""
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in values.items()
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(sentence)}" for sentence in sentences)


def _table(head: Row, rows: Sequence[Row]) -> str:
    """Write a table; the columns after the first are figures if there are more than one."""
    marks = ["---"] + ["---" if len(head) == 2 else "---:"] * (len(head) - 1)  # noqa: PLR2004 - name and value
    lines = [tuple(map(_plain, head)), tuple(marks), *(tuple(map(_plain, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Put a text on one line and take the meaning from the characters that have one in Markdown."""
    whole = text.encode("utf-8", "replace").decode("utf-8")  # half a character cannot be written to a file
    line = "".join(character for character in " ".join(whole.split()) if character.isprintable())
    return re.sub(r"[\\`*|\[\]<>~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)
