import subprocess
import sys
from pathlib import Path

import pytest

from model import native

DECODE = """
import sys, warnings
from pathlib import Path
from model.errors import InvalidImage
from model.preprocessing import ImageLimits, Preprocessing, prepare_image
if sys.argv[2] == "heard":
    import model.native
    model.native._LOADED = Path("/nowhere")
warnings.filterwarnings("ignore", module="PIL")
network = Preprocessing(mode="L", height=8, width=8, resize="stretch", mean=(0,), std=(1,))
decoded = 0
for path in sorted(Path(sys.argv[1]).glob("*.tif*")):
    try:
        prepare_image(path.read_bytes(), network, ImageLimits())
        decoded += 1
    except InvalidImage:
        pass
print(decoded)
"""


@pytest.mark.parametrize("libtiff", ["silent", "heard"])
def test_libtiff_says_nothing_of_fuzzed_files(libtiff: str, data: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", DECODE, str(data / "nasty"), libtiff], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) == 5
    assert ("TIFF" in run.stderr) == (libtiff == "heard")


def test_a_library_that_is_not_there_or_not_it_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libtiff.so").write_bytes(b"no library")
    (tmp_path / "maps").write_text(f"7f00-7f01 r-xp 0 0:0 1 {tmp_path}/libtiff.so\n7f02-7f03 rw-p 0 0:0 0 [heap]\n")
    monkeypatch.setattr(native, "_LOADED", tmp_path / "maps")
    native.silence_libtiff()
    monkeypatch.setattr(native, "_LOADED", tmp_path / "none")
    native.silence_libtiff()
