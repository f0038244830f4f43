"""`hubel import`: networks that others trained, or that another registry has, as versions of this one."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from safetensors import SafetensorError

from model.archive import SUFFIX, is_archive, read_archive
from model.errors import AliasNotMoved, RegistryUnavailable
from model.registry import DEFAULT_ROOT, Registry, StoredVersion
from model.types import NAME_PATTERN
from training.commands.finishing import announce, check_destination, publish_release, require_torch
from training.commands.options import AliasOption, RegistryOption

if TYPE_CHECKING:
    from training.imports.wish import Wish

IMAGENET = "imagenet"
_CHECKPOINTS = (".pth", ".pt", ".bin", ".tar", ".safetensors")  # '.pth.tar' is an old habit: no tar, but a pickle
_ONNX = ".onnx"

_of_pixels = "Preprocessing, where the source does not say it"


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            help="imagenet; a file that 'hubel export' wrote; a checkpoint of torchvision or timm (.pth, .safetensors, "
            "or a folder with config.json); a classifier in ONNX."
        ),
    ],
    *,
    name: Annotated[str | None, typer.Option(help="Name in the registry; the source's own by default.")] = None,
    alias: AliasOption = None,
    registry: RegistryOption = DEFAULT_ROOT,
    arch: Annotated[
        str | None, typer.Option(help="Network of a checkpoint: resnet50 (torchvision), timm/resnet50, ...")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="File of the classes, one a line or a JSON list; or imagenet, for its 1,000.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights, for the card.")] = None,
    note: Annotated[str, typer.Option("--source-note", help="Where the weights come from, for the card.")] = "",
    size: Annotated[
        str | None, typer.Option(help="Of the network's images: 224, or HEIGHTxWIDTH.", rich_help_panel=_of_pixels)
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(help="That an image is brought to before the crop.", rich_help_panel=_of_pixels)
    ] = None,
    resize: Annotated[
        Literal["crop", "stretch"] | None, typer.Option(help="How an image gets that size.", rich_help_panel=_of_pixels)
    ] = None,
    interpolation: Annotated[Literal["bilinear", "bicubic"] | None, typer.Option(rich_help_panel=_of_pixels)] = None,
    mean: Annotated[
        str | None, typer.Option(help="Per channel on the scale 0 to 1: 0.485,0.456,0.406", rich_help_panel=_of_pixels)
    ] = None,
    std: Annotated[str | None, typer.Option(help="As the mean: 0.229,0.224,0.225", rich_help_panel=_of_pixels)] = None,
) -> None:
    """Publish a network that others trained, or a version that 'hubel export' wrote, as the next version of a model."""
    store, path = Registry(registry), Path(source)
    given: dict[str, object] = {"--arch": arch, "--labels": labels, "--licence": licence, "--source-note": note or None}
    given |= {"--size": size, "--short-side": short_side, "--resize": resize, "--interpolation": interpolation}
    given |= {"--mean": mean, "--std": std}
    if source == IMAGENET:
        _refuse_options(given, "imagenet is known")
        require_torch("import")
        check_destination(store, name or IMAGENET, alias)
        import_imagenet(store, name or IMAGENET, alias)
        return
    if not path.exists():
        raise typer.BadParameter(
            f"{source!r} is not known: give {IMAGENET!r}, or a file or folder that exists", param_hint="SOURCE"
        )
    if path.is_file() and (is_archive(path) or path.name.endswith(SUFFIX)):
        _refuse_options(given, "an archive says this itself")
        with Console().status(f"importing and checking {path.name}"):
            version = read_archive(path, store, name, alias)
        announce(store, version)
        return
    if not path.is_dir() and path.suffix not in (*_CHECKPOINTS, _ONNX):
        raise typer.BadParameter(
            f"{path} is of no kind that is imported: an archive of 'hubel export', {', '.join(_CHECKPOINTS)}, {_ONNX}",
            param_hint="SOURCE",
        )
    require_torch("import")
    from training.imports.preprocessing import PixelWish
    from training.imports.wish import Wish

    pixels = PixelWish(_size(size), short_side, resize, interpolation, _values("mean", mean), _values("std", std))
    wish = Wish(path, name or _own_name(path), arch, labels, licence, note, pixels)
    check_destination(store, wish.name, alias)
    if path.suffix == _ONNX and path.is_file():
        _refuse_options({"--arch": arch}, "an ONNX file holds its network")
        announce(store, _import_onnx(store, wish, alias))
    else:
        _import_checkpoint(store, wish, alias)


def import_imagenet(store: Registry, name: str, alias: str | None = None) -> None:
    """Publish the weights that come with a package."""
    from training.imagenet import import_imagenet as release

    publish_release(store, release(name), alias)


def _import_checkpoint(store: Registry, wish: "Wish", alias: str | None) -> None:
    from training.imports.checkpoint import import_checkpoint

    found = import_checkpoint(wish)
    _say(found.taken)
    publish_release(store, found.release, alias)


def _import_onnx(store: Registry, wish: "Wish", alias: str | None) -> StoredVersion:
    """Publish an ONNX file.

    Raises:
        RegistryUnavailable: the version cannot be written.
    """
    from training.imports.onnx_version import publish_onnx

    try:
        with Console().status(f"adapting and checking {wish.name}"):
            version, taken = publish_onnx(store, wish, alias)
    except AliasNotMoved:
        raise
    except (OSError, SafetensorError, RegistryUnavailable) as error:
        raise RegistryUnavailable(
            f"the version cannot be written into {store.address}: {error}; nothing was published"
        ) from error
    _say(taken)
    return version


def _say(sentence: str) -> None:
    if sentence:
        Console().print(sentence, highlight=False, markup=False, soft_wrap=True)


def _refuse_options(given: dict[str, object], why: str) -> None:
    for option, value in given.items():
        if value is not None:
            raise typer.BadParameter(f"{why}: leave it out", param_hint=option)


def _own_name(path: Path) -> str:
    """Make a model's name of a file's, as far as it holds letters and digits."""
    stem = path.resolve().name
    for suffix in (".tar", *_CHECKPOINTS, _ONNX):
        stem = stem.removesuffix(suffix)
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")[:64]
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise typer.BadParameter(f"{path.name!r} gives no name for a model; choose one", param_hint="--name")
    return name


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size: write 224, or HEIGHTxWIDTH as 160x320", param_hint="--size")
    return int(match[1]), int(match[2] or match[1])


def _values(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers: write one for each channel, with commas", param_hint=f"--{option}"
        ) from error
