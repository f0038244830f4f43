"""What a load test has measured, as JSON and in words."""

import os
from dataclasses import asdict
from typing import Any

from service.bench.latencies import Summary, histogram
from service.bench.trial import Outcome

BINS = 20
_SHOWN_CHARACTERS = 300


def share_of_core(outcome: Outcome) -> float:
    """Return how much of one core this process has used meanwhile, 0 to 1."""
    return outcome.cpu_seconds / outcome.seconds


def cores_here() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def figures(outcome: Outcome) -> dict[str, Any]:
    """Return everything in numbers; times in the units that the names end with."""
    return {
        "seconds": outcome.seconds,
        "requests": outcome.statuses.total(),
        "failed": outcome.failed,
        "requests_per_second": outcome.per_second,
        "latency_seconds": asdict(Summary.of(outcome.latencies)) if outcome.latencies else None,
        "histogram_seconds": [asdict(each) for each in histogram(outcome.latencies, BINS)],
        "stages_seconds": {stage: asdict(Summary.of(seconds)) for stage, seconds in outcome.stages.items()},
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "failures": {str(status): explain(body) for status, body in sorted(outcome.failures.items())},
        "generator_cpu_seconds": outcome.cpu_seconds,
        "generator_share_of_machine": share_of_core(outcome) / cores_here(),
    }


def explain(body: bytes) -> str:
    """Say what a request failed with: the problem that the service tells, or whatever stands in its place."""
    from pydantic import ValidationError

    from service.schemas import Problem

    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        text = body[:_SHOWN_CHARACTERS].decode(errors="replace").strip()
        return " ".join(text.split()) or "an empty body"
    return f"{problem.title}: {problem.detail}"
