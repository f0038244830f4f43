"""What a run keeps on disk while it goes on: its checkpoint and its log.

    <runs>/<name>/checkpoint.pt     what `--resume` goes on from; gone when the version is published
                  log.jsonl         a line of JSON for each thing that happened
                  duplicates.png    the images that the leakage check found
                  cache/            features of a frozen backbone

A checkpoint is replaced whole: whoever is killed at any moment leaves the one before.
"""

import datetime as dt
import io
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import sync
from training.errors import RunNotFound, RunNotWritable

Identity = Mapping[str, object]  # what must not change between a run and its continuation; JSON


class RunFolder:
    """The folder of one run.

    Raises:
        RunNotWritable: the folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.log = path / "log.jsonl"
        self.duplicates = path / "duplicates.png"
        self.cache = path / "cache"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunNotWritable(f"the folder of the run, {path}, cannot be made: {error.strerror}") from error

    def begin(self) -> None:
        """Forget what an earlier run left here, but for its features and, until there is another, its checkpoint.

        Raises:
            RunNotWritable: it cannot be taken away.
        """
        try:
            for path in (self.log, self.duplicates):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise RunNotWritable(f"{error.filename} cannot be removed: {error.strerror}") from error
        self.clear_scratch()

    def finish(self) -> None:
        """Take away what only a stopped run needs."""
        self.checkpoint.unlink(missing_ok=True)
        self.clear_scratch()

    @property
    def scratch(self) -> Path:
        """A folder for unpacked archives and for pixels that memory does not hold.

        Raises:
            RunNotWritable: it cannot be made.
        """
        folder = self.path / "scratch"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunNotWritable(f"the folder of the run, {self.path}, cannot be written: {error.strerror}") from error
        return folder

    def clear_scratch(self) -> None:
        """Take away what no later process can use, not even one that goes on with this run."""
        shutil.rmtree(self.path / "scratch", ignore_errors=True)

    def check_stopped(self) -> None:
        """Make sure that there is a stopped run, before the work that leads up to `load`.

        Raises:
            RunNotFound: there is none.
        """
        if not self.checkpoint.exists():
            raise RunNotFound(f"no stopped run is in {self.path}: leave --resume away to begin one")

    def save(self, identity: Identity, state: dict[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            RunNotWritable: it cannot be written; the one before is kept.
        """
        temporary = self.checkpoint.with_suffix(".part")
        try:
            content = io.BytesIO()  # torch's writer would hide the system's reason for a failure
            torch.save({"identity": json.dumps(identity), "state": state}, content)
            with temporary.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.checkpoint)
            sync(self.path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            kept = "the one before is kept: go on with --resume" if self.checkpoint.exists() else "none is kept"
            raise RunNotWritable(f"the checkpoint {self.checkpoint} cannot be written ({error}); {kept}") from error

    def load(self, identity: Identity) -> dict[str, Any]:
        """Return the state of the stopped run.

        Raises:
            RunNotFound: there is none, it cannot be read, or it had another recipe or other data.
        """
        self.check_stopped()
        try:
            stored = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            before, state = json.loads(stored["identity"]), stored["state"]
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise RunNotFound(f"the checkpoint {self.checkpoint} cannot be read: {error}") from error
        before, now = _flat(before), _flat(json.loads(json.dumps(identity)))
        changed = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise RunNotFound(f"the stopped run in {self.path} was another: {'; '.join(changed)}")
        return dict(state)

    def note(self, event: str, **values: object) -> None:
        """Add a line to the log.

        Raises:
            RunNotWritable: it cannot be written.
        """
        line = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), "event": event, **values}
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise RunNotWritable(f"the log {self.log} cannot be written: {error.strerror}") from error


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name every single value by the way to it: {"recipe": {"epochs": 3}} becomes {"recipe.epochs": 3}."""
    flat: dict[str, Any] = {}
    for name, each in value.items():
        flat.update(_flat(each, f"{prefix}{name}.") if isinstance(each, dict) else {f"{prefix}{name}": each})
    return flat
