"""Messages that libraries in C write to standard error past every log of Python, and how they are kept from it."""

import ctypes
from pathlib import Path

_LOADED = Path("/proc/self/maps")
_HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


def silence_libtiff() -> None:
    """Let libtiff say nothing of a broken file: up to hundreds of lines that whoever sends it can choose.

    Pillow has no switch for it, so it is done in the very library that Pillow has loaded. Where that
    cannot be found (no /proc, libtiff linked into Pillow) libtiff goes on writing, and nothing else changes.
    """
    for path in _loaded_libraries("libtiff"):
        try:
            library = ctypes.CDLL(path)
            for name in _HANDLERS:
                handler = getattr(library, name)
                handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
                handler(None)
        except (OSError, AttributeError):
            continue


def _loaded_libraries(name: str) -> set[str]:
    """Return the paths of this process's shared libraries of a name."""
    try:
        lines = _LOADED.read_text().splitlines()
    except OSError:
        return set()
    paths = {line[line.index("/") :] for line in lines if "/" in line}
    return {path for path in paths if Path(path).name.startswith(name)}
