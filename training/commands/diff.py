"""`hubel models diff`: two versions on the same images, side by side, and remembered where they are of one model."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from model.registry import DEFAULT_ROOT, Registry, StoredVersion
from model.state import DiffRecord
from model.types import ModelRef
from training.commands.options import LabelColumnOption, QuietOption, RegistryOption, RootOption, UnreadableOption
from training.commands.tables import tabulate
from training.job import MAX_UNREADABLE

if TYPE_CHECKING:
    from training.diff import Diff

_BELOW = 1
_LISTED = 10  # images and classes that the terminal shows


def diff(
    a: Annotated[str, typer.Argument(help="The baseline: name, name:3 or name@alias")],
    b: Annotated[str, typer.Argument(help="The candidate, likewise.")],
    *,
    images: Annotated[
        str,
        typer.Option(
            help="Images in any form that `train` takes, of parts the test; or a folder of unlabelled images."
        ),
    ],
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit with 1 if they say the same on a smaller share of the images."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder to write diff.json, differences.png and a page into.")
    ] = None,
    registry: RegistryOption = DEFAULT_ROOT,
    root: RootOption = None,
    label_column: LabelColumnOption = None,
    max_unreadable: UnreadableOption = MAX_UNREADABLE,
    record: Annotated[
        bool,
        typer.Option(
            "--record/--no-record", help="Remember the result of two versions of one model, for `models promote`."
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the diff as JSON; notes go to stderr.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two versions on the same images: answers, accuracy, calibration, time, size, labels."""
    store = Registry(registry)
    baseline, candidate = (store.version(ModelRef.parse(ref)) for ref in (a, b))
    if report is not None:
        _make_folder(report)
    from training.answers import open_photos
    from training.diff import compare
    from training.diff_page import write_diff

    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory() as work:
        photos = open_photos(images, root=root, work=Path(work), label_column=label_column)
        with _progress(console, len(photos), quiet) as show:
            found = compare(baseline, candidate, photos, max_unreadable=max_unreadable, on_progress=show)
        if report is not None:
            write_diff(report, found, photos.images.read)
    if not quiet:
        for note in found.notes:
            console.print(Text.assemble(("note: ", "yellow"), note), soft_wrap=True)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        _print(found, console)
    if report is not None and not quiet:
        console.print(Text(f"the report is {report / 'index.html'}"), soft_wrap=True)
    if record and baseline.name == candidate.name and baseline.number != candidate.number:
        store.record_diff(baseline.name, _make_record(found, baseline, candidate))
    if min_agreement is not None and found.agreement.value < min_agreement:
        typer.echo(
            f"hubel: they agree on {found.agreement.value:.2%} of the images, less than {min_agreement:.2%} "
            "(--min-agreement)",
            err=True,
        )
        raise typer.Exit(_BELOW)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be made: {error.strerror}", param_hint="--report") from error


@contextmanager
def _progress(console: Console, images: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("asking both", total=images)

        def show(done: int) -> None:
            progress.update(task, completed=done, description="timing both" if done == images else "asking both")

        yield show


def _make_record(found: "Diff", baseline: StoredVersion, candidate: StoredVersion) -> DiffRecord:
    accuracies = (side.accuracy.value if side.accuracy else None for side in (found.baseline, found.candidate))
    before, after = accuracies
    return DiffRecord(
        baseline=baseline.number,
        candidate=candidate.number,
        images=found.images,
        agreement=found.agreement.value,
        baseline_accuracy=before,
        candidate_accuracy=after,
        data=f"{found.data}, fingerprint {found.fingerprint}",
        created=found.created,
    )


def _print(found: "Diff", console: Console) -> None:
    from training.diff_page import judge, list_contract, list_figures, list_losses

    a, b = found.baseline.version, found.candidate.version
    low, high = found.agreement.interval
    console.print(
        Text(
            f"A {a} and B {b} say the same on {found.agreement.count:,} of {found.images:,} images: "
            f"{found.agreement.value:.2%} (95% interval {low:.1%} to {high:.1%}). Their probabilities differ by "
            f"{found.mean_probability_change:.3f} in the mean, {found.largest_probability_change:.3f} at most."
        )
    )
    if found.verdict is not None:
        console.print(Text(judge(found.verdict, a, b)))
    console.print(tabulate(("", f"A: {a}", f"B: {b}", "B against A"), list_figures(found)))
    if losses := list_losses(found, _LISTED):
        console.print(tabulate(("classes that changed most", "A gets right", "B gets right", "change"), losses))
    if contract := list_contract(found.contract):
        console.print(tabulate(("what else differs", "A", "B"), contract, right=False))
    if found.differences:
        console.print(_list_differences(found))


def _list_differences(found: "Diff") -> Table:
    shown = found.differences[:_LISTED]
    rows = [
        (
            each.image,
            *(f"{said.probability:.3f} {said.label}" for said in (each.baseline, each.candidate)),
            *((each.truth,) if each.truth is not None else ()),
        )
        for each in shown
    ]
    first = f"images that differ, {len(shown)} of {len(found.differences):,}"
    headings = (first, "A", "B", "it is") if found.labelled else (first, "A", "B")
    return tabulate(headings, rows, right=False)
