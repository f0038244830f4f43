"""What the page takes apart: every view on the real models, its figures held to those that are computed here."""

import math
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Request

from benchmarks.server import Server
from tests.pages import Visit

EDGE = np.array([[-1.0, -1.0, 1.0, 1.0]] * 4)
KERNELS = {
    "sobel-x": np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
    "sobel-y": np.array([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]),
    "box": np.full((3, 3), 1 / 9),
    "blur": np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16,
    "sharpen": np.array([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    "edge-right": EDGE,
    "edge-left": -EDGE,
    "edge-down": EDGE.T,
    "edge-up": -EDGE.T,
}
BENCH = """async ([kernel, stride, padding, pooling]) => {
    const {convolve, relu, pool} = await import('/page/convolution.js');
    const values = Float32Array.from({length: 14 * 11}, (_, at) => Math.sin(at * at));
    const convolved = convolve({values, width: 14, height: 11}, kernel, stride, padding);
    const pooled = pool(relu(convolved), pooling, 'max');
    return [convolved, pooled].map(({values, width, height}) => ({values: [...values], width, height}));
}"""


def number(text: str) -> float:
    return float(text.replace("\u2212", "-").replace("%", "").strip())


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text.replace("\u2212", "-"))]


# ---- what the network gets


def test_the_strip_shows_a_turned_photo_on_its_way(data: Path, visit: Visit) -> None:
    page = visit.open()
    page.set_input_files("#file", data / "exif-orientation" / "landscape_6.jpg")
    visit.see("#bars li")
    visit.go_to("strip")
    visit.see(
        ".strip", "JPEG, 450 \u00d7 600", "turned right. 600 \u00d7 450", "middle 224 of 256", "224 \u00d7 224 pixels"
    )
    assert page.locator(".strip canvas").count() == 4


# ---- layer by layer


def test_the_walk_goes_through_every_layer_of_digits(visit: Visit, page_service: Server) -> None:
    page = visit.open("#layers&sample=digit-3")
    visit.go_to("layers")
    layers = httpx.get(f"{page_service.url}/v1/models/digits/layers").json()["layers"]
    names = page.locator(".layer-list .name").all_inner_texts()
    assert names == [*(layer["name"] for layer in layers), "softmax"]
    page.locator(".layer-list").focus()
    page.keyboard.press("Home")
    for name in names:
        visit.see(".layer h3", re.escape(name))
        visit.see(".layer .dead", "all on one scale")
        page.wait_for_selector("canvas.maps")
        page.keyboard.press("ArrowDown")
    visit.see(".layer h3", "Softmax")


@pytest.mark.parametrize("layer", ["conv1", "conv3"])
def test_a_neuron_that_is_pointed_at_adds_up(layer: str, visit: Visit) -> None:
    page = visit.open(f"#layers&sample=digit-5&layer={layer}")
    visit.go_to("layers")
    page.locator("canvas.maps").hover(position={"x": 60, "y": 40})
    total, bias, value, after = numbers(
        visit.see(".neuron .sum", "After ReLU").partition("up to")[2].replace(". ", " ").rstrip(".")
    )
    assert total + bias == pytest.approx(value, abs=2e-4)
    assert after == max(value, 0)
    while page.locator(".neuron button", has_text="Show them").count():
        page.click(".neuron button:has-text('Show them')")
        page.wait_for_timeout(200)
    parts = [number(text.removeprefix("sum ")) for text in page.locator(".patches > strong").all_inner_texts()]
    assert sum(parts) == pytest.approx(total, abs=5e-3)
    first = [
        [number(cell or "0") for cell in table.locator("td").all_inner_texts()]
        for table in page.locator(".patches").first.locator("table").all()
    ]
    patch, kernel, products = (np.array(cells) for cells in first)
    assert patch * kernel == pytest.approx(products, abs=0.02)
    visit.see(".field figcaption", r"It sees \d+ \u00d7 \d+ of the picture's 28 \u00d7 28")


def test_pixels_are_reached_with_the_keyboard(visit: Visit) -> None:
    page = visit.open("#layers&sample=digit-3&layer=pool1")
    visit.go_to("layers")
    page.locator("canvas.maps").focus()
    page.keyboard.press("Enter")
    visit.see(".layer p[role=status]", "map 0, row 7, column 7")
    for key, place in (
        ("ArrowDown", "map 0, row 8, column 7"),
        ("ArrowLeft", "map 0, row 8, column 6"),
        ("PageDown", "map 1, row 8, column 6"),
    ):
        page.keyboard.press(key)
        visit.see(".layer p[role=status]", place)
    visit.see(".neuron .sum", "The largest of the window")
    assert page.locator("td.picked").count() == 1
    page.wait_for_function("() => location.hash.includes('channel=1&y=8&x=6')")


