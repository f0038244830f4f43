"""`hubel explain`: what of an image speaks for a class, as a picture in a file and a few lines."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from model.registry import DEFAULT_ROOT, Registry
from model.types import ModelRef
from service.commands.options import RegistryOption
from service.commands.tables import make_table
from service.errors import InvalidRequest
from service.settings import load_settings

_SHOWN = 5
_METHODS = ("cam", "gradcam", "occlusion")


def explain(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An image file.")],
    *,
    model: Annotated[
        str | None, typer.Option(help="name, name:3 or name@alias; the default model if not given.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="cam, gradcam (needs torch) or occlusion; the best that works if not given.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--class", help="A label or an index of the network's output; the most probable if not given."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="The picture's file; IMAGE.explained.png here if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as the service answers.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Show which part of an image speaks for a class: the photo with a heat map over it, in a file."""
    from model.explain.heat_colours import decode_photo, paint_over
    from model.explain.network import ExplainedNetwork
    from model.explain.sheet import draw_sheet
    from service.answering import Explained
    from service.explaining_messages import Bounds
    from service.explanations import ExplainQuery, Method

    settings = load_settings(os.environ)
    if method not in (None, *_METHODS):
        raise InvalidRequest(f"{method!r} is not a method; these are: {', '.join(_METHODS)}")
    chosen: Method | None = next((known for known in ("cam", "gradcam", "occlusion") if known == method), None)
    version = Registry(registry).version(ModelRef.parse(model or settings.default_model))
    network, bounds = ExplainedNetwork(version), Bounds.of(settings)
    explained = Explained(network, bounds, _go_on)
    data = image.read_bytes()
    prepared = explained.prepare(data)
    query = ExplainQuery(method=chosen, label=label)
    answer, values = explained.explain(query, prepared)
    photo = decode_photo(data, prepared.facts, bounds.images)
    found = answer.prediction
    how = f"by {answer.method}" + (f" over the maps of {answer.layer}" if answer.layer else "")
    target = out or Path(f"{image.stem}.explained.png")
    sheet = draw_sheet(
        photo,
        paint_over(photo, values, answer.crop, prepared.facts),
        f"{found.label} ({found.index}): {found.probability:.1%} says {version}",
        f"right: what speaks for it, {how}" if answer.map.maximum > 0 else "nothing in the image speaks for it",
    )
    try:
        target.write_bytes(sheet)
    except OSError as error:
        raise InvalidRequest(f"{target} cannot be written: {error.strerror}") from error
    if as_json:
        print(answer.model_dump_json(indent=1, by_alias=True))
        return
    table = make_table("class", "index", "probability")
    for column in (1, 2):
        table.columns[column].justify = "right"
    classes = explained.top(prepared, _SHOWN)
    listed = any(each.index == found.index for each in classes)
    for each in classes if listed else [*classes, found]:
        style = "bold" if each.index == found.index else ""
        table.add_row(Text(each.label, style), Text(str(each.index), style), Text(f"{each.probability:.4f}", style))
    console = Console()
    console.print(table)
    console.print(Text(f"{found.label}: {how}, in {target}"))


def _go_on() -> None:
    """Nobody waits for anything else."""
