import dataclasses
import io
import json
import logging
import math
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from model.preprocessing import Pixels
from training.cost import Latency
from training.evaluation import Evaluation, evaluate
from training.pictures import draw_batch, draw_classes, draw_confusion, draw_filters, encode_figure, encode_photo
from training.report import MistakenImage, Report, write_report

STRANGE = ('<b>bold</b> & "co"', "$\\frac$x$", "two\nlines", "向日葵", "🌻", "مرحبا", "\x07 bell", "a_name " * 20)


@dataclass(frozen=True)
class Epoch:
    epoch: int
    loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    images_per_second: float


class Page(HTMLParser):
    """What a page is made of, and whether its elements are closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def evaluation(classes: int, images: int = 200, skill: float = 2.0, labels: tuple[str, ...] = ()) -> Evaluation:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, classes, images)
    logits = generator.normal(size=(images, classes)) + skill * np.eye(classes)[targets]
    return evaluate(logits, targets, labels or tuple(f"class {i}" for i in range(classes)), 0.8)


def photos(count: int, height: int = 20, width: int = 30, channels: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def full_report(labels: tuple[str, ...] = STRANGE) -> Report:
    test = evaluation(len(labels), labels=labels)
    return Report(
        title="Flowers & <more>",
        test=test,
        parameters=1_234_567,
        validation=test,
        history=[Epoch(1, 2.0, math.nan, 0.5, 1e-3, 100.0), Epoch(2, 1.0, 1.1, 0.7, 5e-4, 110.0)],
        mistakes=[MistakenImage(photos(1)[0], labels[0], labels[1], 0.93, "folder/<photo>.jpg")],
        filters=np.random.default_rng(0).normal(size=(16, 3, 3, 3)),
        augmented=photos(9),
        latencies=[Latency("onnx", 1, 1, 2.5, 400.0), Latency("onnx", 1, 8, 10.0, 800.0)],
        flops=780_000_000,
        facts=[("seed", "7"), ("recipe", "<recipe>")],
        warnings=["One class has <5 images."],
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "report"
    write_report(folder, full_report())
    return folder


def test_a_report_is_a_page_with_its_figures_and_pictures_beside_it(written: Path) -> None:
    pictures = {"learning.png", "confusion.png", "reliability.png", "classes.png", "filters.png", "augmented.jpg"}
    assert {path.name for path in written.iterdir()} == pictures | {"index.html", "evaluation.json", "history.json"}
    stored = Evaluation.model_validate_json((written / "evaluation.json").read_text("utf-8"))
    assert stored == full_report().test
    for name in pictures:
        with Image.open(written / name) as image:
            assert image.width > 1000


def test_the_page_needs_nothing_from_elsewhere(written: Path) -> None:
    text = (written / "index.html").read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(
        (image["src"] or "").startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for image in page.images
    )
    assert "http" not in text.replace("http-equiv", "")


def test_every_picture_is_described(written: Path) -> None:
    page = Page((written / "index.html").read_text("utf-8"))
    assert len(page.images) == 7
    assert all(image["alt"] for image in page.images)


def test_nothing_that_a_person_named_becomes_markup(written: Path) -> None:
    text = (written / "index.html").read_text("utf-8")
    for name in ("<more>", "<b>bold", "<photo>", "<recipe>", "<5"):
        assert name not in text
        assert name in Page(text).text


def test_the_page_tells_the_figures(written: Path) -> None:
    text = Page((written / "index.html").read_text("utf-8")).text
    test = full_report().test
    for figure in (
        f"{test.top1:.1%}",
        f"{test.calibrated.ece:.3f}",
        f"{test.macro_f1:.3f}",
        "1.23 M",
        "780 M",
        "2.5 ms",
    ):
        assert figure in text


def test_a_page_of_other_photos_names_them(tmp_path: Path) -> None:
    write_report(tmp_path, Report("Pets", evaluation(2), parameters=10, photos="folder <holidays>"))
    text = Page((tmp_path / "index.html").read_text("utf-8")).text
    assert "200 images of folder <holidays>" in text
    assert "training images" not in text


def test_the_history_is_json_without_what_is_not_a_number(written: Path) -> None:
    first, second = json.loads((written / "history.json").read_text("utf-8"))
    assert first["validation_loss"] is None
    assert second == dataclasses.asdict(Epoch(2, 1.0, 1.1, 0.7, 5e-4, 110.0))


def test_a_report_without_epochs_or_images_leaves_their_pictures_out(tmp_path: Path) -> None:
    write_report(tmp_path, Report("Imported", evaluation(2), parameters=10))
    assert {path.name for path in tmp_path.iterdir()} == {
        "classes.png",
        "confusion.png",
        "reliability.png",
        "index.html",
        "evaluation.json",
        "history.json",
    }
    page = Page((tmp_path / "index.html").read_text("utf-8"))
    assert page.open == []
    assert "Before you use it" not in page.text


def test_the_same_report_gives_the_same_bytes(tmp_path: Path, written: Path) -> None:
    write_report(tmp_path, full_report())
    for path in written.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("classes", [2, 20, 21, 41, 1000])
def test_pictures_stay_of_one_width_for_any_number_of_classes(classes: int) -> None:
    test = evaluation(classes, images=60)
    for figure in (draw_confusion(test), draw_classes(test)):
        image = Image.open(io.BytesIO(encode_figure(figure)))
        assert image.width == 1440
        assert image.height < 2200


def test_a_network_without_a_mistake_can_be_drawn() -> None:
    for classes in (2, 30):
        assert encode_figure(draw_confusion(evaluation(classes, skill=100.0)))


def test_strange_labels_are_drawn_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encode_figure(draw_confusion(evaluation(len(STRANGE), labels=STRANGE)))
        many = tuple(f"{label}{i}" for i, label in enumerate(STRANGE * 4))
        encode_figure(draw_confusion(evaluation(len(many), labels=many)))
        encode_figure(draw_classes(evaluation(len(many), labels=many)))
    assert caplog.records == []


def test_drawing_leaves_the_settings_of_matplotlib_as_they_were() -> None:
    before = dict(mpl.rcParams)
    encode_figure(draw_confusion(evaluation(3)))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("count", [1, 16, 100])
def test_filters_of_any_depth_become_tiles(channels: int, count: int) -> None:
    weights = np.random.default_rng(0).normal(size=(count, channels, 5, 5))
    weights[0] = 0  # a dead filter has no scale
    sheet = draw_filters(weights)
    assert sheet.dtype == np.uint8
    assert abs(sheet.shape[1] - 1440) < 16


def test_a_sheet_shows_every_image_in_order() -> None:
    batch = np.zeros((3, 10, 10, 1), dtype=np.uint8)
    batch[1] = 200
    sheet = draw_batch(batch, columns=2)
    side = sheet.shape[1] // 2
    assert sheet[side // 2, side // 2, 0] == 0
    assert sheet[side // 2, side + side // 2, 0] == 200
    assert sheet[side + side // 2, side // 2, 0] == 0
    assert sheet[-1, -1, 0] == 255  # where there is no fourth


@pytest.mark.parametrize(
    ("height", "width", "size"), [(28, 28, (224, 224)), (300, 600, (240, 120)), (1, 900, (240, 1))]
)
def test_a_photo_fits_its_tile_and_keeps_its_form(height: int, width: int, size: tuple[int, int]) -> None:
    image = Image.open(io.BytesIO(encode_photo(photos(1, height, width, 1)[0], 240)))
    assert image.size == size
