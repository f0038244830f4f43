"""Options that several commands have."""

from typing import Annotated

import typer

from model.registry import ROOT_VARIABLE

RegistryOption = Annotated[
    str,
    typer.Option("--registry", envvar=ROOT_VARIABLE, help="The model registry: a folder, or an address as s3://..."),
]
