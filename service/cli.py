"""The commands that use models, `serve` among them. None of them needs torch."""

import math
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from model.registry import Registry
from service.commands.export import export
from service.commands.models import models_app
from service.commands.predict import predict
from service.settings import load_settings, variable_of


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(predict)
    app.command()(export)
    app.add_typer(models_app, name="models")


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [env: HUBEL_HOST; default: 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [env: HUBEL_PORT; default: 8000]")] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="The model registry: a folder, or s3://...  [env: HUBEL_REGISTRY; default: registry]"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Serving processes.  [env: HUBEL_WORKERS; default: 1]")] = None,
) -> None:
    """Serve the models of the registry over HTTP. Every other setting is a HUBEL_ variable."""
    import uvicorn

    from service.logs import configure_logs

    settings = load_settings(os.environ, host=host, port=port, registry=registry, workers=workers)
    Registry(settings.registry, settings.cache).check()
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
    # The workers are new processes: their settings, and where they and their metrics meet, come by environment.
    os.environ.update({variable_of("registry"): settings.registry, variable_of("workers"): str(settings.workers)})
    with tempfile.TemporaryDirectory(prefix="hubel-") as folder:
        for variable, name in (("PROMETHEUS_MULTIPROC_DIR", "metrics"), (variable_of("worker_folder"), "workers")):
            os.environ[variable] = str(Path(folder, name))
            Path(folder, name).mkdir()
        uvicorn.run("service.app:create_worker_app", factory=True, workers=settings.workers, **options)
