"""What the service does with the CPU while it is asked, stage by stage.

CPU times come from the system: those of the processes, of the threads on which their event loops run, and of wrk.
What decoding takes is metered inside (`benchmarks/metered.py`), what writing an answer takes is measured apart.
Beside them stand the service's own clocks, which also run while a thread waits for a core.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.metered import read_meters
from benchmarks.processes import cpu_seconds, first_threads_cpu_seconds, machine_cpu_seconds, metric
from benchmarks.server import Server
from service.schemas import PredictResponse

STAGES = ("decode", "queue", "inference")
_ANSWERS = 200
_ANSWERED = r'hubel_requests_total\{(?=[^}]*"/v1/predict")(?=[^}]*status="200")[^}]*\}'


@dataclass(frozen=True)
class Reading:
    """Sums since the service began, seconds of CPU time but for the moment, the clocks and the last three, counts."""

    at: float
    service: float
    loops: float
    decode_on_loops: float
    decode_elsewhere: float
    generator: float
    machine: float
    clocks: dict[str, float]
    requests: float
    images: float
    batches: float

    @classmethod
    def of(cls, server: Server, meters: Path, generator: int) -> "Reading":
        """Read all of it; `generator` is the process number of wrk."""
        text = server.get("/metrics").text
        return cls(
            time.monotonic(),
            cpu_seconds(server.processes),
            first_threads_cpu_seconds(server.workers),
            *read_meters(meters),
            cpu_seconds([generator]),
            machine_cpu_seconds(),
            {stage: metric(text, f"hubel_{stage}_seconds_sum") for stage in STAGES},
            metric(text, _ANSWERED),
            metric(text, "hubel_images_total"),
            metric(text, "hubel_batches_total"),
        )


@dataclass(frozen=True)
class Profile:
    """Where the time of a request goes, milliseconds.

    Attributes:
        http_ms: of a core: all of the event loops but JSON.
        json_ms: of a core: writing the answer.
        decode_ms: of a core: decoding and bringing to the network's size.
        forward_ms: of a core: everything else that is not on the event loops; the network, nearly all of it.
        generator_ms: of a core: wrk.
        others_cores: how many cores everything else on the machine has used.
        clocks_ms: what the service's clocks say of an image: decode and queue, and inference of its share of a batch.
        images_per_batch: in the mean.
    """

    http_ms: float
    json_ms: float
    decode_ms: float
    forward_ms: float
    generator_ms: float
    others_cores: float
    clocks_ms: dict[str, float]
    images_per_batch: float

    @property
    def service_ms(self) -> float:
        """Core-milliseconds of the service's processes."""
        return self.http_ms + self.json_ms + self.decode_ms + self.forward_ms

    @classmethod
    def between(cls, before: Reading, after: Reading, *, json_ms: float, images_per_request: int = 1) -> "Profile":
        """Divide what was used between two readings by what was done: requests answered, images computed.

        Both are to be taken while the clients ask: where they leave, they leave work behind that is begun or dropped.
        """

        def used(name: str) -> float:
            return float(getattr(after, name) - getattr(before, name))

        request = 1000 / max(used("requests"), 1)
        image = 1000 / max(used("images"), 1)
        decoding = used("decode_on_loops") + used("decode_elsewhere")
        computing = used("service") - used("loops") - used("decode_elsewhere")
        return cls(
            http_ms=(used("loops") - used("decode_on_loops")) * request - json_ms,
            json_ms=json_ms,
            decode_ms=decoding * image * images_per_request,
            forward_ms=computing * image * images_per_request,
            generator_ms=used("generator") * request,
            others_cores=(used("machine") - used("service") - used("generator")) / used("at"),
            clocks_ms={stage: (after.clocks[stage] - before.clocks[stage]) * image for stage in STAGES},
            images_per_batch=used("images") / max(used("batches"), 1),
        )


def measure_json(answer: bytes) -> float:
    """Return the core-milliseconds of making an answer's schema from plain values and writing it."""
    values = PredictResponse.model_validate_json(answer).model_dump()
    started = time.thread_time()
    for _ in range(_ANSWERS):
        PredictResponse.model_validate(values).model_dump_json(exclude_none=True)
    return 1000 * (time.thread_time() - started) / _ANSWERS
