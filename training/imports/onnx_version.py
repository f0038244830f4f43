"""Publishing a foreign ONNX network: the files of a version, made without torch's part in them.

Such a version runs on the engine `onnx` alone. Its `model.safetensors` holds the network's
constants, which nothing loads, but which a reader can look at as at those of any version.
"""

import datetime as dt
from pathlib import Path

import onnx
from onnx import ModelProto
from safetensors.numpy import save_file

from model.checkpoint import CARD, NETWORK, WEIGHTS, Golden, write_golden
from model.classifier import check_staged
from model.manifest import Architecture, Calibration, Manifest, Provenance
from model.preprocessing import Pixels, Preprocessing
from model.registry import Registry, StoredVersion
from training.card import write_card
from training.errors import InvalidSource
from training.export import Layer, expose_layers, write_explanation
from training.imports.golden import golden_photos
from training.imports.labels import check_width, read_labels
from training.imports.onnx_file import ImageInput, read_input, read_onnx
from training.imports.onnx_network import Adapted, adapt, image_values, run_network, weights_of
from training.imports.preprocessing import USUAL, USUAL_ORIGIN, PixelWish, check_normalisation, settle
from training.imports.wish import NOT_STATED, Wish, describe_file
from training.versions import versions

ARCHITECTURE = "onnx"


def publish_onnx(registry: Registry, wish: Wish, alias: str | None = None) -> tuple[StoredVersion, str]:
    """Publish an ONNX file as the next version of a model.

    Returns:
        The version, and the sentence that says what of it the user did not; "" for nothing.

    Raises:
        InvalidSource: the file is no classifier that can be served, or does not fit the labels or the options.
        GoldenMismatch: the network does not repeat its own answers.
        RegistryUnavailable: the registry cannot be written.
    """
    labels = read_labels(wish.labels)
    model = read_onnx(wish.source)
    takes = read_input(wish.source, model)
    preprocessing, taken = _settle(wish, takes)
    golden = golden_photos(preprocessing)
    adapted = adapt(wish.source, model, takes, preprocessing, golden)
    check_width(adapted.logits.shape[1], labels, wish.labels)
    weights = weights_of(adapted.model)
    manifest = Manifest(
        name=wish.name,
        architecture=Architecture(name=ARCHITECTURE),
        labels=labels,
        preprocessing=preprocessing,
        calibration=Calibration(note=wish.calibration_note),
        engines=("onnx",),
        parameters=sum(array.size for array in weights.values() if array.dtype.kind == "f"),
        provenance=Provenance(
            created=dt.datetime.now(dt.UTC).replace(microsecond=0),
            source=describe_file(wish.source, wish.note),
            licence=wish.licence or NOT_STATED,
            data=NOT_STATED,
            versions=versions(),
        ),
    )
    with registry.staging(wish.name) as folder:
        save_file(weights, folder / WEIGHTS)
        onnx.save_model(adapted.model, folder / NETWORK)
        write_golden(folder, Golden(golden, adapted.logits))
        _write_explanation(adapted.model, golden, folder)
        check_staged(folder, manifest)
        (folder / CARD).write_text(_write_card(manifest, wish, adapted), encoding="utf-8")
        return registry.publish(folder, manifest, alias), taken


def _settle(wish: Wish, takes: ImageInput) -> tuple[Preprocessing, str]:
    """Fill what the user left open from what the file fixes, and the rest from what is usual."""
    asked = wish.pixels
    if takes.size and asked.size and asked.size != takes.size:
        height, width = takes.size
        raise InvalidSource(
            f"{wish.source} takes images of {height} x {width} alone, --size says {asked.size[0]} x {asked.size[1]}"
        )
    size = takes.size or asked.size
    mean, std = asked.mean, asked.std
    if takes.uint8:
        if asked.mean or asked.std:
            raise InvalidSource(f"{wish.source} takes uint8 and normalises by itself: leave --mean and --std out")
        # what its uint8 input is to the network, is the network's affair
        mean, std = (0.0,) * takes.channels, (1.0,) * takes.channels
    else:
        check_normalisation(asked, takes.channels)
    filled = PixelWish(size, asked.short_side, asked.resize, asked.interpolation, mean, std)
    base = USUAL
    if takes.channels == 1:
        base = USUAL.model_copy(update={"mode": "L", "mean": mean, "std": std})
    return settle(filled, base, USUAL_ORIGIN)


def _write_explanation(model: ModelProto, golden: Pixels, folder: Path) -> None:
    """Write the network with its layers' results as outputs; with none, where that cannot be done for this graph."""
    explained, layers = ModelProto(), list[Layer]()
    explained.CopyFrom(model)
    try:
        explained.graph.value_info.extend(image_values(model, golden))
        layers = expose_layers(explained)
        run_network(explained, golden[:1])
    except Exception:  # a foreign graph may hold anything that our own export does not
        explained, layers = model, []
    write_explanation(explained, layers, folder)


def _write_card(manifest: Manifest, wish: Wish, adapted: Adapted) -> str:
    removed = "the softmax at its end was taken off" if adapted.softmax_cut else "it gave logits already"
    return write_card(
        manifest,
        title=f"{wish.name}, imported from {wish.source.name}",
        difference=adapted.difference,
        facts=(("adapted", f"the normalisation was put into the network; {removed}"),),
        warnings=(
            "It runs on ONNX Runtime alone, on CPUs; it cannot be trained further here.",
            "What is done to an image before (size, interpolation, normalisation) is not in the imported file: "
            "compare its answers with those where it was trained.",
        ),
    )
