"""What a person sees of a run, what its log keeps, and how it is asked to stop.

Knows nothing of networks: it is told of stages, steps and epochs.
"""

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.config import TrainConfig
from training.loop import EpochResult, State
from training.run_folder import Identity, RunFolder

CHECKPOINT_SECONDS = 60.0
_REFRESH_SECONDS = 0.2


class Display:
    """Prints stages, epochs and warnings; a bar shows what is under way where there is a terminal."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self._quiet = quiet

    def say(self, text: str) -> None:
        """Print a line."""
        if not self._quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line that a person should look into."""
        if not self._quiet:
            self.console.print("[yellow]note:[/yellow]", end=" ")
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str, total: int | None = None, what: str = "") -> Iterator[Callable[[int, str], None]]:
        """Show that something is under way; the function that is given takes how much is done, and a remark."""
        columns = [TextColumn("{task.description}"), BarColumn(24)]
        if total is not None:
            columns += [MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn()]
        progress = Progress(
            *columns,
            TextColumn("{task.fields[remark]}"),
            console=self.console,
            transient=True,
            disable=self._quiet or not self.console.is_terminal,
        )
        with progress:
            task = progress.add_task(title, total=total, remark="")
            last = 0.0

            def show(done: int, remark: str = "") -> None:
                nonlocal last
                if time.monotonic() - last >= _REFRESH_SECONDS or done == total:
                    last = time.monotonic()
                    progress.update(task, completed=done, remark=remark)

            yield show


class RunObserver:
    """Writes a run's log and checkpoints, and shows its epochs.

    Where TensorBoard is installed, the same figures go into `<run>/tensorboard`.
    """

    checkpoint_seconds = CHECKPOINT_SECONDS

    def __init__(self, folder: RunFolder, identity: Identity, config: TrainConfig, display: Display) -> None:
        self._folder = folder
        self._identity = identity
        self._config = config
        self._display = display
        self._stop = threading.Event()
        self._show: Callable[[int, str], None] = lambda _done, _remark: None
        self._began, self._steps_before = time.monotonic(), -1
        self._last = ""
        self._board = _open_board(folder)

    @contextmanager
    def watching(self, steps: int) -> Iterator[None]:
        """Show a bar over all steps, and take the first Ctrl-C or SIGTERM as a wish to stop after a step.

        Args:
            steps: of an epoch.
        """
        total = steps * self._config.epochs
        with self._display.stage("training", total, "steps") as show, _signals_set(self._stop):
            self._show = show
            try:
                yield
            finally:
                if self._board is not None:
                    self._board.close()

    def on_step(self, epoch: int, done: int, steps: int) -> None:
        """Move the bar."""
        overall = (epoch - 1) * steps + done
        if self._steps_before < 0:
            self._began, self._steps_before = time.monotonic(), overall
        elapsed = time.monotonic() - self._began
        rate = (overall - self._steps_before) * self._config.batch_size / elapsed if elapsed > 0 else 0.0
        self._show(overall, f"epoch {epoch}/{self._config.epochs}  {rate:,.0f} images/s  {self._last}")

    def on_epoch(self, result: EpochResult) -> None:
        """Print and note an epoch."""
        self._last = f"loss {result.loss:.3f}, validation {result.validation_accuracy:.2%}"
        self._display.say(
            f"epoch {result.epoch:3d}/{self._config.epochs}  loss {result.loss:.4f}  validation "
            f"{result.validation_accuracy:.2%} (loss {result.validation_loss:.4f})  "
            f"{result.images_per_second:,.0f} images/s  {result.seconds:.1f} s"
        )
        values = dataclasses.asdict(result)
        self._folder.note("epoch", **values)
        if self._board is not None:
            for name in ("loss", "validation_loss", "validation_accuracy", "learning_rate", "images_per_second"):
                self._board.add_scalar(name, values[name], result.epoch)

    def on_checkpoint(self, state: State) -> None:
        """Keep a checkpoint."""
        self._folder.save(self._identity, state)

    def stop_wanted(self) -> bool:
        """Tell whether somebody asked the run to stop."""
        return self._stop.is_set()


class FollowingObserver:
    """What the other processes of a run have: they print and write nothing, and stop when the first does."""

    checkpoint_seconds = float("inf")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let the first Ctrl-C or SIGTERM pass: the leading process, which has it too, ends the run after a step."""
        with _signals_set(threading.Event()):
            yield

    def on_step(self, epoch: int, done: int, steps: int) -> None:
        """Do nothing."""

    def on_epoch(self, result: EpochResult) -> None:
        """Do nothing."""

    def on_checkpoint(self, state: State) -> None:
        """Do nothing."""

    def stop_wanted(self) -> bool:
        """Never ask: the leading process decides."""
        return False


@contextmanager
def _signals_set(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set an event once; the second of them acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def wish(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, wish)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_board(folder: RunFolder):  # type: ignore[no-untyped-def]
    """Open TensorBoard's writer, or return None where it is not installed."""
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder.path / "tensorboard"))
    return None
