"""`hubel` in processes of its own that start in milliseconds: forked from one that has imported all."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.warm"])
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Child:
    """A command under way, and what it prints."""

    process: ForkServerProcess
    output: Path
    errors: Path

    @property
    def stdout(self) -> str:
        return self.output.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self.errors.read_text(encoding="utf-8")

    def wait(self) -> int:
        """Return the exit code; less than 0 for the signal that ended it."""
        self.process.join(DEADLINE_SECONDS)
        code = self.process.exitcode
        assert code is not None, f"the command has not ended:\n{self.stdout}\n{self.stderr}"
        return code

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait for what the command brings about."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not done():
            assert self.process.is_alive(), f"the command ended before:\n{self.stdout}\n{self.stderr}"
            assert time.monotonic() < deadline, f"it did not come:\n{self.stdout}\n{self.stderr}"
            time.sleep(0.002)

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def start(
    *arguments: str | Path,
    cwd: Path,
    file_bytes: int | None = None,
    checkpoint_seconds: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> Child:
    """Start `hubel` with these arguments.

    Args:
        arguments: of the command line.
        cwd: where it runs; its output is kept there too.
        file_bytes: a file cannot grow beyond, as on a full disk.
        checkpoint_seconds: between the checkpoints of a training run.
        variables: of the environment.
    """
    number = len(list(cwd.glob("output-*")))
    output, errors = cwd / f"output-{number}", cwd / f"errors-{number}"
    output.touch()
    errors.touch()
    process = FORKS.Process(
        target=_run,
        args=([*map(str, arguments)], cwd, output, errors),
        kwargs={
            "file_bytes": file_bytes,
            "checkpoint_seconds": checkpoint_seconds,
            "variables": dict(variables or {}),
        },
    )
    process.start()
    return Child(process, output, errors)


def _run(
    arguments: list[str],
    cwd: Path,
    output: Path,
    errors: Path,
    *,
    file_bytes: int | None,
    checkpoint_seconds: float | None,
    variables: dict[str, str],
) -> None:
    import hubel
    from training.progress import RunObserver

    os.chdir(cwd)
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and all they start
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if checkpoint_seconds is not None:
        RunObserver.checkpoint_seconds = checkpoint_seconds
    sys.argv = ["hubel", *arguments]
    hubel.main()
