import pytest

from model.errors import InvalidReference
from model.types import ModelRef, check_name


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("cats", ModelRef("cats", alias="production")),
        ("cats:3", ModelRef("cats", version=3)),
        ("cats@canary", ModelRef("cats", alias="canary")),
        ("a.b_c-9", ModelRef("a.b_c-9", alias="production")),
    ],
)
def test_reference_is_read_in_each_of_its_forms(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref


def test_reference_is_written_as_it_is_read() -> None:
    for text in ("cats:3", "cats@canary"):
        assert str(ModelRef.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "Cats", "cats:", "cats:x", "cats@", "cats:1@a", "../etc", ".hidden", "a/b", "a" * 65]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference, match="is not a model reference"):
        ModelRef.parse(text)


def test_a_name_that_could_leave_the_registry_is_refused() -> None:
    with pytest.raises(InvalidReference, match="cannot be the name of a model"):
        check_name("../up")
