"""`hubel optimize`: a version in int8 or bf16, made of one in fp32, shown beside it, and published if it will do."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model.registry import DEFAULT_ROOT, Registry
from model.types import ModelRef
from training.commands.finishing import announce, check_destination, require_torch, stoppable
from training.commands.options import (
    AliasOption,
    LabelColumnOption,
    QuietOption,
    RegistryOption,
    RootOption,
    UnreadableOption,
)
from training.commands.tables import tabulate
from training.job import MAX_UNREADABLE

_REFUSED = 1
_FEWEST_IMAGES = 20


def optimize(
    ref: Annotated[str, typer.Argument(help="An fp32 version: name, name:3 or name@alias")],
    data: Annotated[
        str,
        typer.Argument(
            help="Images in any form that `train` takes, or a folder of unlabelled ones: a half calibrates, the other "
            "is measured; of parts, the validation and the test part."
        ),
    ],
    *,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute in 8-bit integers, on CPUs. This is the default.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16: on OpenVINO, or on torch.")] = False,
    max_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help="Points of top-1 accuracy that may be lost; without labels, points of agreement with fp32.",
        ),
    ] = 1.0,
    calibration_images: Annotated[
        int | None,
        typer.Option(min=_FEWEST_IMAGES, help="Images that the ranges of int8 come from, at most.  [default: 200]"),
    ] = None,
    alias: AliasOption = None,
    registry: RegistryOption = DEFAULT_ROOT,
    root: RootOption = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch a named data set.")] = False,
    label_column: LabelColumnOption = None,
    max_unreadable: UnreadableOption = MAX_UNREADABLE,
    seed: Annotated[int, typer.Option(min=0, help="Of the halves, and of the images for the ranges.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON; notes go to stderr.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Make a faster version of reduced precision, measure what it costs, and publish it if that is little enough."""
    if int8 and bf16:
        raise typer.BadParameter("a version has one precision", param_hint="--int8, --bf16")
    if bf16 and calibration_images is not None:
        raise typer.BadParameter("bf16 needs no ranges", param_hint="--calibration-images")
    for package in ("torch", "onnx"):
        require_torch("optimize", package)
    store = Registry(registry)
    version = store.version(ModelRef.parse(ref))
    check_destination(store, version.name, alias)
    console = Console(stderr=as_json)
    progress = "nothing was published"
    with stoppable(lambda: progress), tempfile.TemporaryDirectory() as work:
        from training.optimize import check_reducible, publish_reduced, stage_reduced
        from training.photos import Wish, gather
        from training.precision import CALIBRATION_IMAGES, Goal, list_figures
        from training.progress import Display

        goal = Goal("bf16" if bf16 else "int8", max_drop, calibration_images or CALIBRATION_IMAGES, seed)
        check_reducible(version, goal.precision)
        display = Display(console, quiet=quiet)
        wish = Wish(data, root, download, label_column, max_unreadable, calibrate=True, seed=seed, unlabelled=True)
        photos = gather(wish, version, Path(work), display)
        display.say(f"{version}, in {goal.precision}: {photos.division}")
        with stage_reduced(store, version, photos, goal, display) as candidate:
            found = candidate.trial.found
            for note in found.notes:
                display.warn(note)
            if not as_json:
                headings = (f"{found.base} on {found.images:,} images", "fp32", found.precision, "change")
                console.print(tabulate(headings, list_figures(found)))
            if not found.refusal:
                progress = f"'hubel models list' tells whether {version.name} has a new version"
                published = publish_reduced(store, candidate, alias)
                found = found.model_copy(update={"published": str(published)})
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    if found.refusal:
        typer.echo(f"hubel: {found.refusal}; nothing was published", err=True)
        raise typer.Exit(_REFUSED)
    announce(store, published, console, what="the images that it was measured on")
