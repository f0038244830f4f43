"""What the process that explains reads: questions, and word that nobody waits for the answer."""

import os
from collections.abc import Iterator
from io import FileIO

import pytest

from service.explaining_messages import LEAVE_OFF, pack
from service.explaining_process import Questions


@pytest.fixture
def pipe() -> Iterator[tuple[Questions, FileIO]]:
    read, write = os.pipe()
    with FileIO(read) as reader, FileIO(write, "w") as writer:
        yield Questions(reader), writer


def ask(writer: FileIO, name: str, image: bytes = b"") -> None:
    for part in pack({"name": name}, image):
        writer.write(part)


def test_questions_are_read_one_by_one_to_the_end(pipe: tuple[Questions, FileIO]) -> None:
    questions, writer = pipe
    ask(writer, "first", bytes(range(256)) * 100)
    ask(writer, "second")
    writer.close()
    assert questions.next() == ({"name": "first"}, bytes(range(256)) * 100)
    assert questions.next() == ({"name": "second"}, b"")
    assert questions.next() is None


def test_word_that_nobody_waits_is_seen_once(pipe: tuple[Questions, FileIO]) -> None:
    questions, writer = pipe
    ask(writer, "first")
    questions.next()
    assert not questions.is_left()
    writer.write(LEAVE_OFF)
    assert questions.is_left()
    assert not questions.is_left()


def test_word_that_comes_after_the_answer_concerns_no_other_question(pipe: tuple[Questions, FileIO]) -> None:
    questions, writer = pipe
    ask(writer, "first")
    questions.next()
    writer.write(LEAVE_OFF)
    ask(writer, "second")
    assert questions.next() == ({"name": "second"}, b"")
    assert not questions.is_left()


def test_nobody_waits_where_the_other_end_is_closed(pipe: tuple[Questions, FileIO]) -> None:
    questions, writer = pipe
    ask(writer, "first")
    questions.next()
    writer.close()
    assert questions.is_left()
    assert questions.next() is None
