"""The page's first screen: every way in for a picture, the answer, and what is said when there is none."""

import base64
import io
import json
import re
import statistics
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser

from benchmarks.server import Server, serving
from service.keys import Role, make_key
from tests.fakes import encode, noise
from tests.pages import Visit, visiting

PEN_LIFT_LIMIT_MS = 50.0
LIFTS = 9
MEASURES = "() => performance.getEntriesByName('pen-lift-to-answer').map(entry => entry.duration)"
GIVE_FILE = """([text, type, name, event]) => {
    const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, {type}));
    const made = event === 'drop' ? new DragEvent('drop', {dataTransfer: carried, bubbles: true, cancelable: true})
        : new ClipboardEvent('paste', {clipboardData: carried, bubbles: true});
    document.dispatchEvent(made);
}"""


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def choose(visit: Visit, content: bytes, name: str = "photo.jpg", media_type: str = "image/jpeg") -> None:
    visit.page.set_input_files("#file", {"name": name, "mimeType": media_type, "buffer": content})


def test_a_photo_goes_to_the_service_as_it_is_and_is_answered(visit: Visit, page_service: Server, photo: bytes) -> None:
    page = visit.open()
    choose(visit, photo)
    visit.see("#verdict", "cat")
    direct = httpx.post(f"{page_service.url}/v1/predict", content=photo).json()["results"][0]["predictions"]
    shown = page.locator("#bars li").all_inner_texts()
    assert shown == [f"{each['label']}\n{each['probability'] * 100:.1f} %" for each in direct]
    lines = [
        json.loads(line)
        for line in page_service.log.read_text().splitlines()
        if '"/v1/models/imagenet:1/predict"' in line
    ]
    assert lines[-1]["bytes_in"] == len(photo)
    assert "not calibrated" in page.locator("#calibrated").inner_text()
    stages = page.locator("#stages").inner_text()
    for part in ("reading the picture", "waiting in line", "the network", "the way there and back", "imagenet:1"):
        assert part in stages


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_photo_may_be_dropped_and_pasted(event: str, visit: Visit, photo: bytes) -> None:
    page = visit.open()
    page.wait_for_selector("#model option[value='imagenet:1']", state="attached")
    visit.run(GIVE_FILE, [base64.b64encode(photo).decode(), "image/jpeg", "cat.jpg", event])
    visit.see("#verdict", "cat")
    visit.see("#drop-text", "cat.jpg")