def test_a_logit_is_a_sum_of_products_and_dead_maps_are_counted(visit: Visit, page_service: Server) -> None:
    page = visit.open("#layers&sample=digit-3&layer=classifier&channel=3")
    visit.see(".neuron .sum", "128 products add up to")
    assert page.locator(".neuron tbody tr").count() == 8
    page.locator(".layer-list [data-name='relu3']").click()
    said = visit.see(".layer .dead", "dead on this picture")
    named = re.search(r"(None|\d+) of", said)
    assert named is not None
    assert said.count(",") >= (0 if named[1] == "None" else 1)


def test_of_a_layer_only_what_is_known_is_said(visit: Visit) -> None:
    page = visit.open("#layers&sample=digit-3&layer=classifier")
    visit.see(".layer", "Gives each class a score", "each value sees the whole picture")
    page.locator(".layer-list [data-name='flatten']").click()
    visit.see(".layer h3", "flatten")
    page.locator("canvas.maps").hover(position={"x": 30, "y": 12})
    visit.see(".neuron", "this kind of layer, flatten, are not taken apart")
    assert "whole picture" not in page.locator(".layer").inner_text()
    page.locator(".layer-list [data-name='normalize']").click()
    visit.see(".layer h3", "normalize")
    page.locator("canvas.maps").hover(position={"x": 60, "y": 40})
    one, other, result = numbers(visit.see(".neuron .sum", "\u00d7 .* gives").rstrip("."))
    assert one * other == pytest.approx(result, abs=1e-3 * abs(result) + 1e-9)
    page.select_option("#model", "imagenet:1")
    page.locator(".layer-list [data-name='stem.0']").click()
    visit.see(".layer .facts", "padding 0 above, 0 left, 1 below, 1 right")


def test_a_layer_of_imagenet_is_shown_with_its_filters(visit: Visit) -> None:
    page = visit.open("#layers&sample=cat&layer=stem.0")
    visit.go_to("layers")
    visit.see(".filters", "Its 32 filters")
    visit.see(".layer .facts", "32 maps of 112 \u00d7 112", "batch norm is folded")
    box = page.locator("canvas.maps").bounding_box()
    assert box is not None
    assert box["width"] > 300
    milliseconds = int(page.locator("#layers").get_attribute("data-ms") or 0)
    print(f"\nthe walk's view of stem.0: {milliseconds} ms")


# ---- where it looked


def test_the_heat_map_follows_class_method_and_opacity(visit: Visit) -> None:
    page = visit.open("#heat&sample=cat")
    visit.go_to("heat")
    visit.see(".heat", "speaks most for .*cat", "Class activation map")
    painted = "() => document.querySelector('canvas.over').toDataURL()"
    first = visit.run(painted)
    page.locator("#heat-opacity").fill("10")
    faint = visit.run(painted)
    assert faint != first
    page.fill("#heat-class", "window screen")
    page.locator("#heat-class").press("Enter")
    visit.see(".heat", "for window screen")
    assert visit.run(painted) != faint
    page.select_option("#heat-method", "occlusion")
    visit.see(".heat", "Occlusion: how far the probability falls")
    page.wait_for_function(
        "() => location.hash.includes('class=window%20screen') && location.hash.includes('method=occlusion')"
    )
    with page.expect_download() as saved:
        page.click("#heat-save")
    assert saved.value.suggested_filename == "imagenet-occlusion-window screen.png"
    with Image.open(saved.value.path()) as image:
        assert image.size == (451, 300)


def test_another_network_is_asked_for_its_own_classes_in_the_way_that_is_best_for_it(visit: Visit) -> None:
    page = visit.open("#heat&sample=digit-5")
    visit.go_to("heat")
    visit.see(".heat", "Occlusion")
    page.select_option("#model", "imagenet:1")
    visit.see(".heat", "Class activation map")
    page.fill("#heat-class", "tabby")
    page.locator("#heat-class").press("Enter")
    visit.see(".heat", "for tabby")
    page.select_option("#heat-method", "cam")
    page.select_option("#model", "digits:1")
    visit.see(".heat", "Occlusion")
    assert page.input_value("#heat-class") == ""
    assert page.locator("#heat .trouble").count() == 0


# ---- from scores to probabilities


