"""How fast the training loop is, and how good what it makes: the figures of `training.md`.

python -m benchmarks.training loop       # the loop beside a bare torch loop, one run
python -m benchmarks.training transfer   # 5-fold cross-validation beside scikit-learn; needs the photos
python -m benchmarks.training digits     # three seeds of `hubel train digits`

Everything is bounded; `loop` takes two minutes, `transfer` one, `digits` three on two cores.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from model.allocator import keep_memory
from model.architectures.catalog import build_network
from model.architectures.pixels import PixelNetwork
from model.preprocessing import Preprocessing
from training import transfer
from training.config import Precision, TrainConfig
from training.data import Part, load_part
from training.distributed import Group
from training.job import Job
from training.loop import Trainer
from training.progress import Display, FollowingObserver
from training.recipes import classic_config
from training.run import Run
from training.run_folder import RunFolder
from training.sources.open import open_collection

CPU = Group(torch.device("cpu"))
_STEPS, _ROUNDS, _BATCH = 40, 5, 128
_FOLDS, _SEEDS = 5, (0, 1, 2)


def main() -> None:
    """Run one benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("loop", "transfer", "digits"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of cats-dogs and flowers")
    chosen = parser.parse_args()
    table = _tables(chosen.data)[chosen.what]()
    Console(width=120 if not sys.stdout.isatty() else None).print(table)


def _tables(data: Path) -> dict[str, Callable[[], Table]]:
    return {"loop": loop_table, "digits": digits_table, "transfer": lambda: transfer_table(data)}


def loop_table() -> Table:
    """Compare images/s of the loop and of a bare torch loop, in turns."""
    keep_memory()
    table = Table("network", "precision", "augment", "bare torch, images/s", "the loop, images/s", "ratio")
    for name, images in (("classic", 1), ("classic, wide", 20_000)):
        for precision in ("fp32", "bf16"):
            augments = ("none", "light") if precision == "bf16" else ("none",)
            for augment in augments:
                bare, own = _race(images, precision, augment)
                ratios = [a / b for a, b in zip(own, bare, strict=True)]
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
                rates = f"{statistics.median(bare):,.0f}", f"{statistics.median(own):,.0f}"
                table.add_row(name, precision, augment, *rates, ratio)
    return table


def _race(images: int, precision: Precision, augment: str) -> tuple[list[float], list[float]]:
    """Return the rates of both loops in each round."""
    part = _noise(_BATCH * _STEPS)
    config = TrainConfig(epochs=1, batch_size=_BATCH, precision=precision, augment=augment)  # type: ignore[arg-type]
    bare, own = _bare_loop(images, part, config), _own_loop(images, part, config)
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS + 1):  # the first round warms up
        for loop, rate in zip((bare, own), rates, strict=True):
            start = time.perf_counter()
            loop()
            rate.append(len(part) / (time.perf_counter() - start))
    return rates[0][1:], rates[1][1:]


def _noise(count: int) -> Part:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    return Part(frames, generator.integers(0, 10, count), (28, 28), np.arange(count))


def _network(images: int) -> PixelNetwork:
    torch.manual_seed(0)
    size = Preprocessing(mode="L", height=28, width=28, resize="stretch", mean=(0.5,), std=(0.25,))
    return PixelNetwork(build_network("classic", 10, classic_config({}, size, images)), (0.5,), (0.25,))


def _bare_loop(images: int, part: Part, config: TrainConfig) -> Callable[[], None]:
    """Forward, backward, step: what every training with AdamW in this precision has to do."""
    network = _network(images).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    pixels, targets = torch.from_numpy(part.frames), torch.from_numpy(part.targets)

    def run() -> None:
        for chosen in torch.split(torch.randperm(len(part)), config.batch_size):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                loss = functional.cross_entropy(network(pixels[chosen]), targets[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


def _own_loop(images: int, part: Part, config: TrainConfig) -> Callable[[], None]:
    """Run one epoch of the loop: average, schedule and seeds included; the validation part is one batch."""
    few = Part(part.frames[:_BATCH], part.targets[:_BATCH], part.size, part.indices[:_BATCH])

    def run() -> None:
        Trainer(_network(images), config, CPU, np.ones(10, np.int64)).run(part, few, FollowingObserver())

    return run


def transfer_table(data: Path) -> Table:
    """Cross-validate the last layer over all photos, beside scikit-learn on the same features and folds."""
    keep_memory()
    table = Table("photos", "images", "hubel", "logistic regression", "scaled features", "standard error")
    for name in ("cats-dogs", "flowers"):
        with tempfile.TemporaryDirectory() as work:
            whole = open_collection(str(data / name), work=Path(work))
            backbone = transfer.load_backbone("efficientnet_lite0", len(whole.labels), {}, "default", download=False)
            part = load_part(whole, np.arange(len(whole)), backbone.preprocessing, Path(work))
        features = transfer.features(backbone, part, CPU.device)
        own, plain, scaled = (
            np.array(list(_cross_validate(features, part.targets, len(whole.labels), kind)))
            for kind in ("hubel", "plain", "scaled")
        )
        error = plain.std(ddof=1) / np.sqrt(len(plain))
        table.add_row(name, str(len(whole)), *(f"{folds.mean():.2%}" for folds in (own, plain, scaled)), f"{error:.2%}")
    return table


def _cross_validate(features: transfer.Features, targets: np.ndarray, classes: int, kind: str) -> Iterator[float]:
    """Yield the accuracy of each fold."""
    for seed in _SEEDS:
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
        for learn, check in folds.split(features, targets):
            if kind == "hubel":
                weight, bias = transfer.fit_head(features[learn], targets[learn], classes, 1.0)
                predicted = (features[check] @ weight.numpy().T + bias.numpy()).argmax(axis=1)
            else:
                solver = LogisticRegression(max_iter=5000)
                solver = make_pipeline(StandardScaler(), solver) if kind == "scaled" else solver
                predicted = solver.fit(features[learn], targets[learn]).predict(features[check])
            yield float((predicted == targets[check]).mean())


def digits_table() -> Table:
    """Train on the digits with three seeds, each with a split of its own."""
    table = Table("seed", "test accuracy", "ECE before", "ECE after", "seconds")
    accuracies = []
    for seed in _SEEDS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as runs:
            display = Display(Console(), quiet=True)
            release = Run(Job(data="digits", told={"seed": seed}), RunFolder(Path(runs)), CPU, display).release(
                "digits"
            )
        assert release is not None
        assert release.report is not None
        test = release.report.test
        accuracies.append(test.top1)
        seconds = f"{time.perf_counter() - start:.0f}"
        table.add_row(
            str(seed), f"{test.top1:.2%}", f"{test.uncalibrated.ece:.4f}", f"{test.calibrated.ece:.4f}", seconds
        )
    table.add_row("mean", f"{statistics.mean(accuracies):.2%} ± {statistics.stdev(accuracies):.2%}", "", "", "")
    return table


if __name__ == "__main__":
    main()
