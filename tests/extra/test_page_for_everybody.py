"""The page for everybody: screen readers, keyboards, phones, slow lines, both colour schemes, no other host."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from benchmarks.server import Server
from tests.pages import Visit, visiting

SECTIONS = ("ask", "strip", "layers", "heat", "softmax", "kernels", "compare", "robustness", "models", "health")
VIEWS = SECTIONS[1:-1]
MAX_BYTES = 300_000
VIEW_LIMIT_MS = 1000
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def show_everything(visit: Visit, link: str) -> None:
    visit.open(link)
    visit.see("#bars li")
    for section in SECTIONS[1:]:
        visit.go_to(section)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sample", ["cat", "digit-3"])
def test_axe_finds_nothing_serious(scheme: str, sample: str, browser: Browser, page_service: Server) -> None:
    with visiting(browser, page_service.url, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce") as visit:
        show_everything(
            visit,
            f"#ask&sample={sample}&card=tiny:2&channel=0&y=5&x=5&layer={'conv2' if sample != 'cat' else 'stem.0'}",
        )
        visit.see(".neuron .sum")
        found = Axe().run(visit.page).response
    bad = [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
        if each["impact"] in {"serious", "critical"}
    ]
    assert bad == [], bad
    print(f"\nlesser findings: {[(each['id'], each['impact']) for each in found['violations']]}")


def test_nothing_scrolls_sideways_on_a_phone(browser: Browser, page_service: Server) -> None:
    screen = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with visiting(browser, page_service.url, **screen) as visit:
        show_everything(visit, "#ask&sample=digit-3&card=tiny:2&layer=conv2&channel=0&y=5&x=5")
        assert visit.run(WIDER) <= 0
        visit.page.click("#tab-draw")
        assert visit.run(WIDER) <= 0


def test_all_that_a_first_visit_loads_is_light(visit: Visit) -> None:
    show_everything(visit, "#ask&sample=cat")
    own = {request.url: request for request in visit.asked if re.search(r"/page/|/$", request.url.split("#")[0])}
    sizes = {url: len(request.response().body()) for url, request in own.items() if request.response()}  # type: ignore[union-attr]
    print(f"\n{len(sizes)} files, {sum(sizes.values())} bytes")
    assert 20_000 < sum(sizes.values()) < MAX_BYTES


def test_every_view_is_there_within_a_second(visit: Visit) -> None:
    show_everything(visit, "#ask&sample=cat")  # the explaining process begins
    page = visit.page
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    page.click("#tab-draw")
    page.click(".digits button:has-text('6')")
    visit.see("#verdict strong", "6")
    times = {}
    for section in VIEWS:
        visit.go_to(section)
        times[section] = int(page.locator(f"#{section}").get_attribute("data-ms") or 0)
    print(f"\nmilliseconds of each view: {times}")
    assert max(times.values()) < VIEW_LIMIT_MS


def test_the_main_views_are_reached_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit.open()
    page.wait_for_selector("#model option[value='digits:1']", state="attached")

    def tab_to(selector: str) -> None:
        for _ in range(150):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    tab_to("#tab-photo")
    page.keyboard.press("ArrowRight")
    tab_to(".digits button:nth-of-type(8)")
    page.keyboard.press("Enter")
    visit.see("#verdict strong", "7")
    tab_to(".layer-list")
    visit.go_to("layers")
    page.keyboard.press("ArrowDown")
    visit.see(".layer h3", "relu1")
    tab_to("canvas.maps")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    visit.see(".neuron .sum")
    tab_to("#heat-opacity")
    visit.go_to("heat")
    page.keyboard.press("Home")
    tab_to("#temperature")
    visit.go_to("softmax")
    served = float(page.locator("#temperature-value").inner_text())
    page.keyboard.press("ArrowRight")
    visit.see("#temperature-value", f"{served * 10**0.01:.1f}")
    tab_to("#kernel")
    visit.go_to("kernels")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#kernel") == "sobel-y"
    tab_to(".bench-maps canvas")
    page.keyboard.press("ArrowRight")
    visit.see(".bench-sum .sum")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