def test_softmax_is_computed_from_the_logits_that_are_served(visit: Visit, page_service: Server) -> None:
    served = httpx.get(f"{page_service.url}/v1/models/digits/layers").json()["temperature"]
    page = visit.open("#softmax&sample=digit-8")
    visit.go_to("softmax")
    shown = page.locator(".softmax tbody tr")
    rows = [shown.nth(at).locator("td").all_inner_texts() for at in range(10)]
    logits = np.array([number(row[1]) for row in rows])
    powers = np.exp((logits - logits.max()) / served)
    assert [number(row[3]) for row in rows] == pytest.approx(100 * powers / powers.sum(), abs=0.06)
    assert rows[0][3] == page.locator("#bars .value").first.inner_text()
    assert page.locator("#temperature-value").inner_text() == f"{served:.2f}"
    page.locator("#temperature").fill("50")
    temperature = 10**0.5
    visit.see("#temperature-value", f"{temperature:.2f}")
    warm = np.exp((logits - logits.max()) / temperature)
    assert number(shown.first.locator("td").nth(3).inner_text()) == pytest.approx(100 / warm.sum(), abs=0.06)
    page.select_option("#truth", "8")
    loss = numbers(visit.see(".softmax p[role=status]", "the cross-entropy is").partition("=")[2])[0]
    assert loss == pytest.approx(-math.log(1 / warm.sum()), abs=0.002)


# ---- the kernel bench


def test_the_bench_offers_the_kernels_that_are_known(visit: Visit) -> None:
    page = visit.open("#kernels&sample=stripes")
    visit.go_to("kernels")
    for name, kernel in KERNELS.items():
        page.select_option("#kernel", name)
        cells = page.locator(".kernel-cells input")
        values = [float(cells.nth(at).input_value()) for at in range(cells.count())]
        assert np.array(values).reshape(kernel.shape) == pytest.approx(kernel, abs=1e-4)


