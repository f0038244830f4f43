"""The command line inside the test's own process, where the point is not the start of another."""

import contextlib
import io
import os
import subprocess
from pathlib import Path
from unittest import mock

from benchmarks.server import environment
from hubel import main


def hubel(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of hubel to its end."""
    command = ["hubel", *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, environment(), clear=True),
        mock.patch("sys.argv", command),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = 0 if ended.code is None else int(ended.code)
    return subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue())
