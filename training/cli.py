"""The commands that make models: `setup`, `train`, `import`. They need the extra `[torch]`."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.errors import ModelNotFound
from model.registry import DEFAULT_ROOT, ROOT_VARIABLE, Registry, StoredVersion
from model.types import PRODUCTION, ModelRef, check_alias

if TYPE_CHECKING:
    from training.publish import Release

_USAGE = 2
DIGITS = "digits"
IMAGENET = "imagenet"

RegistryOption = Annotated[Path, typer.Option("--registry", envvar=ROOT_VARIABLE, help="Folder of the model registry.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Name in the registry; the data's own by default.")]
AliasOption = Annotated[str | None, typer.Option("--alias", help="Alias to move to the new version.")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(setup)
    app.command()(train)
    app.command("import")(import_model)


def setup(registry: RegistryOption = DEFAULT_ROOT) -> None:
    """Fill the registry with the default models, imagenet and digits, where they are missing."""
    store = Registry(registry)
    for name, make in ((IMAGENET, _import_imagenet), (DIGITS, _train_digits)):
        if _has(store, name):
            if PRODUCTION not in store.state(name).aliases:  # whoever published it was stopped before the end
                store.promote(ModelRef(name, version=store.numbers(name)[-1]))
            Console().print(f"{name} is in {registry} already")
            continue
        _require_torch("setup")
        make(store, name, None)


def train(
    data: Annotated[str, typer.Argument(help="The data to train on: digits.")],
    name: NameOption = None,
    alias: AliasOption = None,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Train a network and publish it as the next version of a model."""
    if data != DIGITS:
        raise typer.BadParameter(f"{data!r} is not known: this release trains on {DIGITS!r}", param_hint="DATA")
    _require_torch("train")
    store = Registry(registry)
    _check_destination(store, name or DIGITS, alias)
    _train_digits(store, name or DIGITS, alias)


def import_model(
    source: Annotated[str, typer.Argument(help="The published weights to import: imagenet.")],
    name: NameOption = None,
    alias: AliasOption = None,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Publish weights that others trained as the next version of a model."""
    if source != IMAGENET:
        raise typer.BadParameter(f"{source!r} is not known: this release imports {IMAGENET!r}", param_hint="SOURCE")
    _require_torch("import")
    store = Registry(registry)
    _check_destination(store, name or IMAGENET, alias)
    _import_imagenet(store, name or IMAGENET, alias)


def _has(store: Registry, name: str) -> bool:
    try:
        return store.root.exists() and bool(store.numbers(name))
    except ModelNotFound:
        return False


def _check_destination(store: Registry, name: str, alias: str | None) -> None:
    """Find out before the work, not after it, whether its result can be published."""
    if alias is not None:
        check_alias(alias)
    with store.staging(name):
        pass


def _require_torch(command: str) -> None:
    if importlib.util.find_spec("torch") is None:
        typer.echo(f"hubel: '{command}' needs torch, which is not installed: pip install 'hubel[torch]'", err=True)
        raise typer.Exit(_USAGE)


def _train_digits(store: Registry, name: str, alias: str | None) -> None:
    from training.config import TrainConfig
    from training.digits import train_digits
    from training.loop import EpochResult

    config = TrainConfig()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(f"training {name}", total=config.epochs)

        def show(result: EpochResult) -> None:
            figures = f"loss {result.loss:.3f}, validation {result.validation_accuracy:.3f}"
            progress.update(task, advance=1, description=f"training {name}: {figures}")

        release = train_digits(name, config, show)
    _publish(store, release, alias)


def _import_imagenet(store: Registry, name: str, alias: str | None) -> None:
    from training.imagenet import import_imagenet

    _publish(store, import_imagenet(name), alias)


def _publish(store: Registry, release: "Release", alias: str | None) -> None:
    from training.publish import publish

    with Console().status(f"exporting and checking {release.name}"):
        version = publish(store, release, alias)
    _announce(store, version)


def _announce(store: Registry, version: StoredVersion) -> None:
    aliases = [alias for alias, number in store.state(version.name).aliases.items() if number == version.number]
    accuracy = version.manifest.metrics.get("test_accuracy")
    measured = f", right on {accuracy:.1%} of its held-out test images" if accuracy is not None else ""
    Console().print(f"published {version} ({', '.join(aliases) or 'no alias'}){measured}", highlight=False)
