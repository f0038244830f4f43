"""The commands that make and measure models: `setup`, `train`, `import`, `evaluate`, `optimize`.

They need the extra `[torch]`; only an archive of 'hubel export' is imported without it.
"""

import tempfile
from pathlib import Path

import typer
from rich.console import Console

from model.errors import RegistryMissing
from model.registry import DEFAULT_ROOT, Registry
from model.types import PRODUCTION, ModelRef
from training.commands.diff import diff
from training.commands.evaluate import evaluate
from training.commands.finishing import require_torch
from training.commands.import_model import IMAGENET, import_imagenet, import_model
from training.commands.optimize import optimize
from training.commands.options import RegistryOption
from training.commands.train import train, train_and_publish
from training.job import Job

DIGITS = "digits"


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(setup)
    app.command()(train)
    app.command("import")(import_model)
    app.command()(evaluate)
    app.command()(optimize)


def add_model_commands(models_app: typer.Typer) -> None:
    """Add to `hubel models` what compares versions; it needs no torch."""
    models_app.command("diff")(diff)


def setup(registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Fill the registry with the default models, imagenet and digits, where they are missing."""
    store = Registry(registry)
    for name, make in ((IMAGENET, import_imagenet), (DIGITS, _train_digits)):
        if _has(store, name):
            if PRODUCTION not in store.state(name).aliases:  # whoever published it was stopped before the end
                store.promote(ModelRef(name, version=store.numbers(name)[-1]))
            Console().print(f"{name} is in {registry} already")
            continue
        require_torch("setup")
        make(store, name)


def _has(store: Registry, name: str) -> bool:
    try:
        return store.has(name)
    except RegistryMissing:
        return False


def _train_digits(store: Registry, name: str) -> None:
    with tempfile.TemporaryDirectory() as runs:
        train_and_publish(store, Job(data=DIGITS), name, Path(runs), device="cpu")
