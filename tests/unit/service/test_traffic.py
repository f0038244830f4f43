import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.state import Canary
from service.traffic import Totals, falls_to, judge

CALLERS = [f"caller-{number}" for number in range(10_000)]
CANARY = Canary(version=2, percent=10, max_error_rate=0.1, max_latency_ratio=2, min_requests=10)
WHO = st.text(max_size=40)
PERCENT = st.floats(0, 100)


def canary_share(percent: float, who: str) -> bool:
    return falls_to(percent, "tiny", 2, who, "canary")


@pytest.mark.parametrize("purpose", ["canary", "shadow"])
@pytest.mark.parametrize("percent", [1, 10, 50])
def test_a_share_is_as_large_as_it_says(percent: float, purpose: str) -> None:
    taken = sum(falls_to(percent, "tiny", 2, who, purpose) for who in CALLERS)
    assert taken / len(CALLERS) == pytest.approx(percent / 100, rel=0.1, abs=0.003)


def test_nobody_falls_to_nothing_and_everybody_to_all() -> None:
    assert not any(canary_share(0, who) for who in CALLERS)
    assert all(canary_share(100, who) for who in CALLERS)


def test_a_tenth_of_a_percent_is_not_nothing() -> None:
    assert 1 <= sum(canary_share(0.1, who) for who in CALLERS) <= 30


@given(PERCENT, WHO)
def test_the_same_caller_is_always_on_the_same_side(percent: float, who: str) -> None:
    assert len({canary_share(percent, who) for _ in range(3)}) == 1


@given(PERCENT, PERCENT, WHO)
def test_raising_the_percentage_moves_nobody_back(one: float, other: float, who: str) -> None:
    assert canary_share(min(one, other), who) <= canary_share(max(one, other), who)


def test_canary_and_shadow_do_not_depend_on_one_another() -> None:
    both = sum(canary_share(30, who) and falls_to(30, "tiny", 2, who, "shadow") for who in CALLERS)
    assert both / len(CALLERS) == pytest.approx(0.09, abs=0.01)


def test_another_version_or_model_has_other_callers() -> None:
    for model, version in (("tiny", 3), ("other", 2)):
        both = sum(canary_share(30, who) and falls_to(30, model, version, who, "canary") for who in CALLERS)
        assert both / len(CALLERS) == pytest.approx(0.09, abs=0.01)


@pytest.mark.parametrize(
    ("canary", "production", "reason"),
    [
        (Totals(), Totals(), ""),
        (Totals(100, 0, 1), Totals(100, 0, 1), ""),
        (Totals(9, 9, 0.1), Totals(100, 0, 1), ""),  # too few to judge
        (Totals(10, 1, 0.1), Totals(100, 0, 1), ""),  # at the bound
        (
            Totals(100, 11, 1),
            Totals(100, 0, 1),
            "11.0% of its last 100 answers were errors, of those of production 0.0%",
        ),
        (Totals(100, 15, 1), Totals(100, 5, 1), ""),  # at the bound above what production has
        (Totals(100, 16, 1), Totals(100, 5, 1), "of those of production 5.0%; max_error_rate is 10.0% more"),
        (Totals(10, 2, 0.1), Totals(), "20.0% of its last 10 answers"),  # errors need no production to compare with
        (Totals(100, 0, 2), Totals(100, 0, 1), ""),  # at the bound
        (Totals(100, 0, 2.1), Totals(100, 0, 1), "took 21.0 ms a request, production 10.0 ms; max_latency_ratio is 2"),
        (Totals(100, 0, 900), Totals(9, 0, 0.1), ""),  # production has answered too little
        (Totals(100, 0, 900), Totals(), ""),
    ],
)
def test_a_canary_fails_above_a_bound_and_not_before_enough_is_known(
    canary: Totals, production: Totals, reason: str
) -> None:
    found = judge(CANARY, canary, production)
    assert (reason in found, bool(found)) == (True, bool(reason))


def test_errors_at_all_can_be_forbidden_or_allowed() -> None:
    none = CANARY.model_copy(update={"max_error_rate": 0.0})
    every = CANARY.model_copy(update={"max_error_rate": 1.0})
    assert judge(none, Totals(1000, 1, 1), Totals())
    assert not judge(every, Totals(10, 10, 1), Totals())


def test_totals_since_a_moment_are_what_came_after_it() -> None:
    assert Totals(10, 3, 2.5).since(Totals(4, 1, 0.5)) == Totals(6, 2, 2.0)


COUNTS = st.floats(0, 1e9)


@given(st.builds(Totals, COUNTS, COUNTS, COUNTS), st.builds(Totals, COUNTS, COUNTS, COUNTS))
def test_a_worker_that_ended_takes_nothing_below_zero(now: Totals, earlier: Totals) -> None:
    since = now.since(earlier)
    assert min(since.requests, since.failed, since.seconds) >= 0


def test_without_a_request_the_mean_is_nothing() -> None:
    assert Totals(0, 0, 5).mean_seconds == 0
    assert Totals(4, 0, 2).mean_seconds == 0.5
