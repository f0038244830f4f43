"""Broken images without end: a real file, damaged as a seed says, given to `prepare_image` in a process of its own.

`python -m tests.fuzzing FOLDER SEED FIRST SECONDS` goes through mutants FIRST, FIRST + 1, ... of a seed. It says
the number of each before it is decoded, so that whoever started it knows which one ended the process.
"""

import io
import json
import logging
import random
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from model import reduced_jpeg
from model.errors import InvalidImage
from model.preprocessing import ImageLimits, Preprocessing, load_decoders, prepare_image

LONGEST_SECONDS = 5  # of computing
MOST_BYTES = 1_500_000_000  # of address space, beside what the process has at its start
NETWORKS = (
    Preprocessing(mode="RGB", height=224, width=224, resize="crop", short_side=256, mean=(0,) * 3, std=(1,) * 3),
    Preprocessing(mode="L", height=28, width=28, resize="stretch", mean=(0,), std=(1,)),
)
_EDGES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def corpus(folder: Path) -> list[bytes]:
    """Return the files that mutants are made of: real ones, and one of each kind that Pillow writes."""
    paths = [*sorted((folder / "nasty").glob("*.*")), *sorted((folder / "exif-orientation").glob("*_[16].jpg"))]
    paths += sorted((folder / "cats-dogs" / "test" / "cat").glob("*.jpg"))[:6]
    files = [path.read_bytes() for path in paths if path.suffix != ".csv" and path.stat().st_size]
    for mode in ("L", "RGB", "RGBA", "LA", "CMYK"):
        for options in _WRITTEN:
            try:
                files.append(_written(Image.effect_noise((90, 70), 80).convert(mode), **options))
            except (OSError, KeyError, ValueError):
                continue  # a format that does not have this mode
    return files


def _written(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


_WRITTEN: tuple[dict[str, Any], ...] = (
    {"format": "JPEG", "progressive": True},
    {"format": "JPEG", "restart_marker_blocks": 2},
    {"format": "PNG"},
    {"format": "WEBP", "lossless": True},
    {"format": "WEBP"},
    {"format": "GIF"},
    {"format": "BMP"},
    *(
        {"format": "TIFF", "compression": compression}
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "lzma", "zstd", "jpeg", "packbits")
    ),
)


def mutant(files: list[bytes], seed: int, number: int) -> bytes:
    """Return a damaged file, the same for the same seed and number."""
    chance = random.Random(f"{seed}:{number}")
    data = bytearray(chance.choice(files))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        # Headers are where damage does most.
        at = chance.randrange(min(len(data), chance.choice((64, 512, len(data)))))
        length = min(chance.choice((1, 4, 12, 64, 1024)), len(data) - at)
        match chance.randrange(8):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                size = chance.choice((1, 2, 4))
                order = chance.choice(("big", "little"))
                data[at : at + size] = (chance.choice(_EDGES) & (256**size - 1)).to_bytes(size, order)
            case 3:
                del data[at + 1 :]
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length] * chance.choice((1, 2, 100, 3000))
            case 6:
                other = chance.choice(files)
                start = chance.randrange(len(other))
                data[at : at + length] = other[start : start + length]
            case _:
                data[at : at + length] = chance.randbytes(length)
        del data[20 * 2**20 :]
    return bytes(data)


def decode(data: bytes, number: int) -> str:
    """Decode a file and return what came of it; whatever is no `InvalidImage` goes through."""
    try:
        prepare_image(data, NETWORKS[number % len(NETWORKS)], ImageLimits())
    except InvalidImage as error:
        return type(error).__name__
    return "decoded"


def main(folder: str, seed: str, first: str, seconds: str) -> None:
    """Go through mutants for some seconds, then tell of them as JSON."""
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("error", category=RuntimeWarning)  # of numpy: a sum that makes no sense
    reduced_jpeg._LONG = 0  # parts are cut out of small files, too
    files = corpus(Path(folder))
    load_decoders()
    for number, data in enumerate(files):  # so that what is loaded once counts for no mutant
        decode(data, number)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    limit = _status("VmSize") + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = _status("VmRSS")
    outcomes, slowest, number = Counter[str](), (0.0, 0), int(first)
    end = time.monotonic() + float(seconds)
    out = io.TextIOWrapper(sys.stdout.buffer, write_through=True)
    while time.monotonic() < end:
        out.write(f"{number}\n")
        data = mutant(files, int(seed), number)
        signal.setitimer(signal.ITIMER_PROF, LONGEST_SECONDS)
        started = time.process_time()
        outcomes[decode(data, number)] += 1
        slowest = max(slowest, (time.process_time() - started, number))
        signal.setitimer(signal.ITIMER_PROF, 0)
        number += 1
    told = {"outcomes": outcomes, "slowest": slowest, "bytes": _status("VmHWM") - before}
    out.write(json.dumps(told) + "\n")


def _status(field: str) -> int:
    """Return a figure of this process that Linux keeps, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    main(*sys.argv[1:])
