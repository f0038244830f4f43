"""Every hostile file over a real server: refused soon, and what is taken is turned upright and answered."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.server import Server, serving
from model.preprocessing import ImageLimits, prepare_image
from tests.fakes import TINY_PREPROCESSING
from tests.unit.model.test_structure import JPEG, MANY, bmp, chunk, gif, png, repeated_scans

PREDICT = "/v1/models/tiny/predict"
LIBRARIES = ("TIFF", "Warning", "PIL", "libpng", "libjpeg", "EXIF", "Traceback")


@pytest.fixture(scope="module")
def server(published_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("hostile") / "log"
    with serving(published_tiny, log, HUBEL_DEFAULT_MODEL="tiny") as running:
        yield running


def test_every_nasty_file_is_answered_as_listed_and_refusals_are_soon(server: Server, data: Path) -> None:
    with (data / "nasty" / "manifest.csv").open() as manifest:
        rows = list(csv.DictReader(manifest))
    wrong = []
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for row in rows:
            content = (data / "nasty" / row["file"]).read_bytes()
            answer, seconds = ask(client, content)
            taken = answer.status_code == 200
            if taken != (row["expected"] == "accept") or seconds > 1 or (not taken and not is_refusal(answer)):
                wrong.append((row["file"], answer.status_code, seconds))
    assert len(rows) == 78
    assert wrong == []
    log = server.log.read_text()
    assert [word for word in LIBRARIES if word in log] == []


def test_made_bombs_are_refused_soon(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for content in (
            JPEG[:2] + b"\xff\xe5\0\2" * MANY + JPEG[2:],
            repeated_scans(3000, side=1000),
            png(chunk(b"abCd") * MANY)[: 20 * 2**20],
            gif(b"!\xfe\1a\0" * MANY),
            bmp(b"\1\5" * MANY),
        ):
            answer, seconds = ask(client, content)
            assert is_refusal(answer), answer.text
            assert seconds < 1
        assert client.post(PREDICT, content=JPEG).status_code == 200


def ask(client: httpx.Client, content: bytes) -> tuple[httpx.Response, float]:
    """Return the answer and how long it took, at the best of three where the machine has other work."""
    seconds: list[float] = []
    while not seconds or (min(seconds) > 1 and len(seconds) < 3):
        started = time.monotonic()
        answer = client.post(PREDICT, content=content)
        seconds.append(time.monotonic() - started)
    return answer, min(seconds)


def is_refusal(answer: httpx.Response) -> bool:
    problem: dict[str, object] = answer.json()
    return answer.status_code in (413, 415, 422) and problem["status"] == answer.status_code


@pytest.mark.parametrize("scene", ["landscape", "portrait"])
def test_photos_of_every_orientation_get_the_answer_of_the_upright_one(scene: str, server: Server, data: Path) -> None:
    folder = data / "exif-orientation"
    with (folder / "manifest.csv").open() as manifest:
        rows = [row for row in csv.DictReader(manifest) if row["file"].startswith(scene)]
    files = [(folder / row["file"]).read_bytes() for row in rows]
    pixels = [prepare_image(file, TINY_PREPROCESSING, ImageLimits()).pixels.astype(int) for file in files]
    answer = httpx.post(server.url + PREDICT, files=[("images", file) for file in files], timeout=30)
    results = answer.json()["results"]
    assert len(rows) == len(results) == 8
    for row, image, result in zip(rows, pixels, results, strict=True):
        told = result["image"]
        assert (told["width"], told["height"]) == (int(row["upright_width"]), int(row["upright_height"]))
        assert (f"exif_orientation_{row['orientation']}" in told["applied"]) == (row["orientation"] != "1")
        if row["orientation"] != "1":  # file 1 has other colours
            assert np.abs(image - pixels[1]).mean() < 5
        assert result["predictions"][0]["label"] == results[1]["predictions"][0]["label"]
