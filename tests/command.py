"""The command line, run as a user would."""

import subprocess
import sys
from pathlib import Path

from benchmarks.server import environment


def hubel(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of hubel to its end."""
    return subprocess.run(
        [sys.executable, "-m", "hubel", *map(str, arguments)],
        env=environment(**variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
