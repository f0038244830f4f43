"""One run in several processes, as torchrun starts them: who this process is among them.

Source of the variables: torchrun sets RANK, LOCAL_RANK and WORLD_SIZE. Gradients are averaged
by DistributedDataParallel, over nccl on GPUs and gloo on a CPU. Batch norm uses the statistics
of each process's own share on a CPU, and of all shares (SyncBatchNorm) on GPUs.
"""

import datetime as dt
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.errors import Interrupted, InvalidRecipe

T = TypeVar("T")
# The others wait while the leading process reads the data and measures the network.
_PATIENCE = dt.timedelta(days=1)


@dataclass(frozen=True)
class Group:
    """This process among those of the run; it computes on `device`."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process prints, writes and publishes."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Give every process what the leading one has; the others' own value is not looked at."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def wrap(self, network: nn.Module) -> nn.Module:
        """Let the network's gradients be the mean over all processes."""
        if self.size == 1:
            return network
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(network, device_ids=[self.device] if on_gpu else None)


@contextmanager
def joined(device: str, environment: Mapping[str, str] = os.environ) -> Iterator[Group]:
    """Join the other processes of the run, if torchrun started several, and part from them at the end.

    Raises:
        InvalidRecipe: the device is not on this machine.
        Interrupted: this process does not lead, and the one that does is gone.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    chosen = _device(device, int(environment.get("LOCAL_RANK", "0")))
    if size == 1:
        yield Group(chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    group = Group(chosen, distributed.get_rank(), size)
    try:
        yield group
    except RuntimeError as error:
        if group.leads or not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise Interrupted("the leading process has ended, or cannot be reached") from error
    finally:
        distributed.destroy_process_group()


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise InvalidRecipe(f"--device {wanted!r} is not known: auto, cpu or cuda")
    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InvalidRecipe("--device cuda: torch finds no CUDA device on this machine; use --device cpu")
    return torch.device("cuda", local_rank)