@pytest.mark.parametrize(("stride", "padding", "pooling"), [(1, 0, 2), (2, 1, 2), (3, 2, 3)])
@pytest.mark.parametrize("name", ["sobel-x", "edge-down"])
def test_the_bench_convolves_as_numpy_does(name: str, stride: int, padding: int, pooling: int, visit: Visit) -> None:
    visit.open()
    convolved, pooled = visit.run(BENCH, [KERNELS[name].tolist(), stride, padding, pooling])
    picture = np.pad(np.sin(np.arange(154.0) ** 2).astype(np.float32).reshape(11, 14), padding)
    windows = np.lib.stride_tricks.sliding_window_view(picture, KERNELS[name].shape)[::stride, ::stride]
    expected = (windows * KERNELS[name]).sum(axis=(2, 3))
    assert np.array(convolved["values"]).reshape(convolved["height"], convolved["width"]) == pytest.approx(
        expected, abs=1e-5
    )
    bent = np.maximum(expected, 0)
    cut = bent[: bent.shape[0] // pooling * pooling, : bent.shape[1] // pooling * pooling]
    largest = cut.reshape(cut.shape[0] // pooling, pooling, cut.shape[1] // pooling, pooling).max(axis=(1, 3))
    assert np.array(pooled["values"]).reshape(pooled["height"], pooled["width"]) == pytest.approx(largest, abs=1e-5)


def test_a_kernel_of_one_s_own_is_applied_at_once(visit: Visit) -> None:
    page = visit.open("#kernels&sample=cat&kernel=box&pooling=1&padding=0")
    visit.go_to("kernels")
    visit.see(".bench-maps", "158 wide, 104 high")
    painted = "() => document.querySelectorAll('.bench-maps canvas')[1].toDataURL()"
    before = visit.run(painted)
    page.locator(".kernel-cells input").first.fill("-3")
    assert visit.run(painted) != before
    assert page.input_value("#kernel") == "own"
    page.select_option("#bench-stride", "2")
    visit.see(".bench-maps", "rounded down, = 79 wide, 52 high")
    page.select_option("#bench-pooling", "3")
    visit.see(".bench-maps", "largest of each 3 \u00d7 3: 26 \u00d7 17")
    page.locator(".bench-maps canvas[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    total, after = numbers(
        visit.see(".bench-sum .sum", "the products add up to").partition("up to")[2].replace(". ", " ").rstrip(".")
    )
    assert after == max(0, total)
    products = page.locator(".bench-sum table").nth(2).locator("td").all_inner_texts()
    assert sum(map(number, products)) == pytest.approx(total, abs=0.02)
    page.wait_for_function("() => location.hash.includes('cells=-3,0.1')")


# ---- side by side, robustness, models, health


def test_two_versions_are_compared(visit: Visit) -> None:
    page = visit.open("#compare&sample=cat&model=tiny:1&against=tiny:2")
    visit.go_to("compare")
    visit.see(".compare .said", "They differ|Both say")
    assert page.locator(".compare h3").all_inner_texts() == ["tiny:1", "tiny:2"]
    page.select_option("#against", "digits:1")
    visit.see(".compare .said", "They do not know the same classes")


def test_a_version_is_compared_with_another_of_its_model_unless_somebody_chooses(visit: Visit) -> None:
    page = visit.open("#compare&sample=cat&model=tiny:1")
    visit.go_to("compare")
    assert page.input_value("#against") == "tiny:2"
    page.select_option("#model", "tiny:2")
    page.wait_for_function("() => document.querySelector('#against').value === 'tiny:1'")
    page.select_option("#against", "imagenet:1")
    page.select_option("#model", "digits:1")
    visit.see(".compare h3", "digits:1")
    assert page.input_value("#against") == "imagenet:1"


def test_a_blur_leaves_the_edges_of_a_picture_as_dark_as_they_are(visit: Visit) -> None:
    page = visit.open("#robustness&sample=digit-4")
    visit.go_to("robustness")
    blurred = page.locator(".robustness div:has(> h3:text-is('Blurred')) li canvas").last
    corner = blurred.evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data]")
    assert corner[3] == 255
    assert max(corner[:3]) < 16


def test_the_strip_of_robustness_asks_a_few_at_a_time(visit: Visit) -> None:
    page = visit.open("#robustness&sample=digit-4")
    under_way: set[Request] = set()
    at_once: list[int] = []

    def begin(request: Request) -> None:
        if "top_k=0" in request.url:
            under_way.add(request)
            at_once.append(len(under_way))

    def end(request: Request) -> None:
        under_way.discard(request)

    page.on("request", begin)
    page.on("requestfinished", end)
    visit.go_to("robustness")
    said = visit.see("#robustness .status", r"first answer in \d+ of 28")
    assert len(at_once) >= 28
    assert 1 < max(at_once) <= 4 + 2, "other views ask too"
    assert page.locator(".robustness li .value").count() == 28
    unchanged = page.locator(".robustness li", has_text=re.compile(r"^(0°|sharp|100 %)"))
    assert all("now" not in text for text in unchanged.all_inner_texts())
    assert numbers(said)[-2] < 28, "a crop to a fifth of a digit changes nothing"


def test_a_card_and_a_report_are_shown_as_text_and_pictures(visit: Visit) -> None:
    page = visit.open("#models&card=tiny:2")
    visit.go_to("models")
    visit.see(".registry .markdown", "tiny", "f00")
    page.wait_for_function("() => [...document.querySelectorAll('.registry img')].length >= 3")
    shown = page.locator(".confusion tbody td").all_inner_texts()
    assert len(shown) == 9
    assert sum(int(text or 0) for text in shown) == 12
    assert page.locator(".registry a").get_attribute("href") == "v1/models/tiny%3A2/report/index.html"
    page.select_option("#card-of", "flat:1")
    visit.see("#models .status", "has no report")


def test_nothing_that_a_server_sends_is_read_as_html(visit: Visit) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"

    def answer(route: object) -> None:
        response = route.fetch()  # type: ignore[attr-defined]
        body = response.json()
        body["card"] = (
            f"# {evil}\n\n{evil}\n\n| {evil} | **{evil}** |\n| --- | --- |\n| `{evil}` | [a](javascript:alert(1)) |\n"
        )
        route.fulfill(response=response, json=body)  # type: ignore[attr-defined]

    visit.page.route(re.compile(r"/v1/models/tiny%3A1$"), answer)
    page = visit.open("#models&card=tiny:1")
    visit.go_to("models")
    visit.see(".registry .markdown", re.escape(evil))
    assert page.locator(".registry .markdown :is(img, script, a)").count() == 0


def test_health_is_drawn_while_one_looks_and_not_else(visit: Visit, page_service: Server, photo: bytes) -> None:
    page = visit.open("#health")
    visit.go_to("health")
    for _ in range(20):
        httpx.post(f"{page_service.url}/v1/models/digits/predict", content=photo)
    page.wait_for_function(
        "() => /^[1-9]/.test(document.querySelector('.health .figure')?.textContent ?? '')", timeout=15_000
    )
    visit.see(".health", "Predictions a second", r"\d ms, .*ms", "Images in a batch")
    assert page.locator(".health path[d^='M']").count() > 0
    page.mouse.move(640, 450)
    page.mouse.wheel(0, -50_000)
    page.wait_for_timeout(500)
    asked = len([request for request in visit.asked if request.url.endswith("/metrics")])
    page.wait_for_timeout(4500)
    assert len([request for request in visit.asked if request.url.endswith("/metrics")]) <= asked + 1
