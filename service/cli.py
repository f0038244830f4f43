"""The commands that use models, `serve` among them. None of them needs torch."""

import typer

from service.commands.bench import bench
from service.commands.explain import explain
from service.commands.export import export
from service.commands.keys import keys_app
from service.commands.models import models_app
from service.commands.predict import predict
from service.commands.serve import serve


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(predict)
    app.command()(explain)
    app.command()(bench)
    app.command()(export)
    app.add_typer(models_app, name="models")
    app.add_typer(keys_app, name="keys")
