"""`hubel train`: what a user asks for, handed to a run, and its result published."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.console import Console

from model.registry import DEFAULT_ROOT, Registry
from training.commands.finishing import check_destination, publish_release, require_torch, stoppable
from training.commands.options import (
    AliasOption,
    LabelColumnOption,
    NameOption,
    QuietOption,
    RegistryOption,
    RootOption,
    UnreadableOption,
    of_data,
    of_network,
    of_recipe,
    of_run,
)
from training.job import MAX_UNREADABLE, Job

DEFAULT_RUNS = Path("runs")


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of class folders (with train, val and test above them or not), a CSV, a folder of IDX "
            "files, a zip or tar of these, or a name: digits, mnist, fashion-mnist, cifar10, flowers102, ..."
        ),
    ],
    *,
    name: NameOption = None,
    alias: AliasOption = None,
    registry: RegistryOption = DEFAULT_ROOT,
    arch: Annotated[
        str | None,
        of_network(
            help="classic, efficientnet_lite0 or a name of torchvision; chosen by the images by default.",
        ),
    ] = None,
    arch_config: Annotated[str, of_network(help="The architecture's arguments, as JSON.")] = "{}",
    weights: Annotated[str, of_network(help="What a backbone starts from: default, none, or a file.")] = "default",
    fine_tune: Annotated[int, of_network(min=0, help="Epochs in which a backbone's own layers are trained.")] = 0,
    size: Annotated[int | None, of_network(help="Side of the network's input, pixels.")] = None,
    root: RootOption = None,
    download: Annotated[bool, of_data("--download", help="Fetch a named data set or weights.")] = False,
    label_column: LabelColumnOption = None,
    max_unreadable: UnreadableOption = MAX_UNREADABLE,
    allow_leakage: Annotated[
        bool,
        of_data("--allow-leakage", help="Train although parts share images; the card says so."),
    ] = False,
    epochs: Annotated[int | None, of_recipe(help="Passes over the training part.")] = None,
    batch_size: Annotated[int | None, of_recipe(help="Images of a step, over all processes.")] = None,
    optimizer: Annotated[str | None, of_recipe(help="adamw or sgd.")] = None,
    learning_rate: Annotated[float | None, of_recipe(help="Peak of the schedule.")] = None,
    schedule: Annotated[str | None, of_recipe(help="one_cycle or cosine.")] = None,
    warm_up: Annotated[float | None, of_recipe(help="Share of the run that leads up to the peak.")] = None,
    weight_decay: Annotated[float | None, of_recipe(help="Of the weights.")] = None,
    label_smoothing: Annotated[float | None, of_recipe(help="Share of a target that goes to all classes.")] = None,
    class_weights: Annotated[str | None, of_recipe(help="none or balanced.")] = None,
    augment: Annotated[str | None, of_recipe(help="none, light, photo or digits.")] = None,
    mix: Annotated[str | None, of_recipe(help="none, mixup or cutmix.")] = None,
    average: Annotated[float | None, of_recipe(help="Decay of the weights' moving average; 0 for none.")] = None,
    clip_norm: Annotated[float | None, of_recipe(help="Largest norm of the gradient; 0 for none.")] = None,
    patience: Annotated[int | None, of_recipe(help="Epochs without progress before the run stops.")] = None,
    time_budget: Annotated[float | None, of_recipe(help="Seconds that the loop may take.")] = None,
    precision: Annotated[str | None, of_recipe(help="auto, fp32, bf16 or fp16.")] = None,
    seed: Annotated[int | None, of_recipe(help="Of the split, the first weights and the loop.")] = None,
    device: Annotated[str, of_run(help="auto, cpu or cuda.")] = "auto",
    runs: Annotated[Path, of_run(help="Folder of the runs' checkpoints and logs.")] = DEFAULT_RUNS,
    resume: Annotated[bool, of_run("--resume", help="Go on with the run that was stopped.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Train a network on labelled images and publish it as the next version of a model."""
    require_torch("train")
    told = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "warm_up": warm_up,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "augment": augment,
        "mix": mix,
        "average": average,
        "clip_norm": clip_norm,
        "patience": patience,
        "time_budget": time_budget,
        "precision": precision,
        "seed": seed,
    }
    job = Job(
        data=data,
        arch=arch,
        arch_config=_read_arch_config(arch_config),
        weights=weights,
        fine_tune=fine_tune,
        size=size,
        told={key: value for key, value in told.items() if value is not None},
        root=root,
        download=download,
        label_column=label_column,
        max_unreadable=max_unreadable,
        allow_leakage=allow_leakage,
        resume=resume,
    )
    from training.sources.open import check_there, name_of

    check_there(data)
    train_and_publish(Registry(registry), job, name or name_of(data), runs, alias=alias, device=device, quiet=quiet)


def _read_arch_config(text: str) -> dict[str, JsonValue]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--arch-config") from error
    if not isinstance(config, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object", param_hint="--arch-config")
    return config


def train_and_publish(
    store: Registry, job: Job, name: str, runs: Path, *, alias: str | None = None, device: str, quiet: bool = False
) -> None:
    """Do a run in its folder under `runs`, and publish what it makes.

    Raises:
        TrainingError: as the steps of a run say.
        ModelError: the version cannot be published.
    """
    checkpoint = runs / name / "checkpoint.pt"
    if os.environ.get("RANK", "0") == "0":  # the process that leads; before torch is imported, which takes seconds
        check_destination(store, name, alias)

    def left() -> str:
        kept = f"its checkpoint is kept, go on with --resume ({checkpoint})"
        return kept if checkpoint.exists() else "it had come to no checkpoint"

    with stoppable(left):
        from training.distributed import joined
        from training.progress import Display
        from training.run import Run
        from training.run_folder import RunFolder

        with joined(device) as group:
            display = Display(Console(), quiet=quiet or not group.leads)
            folder = RunFolder(runs / name)
            try:
                release = Run(job, folder, group, display).release(name)
                if release is not None:
                    publish_release(store, release, alias, "; go on with --resume" if checkpoint.exists() else "")
                    folder.finish()
            finally:
                if group.leads:
                    folder.clear_scratch()
                    store.forget_empty(name)
