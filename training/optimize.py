"""Making a version of reduced precision of an fp32 version: written, tried beside it, and published if it will do.

int8 is another `model.onnx`; bf16 is the same files, computed otherwise. All else is taken over, also the weights and
the network with its layers' results, which stay fp32. Nothing is published before the figures are known.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from model.checkpoint import CARD, GOLDEN, NETWORK, REPORT, Golden, digest_files, read_golden, write_golden
from model.classifier import check_staged, load_classifier
from model.engines.selection import EngineChoice, candidates, open_engine
from model.errors import EngineUnavailable, ModelError, RegistryUnavailable
from model.manifest import REDUCED_TOLERANCE, EngineName, Manifest
from model.registry import Registry, StoredVersion
from training.assess import describe_measurement, prepare_all, write_assessment
from training.card import write_card
from training.derived import copy_files, derive_manifest
from training.errors import NotReducible
from training.photos import Photos
from training.precision import Goal, ReducedPrecision
from training.progress import Display
from training.quantize import METHOD, quantize_network
from training.study import figures
from training.trial import SECONDS, Contender, Trial, try_out
from training.versions import versions

FIGURES: Final = "precision.json"  # in the report


@dataclass(frozen=True)
class Candidate:
    """A version of reduced precision that is not published yet.

    Attributes:
        base: the version that it was made of.
        folder: where its files are, but for card and report.
        manifest: its own.
        photos: what it was tried on.
        trial: what was found.
        difference: the largest one of a probability from its golden outputs, over the engines that are here.
    """

    base: StoredVersion
    folder: Path
    manifest: Manifest
    photos: Photos
    trial: Trial
    difference: float


def check_reducible(version: StoredVersion, precision: ReducedPrecision) -> None:
    """Find out before the work whether a version of that precision can be made of this one.

    Raises:
        NotReducible: the version is not fp32, lacks the network in ONNX, or nothing here computes it so.
    """
    manifest = version.manifest
    if manifest.precision != "fp32":
        raise NotReducible(f"{version} is {manifest.precision} already; name the fp32 version that it was made of")
    if NETWORK not in manifest.files:
        raise NotReducible(f"{version} holds no {NETWORK}, which a version in {precision} is made of")
    try:
        candidates(_choice(precision), _engines(manifest, precision))
    except EngineUnavailable as error:
        raise NotReducible(f"nothing on this machine computes {version} in {precision}: {error}") from error


@contextmanager
def stage_reduced(
    registry: Registry,
    version: StoredVersion,
    photos: Photos,
    goal: Goal,
    display: Display,
    *,
    seconds: float = SECONDS,
) -> Iterator[Candidate]:
    """Give a candidate with its figures; unless it is published meanwhile, nothing of it is left afterwards.

    Args:
        registry: where the version is.
        version: an fp32 version.
        photos: what is calibrated on, and what is measured.
        goal: what is wanted.
        display: shows what goes on.
        seconds: how long both are timed, for each size of batch.

    Raises:
        NotReducible: as `check_reducible`, `quantize_network` and `try_out` say.
        ModelError: the version, or what was made of it, cannot be served.
        InvalidData: an image is gone.
        RegistryUnavailable: the registry cannot be written.
    """
    check_reducible(version, goal.precision)
    choice = _choice(goal.precision)
    base = Contender(version, load_classifier(version, choice))
    with registry.staging(version.name) as folder:
        with _told_of(registry):
            copy_files(version, folder, without=(GOLDEN, NETWORK) if goal.precision == "int8" else (GOLDEN,))
            range_images = _quantize(base, folder, photos, goal, display) if goal.precision == "int8" else 0
            manifest = _derive(version, goal.precision, range_images)
            _write_golden(version, folder, manifest, choice)
        staged = StoredVersion(version.name, 0, folder, manifest.model_copy(update={"files": digest_files(folder)}))
        reduced = Contender(staged, load_classifier(staged, choice))
        trial = try_out(base, reduced, photos, goal, display, range_images=range_images, seconds=seconds)
        manifest = manifest.model_copy(update={"calibration": trial.calibration, "metrics": _metrics(trial)})
        yield Candidate(version, folder, manifest, photos, trial, check_staged(folder, manifest))


def publish_reduced(registry: Registry, candidate: Candidate, alias: str | None = None) -> StoredVersion:
    """Make a candidate the next version of its model, whatever its figures are.

    Raises:
        RegistryUnavailable: the registry cannot be written.
    """
    folder, trial = candidate.folder, candidate.trial
    with _told_of(registry):
        (folder / REPORT).mkdir()
        if trial.assessment is not None:
            write_assessment(folder / REPORT, trial.assessment)
        text = trial.found.model_dump_json(indent=1, exclude={"published"})
        (folder / REPORT / FIGURES).write_text(text + "\n", encoding="utf-8")
        (folder / CARD).write_text(_write_card(candidate), encoding="utf-8")
        return registry.publish(folder, candidate.manifest, alias)


@contextmanager
def _told_of(registry: Registry) -> Iterator[None]:
    """Tell of a disk that is full, and the like, as of a registry that cannot be written."""
    try:
        yield
    except OSError as error:
        raise RegistryUnavailable(f"{registry.address} cannot be written: {error}") from error


def _choice(precision: ReducedPrecision) -> EngineChoice:
    """Return where both versions run: int8 is for CPUs, bf16 for whatever device would serve."""
    return EngineChoice(device="cpu" if precision == "int8" else "auto", threads=os.cpu_count() or 1)


def _engines(manifest: Manifest, precision: ReducedPrecision) -> tuple[EngineName, ...]:
    if precision == "int8":
        return ("onnx", "openvino")
    return ("openvino", "torch") if "torch" in manifest.engines else ("openvino",)


def _quantize(base: Contender, folder: Path, photos: Photos, goal: Goal, display: Display) -> int:
    """Write the network in int8, and return how many images its ranges are taken from."""
    order = np.random.default_rng(goal.seed).permutation(photos.fitted)
    chosen = np.sort(order[: goal.calibration_images])
    with display.stage(f"quantising, with {len(chosen):,} images"):
        pixels = prepare_all(base.classifier, photos.collection.images, chosen)
        quantize_network(base.version.folder / NETWORK, folder / NETWORK, pixels)
    return len(chosen)


def _derive(version: StoredVersion, precision: ReducedPrecision, range_images: int) -> Manifest:
    recipe = version.manifest.provenance.recipe
    if range_images:
        recipe = {**recipe, "quantization": METHOD, "calibration_images": range_images}
    return derive_manifest(
        version,
        f"hubel optimize --{precision}",
        origin={"recipe": recipe, "versions": versions()},
        precision=precision,
        tolerance=REDUCED_TOLERANCE,
        engines=_engines(version.manifest, precision),
        metrics={},
        files={},
    )


def _write_golden(version: StoredVersion, folder: Path, manifest: Manifest, choice: EngineChoice) -> None:
    """Store what the first engine that runs here answers to the golden inputs of the fp32 version."""
    staged, pixels = StoredVersion(version.name, 0, folder, manifest), read_golden(version.folder).pixels
    failures: list[ModelError] = []
    for candidate in candidates(choice, manifest.engines):
        try:
            logits = open_engine(staged, candidate, choice.threads).infer(pixels)
        except ModelError as error:
            failures.append(error)
        else:
            write_golden(folder, Golden(pixels, logits))
            return
    reasons = "; ".join(map(str, failures))
    raise NotReducible(f"{version} cannot be computed in {manifest.precision}: {reasons}") from failures[0]


def _metrics(trial: Trial) -> dict[str, float]:
    agreement = {"agreement_with_fp32": trial.found.agreement.value}
    if trial.assessment is None or trial.found.fp32.accuracy is None:
        return agreement
    own = figures(trial.assessment.evaluation)
    return {**own, **agreement, "test_accuracy_in_fp32": trial.found.fp32.accuracy.top1}


def _write_card(candidate: Candidate) -> str:
    manifest, photos, trial = candidate.manifest, candidate.photos, candidate.trial
    name = f"{candidate.base}, in {manifest.precision}"
    title = f"{manifest.name} in {manifest.precision}: {len(manifest.labels):,} classes, {manifest.architecture.name}"
    return write_card(
        manifest,
        title=title,
        difference=candidate.difference,
        evaluation=trial.assessment.evaluation if trial.assessment else None,
        facts=describe_measurement(candidate.base, name, photos, trial.found.reduced.engine),
        warnings=(*photos.warnings, *trial.found.notes),
        photos=photos.collection.origin,
        reduction=trial.found,
    )
