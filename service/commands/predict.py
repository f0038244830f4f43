"""`hubel predict`: images classified with a model of the registry, or through a running service."""

import functools
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from model.errors import InvalidImage
from model.registry import DEFAULT_ROOT, Registry
from model.types import ModelRef
from service.commands.options import RegistryOption
from service.commands.tables import make_table
from service.settings import load_settings

_FAILED = 1
_USAGE = 2


def predict(
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Image files.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="name, name:3 or name@alias; the default model if not given.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask this service; without it the model is loaded here.")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="HUBEL_CLIENT_KEY", help="API key of that service; others can see options.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Classes to show, 0 for all.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Classify image files, with a model of the registry or through a running service."""
    ask = functools.partial(_predict_remotely, url, key) if url else functools.partial(_predict_locally, registry)
    results = ask(images, model, top_k)
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        _print_results(results)
    if any("error" in result for result in results):
        raise typer.Exit(_FAILED)


def _predict_remotely(
    url: str, key: str | None, images: list[Path], model: str | None, top_k: int
) -> list[dict[str, Any]]:
    """Ask a service for one image at a time, so that a request is never too large for its limits."""
    import httpx
    from pydantic import ValidationError

    from service.client import Client, ProblemError

    results: list[dict[str, Any]] = []
    with Client(url, key=key) as client:
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


def _predict_locally(registry: str, images: list[Path], model: str | None, top_k: int) -> list[dict[str, Any]]:
    from model.classifier import load_classifier
    from model.preprocessing import ImageLimits
    from service.problems import problem_of
    from service.schemas import ImageOut, PredictionOut, ResultOut

    settings = load_settings(os.environ)
    choice = settings.engine_choice
    classifier = load_classifier(Registry(registry).version(ModelRef.parse(model or settings.default_model)), choice)
    limits = ImageLimits(settings.max_image_pixels, settings.max_image_aspect_ratio, settings.max_image_decoded_bytes)
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


def _print_results(results: list[dict[str, Any]]) -> None:
    table = make_table("image", "label", "probability")
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
