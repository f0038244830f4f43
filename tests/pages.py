"""The page in a real browser, driven by Playwright: what it asked for, what it complained of, how it is drawn on."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright
from playwright.sync_api import TimeoutError as WaitedInVain

from tests.browser import QUIET

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
PATIENCE_MS = 20_000
THREE = (
    (0.32, 0.22),
    (0.5, 0.14),
    (0.66, 0.25),
    (0.62, 0.42),
    (0.47, 0.48),
    (0.66, 0.57),
    (0.68, 0.76),
    (0.5, 0.86),
    (0.31, 0.8),
)


@contextmanager
def browser_of(chromium: str) -> Iterator[Browser]:
    """Start a browser for many tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*QUIET, *CAMERA])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page of a service that was opened in a browser of its own.

    Attributes:
        page: as Playwright drives it.
        url: the service's.
        complaints: errors on the console.
        asked: every request.
        expected: parts of complaints that a test brings about itself.
    """

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def open(self, link: str = "") -> Page:
        """Go to the page, at what a link names."""
        self.page.goto(f"{self.url}/{link}")
        return self.page

    def see(self, selector: str, *words: str) -> str:
        """Wait until what a selector names is shown with these words; return its text."""
        found = self.page.locator(selector).first
        with self._telling():
            found.wait_for(timeout=PATIENCE_MS)
            for word in words:
                self.page.locator(selector, has_text=re.compile(word)).first.wait_for(timeout=PATIENCE_MS)
        return found.inner_text()

    def go_to(self, section: str) -> None:
        """Bring a section into sight, and wait until it is worked out."""
        script = """section => {
            dispatchEvent(new Event('wheel')); // as one who scrolls: a link's section is held in sight no longer
            section.scrollIntoView({behavior: 'instant'});
            return Boolean(section.dataset.ms) && !section.ariaBusy;
        }"""
        end = time.monotonic() + PATIENCE_MS / 1000
        with self._telling():
            while not self.page.locator(f"#{section}").evaluate(script):  # what is above may still grow
                if time.monotonic() > end:
                    raise WaitedInVain(section)
                self.page.wait_for_timeout(50)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what the page itself says is wrong, where one waits in vain."""
        try:
            yield
        except WaitedInVain as error:
            told = "() => [...document.querySelectorAll('.trouble, .note, .verdict')].map(each => each.innerText)"
            shown = (
                "() => [...document.querySelectorAll('section')].map(each => [each.id, each.dataset.ms, each.ariaBusy])"
            )
            raise AssertionError((self.run(told), self.run(shown), self.page.url, self.complaints)) from error

    def draw(self, points: tuple[tuple[float, float], ...] = THREE) -> None:
        """Draw one stroke on the pad, its points on a square of side 1."""
        box = self.page.locator("#pad").bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def run(self, script: str, argument: Any = None) -> Any:
        """Run a function in the page."""
        return self.page.evaluate(script, argument)

    def check(self) -> None:
        """Fail for complaints that were not expected, and for requests to another host."""
        unforeseen = [text for text in self.complaints if not any(part in text for part in self.expected)]
        assert unforeseen == [], unforeseen
        elsewhere = {request.url for request in self.asked if not request.url.startswith((self.url, "blob:", "data:"))}
        assert elsewhere == set(), elsewhere


@contextmanager
def visiting(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """Visit a service with an empty profile; check at the end that all went well."""
    opened: BrowserContext = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    page = opened.new_page()
    visit = Visit(page, url)

    def complained(message: ConsoleMessage) -> None:
        if message.type in {"error", "assert"}:
            visit.complaints.append(message.text)

    def asked(request: Request) -> None:
        visit.asked.append(request)

    page.on("console", complained)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("request", asked)
    try:
        yield visit
        visit.check()
    finally:
        opened.close()
