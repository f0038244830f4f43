"""Giving memory back to the system once a version is unloaded."""

import ctypes
from functools import cache


def release_memory() -> None:
    """Return what is free to the system; where the C library has no such call, do nothing."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> "ctypes._NamedFuncPointer | None":
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
