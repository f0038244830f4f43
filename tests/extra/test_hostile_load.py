"""All hostile files from eight clients at once: the memory that the serving process takes, and that it lives on."""

import csv
import threading
from pathlib import Path

import httpx

from benchmarks.server import Server, serving

PREDICT = "/v1/models/tiny/predict"
CLIENTS, ROUNDS = 8, 5
MOST_BYTES = 300_000_000


def test_hostile_files_from_many_clients_leave_memory_and_health_as_they_were(
    published_tiny: Path, tmp_path: Path, data: Path
) -> None:
    with (data / "nasty" / "manifest.csv").open() as manifest:
        expected = {row["file"]: row["expected"] == "accept" for row in csv.DictReader(manifest)}
    files = {name: (data / "nasty" / name).read_bytes() for name in expected}
    photos = [path.read_bytes() for path in sorted((data / "cats-dogs" / "test" / "cat").glob("*.jpg"))[:8]]
    with serving(published_tiny, tmp_path / "log", HUBEL_DEFAULT_MODEL="tiny") as server:
        for photo in photos * 3:
            assert server.post(PREDICT, photo).status_code == 200
        pid = server.get("/v1/models").json()["workers"][0]["pid"]
        idle = memory(pid, "VmRSS")
        wrong: list[tuple[str, int]] = []
        clients = [threading.Thread(target=send, args=(server, files, expected, n, wrong)) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        peak, after = memory(pid, "VmHWM"), memory(pid, "VmRSS")
        health = [server.get(path).status_code for path in ("/health", "/readyz", "/livez")]
        assert server.post(PREDICT, photos[0]).status_code == 200
        same = server.get("/v1/models").json()["workers"][0]["pid"]
    print(f"\n{CLIENTS} clients, {ROUNDS} rounds of {len(files)} files: idle {idle:,} B, peak +{peak - idle:,} B, ")
    print(f"afterwards +{after - idle:,} B")
    assert wrong == []
    assert peak - idle < MOST_BYTES
    assert (health, same) == ([200] * 3, pid)
    log = (tmp_path / "log").read_text()
    assert not [word for word in ("TIFF", "Warning", "PIL", "Traceback") if word in log]


def send(
    server: Server, files: dict[str, bytes], expected: dict[str, bool], client: int, wrong: list[tuple[str, int]]
) -> None:
    """Send every file some times, beginning somewhere else than the other clients."""
    names = sorted(files)
    start = client * len(names) // CLIENTS
    with httpx.Client(base_url=server.url, timeout=60) as connection:
        for name in (names[start:] + names[:start]) * ROUNDS:
            status = connection.post(PREDICT, content=files[name]).status_code
            if (status == httpx.codes.OK) != expected[name] or status >= httpx.codes.INTERNAL_SERVER_ERROR:
                wrong.append((name, status))


def memory(pid: int, field: str) -> int:
    """Return what Linux tells of a process's memory, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
