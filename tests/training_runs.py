"""Training runs inside the test's own process."""

import io
from pathlib import Path

import torch
from rich.console import Console

from training.distributed import Group
from training.job import Job
from training.progress import Display
from training.publish import Release
from training.run import Run
from training.run_folder import RunFolder


def train_release(job: Job, name: str, runs: Path) -> Release:
    """Do a run up to its release, on the CPU."""
    display = Display(Console(file=io.StringIO()), quiet=True)
    release = Run(job, RunFolder(runs / name), Group(torch.device("cpu")), display).release(name)
    assert release is not None
    return release
