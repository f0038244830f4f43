"""The OpenAPI document with more requests than the default run has time for."""

from pathlib import Path

import pytest

from tests.conformance import ADMIN_KEY, API_KEY, try_document


@pytest.mark.parametrize("keys", [ADMIN_KEY, API_KEY], ids=["admin key", "API key"])
def test_every_answer_is_as_documented(keys: dict[str, str], tiny_root: Path) -> None:
    findings = try_document(tiny_root, max_examples=40, seed=2, **keys)
    print(f"{findings.answers.total()} answers: {dict(sorted(findings.answers.items()))}")
    assert not findings.defects, str(findings)
