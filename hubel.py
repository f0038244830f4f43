"""The command line: `hubel`, put together from the commands of `service` and `training`.

`from hubel import Client` gives the Python client.
"""

import importlib.metadata
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import ModelError
from service.commands.serve import serve
from service.errors import ServiceError
from service.settings import read_variables
from training.errors import TrainingError

if TYPE_CHECKING:
    from service.client import Client

__all__ = ["Client", "main"]


def __getattr__(name: str) -> object:
    """Import the client when it is asked for: no command waits for it."""
    if name == "Client":
        from service.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(importlib.metadata.version("hubel"))
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command, and refuse misspelt variables before any."""
    read_variables(os.environ)


def build(command: str | None = None) -> typer.Typer:
    """Put the command line together; for `serve` that alone, which waits for nothing that others import."""
    app = typer.Typer(
        name="hubel",
        help="Train a CNN on your folder of images, publish it as a version, serve it over REST.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(options)
    if command == "serve":
        app.command()(serve)
        return app
    from service import cli as service_cli
    from service.commands.models import models_app
    from training import cli as training_cli

    training_cli.add_commands(app)
    service_cli.add_commands(app)
    training_cli.add_model_commands(models_app)
    return app


def main() -> None:
    """Run a command; errors that a user can act on end with their text and exit code 2."""
    try:
        build(*sys.argv[1:2])()
    except (ModelError, ServiceError, TrainingError) as error:
        print(f"hubel: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
