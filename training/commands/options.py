"""Options that several commands have."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from model.registry import ROOT_VARIABLE

# Under these headings stand the options of `train`.
of_data = partial(typer.Option, rich_help_panel="Data")
of_network = partial(typer.Option, rich_help_panel="Network")
of_recipe = partial(typer.Option, rich_help_panel="Recipe")
of_run = partial(typer.Option, rich_help_panel="Run")

RegistryOption = Annotated[
    str,
    typer.Option("--registry", envvar=ROOT_VARIABLE, help="Folder of the model registry, or an address as s3://..."),
]
NameOption = Annotated[str | None, typer.Option("--name", help="Name in the registry; the data's own by default.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print the result only.")]
AliasOption = Annotated[str | None, typer.Option("--alias", help="Alias to move to the new version.")]
RootOption = Annotated[Path | None, of_data("--root", help="Where a named data set lies.")]
LabelColumnOption = Annotated[str | None, of_data("--label-column", help="The CSV's column of classes.")]
UnreadableOption = Annotated[
    float,
    of_data("--max-unreadable", min=0, max=1, help="Share of the images that may be unreadable."),
]
