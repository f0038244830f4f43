"""A CSV file that names images and classes."""

import re
from pathlib import Path

import pytest

from tests.fakes import encode, noise
from training.collection import Collection
from training.errors import InvalidData
from training.sources.open import open_collection

IMAGE = encode(noise(8, 6))
ROWS = "a.png,cat\nb.png,dog\nsub/c d.png,cat\n"


def make(tmp_path: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    folder = tmp_path / "Some Photos"
    for file in ("a.png", "b.png", "sub/c d.png"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(IMAGE)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def read(path: Path, label_column: str | None = None) -> Collection:
    return open_collection(str(path), work=path.parent, label_column=label_column)


def facts(collection: Collection) -> list[tuple[str, str, str]]:
    names = [collection.images.name(index) for index in range(len(collection))]
    labels = [collection.labels[target] for target in collection.targets]
    return list(zip(names, labels, collection.parts.tolist(), strict=True))


PLAIN = [("a.png", "cat", ""), ("b.png", "dog", ""), ("sub/c d.png", "cat", "")]


@pytest.mark.parametrize(
    "text",
    [
        "file,label\n" + ROWS,
        "﻿filename,class\r\n" + ROWS.replace("\n", "\r\n"),
        "Path;Category\n" + ROWS.replace(",", ";"),
        "image\tclass_name\n" + ROWS.replace(",", "\t"),
        '"file","label","note"\n"a.png","cat","one; two; three"\nb.png,dog\n\n"sub/c d.png",cat,"x, ""y"""\n',
        "label,file\ncat,a.png\ndog,./b.png\ncat,sub\\c d.png\n",
        "file,label,,\n" + ROWS.replace("\n", ",,\n"),
    ],
)
def test_every_spelling_of_a_table_reads_the_same(tmp_path: Path, text: str) -> None:
    assert facts(read(make(tmp_path, text) / "labels.csv")) == PLAIN


def test_folder_with_one_table_is_read_by_it(tmp_path: Path) -> None:
    folder = make(tmp_path, "file,label\n" + ROWS)
    (folder / "unnamed.jpg").write_bytes(IMAGE)
    collection = read(folder)
    assert facts(collection) == PLAIN
    assert (collection.name, collection.origin) == ("some-photos", "folder Some Photos")
    assert collection.notes == ("Images that the table does not name, left out: unnamed.jpg.",)


def test_class_folders_are_read_where_the_table_beside_them_says_nothing_of_images(tmp_path: Path) -> None:
    folder = make(tmp_path, "photographer,year\nme,2020\n", "credits.csv")
    (folder / "sub2").mkdir()
    (folder / "sub2" / "1.png").write_bytes(IMAGE)
    assert read(folder).labels == ("sub", "sub2")


@pytest.mark.parametrize("column", ["split", "Part"])
def test_parts_come_from_their_column(tmp_path: Path, column: str) -> None:
    text = f"file,label,{column}\na.png,cat,train\nb.png,dog,\nsub/c d.png,cat,Valid\n"
    collection = read(make(tmp_path, text))
    assert collection.parts.tolist() == ["train", "", "validation"]


def test_label_column_chooses_and_is_asked_for_where_two_could_be_meant(tmp_path: Path) -> None:
    folder = make(tmp_path, "file,label,class_name,kind\na.png,0,cat,x\nb.png,1,dog,y\n")
    assert read(folder).labels == ("0", "1")
    assert "class_name" in read(folder).notes[0]
    assert read(folder, "kind").labels == ("x", "y")
    assert read(folder / "labels.csv", "class_name").labels == ("cat", "dog")


def test_repeated_row_counts_once(tmp_path: Path) -> None:
    collection = read(make(tmp_path, "file,label\n" + ROWS + "./a.png,cat\n"))
    assert facts(collection) == PLAIN
    assert "read once: 1" in collection.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column for the files: .* (none)"),
        ("file,label\n", "no rows"),
        ("name,label\n" + ROWS, "no column for the files: call one of its columns (name, label) file"),
        (
            "file,kind\n" + ROWS,
            "no column called label, class, class_name, category: .* (file, kind) with --label-column",
        ),
        ("file,label\na.png,cat\nb.png,\n", "row 3: the label is missing"),
        ("file,label\na.png,cat\n\nb.png\n", "row 4: the label is missing"),
        ("file,label\n,cat\n", "row 2: the file is missing"),
        ("file,label\na.png,cat\nno.png,dog\n", "row 3: there is no file no.png"),
        ("file,label\nsub,dog\n", "row 2: there is no file sub"),
        ("file,label\na.png,cat\na.png,dog\n", "row 3: a.png is dog, but row 2 says cat"),
        ("file,label,split\na.png,cat,test\n./a.png,cat,train\n", "row 3: a.png is cat in the train part, but row 2"),
        ("file,label\n../secret.png,cat\n", "row 2: ../secret.png lies outside"),
        ("file,label\nsub/../../secret.png,cat\n", "lies outside"),
        ("file,label\n..\\secret.png,cat\n", "lies outside"),
        ("file,label\n/etc/passwd,cat\n", "row 2: /etc/passwd is an absolute path"),
        ("file,label\nC:\\a.png,cat\n", "is an absolute path"),
        ("file,label\na.png,cat,extra\n", "row 2 has 3 fields, but the header 2"),
        ("file,label,split\na.png,cat,holdout\n", "row 2: 'holdout' is no part"),
        ("file,label\na.png,cat\nb.png,cat\n", "only one class, cat"),
        ("file,label,split\na.png,cat,train\nb.png,dog,test\n", "no image to train on of class dog"),
        ("file,label\na.png,c\0at\nb.png,dog\n", "cannot be the name of a class"),
        ("file,label\na.png\0,cat\nb.png,dog\n", "there is no file a.png\\x00"),
        ("file,label\n".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_table_that_cannot_be_read_names_the_row(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "secret.png").write_bytes(IMAGE)
    pattern = ".*".join(re.escape(piece) for piece in message.split(".* "))
    with pytest.raises(InvalidData, match=pattern):
        read(make(tmp_path, text) / "labels.csv")


def test_label_column_that_is_not_there_is_an_error_that_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no column called 'breed'; its columns are file, label"):
        read(make(tmp_path, "file,label\n" + ROWS), "breed")


def test_two_tables_are_not_guessed_between(tmp_path: Path) -> None:
    folder = make(tmp_path, "file,label\n" + ROWS)
    make(tmp_path, "file,label\n" + ROWS, "other.csv")
    with pytest.raises(InvalidData, match=r"several tables of images, labels.csv, other.csv"):
        read(folder)


def test_real_table_has_one_class_for_each_photo(data: Path, tmp_path: Path) -> None:
    collection = open_collection(str(data / "imagenet-sample"), work=tmp_path)
    assert len(collection) == len(collection.labels) == 500
    assert "goldfish" in collection.labels
    by_number = open_collection(str(data / "imagenet-sample"), work=tmp_path, label_column="class_index")
    assert "999" in by_number.labels
