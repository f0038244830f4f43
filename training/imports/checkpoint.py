"""A checkpoint of torchvision or timm becomes a release: network, labels, preprocessing, golden photos."""

from dataclasses import dataclass

import torch
from torch import nn

from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from model.architectures.timm_networks import PREFIX, timm_preprocessing
from model.manifest import Architecture, Calibration
from model.preprocessing import Pixels, Preprocessing
from training.errors import InvalidRecipe, InvalidSource
from training.imports.golden import golden_photos
from training.imports.labels import read_labels
from training.imports.preprocessing import USUAL, USUAL_ORIGIN, settle
from training.imports.state_dict import fill_network, read_state_dict
from training.imports.timm_folder import CONFIG, TimmFolder, read_timm_folder
from training.imports.wish import NOT_STATED, Wish, describe_file
from training.publish import Release
from training.transfer import preprocessing_of


@dataclass(frozen=True)
class Import:
    """A release, and the sentence that says what of it the user did not; "" for nothing."""

    release: Release
    taken: str


def import_checkpoint(wish: Wish) -> Import:
    """Make a release of a file of weights, or of a folder with weights and their `config.json`.

    Raises:
        InvalidSource: the weights are not those of the network, or do not fit the labels or the options.
        EngineUnavailable: the network is one of timm, which is not installed.
        UnknownArchitecture: there is no such network.
    """
    folder = read_timm_folder(wish.source) if wish.source.is_dir() else None
    weights = folder.weights if folder else wish.source
    named = wish.arch or (folder.arch if folder else None)
    if named is None:
        raise InvalidSource(
            f"{weights} does not say which network it is of: give --arch resnet50, for instance, for one of "
            f"torchvision, or --arch {PREFIX}resnet50 for one of timm"
        )
    arch = named.partition(".")[0] if named.startswith(PREFIX) else named
    stated = folder.labels if folder and wish.labels is None else ()
    labels = stated or read_labels(wish.labels)
    network = build_network(arch, len(labels), {})
    base, origin = _usual_preprocessing(named, folder)
    preprocessing, taken = settle(wish.pixels, base, origin)
    names = CONFIG if stated else str(wish.labels)
    fill_network(network, read_state_dict(weights), labels, arch=arch, source=str(weights), names=names)
    golden = golden_photos(preprocessing)
    _try_out(network, golden, preprocessing, arch)
    release = Release(
        name=wish.name,
        title=f"{arch.removeprefix(PREFIX)}, imported from {wish.source.name}",
        network=network,
        architecture=Architecture(name=arch),
        labels=labels,
        preprocessing=preprocessing,
        calibration=Calibration(note=wish.calibration_note),
        golden=golden,
        source=describe_file(weights, wish.note),
        licence=wish.licence or (folder.licence if folder else None) or NOT_STATED,
        data=NOT_STATED,
        metrics={},
    )
    return Import(release, taken)


def _usual_preprocessing(arch: str, folder: TimmFolder | None) -> tuple[Preprocessing, str]:
    """Return what an architecture's weights take, and who says so."""
    if folder is not None and folder.preprocessing is not None:
        return folder.preprocessing, CONFIG
    if arch.startswith(PREFIX):
        found = timm_preprocessing(arch.removeprefix(PREFIX))
        return (found, f"timm's own weights of {arch.removeprefix(PREFIX)}") if found else (USUAL, USUAL_ORIGIN)
    try:
        return preprocessing_of(arch), f"the published weights of {arch}"
    except InvalidRecipe:
        return USUAL, USUAL_ORIGIN


@torch.inference_mode()
def _try_out(network: nn.Module, golden: Pixels, preprocessing: Preprocessing, arch: str) -> None:
    whole = PixelNetwork(network, preprocessing.mean, preprocessing.std).eval()
    height, width, _ = preprocessing.shape
    try:
        logits = whole(torch.from_numpy(golden))
    except Exception as error:  # networks refuse a size each in its own way
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidSource(
            f"{arch} does not take images of {height} x {width}: {first}; --size says another"
        ) from error
    if not bool(torch.isfinite(logits).all()):
        raise InvalidSource(f"{arch} with these weights answers a photo with values that are not finite")
