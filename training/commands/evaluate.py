"""`hubel evaluate`: a version measured on photos, shown as a table, and published again where it is calibrated."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

from model.registry import DEFAULT_ROOT, Registry
from model.types import ModelRef
from training.commands.finishing import announce, check_destination, require_torch
from training.commands.options import (
    AliasOption,
    LabelColumnOption,
    QuietOption,
    RegistryOption,
    RootOption,
    UnreadableOption,
)
from training.job import MAX_UNREADABLE

if TYPE_CHECKING:
    from training.assess import Assessment


def evaluate(
    ref: Annotated[str, typer.Argument(help="name, name:3 or name@alias")],
    data: Annotated[str, typer.Argument(help="Labelled images in any form that `train` takes; of parts, the test.")],
    *,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Fit the temperature on half of the images, or on their validation part, measure the others, and "
            "publish the result as the next version.",
        ),
    ] = False,
    alias: AliasOption = None,
    registry: RegistryOption = DEFAULT_ROOT,
    root: RootOption = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch a named data set.")] = False,
    label_column: LabelColumnOption = None,
    max_unreadable: UnreadableOption = MAX_UNREADABLE,
    seed: Annotated[int, typer.Option(min=0, help="Of the halves that --calibrate makes.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Folder to write a report with pictures into.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the evaluation as JSON; notes go to stderr.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a version on labelled images, and calibrate it on them."""
    require_torch("evaluate")
    if alias is not None and not calibrate:
        raise typer.BadParameter("without --calibrate no version is published", param_hint="--alias")
    store = Registry(registry)
    version = store.version(ModelRef.parse(ref))
    if calibrate:
        check_destination(store, version.name, alias)
    if report is not None:
        _make_folder(report)
    from training.assess import assess, write_assessment
    from training.photos import Wish, gather
    from training.progress import Display
    from training.recalibrate import publish_calibrated

    wish = Wish(data, root, download, label_column, max_unreadable, calibrate, seed)
    console = Console(stderr=as_json)
    display = Display(console, quiet=quiet)
    with tempfile.TemporaryDirectory() as work:
        photos = gather(wish, version, Path(work), display)
        assessment = assess(version, photos, display)
    if as_json:
        typer.echo(assessment.evaluation.model_dump_json(indent=1))
    else:
        console.print(_tabulate(assessment))
    if report is not None:
        write_assessment(report, assessment)
        display.say(f"the report is {report / 'index.html'}")
    if calibrate:
        with console.status(f"checking {version.name} at its new temperature"):
            published = publish_calibrated(store, assessment, alias)
        announce(store, published, console, what="the images that it was measured on")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be made: {error.strerror}", param_hint="--report") from error


def _tabulate(assessment: "Assessment") -> Table:
    """Put the figures into a table; those of probabilities also without the temperature, where there is one."""
    found = assessment.evaluation
    low, high = found.top1_interval
    rows = [
        ("images", f"{found.images:,}", ""),
        ("top-1 accuracy ± standard error", f"{found.top1:.2%} ± {found.top1_standard_error:.2%}", ""),
        ("its 95% interval", f"{low:.2%} to {high:.2%}", ""),
        (f"top-{found.k} accuracy", f"{found.top_k:.2%}", ""),
        ("macro F1", f"{found.macro_f1:.4f}", ""),
    ]
    for name, field in (("negative log-likelihood", "nll"), ("calibration error", "ece"), ("Brier score", "brier")):
        before, after = getattr(found.uncalibrated, field), getattr(found.calibrated, field)
        rows.append((name, f"{after:.4f}", f"{before:.4f}"))
    rows.append(("temperature", f"{found.temperature:.3f}", "1.000"))
    table = Table(
        Column(f"{assessment.version}", overflow="fold"),
        Column("calibrated" if assessment.calibration.calibrated else "", justify="right"),
        Column("uncalibrated", justify="right"),
        box=box.SIMPLE,
        padding=(0, 1),
    )
    if found.temperature == 1:
        table.columns.pop()
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    return table
