"""Versions that are made of another version of the same model: what they take over from it."""

import datetime as dt
import shutil
from collections.abc import Collection as Names
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint import CARD, REPORT
from model.manifest import Manifest
from model.registry import StoredVersion


def copy_files(base: StoredVersion, folder: Path, *, without: Names[str] = ()) -> None:
    """Copy a version's files but its card, its report and those named in `without`."""
    for name in base.manifest.files:
        if name not in (CARD, *without) and not name.startswith(f"{REPORT}/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base.folder / name, folder / name)


def derive_manifest(
    base: StoredVersion, by: str, *, origin: Mapping[str, Any] | None = None, **changes: Any
) -> Manifest:
    """Return a version's manifest with some fields changed, made now.

    Args:
        base: the version.
        by: the command that makes the other.
        origin: fields of the provenance to change, beside its time and its source.
        changes: fields of the manifest.
    """
    before = base.manifest.provenance
    provenance = before.model_copy(
        update={
            "created": dt.datetime.now(dt.UTC).replace(microsecond=0),
            "source": f"{by}, of {base}; {before.source}",
            **(origin or {}),
        }
    )
    return base.manifest.model_copy(update={"provenance": provenance, "digest": None, **changes})
