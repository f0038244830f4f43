"""The documentation page in a real browser that can reach this machine only."""

import subprocess
from pathlib import Path

from benchmarks.server import serving
from tests.conftest import ToolFinder

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def test_the_documentation_shows_every_route(published_tiny: Path, tmp_path: Path, tool: ToolFinder) -> None:
    chromium = tool("chromium")
    with serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server:
        page = subprocess.run(
            [
                chromium, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000",
                "--dump-dom", f"{server.url}/docs",
            ],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
    shown = page.replace("\u200b", "")  # put into paths, so that they can break
    for text in ("/v1/predict", "/v1/models/{ref}/predict", "/readyz", "Predict With Default Model"):
        assert text in shown, text
