"""The C library's allocator, told to keep the memory that torch takes and gives back at every step and every run.

By default glibc asks the system for every large block anew and returns it at once, and each
page is then cleared again. A training step, or a batch of a size, takes the same blocks every
time; keeping them makes steps on a CPU up to 1.7 times as fast (`benchmarks/training.md`), and
batches twice as fast (`docs/adr/0014-engine-choice.md`).
"""

import ctypes
import sys

# Names and numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_TOP_PAD_BYTES = 64 * 2**20


def keep_memory() -> bool:
    """Let this process keep freed memory for what comes next; False where the C library is not glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD_BYTES))
    accepted = [mallopt(name, value) for name, value in settings]
    return all(accepted)
