"""What a trained network is worth: its temperature, its evaluation, its worst mistakes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from model.architectures.pixels import PixelNetwork
from model.manifest import Calibration
from model.preprocessing import Preprocessing
from training.calibration import fit_temperature
from training.collection import Collection
from training.data import Part
from training.evaluation import Evaluation, evaluate, worst_mistakes
from training.loop import predict
from training.report import MistakenImage

_MISTAKES = 24
_MOST_KERNEL_CHANNELS = 4


@dataclass(frozen=True)
class Study:
    """The figures of a network: of the part that its temperature was fitted on, and of the test part."""

    calibration: Calibration
    validation: Evaluation
    test: Evaluation
    mistakes: tuple[MistakenImage, ...]
    filters: NDArray[np.float32] | None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that the manifest carries."""
        return figures(self.test) | {"validation_accuracy": self.validation.top1}


def study(
    network: nn.Module, preprocessing: Preprocessing, collection: Collection, validation: Part, test: Part
) -> Study:
    """Fit the temperature on the validation part, then measure the test part, once.

    Args:
        network: takes normalised (N, C, H, W), in eval mode.
        preprocessing: what it takes.
        collection: where the parts' images come from.
        validation: what the temperature is fitted on.
        test: what is measured.
    """
    pixel_network = PixelNetwork(network, preprocessing.mean, preprocessing.std).eval()
    logits, test_logits = predict(pixel_network, validation), predict(pixel_network, test)
    temperature = fit_temperature(logits, validation.targets)
    note = f"The temperature was fitted on {len(validation):,} validation images that were not trained on."
    labels = collection.labels
    return Study(
        calibration=Calibration(temperature=temperature, calibrated=True, note=note),
        validation=evaluate(logits, validation.targets, labels, temperature),
        test=evaluate(test_logits, test.targets, labels, temperature),
        mistakes=mistaken_images(test_logits, test, collection, temperature),
        filters=first_filters(network),
    )


def figures(test: Evaluation) -> dict[str, float]:
    """Return the figures of a test part by their names in a manifest."""
    top_k = {f"test_top{test.k}_accuracy": test.top_k} if test.k < test.classes else {}
    return {
        "test_accuracy": test.top1,
        **top_k,
        "test_macro_f1": test.macro_f1,
        "test_ece": test.calibrated.ece,
        "test_ece_uncalibrated": test.uncalibrated.ece,
        "test_brier": test.calibrated.brier,
        "test_nll": test.calibrated.nll,
    }


def mistaken_images(
    logits: NDArray[np.float32], part: Part, collection: Collection, temperature: float
) -> tuple[MistakenImage, ...]:
    """Return the wrong answers that the network was most certain of, with their pictures."""
    labels, images = collection.labels, collection.images
    return tuple(
        MistakenImage(
            pixels=part.pixels[mistake.index],
            truth=labels[part.targets[mistake.index]],
            predicted=labels[mistake.predicted],
            probability=mistake.probability,
            name=images.name(int(part.indices[mistake.index])),
        )
        for mistake in worst_mistakes(logits, part.targets, temperature, _MISTAKES)
    )


def first_filters(network: nn.Module) -> NDArray[np.float32] | None:
    """Return the weights (F, C, kh, kw) of the first convolution; None where they cannot be drawn."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weights = module.weight.detach().cpu().numpy()
            return weights if weights.shape[1] < _MOST_KERNEL_CHANNELS else None
    return None
