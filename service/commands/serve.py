"""`hubel serve`: from the options and the environment to a service."""

import os
from pathlib import Path
from typing import Annotated

import typer

from model.registry import Registry
from service import launch
from service.settings import load_settings


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
    workers: Annotated[
        str | None, typer.Option(help="Serving processes, or auto.  [env: HUBEL_WORKERS; default: auto]")
    ] = None,
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
