"""The next version of a model: the same files as another, at a temperature that was fitted on other photos."""

from model.checkpoint import CARD, REPORT
from model.classifier import check_staged
from model.errors import RegistryUnavailable
from model.registry import Registry, StoredVersion
from training.assess import Assessment, facts, write_assessment
from training.card import write_card
from training.derived import copy_files, derive_manifest
from training.study import figures


def publish_calibrated(registry: Registry, assessment: Assessment, alias: str | None = None) -> StoredVersion:
    """Publish the next version of the same model: the same files, with the temperature that was fitted.

    Raises:
        GoldenMismatch: an engine does not repeat the golden outputs at that temperature.
        RegistryUnavailable: the registry cannot be written.
    """
    try:
        return _publish_calibrated(registry, assessment, alias)
    except OSError as error:
        raise RegistryUnavailable(f"{registry.address} cannot be written: {error}") from error


def _publish_calibrated(registry: Registry, assessment: Assessment, alias: str | None) -> StoredVersion:
    base = assessment.version
    manifest = derive_manifest(
        base,
        "hubel evaluate --calibrate",
        calibration=assessment.calibration,
        metrics=figures(assessment.evaluation),
    )
    with registry.staging(base.name) as folder:
        copy_files(base, folder)
        difference = check_staged(folder, manifest)
        write_assessment(folder / REPORT, assessment)
        card = write_card(
            manifest,
            title=f"{base.name}: {len(manifest.labels):,} classes, {manifest.architecture.name}",
            difference=difference,
            evaluation=assessment.evaluation,
            facts=facts(assessment),
            warnings=assessment.photos.warnings,
            photos=assessment.photos.collection.origin,
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        return registry.publish(folder, manifest, alias)
