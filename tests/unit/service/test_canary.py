"""The watch over canaries, on real metrics and a registry of one tiny model with two versions."""

import dataclasses
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import RegistryUnavailable
from model.registry import Registry, StoredVersion
from model.state import Canary, Shadow, State, Traffic
from service import canary as canary_module
from service.canary import WINDOW_SECONDS, CanaryWatch
from service.hosted import HostedModel
from service.metrics import Metrics
from tests.publishers import publish_again

pytestmark = pytest.mark.anyio

CANARY = Canary(version=2, percent=10, max_error_rate=0.1, max_latency_ratio=2, min_requests=10)
SHADOW = Shadow(version=3, percent=5)


class Clock:
    """Stands in for the module `time`; stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclasses.dataclass
class Trial:
    """A canary on trial: its registry, its metrics and the watch."""

    registry: Registry
    metrics: Metrics
    watch: CanaryWatch
    clock: Clock

    @property
    def state(self) -> State:
        return self.registry.state("tiny")

    def put(self, canary: Canary | None) -> None:
        self.registry.change("tiny", lambda state: state.with_traffic(Traffic(canary=canary, shadow=SHADOW)))

    def answer(self, version: int, count: int = 10, *, status: int = 200, seconds: float = 0.01) -> None:
        """Note requests as the middleware does."""
        for _ in range(count):
            self.metrics.requests.labels("/predict", "tiny", str(version), str(status)).inc()
            self.metrics.request_seconds.labels("/predict", "tiny", str(version)).observe(seconds)

    async def check(self, *, production: int = 1, wanted: State | None = None) -> None:
        """Look once, as the process that follows the registry does."""
        state = wanted or self.state
        await self.watch.check([HostedModel("tiny", state, {"production": production})])

    def rollbacks(self) -> float:
        found = re.search(r"^hubel_canary_rollbacks_total{.*} (.*)$", self.metrics.exposition().decode(), re.MULTILINE)
        return float(found[1]) if found else 0


@pytest.fixture
def trial(tiny_root: Path, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch) -> Trial:
    clock = Clock()
    monkeypatch.setattr(canary_module, "time", clock)
    registry = Registry(tiny_root)
    publish_again(registry, tiny)
    metrics = Metrics()
    trial = Trial(registry, metrics, CanaryWatch(registry, metrics), clock)
    trial.put(CANARY)
    return trial


async def test_a_canary_with_errors_is_taken_out_and_the_state_says_why(
    trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    await trial.check()
    trial.answer(1, 90)
    trial.answer(2, 8)
    trial.answer(2, 2, status=500)
    await trial.check()
    assert trial.state.traffic == Traffic(shadow=SHADOW)
    assert trial.state.rolled_back is not None
    assert trial.state.rolled_back.version == 2
    assert "20.0% of its last 10 answers were errors" in trial.state.rolled_back.reason
    assert trial.state.aliases == {"production": 1}
    assert trial.rollbacks() == 1
    assert "canary tiny:2 was taken out" in caplog.text


async def test_a_slow_canary_is_taken_out(trial: Trial) -> None:
    await trial.check()
    trial.answer(1, seconds=0.01)
    trial.answer(2, seconds=0.03)
    await trial.check()
    assert trial.state.traffic.canary is None
    assert trial.state.rolled_back is not None
    assert "30.0 ms a request, production 10.0 ms" in trial.state.rolled_back.reason


async def test_a_canary_that_does_well_stays(trial: Trial) -> None:
    for _ in range(5):
        trial.answer(1, 50)
        trial.answer(2, 50)
        trial.answer(2, 2, status=404)  # the caller's fault
        await trial.check()
    assert (trial.state.traffic.canary, trial.state.rolled_back, trial.rollbacks()) == (CANARY, None, 0)


async def test_too_few_answers_say_nothing(trial: Trial) -> None:
    await trial.check()
    trial.answer(2, 9, status=500)
    await trial.check()
    assert trial.state.traffic.canary == CANARY


async def test_what_failed_before_the_trial_does_not_count(trial: Trial) -> None:
    trial.answer(2, 50, status=500)
    await trial.check()
    trial.answer(2, 20)
    await trial.check()
    assert trial.state.traffic.canary == CANARY


async def test_answers_add_up_over_many_looks(trial: Trial) -> None:
    for _ in range(5):
        await trial.check()
        assert trial.state.traffic.canary == CANARY
        trial.answer(2, 2, status=503)
        trial.clock.now += 5
    await trial.check()
    assert trial.state.traffic.canary is None


async def test_errors_older_than_the_window_do_not_count(trial: Trial) -> None:
    await trial.check()
    trial.answer(2, 9, status=500)
    for _ in range(4):
        await trial.check()
        trial.clock.now += WINDOW_SECONDS / 2
    trial.answer(2, 20)
    await trial.check()
    assert trial.state.traffic.canary == CANARY


async def test_errors_within_the_window_count_beside_later_answers(trial: Trial) -> None:
    await trial.check()
    trial.answer(2, 9, status=500)
    trial.clock.now += WINDOW_SECONDS / 2
    await trial.check()
    trial.answer(2, 20)
    await trial.check()
    assert trial.state.traffic.canary is None


async def test_looks_further_apart_than_the_window_still_judge(trial: Trial) -> None:
    await trial.check()
    trial.answer(2, 50, status=500)
    trial.clock.now += 100 * WINDOW_SECONDS
    await trial.check()
    assert trial.state.traffic.canary is None


@pytest.mark.parametrize("change", [{"percent": 20.0}, {"max_error_rate": 0.15}])
async def test_a_changed_canary_starts_anew(change: dict[str, float], trial: Trial) -> None:
    await trial.check()
    trial.answer(2, 9, status=500)
    trial.put(CANARY.model_copy(update=change))
    await trial.check()
    trial.answer(2, 20)
    await trial.check()
    assert trial.state.traffic.canary is not None


async def test_another_production_starts_the_trial_anew(trial: Trial) -> None:
    await trial.check(production=1)
    trial.answer(2, 9, status=500)
    await trial.check(production=3)
    trial.answer(2, 20)
    await trial.check(production=3)
    assert trial.state.traffic.canary == CANARY


async def test_a_canary_that_is_production_is_not_judged(trial: Trial) -> None:
    await trial.check(production=2)
    trial.answer(2, 50, status=500)
    await trial.check(production=2)
    assert trial.state.traffic.canary == CANARY


async def test_a_model_without_production_or_canary_is_left_alone(trial: Trial) -> None:
    trial.answer(2, 50, status=500)
    for model in (HostedModel("tiny"), HostedModel("tiny", State(traffic=Traffic(canary=CANARY)))):
        await trial.watch.check([model])
    assert trial.state.traffic.canary == CANARY


async def test_a_model_that_went_away_is_forgotten(trial: Trial) -> None:
    await trial.check()
    trial.answer(2, 50, status=500)
    await trial.watch.check([])
    await trial.check()
    assert trial.state.traffic.canary == CANARY


async def test_a_canary_is_counted_once_however_many_processes_see_it_fail(trial: Trial) -> None:
    wanted = trial.state
    other = CanaryWatch(trial.registry, trial.metrics)
    model = HostedModel("tiny", wanted, {"production": 1})
    await trial.check()
    await other.check([model])
    trial.answer(2, 50, status=500)
    await trial.check(wanted=wanted)
    await other.check([model])
    await trial.check(wanted=wanted)  # a process that has not looked at the registry since
    assert trial.rollbacks() == 1


async def test_a_canary_that_another_one_has_replaced_meanwhile_stays(trial: Trial) -> None:
    wanted = trial.state
    await trial.check()
    trial.answer(2, 50, status=500)
    replaced = CANARY.model_copy(update={"percent": 1.0})
    trial.put(replaced)
    await trial.check(wanted=wanted)
    assert (trial.state.traffic.canary, trial.state.rolled_back, trial.rollbacks()) == (replaced, None, 0)


def refuse(*arguments: object, **named: object) -> State:
    raise RegistryUnavailable("the disk is full")


async def test_a_registry_that_cannot_be_written_is_logged_once_and_tried_again_while_the_canary_stands_still(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = HostedModel("tiny", trial.state, {"production": 1})
    await trial.watch.check([model])
    assert model.suspended is None
    trial.answer(2, 50, status=500)
    with monkeypatch.context() as patch:
        patch.setattr(trial.registry, "change", refuse)
        for _ in range(3):
            await trial.watch.check([model])
            assert model.suspended == CANARY
            trial.answer(2, 500)  # by its number; what has failed is not given another chance
            trial.clock.now += 2 * WINDOW_SECONDS
    assert (trial.state.traffic.canary, trial.rollbacks()) == (CANARY, 0)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "cannot be taken out: the disk is full" in record.message
    await trial.watch.check([model])
    assert (trial.state.traffic.canary, trial.rollbacks()) == (None, 1)
    assert model.suspended == CANARY  # until this process has looked at the registry
    model.wanted = trial.state
    await trial.watch.check([model])
    assert model.suspended is None


async def test_a_failing_canary_stands_still_before_the_registry_is_changed(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = HostedModel("tiny", trial.state, {"production": 1})
    change, suspended = trial.registry.change, []

    def note(name: str, how: Callable[[State], State]) -> State:
        suspended.append(model.suspended)
        return change(name, how)

    monkeypatch.setattr(trial.registry, "change", note)
    await trial.watch.check([model])
    trial.answer(2, 50, status=500)
    await trial.watch.check([model])
    assert suspended == [CANARY]


@pytest.mark.parametrize("change", [{"version": 3}, {"percent": 20.0}, {"max_error_rate": 1.0}])
async def test_a_changed_canary_is_asked_again(
    change: dict[str, float], trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = HostedModel("tiny", trial.state, {"production": 1})
    monkeypatch.setattr(trial.registry, "change", refuse)
    await trial.watch.check([model])
    trial.answer(2, 50, status=500)
    await trial.watch.check([model])
    assert model.suspended == CANARY
    model.wanted = State(traffic=Traffic(canary=CANARY.model_copy(update=change)))
    await trial.watch.check([model])
    assert model.suspended is None


async def test_looks_between_two_answers_do_not_add_up(trial: Trial) -> None:
    for count in (1, 2, 3):
        for _ in range(100):
            trial.answer(1, 1)
            await trial.check()
            trial.clock.now += WINDOW_SECONDS / 10
        assert len(trial.watch._trials["tiny"].seen) == count
        trial.answer(2, 1)


async def test_a_canary_that_was_asked_nothing_is_compared_with_production_of_the_same_time(trial: Trial) -> None:
    """Errors of `production` from before the canary's answers do not excuse the canary's."""
    await trial.check()
    trial.answer(1, 1000, status=500)
    trial.clock.now += 100 * WINDOW_SECONDS
    await trial.check()
    trial.answer(1, 50)
    trial.answer(2, 50, status=500)
    await trial.check()
    assert trial.state.traffic.canary is None
