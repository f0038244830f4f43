"""The arithmetic of the stages: nothing that the service has used is lost or counted twice."""

import pytest

from benchmarks.stages import STAGES, Profile, Reading, measure_json

BEFORE = Reading(
    at=50.0,
    service=10.0,
    loops=2.0,
    decode_on_loops=0.0,
    decode_elsewhere=1.0,
    generator=1.0,
    machine=100.0,
    clocks=dict.fromkeys(STAGES, 0.0),
    requests=5.0,
    images=0.0,
    batches=0.0,
)
AFTER = Reading(
    at=54.0,
    service=18.0,
    loops=3.5,
    decode_on_loops=0.5,
    decode_elsewhere=2.0,
    generator=3.0,
    machine=112.0,
    clocks={"decode": 2.0, "queue": 4.0, "inference": 6.0},
    requests=505.0,
    images=1000.0,
    batches=250.0,
)


def test_stages_add_up_to_what_the_service_has_used() -> None:
    profile = Profile.between(BEFORE, AFTER, json_ms=0.25, images_per_request=2)
    assert 500 * profile.service_ms == pytest.approx(8000.0)
    assert (profile.json_ms, profile.decode_ms, profile.forward_ms) == pytest.approx((0.25, 3.0, 11.0))
    assert profile.http_ms == pytest.approx(2 * (1.5 - 0.5) - 0.25)
    assert profile.generator_ms == pytest.approx(4.0)
    assert profile.others_cores == pytest.approx((12.0 - 8.0 - 2.0) / 4.0)
    assert profile.clocks_ms == pytest.approx({"decode": 2.0, "queue": 4.0, "inference": 6.0})
    assert profile.images_per_batch == 4.0


def test_writing_an_answer_takes_time() -> None:
    answer = b'{"model":"a","version":1,"calibrated":true,"results":[{"predictions":[]}]}'
    assert measure_json(answer) > 0
