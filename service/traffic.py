"""How requests for `production` are divided, and when a canary has failed. Pure: no clock, no network.

A request's place, from 0 to 100, is a hash of who asks: the same caller always lands on the same
side, and raising the percentage moves nobody back.
"""

import hashlib
from dataclasses import dataclass

from model.state import Canary

_PLACES = 2**64


@dataclass(frozen=True)
class Totals:
    """What a version has answered since some moment: requests, those that ended in a 5xx, and seconds in all."""

    requests: float = 0.0
    failed: float = 0.0
    seconds: float = 0.0

    def since(self, earlier: "Totals") -> "Totals":
        """Return what came after `earlier`; a worker that ended takes nothing below zero."""
        return Totals(
            max(0.0, self.requests - earlier.requests),
            max(0.0, self.failed - earlier.failed),
            max(0.0, self.seconds - earlier.seconds),
        )

    @property
    def error_rate(self) -> float:
        """Share of the answers that were a 5xx, 0 without one."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def mean_seconds(self) -> float:
        """Seconds that a request took, 0 without one."""
        return self.seconds / self.requests if self.requests else 0.0


def falls_to(percent: float, model: str, version: int, who: str, purpose: str) -> bool:
    """Say whether a request belongs to a version's share.

    Args:
        percent: the share, 0 to 100.
        model: the model's name.
        version: whose share it is.
        who: the caller's header, or the request's id.
        purpose: canary or shadow; the two shares do not depend on one another.
    """
    digest = hashlib.blake2b(f"{purpose}\n{model}:{version}\n{who}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) * 100 < percent * _PLACES


def judge(canary: Canary, canary_totals: Totals, production_totals: Totals) -> str:
    """Return why a canary has failed; nothing while it has not.

    It is compared with `production` in the same time, so that what hits both (short time limits of callers, a full
    queue) is not held against it; its latency only once both have answered enough.
    """
    if canary_totals.requests < canary.min_requests:
        return ""
    rate, usual = canary_totals.error_rate, production_totals.error_rate
    if rate > canary.max_error_rate + usual:
        return (
            f"{rate:.1%} of its last {canary_totals.requests:.0f} answers were errors, of those of production "
            f"{usual:.1%}; max_error_rate is {canary.max_error_rate:.1%} more"
        )
    if production_totals.requests < canary.min_requests:
        return ""
    limit = canary.max_latency_ratio * production_totals.mean_seconds
    if canary_totals.mean_seconds > limit:
        return (
            f"it took {canary_totals.mean_seconds * 1000:.1f} ms a request, production "
            f"{production_totals.mean_seconds * 1000:.1f} ms; max_latency_ratio is {canary.max_latency_ratio:g}"
        )
    return ""
