"""The commands that make and measure models: `setup`, `train`, `import`, `evaluate`. They need the extra `[torch]`."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model.errors import ModelNotFound
from model.registry import DEFAULT_ROOT, Registry
from model.types import PRODUCTION, ModelRef
from training.commands.evaluate import evaluate
from training.commands.finishing import check_destination, publish_release, require_torch
from training.commands.options import AliasOption, NameOption, RegistryOption
from training.commands.train import train, train_and_publish
from training.job import Job

DIGITS = "digits"
IMAGENET = "imagenet"


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(setup)
    app.command()(train)
    app.command("import")(import_model)
    app.command()(evaluate)


def setup(registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Fill the registry with the default models, imagenet and digits, where they are missing."""
    store = Registry(registry)
    for name, make in ((IMAGENET, _import_imagenet), (DIGITS, _train_digits)):
        if _has(store, name):
            if PRODUCTION not in store.state(name).aliases:  # whoever published it was stopped before the end
                store.promote(ModelRef(name, version=store.numbers(name)[-1]))
            Console().print(f"{name} is in {registry} already")
            continue
        require_torch("setup")
        make(store, name)


def import_model(
    source: Annotated[str, typer.Argument(help="The published weights to import: imagenet.")],
    name: NameOption = None,
    alias: AliasOption = None,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Publish weights that others trained as the next version of a model."""
    if source != IMAGENET:
        raise typer.BadParameter(f"{source!r} is not known: this release imports {IMAGENET!r}", param_hint="SOURCE")
    require_torch("import")
    store = Registry(registry)
    check_destination(store, name or IMAGENET, alias)
    _import_imagenet(store, name or IMAGENET, alias)


def _has(store: Registry, name: str) -> bool:
    try:
        return store.root.exists() and bool(store.numbers(name))
    except ModelNotFound:
        return False


def _train_digits(store: Registry, name: str) -> None:
    with tempfile.TemporaryDirectory() as runs:
        train_and_publish(store, Job(data=DIGITS), name, Path(runs), device="cpu")


def _import_imagenet(store: Registry, name: str, alias: str | None = None) -> None:
    from training.imagenet import import_imagenet

    publish_release(store, import_imagenet(name), alias)
