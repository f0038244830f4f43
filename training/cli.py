"""The commands that make and measure models: `setup`, `train`, `import`, `evaluate`. They need the extra `[torch]`."""

import importlib.util
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue
from rich import box
from rich.console import Console
from rich.table import Column, Table
from safetensors import SafetensorError

from model.errors import ModelNotFound, RegistryUnavailable
from model.registry import DEFAULT_ROOT, ROOT_VARIABLE, Registry, StoredVersion
from model.types import PRODUCTION, ModelRef, check_alias
from training.errors import Interrupted
from training.job import MAX_UNREADABLE, Job

if TYPE_CHECKING:
    from training.assess import Assessment
    from training.publish import Release

_USAGE = 2
_STOPPED = 130
DIGITS = "digits"
IMAGENET = "imagenet"
DEFAULT_RUNS = Path("runs")

RegistryOption = Annotated[Path, typer.Option("--registry", envvar=ROOT_VARIABLE, help="Folder of the model registry.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Name in the registry; the data's own by default.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print the result only.")]
AliasOption = Annotated[str | None, typer.Option("--alias", help="Alias to move to the new version.")]
RootOption = Annotated[Path | None, typer.Option("--root", help="Where a named data set lies.")]
LabelColumnOption = Annotated[str | None, typer.Option("--label-column", help="The CSV's column of classes.")]
UnreadableOption = Annotated[
    float, typer.Option("--max-unreadable", min=0, max=1, help="Share of the images that may be unreadable.")
]


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
        _require_torch("setup")
        make(store, name)


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
        typer.Option(help="classic, efficientnet_lite0 or a name of torchvision; chosen by the images by default."),
    ] = None,
    arch_config: Annotated[str, typer.Option(help="The architecture's arguments, as JSON.")] = "{}",
    weights: Annotated[str, typer.Option(help="What a backbone starts from: default, none, or a file.")] = "default",
    fine_tune: Annotated[int, typer.Option(min=0, help="Epochs in which a backbone's own layers are trained.")] = 0,
    size: Annotated[int | None, typer.Option(help="Side of the network's input, pixels.")] = None,
    root: RootOption = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch a named data set or weights.")] = False,
    label_column: LabelColumnOption = None,
    max_unreadable: UnreadableOption = MAX_UNREADABLE,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Train although parts share images; the card says so.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training part.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images of a step, over all processes.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the schedule.")] = None,
    schedule: Annotated[str | None, typer.Option(help="one_cycle or cosine.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the weights.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of a target that goes to all classes.")] = None,
    class_weights: Annotated[str | None, typer.Option(help="none or balanced.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, light, photo or digits.")] = None,
    mix: Annotated[str | None, typer.Option(help="none, mixup or cutmix.")] = None,
    average: Annotated[float | None, typer.Option(help="Decay of the weights' moving average; 0 for none.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradient; 0 for none.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without progress before the run stops.")] = None,
    time_budget: Annotated[float | None, typer.Option(help="Seconds that the loop may take.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split, the first weights and the loop.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    runs: Annotated[Path, typer.Option(help="Folder of the runs' checkpoints and logs.")] = DEFAULT_RUNS,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was stopped.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Train a network on labelled images and publish it as the next version of a model."""
    _require_torch("train")
    told = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "schedule": schedule,
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
    from training.sources.open import name_of

    _train(Registry(registry), job, name or name_of(data), runs, alias=alias, device=device, quiet=quiet)


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
    _require_torch("evaluate")
    if alias is not None and not calibrate:
        raise typer.BadParameter("without --calibrate no version is published", param_hint="--alias")
    store = Registry(registry)
    version = store.version(ModelRef.parse(ref))
    if calibrate:
        _check_destination(store, version.name, alias)
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
        _announce(store, published, console, what="the images that it was measured on")


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
    _forget_empty(store, name)


def _require_torch(command: str) -> None:
    if importlib.util.find_spec("torch") is None:
        typer.echo(f"hubel: '{command}' needs torch, which is not installed: pip install 'hubel[torch]'", err=True)
        raise typer.Exit(_USAGE)


def _read_arch_config(text: str) -> dict[str, JsonValue]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--arch-config") from error
    if not isinstance(config, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object", param_hint="--arch-config")
    return config


def _train(
    store: Registry, job: Job, name: str, runs: Path, *, alias: str | None = None, device: str, quiet: bool = False
) -> None:
    checkpoint = runs / name / "checkpoint.pt"
    with _stoppable(checkpoint):
        from training.distributed import joined
        from training.progress import Display
        from training.run import Run
        from training.run_folder import RunFolder

        with joined(device) as group:
            if group.leads:
                _check_destination(store, name, alias)
            display = Display(Console(), quiet=quiet or not group.leads)
            folder = RunFolder(runs / name)
            try:
                release = Run(job, folder, group, display).release(name)
                if release is not None:
                    _publish(store, release, alias, "; go on with --resume" if checkpoint.exists() else "")
                    folder.finish()
            finally:
                if group.leads:
                    folder.clear_scratch()
                    _forget_empty(store, name)


def _forget_empty(store: Registry, name: str) -> None:
    """Let a model without a version leave no folder behind."""
    with suppress(OSError):  # it is not empty
        (store.root / name).rmdir()


@contextmanager
def _stoppable(checkpoint: Path) -> Iterator[None]:
    """Let SIGTERM tidy up as Ctrl-C does, and end both with a line instead of a traceback."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        if (rank := os.environ.get("RANK", "0")) == "0":
            kept = f"its checkpoint is kept, go on with --resume ({checkpoint})"
            rest = kept if checkpoint.exists() else "it had come to no checkpoint"
            typer.echo(f"hubel: {str(error) or 'stopped'}; {rest}", err=True)
        else:
            typer.echo(f"hubel: process {rank}: {str(error) or 'stopped'}", err=True)
        raise typer.Exit(_STOPPED) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _train_digits(store: Registry, name: str) -> None:
    with tempfile.TemporaryDirectory() as runs:
        _train(store, Job(data=DIGITS), name, Path(runs), device="cpu")


def _import_imagenet(store: Registry, name: str, alias: str | None = None) -> None:
    from training.imagenet import import_imagenet

    _publish(store, import_imagenet(name), alias)


def _publish(store: Registry, release: "Release", alias: str | None, otherwise: str = "") -> None:
    from training.publish import publish

    try:
        with Console().status(f"exporting and checking {release.name}"):
            version = publish(store, release, alias)
    except (OSError, SafetensorError) as error:
        raise RegistryUnavailable(
            f"the version cannot be written into {store.root.absolute()}: {error}; nothing was published{otherwise}"
        ) from error
    _announce(store, version)


def _announce(
    store: Registry,
    version: StoredVersion,
    console: Console | None = None,
    what: str = "its held-out test images",
) -> None:
    aliases = [alias for alias, number in store.state(version.name).aliases.items() if number == version.number]
    accuracy = version.manifest.metrics.get("test_accuracy")
    measured = f", right on {accuracy:.1%} of {what}" if accuracy is not None else ""
    (console or Console()).print(
        f"published {version} ({', '.join(aliases) or 'no alias'}){measured}", highlight=False, soft_wrap=True
    )


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
