"""Taking out a canary that fails: its figures over all workers against its bounds, every few moments."""

import asyncio
import datetime as dt
import logging
import time
from collections import deque
from dataclasses import dataclass, field

from model.errors import ModelError
from model.registry import Registry
from model.state import Canary, State
from model.types import PRODUCTION
from service.hosted import HostedModel
from service.metrics import Metrics
from service.traffic import Totals, judge

WINDOW_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass
class _Trial:
    """A canary that is watched, and the totals of the last minute: when, its own, those of `production`."""

    canary: Canary
    production: int
    seen: deque[tuple[float, Totals, Totals]] = field(default_factory=deque)


class CanaryWatch:
    """Watches the canaries of all models."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._trials: dict[str, _Trial] = {}

    async def check(self, models: list[HostedModel]) -> None:
        """Look at every canary once, and take those out that have failed.

        Whoever comes first does it: the registry's state is changed only if the same canary is still on trial.
        """
        for name in self._trials.keys() - {model.name for model in models}:
            del self._trials[name]
        for model in models:
            canary, production = model.wanted.traffic.canary, model.aliases.get(PRODUCTION)
            if canary is None or production is None or canary.version == production:
                self._trials.pop(model.name, None)
                continue
            reason = await asyncio.to_thread(self._judge, model.name, canary, production)
            if reason:
                await asyncio.to_thread(self._take_out, model.name, canary, reason)

    def _judge(self, name: str, canary: Canary, production: int) -> str:
        trial = self._trials.get(name)
        if trial is None or (trial.canary, trial.production) != (canary, production):
            trial = self._trials[name] = _Trial(canary, production)
        totals = self._metrics.totals(name)
        now = time.monotonic()
        latest = (now, totals.get(canary.version, Totals()), totals.get(production, Totals()))
        while len(trial.seen) > 1 and trial.seen[1][0] <= now - WINDOW_SECONDS:
            if latest[1].since(trial.seen[1][1]).requests < canary.min_requests:
                break  # where little is asked, the last minute is not enough
            trial.seen.popleft()
        trial.seen.append(latest)
        _, ours, theirs = trial.seen[0]
        return judge(canary, latest[1].since(ours), latest[2].since(theirs))

    def _take_out(self, name: str, canary: Canary, reason: str) -> None:
        at = dt.datetime.now(dt.UTC).replace(microsecond=0)
        on_trial = False

        def take_out(state: State) -> State:
            nonlocal on_trial
            on_trial = state.traffic.canary == canary  # no other process was faster
            return state.without_canary(canary, reason, at)

        try:
            self._registry.change(name, take_out)
        except ModelError as error:
            _log.error("canary %s:%s has failed (%s) and cannot be taken out: %s", name, canary.version, reason, error)
            return
        if on_trial:
            self._metrics.canary_rollbacks.labels(name, str(canary.version)).inc()
            _log.error("canary %s:%s was taken out: %s", name, canary.version, reason)
