"""Weights of torch from a file that somebody else made, without running what the file may hold.

A `.pth` is a pickle, and a pickle is a program. Only torch's reader for tensors is used, which
refuses everything else.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.errors import InvalidSource
from training.imports.labels import check_width
from training.transfer import is_side_classifier

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_NESTED = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_NAMED = 4
_BEGINNINGS = (b"PK\x03\x04", b"\x80")  # of a zip, which torch.save writes, and of a pickle, which it wrote before
# torchvision's published DenseNets are older than its names for their layers.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file of weights: safetensors, or what torch.save wrote of tensors alone.

    Raises:
        InvalidSource: it cannot be read, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return _unwrap(path, load_file(path))
        except (OSError, SafetensorError) as error:
            raise InvalidSource(f"{path} is not a safetensors file that can be read: {error}") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidSource(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file raises what it likes
        raise InvalidSource(_explain(path, error)) from error
    return _unwrap(path, found)


def fill_network(
    network: nn.Module, tensors: Mapping[str, Tensor], labels: tuple[str, ...], *, arch: str, source: str, names: str
) -> None:
    """Copy a state dict into a network that was built for `labels`.

    Args:
        network: to be filled.
        tensors: the state dict.
        labels: the network's classes.
        arch: its architecture, for messages.
        source: of the tensors, for messages.
        names: of the labels' source, for messages.

    Raises:
        InvalidSource: tensors are missing, unexpected, of another shape or not finite.
    """
    wanted = network.state_dict()
    if arch.startswith("densenet"):
        tensors = {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
    found = {name: tensor for name, tensor in tensors.items() if name in wanted or not is_side_classifier(name)}
    # counts nothing but training's batches; weights from before torch 0.4.1 lack it
    missing = [name for name in wanted if name not in found and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in found if name not in wanted]
    other = [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    if other and not missing and not unexpected:
        _check_classes(wanted, found, other, labels, names)
    if missing or unexpected or other:
        faults = [
            _name("missing", missing),
            _name("unexpected", unexpected),
            _name(
                "of another shape",
                [f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}" for name in other],
            ),
        ]
        raise InvalidSource(f"{source} does not hold the weights of {arch}: {'; '.join(filter(None, faults))}")
    for name, target in wanted.items():
        if name in found:
            _copy(name, found[name], target, source)


def _copy(name: str, tensor: Tensor, target: Tensor, source: str) -> None:
    try:
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidSource(f"{name} in {source} holds values that are not finite; the training had diverged")
        target.copy_(tensor)  # shares its memory with the network
    except RuntimeError as error:  # sparse, quantised, complex, ...
        raise InvalidSource(f"{name} in {source} is not a plain tensor: {str(error).splitlines()[0]}") from error


def _check_classes(
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    other: list[str],
    labels: tuple[str, ...],
    names: str,
) -> None:
    """Say that the labels are too many or too few, where only the last layer's width differs."""
    widths = {found[name].shape[0] if found[name].shape else 0 for name in other}
    same = all(wanted[name].shape[:1] == (len(labels),) for name in other) and all(
        wanted[name].shape[1:] == found[name].shape[1:] for name in other
    )
    if same and len(widths) == 1:
        check_width(widths.pop(), labels, names)


def _explain(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        written_by_torch = file.read(4).startswith(_BEGINNINGS)
    if isinstance(error, pickle.UnpicklingError) and written_by_torch:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        return (
            f"{path} holds more than tensors{f' ({asked[1]})' if asked else ''}, and a pickle of anything else can run "
            "code when it is read, so it was not read; where it was made, save the tensors alone: "
            "torch.save(model.state_dict(), 'weights.pth')"
        )
    return (
        f"{path} is not a state dict that torch can read, or it is damaged; save one where it was made: "
        "torch.save(model.state_dict(), 'weights.pth')"
    )


def _unwrap(path: Path, found: object) -> dict[str, Tensor]:
    """Find the state dict in what was saved around it, and take the wrappers' prefixes off its names."""
    while isinstance(found, dict) and (inner := next((k for k in _NESTED if isinstance(found.get(k), dict)), None)):
        found = found[inner]
    if not isinstance(found, dict) or not found:
        raise InvalidSource(f"{path} holds no state dict; save one: torch.save(model.state_dict(), 'weights.pth')")
    strange = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if strange:
        raise InvalidSource(
            f"{path} holds no state dict: {', '.join(strange[:_NAMED])} {'is' if len(strange) == 1 else 'are'} no "
            f"tensor; save the state dict alone, or under one of {', '.join(_NESTED)}"
        )
    tensors = {str(name): tensor for name, tensor in found.items()}
    while prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _name(what: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{what}: {', '.join(names[:_NAMED])}{rest}"