def test_a_digit_that_is_drawn_is_read_at_the_pen_s_lift(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab-draw")
    visit.see("#verdict", "Nothing is drawn yet")
    visit.draw()
    visit.see("#verdict", r"\b3\b")
    assert page.input_value("#model") == "digits:1"
    visit.go_to("layers")  # the explaining process is there, and what it does disturbs nobody
    page.evaluate("scrollTo(0, 0)")
    for _ in range(LIFTS):
        page.click("#clear")
        visit.draw()
        visit.see("#verdict", r"\b3\b")
        page.wait_for_timeout(150)
    times = visit.run(MEASURES)[-LIFTS:]
    print(f"\npen lift to answer: median {statistics.median(times):.1f} ms, largest {max(times):.1f} ms of {LIFTS}")
    assert statistics.median(times) < PEN_LIFT_LIMIT_MS


def test_undo_and_clear_lead_back_to_an_empty_pad(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab-draw")
    visit.draw()
    visit.draw(((0.2, 0.2), (0.25, 0.25)))
    visit.see("#bars li")
    page.click("#undo")
    visit.see("#verdict", r"\b3\b")
    page.click("#clear")
    visit.see("#verdict", "Nothing is drawn yet. Draw a digit")
    assert page.locator("#bars li").count() == 0
    visit.see("#strip .status", "Choose a picture first")


def test_every_sample_digit_is_read_right(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab-draw")
    for digit in range(10):
        page.click(f".digits button:has-text('{digit}')")
        visit.see("#verdict strong", f"^{digit}$")


def test_the_camera_gives_a_picture_and_stops_with_its_tab(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab-camera")
    page.click("#camera-start")
    page.click("#camera-take:enabled")
    visit.see("#bars li")
    page.click("#tab-photo")
    assert visit.run("() => document.querySelector('#video').srcObject") is None


def test_the_model_may_be_chosen(visit: Visit) -> None:
    page = visit.open("#ask&sample=cat")
    visit.see("#verdict", "cat")
    page.select_option("#model", "tiny:2")
    visit.see("#stages", "tiny:2 answered")


def test_the_colours_may_be_chosen(visit: Visit) -> None:
    page = visit.open()
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = visit.run(ground)
    page.click("#theme")
    assert visit.run(ground) != light
    page.click("#theme")
    assert visit.run(ground) == light


def test_a_link_leads_back_to_what_is_shown(visit: Visit, browser: Browser, page_service: Server) -> None:
    page = visit.open("#layers&sample=digit-7&model=digits:1&layer=conv2&channel=5&y=9&x=11")
    said = visit.see(".neuron .sum", "16 maps add up")
    page.locator("#temperature").fill("30")
    page.locator("#kernel").select_option("edge-up")
    page.wait_for_function("() => location.hash.includes('kernel=edge-up')")
    link = page.evaluate("() => location.hash")
    assert "temperature=2.00" in link
    with visiting(browser, page_service.url) as other:
        other.open(link)
        other.see("#verdict", r"\b7\b")
        assert other.page.input_value("#kernel") == "edge-up"
        other.go_to("layers")
        assert other.see(".neuron .sum", "16 maps") == said


def test_another_link_is_followed_while_the_page_is_open(visit: Visit) -> None:
    page = visit.open("#kernels&sample=digit-1&kernel=box")
    visit.see("#verdict", r"\b1\b")
    page.evaluate("location.hash = '#softmax&sample=digit-7&kernel=edge-up&temperature=5.00'")
    visit.see("#verdict", r"\b7\b")
    visit.see("#temperature-value", r"^5\.00$")
    assert page.input_value("#kernel") == "edge-up"


# ---- bad input


def test_what_is_no_picture_is_said_in_place(visit: Visit) -> None:
    visit.expected = ("415", "422")
    visit.open()
    choose(visit, b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg", "image/svg+xml")
    visit.see("#ask-status", "Image format not supported", "SVG", "Save the picture as JPEG or PNG")
    choose(visit, b"nothing of the kind", "notes.txt", "text/plain")
    visit.see("#ask-status", "Not an image that can be read", "Choose another file")
    choose(visit, encode(noise(12, 12)), "noise.png", "image/png")
    visit.see("#bars li")
    assert visit.page.locator("#ask-status").inner_text() == ""


def test_a_photo_of_4000_pixels_works(visit: Visit) -> None:
    visit.open()
    choose(visit, png(noise(200, 150).resize((4000, 3000)), "JPEG"))
    visit.see("#bars li")
    visit.see("#drop-text", "4000 \u00d7 3000")
    visit.go_to("strip")
    visit.see(".strip", "JPEG, 4000 \u00d7 3000", "224 \u00d7 224 pixels of red, green and blue")


def test_a_grey_picture_for_a_colour_network_is_told(visit: Visit) -> None:
    visit.open()
    choose(visit, png(noise(60, 60, mode="L")), "grey.png", "image/png")
    visit.go_to("strip")
    visit.see(".strip", "The picture is grey")


def test_a_format_that_the_browser_cannot_show_is_answered_all_the_same(visit: Visit) -> None:
    visit.open()
    choose(visit, png(noise(60, 60), "TIFF"), "scan.tif", "image/tiff")
    visit.see("#bars li")
    visit.see("#drop-text", "cannot show|only the service reads")
    visit.go_to("strip")
    visit.see(".strip", "224 \u00d7 224")


@pytest.mark.parametrize(
    ("link", "place", "words"),
    [
        ("#ask&model=dogs:4", "#ask-status", ("There is no dogs:4 here", "imagenet:1")),
        ("#layers&sample=digit-3&layer=conv9", "#layers .status", ('no layer "conv9"', "conv1")),
        ("#layers&sample=digit-3&layer=conv1&channel=99&y=0&x=0", ".neuron", ("The link names map 99",)),
        ("#heat&sample=cat&class=unicorn", "#heat .status", ('no class "unicorn"', "leave the field empty")),
        ("#heat&sample=cat&class=1000", "#heat .status", ('no class "1000"',)),
        ("#heat&sample=cat&method=gradcam%2B%2B", "#heat .status", ("does not work here", "Class activation map")),
        ("#layers&sample=digit-3&model=flat:1&layer=input", "#layers .status", ("has no convolutions",)),
        ("#heat&sample=%E0%A4%A", "#heat .status", ("Choose a picture first",)),
    ],
)  # fmt: skip
def test_what_a_link_names_and_is_not_there_is_said_in_place(
    link: str, place: str, words: tuple[str, ...], visit: Visit
) -> None:
    visit.open(link)
    visit.see(place, *map(re.escape, words))


def test_the_page_asks_for_a_key_and_keeps_it_in_memory_only(
    browser: Browser, published_tiny: Path, tmp_path: Path
) -> None:
    secret, key = make_key("page", Role.PREDICT)
    with (
        serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny", HUBEL_API_KEYS=str(key)) as server,
        visiting(browser, server.url) as visit,
    ):
        visit.expected = ("401",)
        page = visit.open()
        visit.see("#key", "asks for a key", "Whoever runs it can give you one")
        page.fill("#key-field", "wrong")
        page.keyboard.press("Enter")
        visit.see("#key-reason", "does not know that key")
        page.fill("#key-field", secret)
        page.click("#key button.primary")
        page.click("[data-sample='cat']")
        visit.see("#stages", "tiny:1 answered")
        assert not page.locator("#key").is_visible()
        assert secret not in page.content() + page.url
        assert visit.run("() => localStorage.length + sessionStorage.length + document.cookie.length") == 0
        page.reload()
        visit.see("#key", "asks for a key", "Whoever runs it can give you one")
        page.click("#key button:has-text('Not now')")
        visit.see("#ask-status", "The key is missing or wrong", "Try again")


def test_metrics_with_a_key_of_their_own_ask_nobody_for_it(
    browser: Browser, published_tiny: Path, tmp_path: Path
) -> None:
    with (
        serving(
            published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny", HUBEL_METRICS_KEY="sixteen letters or so"
        ) as server,
        visiting(browser, server.url) as visit,
    ):
        visit.expected = ("401",)
        page = visit.open("#health")
        visit.see("#health .status", "a key of their own", "HUBEL_METRICS_KEY", "An admin key opens them")
        assert not page.locator("#key").is_visible()


def test_a_service_that_goes_away_is_missed_and_comes_back(
    browser: Browser, published_tiny: Path, tmp_path: Path
) -> None:
    with serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server:
        port = server.url.rpartition(":")[2]
        with visiting(browser, server.url) as visit:
            visit.expected = ("ERR_CONNECTION", "ERR_EMPTY", "503")
            page = visit.open()
            page.click("[data-sample='stripes']")
            visit.see("#stages", "tiny:1")
            server.process.terminate()
            server.process.wait(timeout=30)
            page.click("[data-sample='shapes']")
            visit.see("#away", "does not answer")
            visit.see("#ask-status", "asks again every second")
            with serving(published_tiny, tmp_path / "second-log", HUBEL_DEFAULT_MODEL="tiny", HUBEL_PORT=port):
                page.wait_for_selector("#away", state="hidden", timeout=20_000)
                visit.see("#stages", "tiny:1 answered")
