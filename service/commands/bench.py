"""`hubel bench`: a running service under clients that wait for their answers, in figures, a histogram and a picture."""

import importlib.util
import json
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model.types import ModelRef
from service.bench import trial
from service.bench.exchange import Address
from service.bench.figures import explain, figures
from service.bench.specimen import make_photo
from service.bench.tables import print_outcome

_FAILED, _USAGE = 1, 2
# What asking again does not change: the key, the model or the address is not right.
_HOPELESS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


def bench(
    url: Annotated[str, typer.Argument(help="The service, as http://127.0.0.1:8000.")],
    *,
    image: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Image file to send; several take turns. A made photo if none."),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="Clients at once.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="For how long requests are sent.")] = 10.0,
    requests: Annotated[int | None, typer.Option(min=1, help="Send no more than so many.")] = None,
    model: Annotated[
        str | None, typer.Option(help="name, name:3 or name@alias; the default model if not given.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="HUBEL_CLIENT_KEY", help="API key of that service; others can see options.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds to wait for an answer.")] = 60.0,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the figures here.")] = None,
    png: Annotated[Path | None, typer.Option(dir_okay=False, help="Draw them here; needs matplotlib.")] = None,
) -> None:
    """Ask a running service as fast as it answers, and tell how soon it does. Ends with 1 where a request failed."""
    _check_outputs(json_file, png)
    images = [(path.name, path.read_bytes()) for path in image or []] or [("a made photo", make_photo())]
    path = f"/v1/models/{ModelRef.parse(model)}/predict" if model else "/v1/predict"
    try:
        address = Address.parse(url.rstrip("/") + path)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        bodies = [address.head(len(data), headers) + data for _, data in images]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    version = _try_once(url, address, bodies[0], timeout)
    title = f"{version} at {url}, {connections} connections, {', '.join(name for name, _ in images)}"
    with Console(stderr=True).status(title):
        outcome = trial.run(trial.Trial(address, bodies, connections, seconds, requests, timeout))
    print_outcome(Console(), title, outcome)
    if json_file is not None:
        record = {"url": url, "model": version, "images": [name for name, _ in images], "connections": connections}
        _write(json_file, json.dumps({**record, **figures(outcome)}, indent=1).encode() + b"\n")
    if png is not None:
        from service.bench.chart import draw

        _write(png, draw(title, outcome))
    if outcome.failed:
        raise typer.Exit(_FAILED)


def _try_once(url: str, address: Address, request: bytes, timeout: float) -> str:
    """Ask once, and return the version that answers; end where asking again is of no use."""
    from pydantic import ValidationError

    from service.schemas import PredictResponse

    answer = trial.ask_once(address, request, timeout)
    if not answer.status:
        raise _end(f"{url} cannot be reached: {answer.body.decode(errors='replace')}")
    if answer.status in trial.OK:
        try:
            response = PredictResponse.model_validate_json(answer.body)
        except ValidationError as error:
            raise _end(f"what {url} answers is not what hubel would") from error
        return f"{response.model}:{response.version}"
    if answer.status in _HOPELESS or answer.status in trial.ELSEWHERE:
        raise _end(f"{url} answers {answer.status}, {explain(answer.body)}")
    return "no version"  # a full queue, a bad image: it is counted


def _check_outputs(json_file: Path | None, png: Path | None) -> None:
    """Refuse before the work what could not be written after it."""
    for option, path in (("--json", json_file), ("--png", png)):
        if path is not None and not path.absolute().parent.is_dir():
            raise typer.BadParameter(f"{path.parent} is not a folder", param_hint=option)
    if png is not None and importlib.util.find_spec("matplotlib") is None:
        raise _end("--png needs matplotlib, which is not installed: pip install 'hubel[torch]', or matplotlib alone")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise _end(f"{path} cannot be written: {error.strerror}") from error


def _end(message: str) -> typer.Exit:
    typer.echo(f"hubel: {message}", err=True)
    return typer.Exit(_USAGE)
