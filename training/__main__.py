"""`python -m training DATA ...` is `hubel train DATA ...`, for torchrun, which starts modules.

torchrun --nproc-per-node 2 -m training photos/ --fine-tune 5
"""

import sys

import typer

from model.errors import ModelError
from training.commands.train import train
from training.errors import TrainingError

if __name__ == "__main__":
    try:
        typer.run(train)
    except (ModelError, TrainingError) as error:
        print(f"hubel: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
