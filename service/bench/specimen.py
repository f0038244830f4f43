"""A photo that nobody took, for those who have none at hand: it costs what photos cost, and shows nothing."""

import io

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375
_QUALITY = 85
_GRAINS = ((5, 60.0), (20, 30.0), (80, 16.0), (320, 7.0))  # how many from side to side, and how strong


def make_photo(seed: int = 0) -> bytes:
    """Make a JPEG of 500 x 375 pixels, some 45 kB as such photos have: patches of colour, coarse and fine."""
    generator = np.random.default_rng(seed)
    scene = np.full((HEIGHT, WIDTH, 3), 120.0)
    for across, strength in _GRAINS:
        patches = generator.normal(0, strength, (across * HEIGHT // WIDTH, across, 3))
        layers = [
            Image.fromarray(patches[..., channel].astype(np.float32)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            for channel in range(3)
        ]
        scene += np.stack([np.asarray(layer) for layer in layers], axis=-1)
    file = io.BytesIO()
    Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
