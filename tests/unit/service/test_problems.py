import json

from model.errors import ImageTooLarge, InvalidImage, Limit, ModelError
from service.errors import QueueFull, ServiceError
from service.problems import TABLE, problem_of
from service.settings import Settings


def descendants(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))


def test_every_error_has_a_row_and_every_row_an_error() -> None:
    assert set(TABLE) == descendants(ModelError) | descendants(ServiceError)


def test_no_two_problems_of_the_caller_s_share_a_type() -> None:
    slugs = [row.slug for row in TABLE.values() if row.slug != "internal-error"]
    assert len(slugs) == len(set(slugs))


def test_a_limit_is_told_with_its_value_and_its_setting() -> None:
    problem = problem_of(ImageTooLarge("too many pixels", Limit("max_image_pixels", 5)))
    assert (problem.status, problem.limit, problem.value) == (413, "max_image_pixels", 5)
    assert problem.setting == "HUBEL_MAX_IMAGE_PIXELS"


def test_every_limit_has_a_setting() -> None:
    for limit in (
        "max_image_pixels",
        "max_image_aspect_ratio",
        "max_body_bytes",
        "max_images_per_request",
        "max_queue_size",
        "request_timeout_ms",
    ):
        assert limit in Settings.model_fields
        assert problem_of(QueueFull("full", Limit(limit, 1), 1)).setting == f"HUBEL_{limit.upper()}"


def test_faults_of_ours_do_not_tell_their_cause() -> None:
    for kind, row in TABLE.items():
        if row.status == 500:
            assert "secret" not in problem_of(kind("secret")).detail


def test_a_problem_without_a_limit_does_not_speak_of_one() -> None:
    body = json.loads(problem_of(InvalidImage("no")).model_dump_json(exclude_none=True))
    assert body == {
        "type": "urn:hubel:problem:invalid-image",
        "title": "Not an image that can be read",
        "status": 422,
        "detail": "no",
    }
