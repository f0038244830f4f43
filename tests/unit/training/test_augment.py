import pytest
import torch

from training.augment import PRESETS, Preset, augment, centre, mix

SIZE = (28, 28)


def square(count: int = 64, channels: int = 1, side: int = 32) -> torch.Tensor:
    """Bright squares in the middle of black frames."""
    frames = torch.zeros((count, side, side, channels), dtype=torch.uint8)
    frames[:, 12:20, 12:20] = 200
    return frames


def one(**changes: object) -> torch.Tensor:
    torch.manual_seed(0)
    return augment(square(), SIZE, Preset(**{"outside": "zeros", **changes}))  # type: ignore[arg-type]


def distinct(images: torch.Tensor) -> int:
    return len({image.numpy().tobytes() for image in images})


@pytest.mark.parametrize("name", ["light", "photo", "digits"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_preset_changes_every_image_its_own_way_and_keeps_form_and_type(name: str, channels: int) -> None:
    torch.manual_seed(0)
    changed = augment(square(channels=channels), SIZE, PRESETS[name])  # type: ignore[index]
    assert changed.shape == (64, 28, 28, channels)
    assert changed.dtype == torch.uint8
    assert distinct(changed) > 40
    light = changed.float().sum(dim=(1, 2, 3)).median() / square(1, channels).float().sum()
    assert 0.5 < light < 2


def test_no_augmentation_is_what_evaluation_sees() -> None:
    frames = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(augment(frames, SIZE, PRESETS["none"]), frames[:, 2:30, 2:30])
    assert torch.equal(centre(frames, (32, 32)), frames)


def test_a_preset_that_does_nothing_gives_the_middle_back() -> None:
    assert torch.equal(one(outside="reflection"), one())
    assert torch.equal(one(), centre(square(), SIZE))


def test_the_seed_repeats_the_changes() -> None:
    assert torch.equal(one(turn=10, shift=0.1), one(turn=10, shift=0.1))


def test_mirroring_is_for_half_of_the_images() -> None:
    frames = torch.zeros((200, 28, 28, 1), dtype=torch.uint8)
    frames[:, :, :10] = 255
    torch.manual_seed(0)
    left = augment(frames, SIZE, Preset(flip=True))[:, 14, 3, 0] > 128
    assert 70 < int(left.sum()) < 130


def test_shifts_turns_and_views_stay_within_their_bounds() -> None:
    moved = one(shift=0.1).float()
    rows = torch.arange(28).view(1, 28, 1, 1)
    middle = (moved * rows).sum(dim=(1, 2, 3)) / moved.sum(dim=(1, 2, 3))
    assert 2.5 < (middle - 13.5).abs().max() <= 3.3  # a tenth of the frame, 32 pixels
    area = (one(view=(0.5, 2.0)).float() / 200).sum(dim=(1, 2, 3))
    assert area.min() > 64 / 4 * 0.8
    assert area.max() < 64 * 4 * 1.2
    assert one(turn=45)[:, 13, 8].max() > 0


def test_squashing_changes_width_against_height() -> None:
    squashed = one(squash=0.5)[..., 0] > 100
    ratio = squashed.any(dim=1).sum(dim=1) / squashed.any(dim=2).sum(dim=1)
    assert ratio.min() < 0.85
    assert ratio.max() > 1.15


def test_erasing_puts_noise_into_its_share_of_images() -> None:
    torch.manual_seed(0)
    frames = torch.zeros((400, 28, 28, 1), dtype=torch.uint8)
    erased = augment(frames, SIZE, Preset(erase=0.25))
    touched = (erased > 0).float().mean(dim=(1, 2, 3))
    assert 60 < int((touched > 0).sum()) < 140
    assert touched.max() < 0.25


def test_colour_moves_brightness_contrast_and_saturation() -> None:
    torch.manual_seed(0)
    frames = torch.randint(50, 200, (100, 28, 28, 3), dtype=torch.uint8)
    changed = augment(frames, SIZE, Preset(colour=0.3)).float()
    assert changed.mean(dim=(1, 2, 3)).std() > 5
    assert changed.std(dim=(1, 2, 3)).std() > 2


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_keeps_the_sum_of_the_targets(kind: str) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (16, 8, 8, 3), dtype=torch.uint8)
    mixed, shares = mix(pixels, torch.arange(16) % 4, kind, 4)  # type: ignore[arg-type]
    assert mixed.shape == pixels.shape
    assert mixed.dtype == torch.uint8
    assert not torch.equal(mixed, pixels)
    assert torch.allclose(shares.sum(dim=1), torch.ones(16))
    assert ((shares > 0).sum(dim=1) == 2).all()
