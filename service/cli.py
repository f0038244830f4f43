"""The commands that use models, `serve` among them. None of them needs torch."""

import os
from pathlib import Path
from typing import Annotated

import typer

from model.registry import Registry
from service import launch
from service.commands.bench import bench
from service.commands.explain import explain
from service.commands.export import export
from service.commands.keys import keys_app
from service.commands.models import models_app
from service.commands.predict import predict
from service.settings import load_settings


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(predict)
    app.command()(explain)
    app.command()(bench)
    app.command()(export)
    app.add_typer(models_app, name="models")
    app.add_typer(keys_app, name="keys")


def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [env: HUBEL_HOST; default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [env: HUBEL_PORT; default: 8000]")] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="The model registry: a folder, or s3://...  [env: HUBEL_REGISTRY; default: registry]"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Serving processes.  [env: HUBEL_WORKERS; default: 1]")] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate (PEM) to serve HTTPS with.  [env: HUBEL_TLS_CERT]")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).  [env: HUBEL_TLS_KEY]")] = None,
) -> None:
    """Serve the models of the registry over HTTP. Every other setting is a HUBEL_ variable."""
    settings = load_settings(
        os.environ, host=host, port=port, registry=registry, workers=workers, tls_cert=tls_cert, tls_key=tls_key
    )
    Registry(settings.registry, settings.cache).check()
    launch.serve(settings)
