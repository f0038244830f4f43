"""The picture of a layer: every channel in its place, all on one scale."""

import io

import numpy as np
import pytest
from PIL import Image

from model.explain import tiles
from model.explain.tiles import draw_input, draw_tiles


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("shape", [(1, 3, 3), (5, 4, 6), (32, 7, 7), (7, 1, 1), (3, 1, 40)])
def test_every_channel_lies_where_it_is_said_to(shape: tuple[int, int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    drawn = draw_tiles(maps)
    picture = opened(drawn.png)
    assert drawn.channels == shape[0]
    assert drawn.columns * drawn.rows >= shape[0] > drawn.columns * (drawn.rows - 1)
    assert picture.shape == (
        drawn.rows * (drawn.height + drawn.gap) - drawn.gap,
        drawn.columns * (drawn.width + drawn.gap) - drawn.gap,
    )
    expected = np.rint((maps - maps.min()) / np.ptp(maps) * 255) if maps.size > 1 else np.zeros_like(maps)
    for channel in range(shape[0]):
        top = channel // drawn.columns * (drawn.height + drawn.gap)
        left = channel % drawn.columns * (drawn.width + drawn.gap)
        tile = picture[top : top + drawn.height, left : left + drawn.width].astype(int)
        assert np.abs(tile - expected[channel]).max() <= 1


def test_a_layer_of_one_value_is_drawn(tmp_path: object) -> None:
    assert opened(draw_tiles(np.full((2, 2, 2), 7, np.float32)).png)[0, 0] == 0


def test_what_would_be_too_large_is_drawn_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "MOST_PIXELS", 100)
    drawn = draw_tiles(np.zeros((30, 4, 4), np.float32))
    assert drawn.channels == 4


def test_what_the_network_sees_keeps_its_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(opened(draw_input(pixels).png), pixels)
    np.testing.assert_array_equal(opened(draw_input(pixels[..., :1]).png), pixels[..., 0])
