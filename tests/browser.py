"""A real browser that can reach this machine only, driven over the DevTools protocol without any port."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_LIMIT_SECONDS = 30.0


class Page:
    """One page, and what the browser complained of while it was shown."""

    def __init__(self, write: int, read: int) -> None:
        self.complaints: list[str] = []
        self._write = write
        self._read = read
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Run an expression in the page; return its value as JSON has it, and a promise's when it is kept."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click on what a CSS selector names, once it is there."""
        self.wait_for(f"(found => (found?.click(), !!found))(document.querySelector({json.dumps(selector)}))")

    def wait_for(self, script: str) -> Any:
        """Run an expression until it is true; return its value."""
        end = time.monotonic() + _LIMIT_SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < end, (script, self.complaints)
            time.sleep(0.05)
        return value

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 2**20)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Log.entryAdded":
                self.complaints.append(event["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(event["params"]["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if event["params"]["type"] in {"error", "assert"}:
                self.complaints.append(json.dumps(event["params"]["args"]))


@contextmanager
def browsing(chromium: str, profile: Path) -> Iterator[Page]:
    """Start a browser with an empty page, and end it."""
    to_browser, from_here = os.pipe()
    from_browser, to_here = os.pipe()
    redirected = f'exec "$@" 3<&{to_browser} 4>&{to_here}'  # where --remote-debugging-pipe reads and writes
    process = subprocess.Popen(
        ["bash", "-c", redirected, "browser", chromium, *QUIET, "--remote-debugging-pipe",
         f"--user-data-dir={profile}"],
        pass_fds=(to_browser, to_here), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser)
    os.close(to_here)
    try:
        yield Page(from_here, from_browser)
    finally:
        os.close(from_here)  # which ends it
        os.close(from_browser)
        process.wait(timeout=30)
