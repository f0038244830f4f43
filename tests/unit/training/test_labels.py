import pytest

from training.errors import InvalidData
from training.labels import match_labels

FISH = ("goldfish", "great white shark", "tiger shark", "T-shirt")


def test_labels_match_whatever_their_case_and_whatever_parts_their_words() -> None:
    found = ("Tiger_Shark", "GOLDFISH", "great-white  shark", "t shirt")
    assert match_labels(found, FISH, "fish:1").tolist() == [2, 0, 1, 3]


def test_labels_that_are_written_alike_are_the_same_also_where_their_case_is_all_that_differs() -> None:
    known = ("Cardigan", "dog", "cardigan")
    assert match_labels(("cardigan", "dog", "Cardigan"), known, "clothes:1").tolist() == [2, 1, 0]


@pytest.mark.parametrize("found", [("CARDIGAN",), ("cardigan", "Dog")])
def test_a_label_that_could_be_several_classes_is_refused(found: tuple[str, ...]) -> None:
    with pytest.raises(InvalidData, match=r"0 is 'Cardigan', 2 is 'cardigan'.*indices.*--label-column"):
        match_labels(found, ("Cardigan", "dog", "cardigan"), "clothes:1")


def test_integers_are_class_indices_where_no_class_is_called_by_one() -> None:
    assert match_labels(("3", "0", "02"), FISH, "fish:1").tolist() == [3, 0, 2]
    assert match_labels(("2", "1"), ("1", "2", "3"), "numbers:1").tolist() == [1, 0]
    with pytest.raises(InvalidData, match="'0' "):
        match_labels(("0", "1"), ("1", "2", "3"), "numbers:1")


@pytest.mark.parametrize("found", [("4",), ("-1",), ("1.0",), ("1", "shark!"), ("²",), ("9" * 5000,)])
def test_what_is_no_index_below_the_number_of_classes_is_none(found: tuple[str, ...]) -> None:
    with pytest.raises(InvalidData, match="fish:1 knows 4 labels"):
        match_labels(found, FISH, "fish:1")


def test_unknown_labels_are_named_with_their_nearest() -> None:
    with pytest.raises(InvalidData) as refused:
        match_labels(("goldfish", "tigershark", "xyzzy"), FISH, "fish:1")
    for words in ("'tigershark' (nearest: 'tiger shark')", "'xyzzy' (none is near)", "4 labels"):
        assert words in str(refused.value)
    assert "'goldfish'" not in str(refused.value)
