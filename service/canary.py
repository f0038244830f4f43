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
    """A canary that is watched.

    Attributes:
        canary: the canary.
        production: what it is compared with.
        seen: the totals of the last minute, an entry each time its own have changed: when, its own, and the last
            ones of `production` before they changed again.
        reason: why it has failed.
        logged: that it cannot be taken out was said.
    """

    canary: Canary
    production: int
    seen: deque[tuple[float, Totals, Totals]] = field(default_factory=deque)
    reason: str = ""
    logged: bool = False


class CanaryWatch:
    """Watches the canaries of all models."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._trials: dict[str, _Trial] = {}

    async def check(self, models: list[HostedModel]) -> None:
        """Look at every canary once, and take those out that have failed.

        Whoever comes first does it: the registry's state is changed only if the same canary is still on trial.
        Before that, this process stops asking it, since it may be long until the registry can be written.
        """
        for name in self._trials.keys() - {model.name for model in models}:
            del self._trials[name]
        for model in models:
            canary, production = model.wanted.traffic.canary, model.aliases.get(PRODUCTION)
            if canary is None or production is None or canary.version == production:
                self._trials.pop(model.name, None)
                model.suspended = None
                continue
            if model.suspended != canary:
                model.suspended = None
                if not await asyncio.to_thread(self._judge, model.name, canary, production):
                    continue
                model.suspended = canary
            await asyncio.to_thread(self._take_out, model.name, self._trials[model.name])

    def _judge(self, name: str, canary: Canary, production: int) -> bool:
        """Say whether a canary has failed; its trial has the reason."""
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
        if trial.seen and trial.seen[-1][1] == latest[1]:
            trial.seen[-1] = (trial.seen[-1][0], *latest[1:])  # or looks without an answer would pile up
        else:
            trial.seen.append(latest)
        _, ours, theirs = trial.seen[0]
        trial.reason = judge(canary, latest[1].since(ours), latest[2].since(theirs))
        return bool(trial.reason)

    def _take_out(self, name: str, trial: _Trial) -> None:
        canary, reason = trial.canary, trial.reason
        at = dt.datetime.now(dt.UTC).replace(microsecond=0)
        on_trial = False

        def take_out(state: State) -> State:
            nonlocal on_trial
            on_trial = state.traffic.canary == canary  # no other process was faster
            return state.without_canary(canary, reason, at)

        try:
            self._registry.change(name, take_out)
        except ModelError as error:
            if not trial.logged:
                _log.error(
                    "canary %s:%s has failed (%s); this process asks it nothing more, but it cannot be taken out: %s",
                    name, canary.version, reason, error,
                )  # fmt: skip
            trial.logged = True
            return
        if on_trial:
            self._metrics.canary_rollbacks.labels(name, str(canary.version)).inc()
            _log.error("canary %s:%s was taken out: %s", name, canary.version, reason)
