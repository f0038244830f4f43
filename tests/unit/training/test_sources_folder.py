"""Class folders, with and without parts."""

import os
import unicodedata
from pathlib import Path

import pytest

from model.types import check_name
from tests.fakes import encode, noise
from training.collection import Collection
from training.errors import InvalidData
from training.sources.open import open_collection
from training.sources.place import fit_name

IMAGE = encode(noise(8, 6))


def make(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(IMAGE)
    return root


def read(folder: Path) -> Collection:
    return open_collection(str(folder), work=folder.parent)


def facts(collection: Collection) -> list[tuple[str, str, str]]:
    names = [collection.images.name(index) for index in range(len(collection))]
    labels = [collection.labels[target] for target in collection.targets]
    return list(zip(collection.parts.tolist(), labels, names, strict=True))


def test_classes_are_folders_and_images_lie_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path / "pets", "dog/b.png", "dog/2020/a.png", "cat/z.JPG", "cat/no suffix")
    collection = read(tmp_path / "pets")
    assert facts(collection) == [
        ("", "cat", "cat/no suffix"),
        ("", "cat", "cat/z.JPG"),
        ("", "dog", "dog/2020/a.png"),
        ("", "dog", "dog/b.png"),
    ]
    assert collection.labels == ("cat", "dog")
    assert (collection.name, collection.origin, collection.notes) == ("pets", "folder pets", ())
    assert collection.images.read(0) == IMAGE


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "testing")])
def test_parts_are_read_from_their_folders(tmp_path: Path, names: tuple[str, str, str]) -> None:
    make(tmp_path / "d", *(f"{part}/{label}/1.png" for part in names for label in "ba"))
    assert facts(read(tmp_path / "d")) == [
        (part, label, f"{folder}/{label}/1.png")
        for part, folder in zip(("train", "validation", "test"), names, strict=True)
        for label in "ab"
    ]


def test_train_is_a_class_among_other_vehicles(tmp_path: Path) -> None:
    collection = read(make(tmp_path / "d", "bus/1.png", "car/1.png", "train/1.png"))
    assert collection.labels == ("bus", "car", "train")
    assert set(collection.parts.tolist()) == {""}


def test_folders_beside_parts_are_left_out_and_noted(tmp_path: Path) -> None:
    collection = read(
        make(tmp_path / "d", "train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png", "extra/1.png")
    )
    assert len(collection) == 4
    assert collection.notes == ("Folders beside train were left out: extra.",)


def test_class_missing_from_the_test_part_is_noted(tmp_path: Path) -> None:
    collection = read(make(tmp_path / "d", "train/a/1.png", "train/b/1.png", "test/a/1.png"))
    assert collection.notes == ("The test part has no image of class b.",)


def test_hidden_and_other_files_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a/1.png", "b/1.png", "b/photo.2021")
    make(folder, ".git/x.png", "__MACOSX/a/1.png", "a/.DS_Store", "a/._1.png", "a/Thumbs.db")
    make(folder, "a/notes.txt", "b/boxes.json", "b/more.json", "README.md", "loose.jpg")
    collection = read(folder)
    assert [name for _, _, name in facts(collection)] == ["a/1.png", "b/1.png", "b/photo.2021"]
    assert collection.notes == (
        "Images beside the class folders, left out: loose.jpg.",
        "4 files were left out, not images by their names: 2 .json, 1 .md, 1 .txt.",
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "is empty"),
        (("1.png", "2.png"), "holds images but no class folders"),
        (("notes.txt",), "holds no images"),
        (("a/1.png",), "only one class, a"),
        (("a/1.png", "b/notes.txt"), "no images in the class folder b"),
        (("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"), "no image to train on of class c"),
        (("train/a/1.png", "train/b/x.txt", "test/a/1.png", "test/b/1.png"), "no images in the class folder train/b"),
        (("val/a/1.png", "test/b/1.png"), "no train folder"),
        (("train/1.png", "test/1.png"), "holds images but no class folders"),
        (("train/a/1.png", "val/a/1.png", "valid/a/1.png"), "two folders for the validation part"),
    ],
)
def test_folder_that_cannot_be_read_says_why(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(InvalidData, match=message):
        read(make(tmp_path / "d", *files))


def test_spaces_and_unicode_in_names_are_kept(tmp_path: Path) -> None:
    folder = make(tmp_path / "My Photos!", "Äpfel und Birnen/ein Bild.png", "猫/写真 1.png")
    collection = read(folder)
    assert set(collection.labels) == {"Äpfel und Birnen", "猫"}
    assert collection.name == "my-photos"
    assert all(collection.images.read(index) == IMAGE for index in range(2))


def test_unicode_forms_of_one_name_are_one_class(tmp_path: Path) -> None:
    composed, apart = unicodedata.normalize("NFC", "été"), unicodedata.normalize("NFD", "été")
    collection = read(
        make(tmp_path / "d", f"train/{composed}/1.png", "train/b/1.png", f"test/{apart}/1.png", "test/b/1.png")
    )
    assert collection.labels == ("b", composed)
    assert collection.notes == ()


def test_class_name_that_cannot_be_printed_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a/1.png")
    try:
        make(folder, os.fsdecode(b"b\xff/1.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InvalidData, match="cannot be the name of a class"):
        read(folder)


def test_links_to_folders_cannot_make_the_search_endless(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", "a/1.png", "b/1.png")
    (folder / "a" / "again").symlink_to(folder, target_is_directory=True)
    (folder / "c").symlink_to(folder / "a", target_is_directory=True)
    assert [name for _, _, name in facts(read(folder))] == ["a/1.png", "b/1.png", "c/1.png"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("My Photos!", "my-photos"),
        ("Été  2024", "ete-2024"),
        ("_tmp.data-", "tmp.data"),
        ("猫と犬", "model"),
        ("", "model"),
        ("a & b", "a-b"),
        ("x" * 80, "x" * 64),
    ],
)
def test_any_text_becomes_a_name_that_a_model_may_have(text: str, name: str) -> None:
    assert fit_name(text) == name
    check_name(fit_name(text))


def test_real_folders_have_their_images_and_parts(data: Path, tmp_path: Path) -> None:
    for folder, classes, train, test in (("cats-dogs", 2, 160, 50), ("flowers", 5, 160, 40), ("cifar10", 10, 800, 200)):
        collection = open_collection(str(data / folder), work=tmp_path)
        assert len(collection.labels) == classes
        assert [(collection.parts == part).sum() for part in ("train", "test", "")] == [train, test, 0]
        assert (collection.name, collection.notes) == (folder, ())


def test_what_is_nowhere_names_the_forms_and_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"there is no mnsit: .*digits.*mnist is the nearest"):
        open_collection("mnsit", work=tmp_path)
    with pytest.raises(InvalidData, match="no data is named"):
        open_collection("", work=tmp_path)
    with pytest.raises(InvalidData, match="one file of no form that is known"):
        open_collection(str(make(tmp_path, "one.png") / "one.png"), work=tmp_path)
