"""The pages in a real browser that can reach this machine only."""

import json
from pathlib import Path

from benchmarks.server import serving
from model.registry import Registry
from service.keys import Role, make_key
from tests.browser import browsing
from tests.conftest import ToolFinder
from tests.fakes import reported_release
from training.publish import publish

LIST_MODELS = "#operations-models-list_models_v1_models_get"
TYPE = """(() => {
    const field = document.querySelector('.auth-container input');
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, %s);
    field.dispatchEvent(new Event('input', {bubbles: true}));
})()"""  # as if typed: the page keeps its own record of what a field holds


def test_the_documentation_shows_every_route(published_tiny: Path, tmp_path: Path, tool: ToolFinder) -> None:
    with (
        serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server,
        browsing(tool("chromium"), tmp_path / "profile") as page,
    ):
        page.open(f"{server.url}/docs")
        page.wait_for("!!document.querySelector('.opblock')")
        shown = str(page.run("document.body.textContent")).replace("\u200b", "")  # put into paths, so that they break
        assert page.complaints == []
    for text in ("/v1/predict", "/v1/models/{ref}/predict", "/readyz", "Predict With Default Model"):
        assert text in shown, text


def test_a_key_that_is_typed_into_the_documentation_is_sent(
    published_tiny: Path, tmp_path: Path, tool: ToolFinder
) -> None:
    secret, key = make_key("phone", Role.PREDICT)
    with (
        serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny", HUBEL_API_KEYS=str(key)) as server,
        browsing(tool("chromium"), tmp_path / "profile") as page,
    ):
        page.open(f"{server.url}/docs")
        page.click(".btn.authorize")
        page.wait_for("!!document.querySelector('.auth-container input')")
        page.run(TYPE % json.dumps(secret))
        page.click(".auth-btn-wrapper .authorize")
        page.click(".btn-done")
        for button in ("opblock-summary-control", "try-out__btn", "execute"):
            page.click(f"{LIST_MODELS} .{button}")
        answer = page.wait_for("document.querySelector('.live-responses-table .response')?.innerText")
        assert page.complaints == []
        page.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'evil = 1'}))")
        assert page.run("typeof evil") == "undefined"
        assert "Content Security Policy" in page.complaints[0]
    assert answer.startswith("200")
    assert '"default_model": "tiny"' in answer


def test_a_report_shows_its_pictures_and_may_do_nothing(tmp_path: Path, tool: ToolFinder) -> None:
    publish(Registry(tmp_path / "registry"), reported_release())
    with (
        serving(tmp_path / "registry", tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server,
        browsing(tool("chromium"), tmp_path / "profile") as page,
    ):
        page.open(f"{server.url}/v1/models/tiny/report/index.html")
        page.wait_for("document.images.length > 0 && [...document.images].every(image => image.naturalWidth > 0)")
        assert page.run("getComputedStyle(document.body).maxWidth") == "760px"
        assert page.run("self.origin") == "null"
        assert page.complaints == []
