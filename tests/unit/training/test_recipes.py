import numpy as np
import pytest

from training.errors import InvalidRecipe
from training.recipes import check_told, choose_arch, choose_preprocessing, choose_recipe, classic_config


def sizes(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64)


DIGIT, PHOTO = sizes(*[(28, 28)] * 5), sizes((500, 375), (640, 480), (80, 100), (20, 20))


def test_small_images_get_the_classic_network_and_photos_a_backbone() -> None:
    assert choose_arch(DIGIT) == "classic"
    assert choose_arch(PHOTO) == "efficientnet_lite0"


def test_images_of_one_small_size_are_taken_as_they_are() -> None:
    gray = choose_preprocessing("classic", DIGIT, gray=True, side=None)
    assert (gray.shape, gray.resize) == ((28, 28, 1), "stretch")
    colour = choose_preprocessing("classic", sizes((40, 20), (40, 20)), gray=False, side=None)
    assert colour.shape == (20, 40, 3)


def test_images_of_many_sizes_are_cropped_with_a_margin_to_move_in() -> None:
    found = choose_preprocessing("classic", PHOTO, gray=False, side=None)
    assert (found.shape, found.short_side) == ((64, 64, 3), 73)
    assert choose_preprocessing("classic", DIGIT, gray=True, side=32).shape == (32, 32, 1)


def test_a_backbone_takes_what_its_weights_were_trained_on_at_any_side() -> None:
    assert choose_preprocessing("efficientnet_lite0", PHOTO, gray=True, side=None).shape == (224, 224, 3)
    small = choose_preprocessing("efficientnet_lite0", PHOTO, gray=False, side=112)
    assert (small.height, small.short_side) == (112, 128)


@pytest.mark.parametrize("side", [4, 5000])
def test_a_side_out_of_bounds_is_refused(side: int) -> None:
    with pytest.raises(InvalidRecipe, match="from 8 to 1024"):
        choose_preprocessing("classic", DIGIT, gray=True, side=side)


def test_many_images_get_more_filters_and_the_user_has_the_last_word() -> None:
    shape = choose_preprocessing("classic", DIGIT, gray=True, side=None)
    few, many = (classic_config({}, shape, images) for images in (5_000, 50_000))
    assert few == {"height": 28, "width": 28, "channels": 1}
    assert len(many["stages"]) == 3  # type: ignore[arg-type]
    assert classic_config({"stages": [[8]]}, shape, 50_000)["stages"] == [[8]]


def test_the_shape_is_not_for_the_user_to_set() -> None:
    shape = choose_preprocessing("classic", DIGIT, gray=True, side=None)
    with pytest.raises(InvalidRecipe, match="sets channels, height"):
        classic_config({"height": 3, "channels": 3}, shape, 100)


def test_gray_characters_are_not_mirrored_and_what_was_told_stands() -> None:
    gray = choose_preprocessing("classic", DIGIT, gray=True, side=None)
    colour = choose_preprocessing("classic", DIGIT, gray=False, side=None)

    def augment(arch: str, preprocessing: object, data: str, fine_tune: int = 0) -> str:
        return choose_recipe(arch, preprocessing, data=data, images=100, fine_tune=fine_tune, told={}).augment  # type: ignore[arg-type]

    assert augment("classic", gray, "letters") == "digits"
    assert augment("classic", gray, "fashion-mnist") == "light"
    assert augment("classic", colour, "cifar10") == "light"
    assert augment("resnet18", colour, "photos") == augment("resnet18", colour, "photos", fine_tune=3) == "photo"
    told = choose_recipe("classic", gray, data="x", images=100, fine_tune=0, told={"augment": "none", "epochs": 2})
    assert (told.augment, told.epochs) == ("none", 2)


def test_fine_tuning_has_its_own_epochs_and_a_smaller_rate() -> None:
    photo = choose_preprocessing("efficientnet_lite0", PHOTO, gray=False, side=None)
    tuned = choose_recipe("efficientnet_lite0", photo, data="x", images=100, fine_tune=7, told={})
    assert (tuned.epochs, tuned.learning_rate) == (7, 5e-4)


def test_what_is_wrong_whatever_the_data_are_is_refused_first() -> None:
    check_told(None, {"epochs": 3})
    check_told("resnet18", {})
    with pytest.raises(InvalidRecipe, match="no recipe has speed"):
        check_told(None, {"speed": 9})
    with pytest.raises(InvalidRecipe, match="epochs is 0"):
        check_told(None, {"epochs": 0})
    with pytest.raises(InvalidRecipe, match="nearest are resnet18"):
        check_told("resnet-18", {})
