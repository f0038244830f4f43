"""Damaged images by the thousand: each is decoded or refused, soon, in little memory, and kills nothing.

`FUZZ_SECONDS` says for how long (60), `FUZZ_SEED` repeats a run: mutant n of a seed is always the same file.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

LONGEST_SECONDS = 1.0  # of computing
MOST_BYTES = 450_000_000
_PER_PROCESS = 20.0


def test_damaged_images_are_decoded_or_refused(data: Path) -> None:
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    seed = int(os.environ.get("FUZZ_SEED", random.randrange(10**9)))
    print(f"\nFUZZ_SEED={seed}")
    mutants, failures, first = 0, list[str](), int(os.environ.get("FUZZ_FIRST", "0"))
    while seconds > 0:
        share = min(seconds, _PER_PROCESS)
        command = [sys.executable, "-m", "tests.fuzzing", str(data), str(seed), str(first), str(share)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=share + 600, check=False)
        *numbers, last = run.stdout.splitlines() or [str(first)]
        if run.returncode or run.stderr:
            reason = run.stderr.strip().splitlines()[-1:] or [f"ended with {run.returncode}"]
            failures.append(f"FUZZ_SEED={seed} FUZZ_FIRST={last}: {reason[0]}")
        else:
            told = json.loads(last)
            print(f"{len(numbers)} mutants from {first}: {last}")
            if told["slowest"][0] > LONGEST_SECONDS or told["bytes"] > MOST_BYTES:
                failures.append(f"FUZZ_SEED={seed} FUZZ_FIRST={told['slowest'][1]}: {last}")
        mutants += len(numbers)
        first += len(numbers) + 1
        seconds -= share
    print(f"{mutants} mutants, {len(failures)} failures")
    assert failures == []
