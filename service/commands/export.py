"""`hubel export`: a version as a file, whole for another registry, or its network for another program."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from model.archive import SUFFIX, copy_verified, replace_file, write_archive
from model.checkpoint import NETWORK
from model.registry import DEFAULT_ROOT, Registry, StoredVersion
from model.types import ModelRef
from service.commands.options import RegistryOption

_MIB = 1 << 20


def export(
    ref: Annotated[str, typer.Argument(help="name, name:3 or name@alias")],
    *,
    form: Annotated[
        Literal["archive", "onnx"],
        typer.Option("--format", help="archive: the whole version, for 'hubel import'; onnx: its network and labels."),
    ] = "archive",
    output: Annotated[
        Path | None, typer.Option(help="File or folder to write; <name>-<number>.hubel.tar or .onnx here by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Write a version into a file: the whole of it, or its network as ONNX."""
    version = Registry(registry).version(ModelRef.parse(ref))
    suffix = SUFFIX if form == "archive" else ".onnx"
    target = output or Path()
    if target.is_dir():
        target /= f"{version.name}-{version.number}{suffix}"
    try:
        if form == "archive":
            _export_archive(version, target, force=force)
        else:
            _export_network(version, target, force=force)
    except OSError as error:
        raise typer.BadParameter(
            f"{target} cannot be written: {error.strerror or error}", param_hint="--output"
        ) from error


def _export_archive(version: StoredVersion, target: Path, *, force: bool) -> None:
    _refuse_to_overwrite(target, force=force)
    write_archive(version, target)
    typer.echo(f"{version} is in {target} ({target.stat().st_size / _MIB:.1f} MiB)")
    typer.echo(f"elsewhere: hubel import {target.name}")


def _export_network(version: StoredVersion, target: Path, *, force: bool) -> None:
    names = target.with_name(f"{target.name.removesuffix('.onnx')}.labels.txt")
    _refuse_to_overwrite(target, names, force=force)
    manifest = version.manifest
    copy_verified(version, NETWORK, target)
    replace_file(names, (re.sub(r"[\r\n]+", " ", label).encode() + b"\n" for label in manifest.labels))
    height, width, channels = manifest.preprocessing.shape
    size = f"short side to {manifest.preprocessing.short_side}, centre crop"
    if manifest.preprocessing.resize == "stretch":
        size = "stretched"
    typer.echo(
        f"{version} is in {target}\n"
        f"  input   pixels: uint8 (N, {height}, {width}, {channels}), {manifest.preprocessing.mode}, {size}, "
        f"{manifest.preprocessing.interpolation}; the network normalises them itself\n"
        f"  output  logits: float32 (N, {len(manifest.labels)}); "
        f"probabilities are softmax(logits / {manifest.calibration.temperature:g})\n"
        f"  labels  {names}, one a line in the order of the logits"
    )


def _refuse_to_overwrite(*paths: Path, force: bool) -> None:
    for path in paths:
        if path.is_dir():
            raise typer.BadParameter(f"{path} is a folder", param_hint="--output")
        if path.exists() and not force:
            raise typer.BadParameter(f"{path} is there already; --force writes over it", param_hint="--output")
