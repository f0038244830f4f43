"""The commands that use models: `serve`, `predict`, `models`. None of them needs torch."""

import functools
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from model.errors import CorruptCheckpoint, InvalidImage
from model.registry import DEFAULT_ROOT, ROOT_VARIABLE, Registry
from model.types import PRODUCTION, ModelRef
from service.settings import load_settings, variable_of

_FAILED = 1
_USAGE = 2

RegistryOption = Annotated[Path, typer.Option("--registry", envvar=ROOT_VARIABLE, help="Folder of the model registry.")]

models_app = typer.Typer(help="List, show and promote the versions of the registry.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(predict)
    app.add_typer(models_app, name="models")


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [env: HUBEL_HOST; default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [env: HUBEL_PORT; default: 8000]")] = None,
    registry: Annotated[
        Path | None, typer.Option(help="Folder of the model registry.  [env: HUBEL_REGISTRY; default: registry]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Serving processes.  [env: HUBEL_WORKERS; default: 1]")] = None,
) -> None:
    """Serve the models of the registry over HTTP. Every other setting is a HUBEL_ variable."""
    import uvicorn

    from service.logs import configure_logs

    settings = load_settings(os.environ, host=host, port=port, registry=registry, workers=workers)
    Registry(settings.registry).check()
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "timeout_graceful_shutdown": math.ceil(settings.request_timeout_ms / 1000),
    }
    configure_logs(settings.log_level)
    if settings.workers == 1:
        from service.app import create_app

        uvicorn.run(create_app(settings), **options)
        return
    # The workers are new processes: their settings, and where their metrics meet, come by environment.
    os.environ.update({variable_of("registry"): str(settings.registry), variable_of("workers"): str(settings.workers)})
    with tempfile.TemporaryDirectory(prefix="hubel-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        uvicorn.run("service.app:create_worker_app", factory=True, workers=settings.workers, **options)


def predict(
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Image files.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="name, name:3 or name@alias; the default model if not given.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask this service; without it the model is loaded here.")] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Classes to show, 0 for all.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Classify image files, with a model of the registry or through a running service."""
    ask = functools.partial(_predict_remotely, url) if url else functools.partial(_predict_locally, registry)
    results = ask(images, model, top_k)
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        _print_results(results)
    if any("error" in result for result in results):
        raise typer.Exit(_FAILED)


def _predict_remotely(url: str, images: list[Path], model: str | None, top_k: int) -> list[dict[str, Any]]:
    """Ask a service for one image at a time, so that a request is never too large for its limits."""
    import httpx
    from pydantic import ValidationError

    from service.client import Client, ProblemError

    results: list[dict[str, Any]] = []
    with Client(url) as client:
        for image in images:
            try:
                (result,) = client.predict([image], model, top_k).results
                results.append({"file": str(image), **result.model_dump(exclude_none=True)})
            except ProblemError as error:
                results.append({"file": str(image), "error": error.problem.model_dump(exclude_none=True)})
            except (httpx.HTTPStatusError, ValidationError) as error:
                typer.echo(f"hubel: what {url} answers is not what hubel would", err=True)
                raise typer.Exit(_USAGE) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                typer.echo(f"hubel: {url} cannot be reached: {error}", err=True)
                raise typer.Exit(_USAGE) from error
    return results


def _predict_locally(registry: Path, images: list[Path], model: str | None, top_k: int) -> list[dict[str, Any]]:
    from model.classifier import load_classifier
    from model.engines.selection import EngineChoice
    from model.preprocessing import ImageLimits
    from service.problems import problem_of
    from service.schemas import ImageOut, PredictionOut, ResultOut

    settings = load_settings(os.environ)
    choice = EngineChoice(settings.engine, settings.device, settings.compute_threads)
    classifier = load_classifier(Registry(registry).version(ModelRef.parse(model or settings.default_model)), choice)
    limits = ImageLimits(settings.max_image_pixels, settings.max_image_aspect_ratio)
    results: list[dict[str, Any]] = []
    for image in images:
        try:
            prepared = classifier.prepare(image.read_bytes(), limits)
        except InvalidImage as error:
            result = ResultOut(error=problem_of(error))
        else:
            (probabilities,) = classifier.classify(prepared.pixels[None])
            result = ResultOut(
                predictions=[PredictionOut.of(p) for p in classifier.top(probabilities, top_k)],
                image=ImageOut.of(prepared.facts),
            )
        results.append({"file": str(image), **result.model_dump(exclude_none=True)})
    return results


def _table(*headers: str) -> Table:
    """Make a table whose cells go over several lines rather than lose their ends."""
    return Table(*(Column(header, overflow="fold") for header in headers), box=box.SIMPLE, padding=(0, 1))


def _print_results(results: list[dict[str, Any]]) -> None:
    table = _table("image", "label", "probability")
    table.columns[2].justify = "right"
    for result in results:
        if "error" in result:
            detail = Text(result["error"]["detail"], style="red")
            table.add_row(Text(result["file"]), detail, "", end_section=True)
            continue
        last = len(result["predictions"]) - 1
        for number, prediction in enumerate(result["predictions"]):
            name = Text(result["file"] if number == 0 else "")
            table.add_row(
                name, Text(prediction["label"]), f"{prediction['probability']:.4f}", end_section=number == last
            )
    Console().print(table)


@models_app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """List the models, their versions and their aliases."""
    store = Registry(registry)
    rows = [_describe(store, name, number) for name in store.names() for number in store.numbers(name)]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_versions(rows)
    if any(row["error"] for row in rows):
        raise typer.Exit(_FAILED)


def _print_versions(rows: list[dict[str, Any]]) -> None:
    table = _table("model", "version", "aliases", "architecture", "accuracy", "created")
    for row in rows:
        accuracy = row["metrics"].get("test_accuracy")
        table.add_row(
            row["model"],
            str(row["version"]),
            ", ".join(row["aliases"]),
            Text(row["error"], style="red") if row["error"] else row["architecture"],
            f"{accuracy:.4f}" if accuracy is not None else "",
            row["created"][: len("2026-01-31")],
        )
    Console().print(table)


def _describe(store: Registry, name: str, number: int) -> dict[str, Any]:
    """Return a version's row; what cannot be read of it is its `error`."""
    row: dict[str, Any] = {
        "model": name, "version": number, "aliases": [], "architecture": "", "classes": 0, "created": "", "metrics": {},
        "error": "",
    }  # fmt: skip
    try:
        aliases = store.state(name).aliases
        row["aliases"] = sorted(alias for alias, target in aliases.items() if target == number)
        manifest = store.version(ModelRef(name, version=number)).manifest
    except CorruptCheckpoint as error:
        return {**row, "error": str(error)}
    return {
        **row,
        "architecture": manifest.architecture.name,
        "classes": len(manifest.labels),
        "created": manifest.provenance.created.isoformat(),
        "metrics": manifest.metrics,
    }


@models_app.command("show")
def show_model(
    ref: Annotated[str, typer.Argument(help="name, name:3 or name@alias")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Show a version's card, or its manifest with --json."""
    from rich.markdown import Markdown

    from model.checkpoint import read_card

    version = Registry(registry).version(ModelRef.parse(ref))
    if as_json:
        print(version.manifest.model_dump_json(indent=1))
        return
    console = Console()
    console.print(f"{version} in {version.folder}")
    console.print(Markdown(read_card(version.folder)))


@models_app.command("promote")
def promote(
    ref: Annotated[str, typer.Argument(help="name, name:3 or name@alias")],
    alias: Annotated[str, typer.Option(help="The alias to move.")] = PRODUCTION,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Let an alias mean a version, after loading the version and checking its golden outputs."""
    from model.classifier import load_classifier
    from model.engines.selection import EngineChoice

    store = Registry(registry)
    version = store.version(ModelRef.parse(ref))
    settings = load_settings(os.environ)
    load_classifier(version, EngineChoice(settings.engine, settings.device, settings.compute_threads))
    store.promote(ModelRef(version.name, version=version.number), alias)
    typer.echo(f"{version.name}@{alias} is now version {version.number}")
