"""Clients that send an image, or half of one, and vanish: what they leave behind, and what the others notice of them.

`make abandon`, or `python -m benchmarks.abandon --clients 10000`. Half of them close their connection, half reset
it; of both, half have sent all of their image; while eight others ask and wait. Ends with 1 where a bar is missed.
"""

import argparse
import asyncio
import random
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from benchmarks.arrivals import Sender
from benchmarks.bars import Bar, show
from benchmarks.overload import OK, stand_in_service
from benchmarks.processes import metric, resident_bytes, settled_descriptors
from benchmarks.server import Server
from benchmarks.stand_in import Behaviour
from service.bench.exchange import head_of
from service.bench.latencies import percentile
from tests.fakes import encode, noise

AT_ONCE = 64
PER_SECOND = 250.0
PLACES = 64  # in the queue: a request with as many images is let in if none is lost


def vanish(port: int, starts: Sequence[bytes], clients: int, per_second: float, seed: int) -> int:
    """Let clients send one of `starts` after the other and go away; return how many could connect."""
    return asyncio.run(_vanish(port, starts, clients, per_second, seed))


async def _vanish(port: int, starts: Sequence[bytes], clients: int, per_second: float, seed: int) -> int:
    chance, room = random.Random(seed), asyncio.Semaphore(AT_ONCE)

    async def begin(start: bytes, pause: float, reset: bool) -> bool:
        async with room:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(start)
                await writer.drain()
            except OSError:
                return False
            await asyncio.sleep(pause)
            if reset:  # what is closed with no time to linger is reset
                no_time = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_time)
            writer.close()
            return True

    due, begun = time.monotonic(), []
    for number in range(clients):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due += 1 / per_second
        begun.append(
            asyncio.create_task(begin(starts[number // 2 % len(starts)], chance.uniform(0, 0.05), number % 2 == 0))
        )
    return sum(await asyncio.gather(*begun))


def abandon(clients: int, per_second: float = PER_SECOND) -> list[Bar]:
    """Measure the others without the vanishing clients and with them, then look for what is left."""
    image = encode(noise(200, 200))
    places = {"HUBEL_MAX_QUEUE_SIZE": str(PLACES), "HUBEL_MAX_IMAGES_PER_REQUEST": str(PLACES)}
    seconds = clients / per_second
    with (
        tempfile.TemporaryDirectory() as folder,
        Sender() as others,
        Sender() as vanishing,
        stand_in_service(Path(folder), Behaviour(), **places) as server,
    ):
        url, (pid,) = server.url + "/v1/predict", server.workers
        others.ask(url, image, clients=8, seconds=2)
        descriptors, memory = settled_descriptors(pid, 0), resident_bytes(pid)
        without = others.ask(url, image, clients=8, seconds=min(seconds, 20.0))
        whole = head_of(url, image) + image
        starts = [whole[: -len(image) // 2], whole]
        connected = vanishing.run(vanish, urlsplit(url).port or 0, starts, clients, per_second, seed=1)
        during = others.ask(url, image, clients=8, seconds=seconds)
        came = connected.result()
        left = settled_descriptors(pid, descriptors)
        growth = resident_bytes(pid) - memory
        waiting = metric(server.get("/metrics").text, "hubel_queue_length")
        statuses = {sample.status for sample in during}
        full = fills_the_queue(server, image)
    p99s = [percentile([sample.seconds for sample in samples], 99) * 1000 for samples in (without, during)]
    return [
        Bar.figure("clients that vanished", f"{came} in {seconds:.0f} s"),
        Bar.figure("requests of the others", f"{len(during)}, p99 {p99s[0]:.0f} ms without"),
        Bar("statuses of the others", "200", ", ".join(map(str, sorted(statuses))), statuses == {OK}),
        Bar.at_most("p99 of the others", p99s[1], 2 * p99s[0], " ms"),
        Bar.at_most("descriptors left", left - descriptors, 0),
        Bar.at_most("images left in the queue", waiting, 0),
        Bar("a request that needs every place", "200", str(full), full == OK),
        Bar.at_most("memory, growth", growth / 1e6, 50, " MB"),
    ]


def fills_the_queue(server: Server, image: bytes) -> int:
    """Return the status of a request with as many images as the queue holds."""
    form = [("images", (str(number), image)) for number in range(PLACES)]
    return httpx.post(server.url + "/v1/predict", files=form, timeout=60).status_code


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000, help="at most 100,000")
    arguments = parser.parse_args()
    sys.exit(not show("clients that vanish", abandon(min(arguments.clients, 100_000))))


if __name__ == "__main__":
    main()
