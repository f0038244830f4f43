"""Real photos that come with a package, as golden inputs for weights that come without images."""

import io

import numpy as np

from model.preprocessing import ImageLimits, Pixels, Preprocessing, prepare_image


def golden_photos(preprocessing: Preprocessing) -> Pixels:
    """Return the two photos that scikit-learn ships, each also mirrored: uint8 (4, H, W, C)."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    prepared = []
    for photo in load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "PNG", compress_level=0)
        pixels = prepare_image(file.getvalue(), preprocessing, ImageLimits()).pixels
        prepared += [pixels, pixels[:, ::-1]]
    return np.ascontiguousarray(np.stack(prepared))
