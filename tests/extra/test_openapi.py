"""The OpenAPI document with more requests than the default run has time for."""

from pathlib import Path

import pytest

from tests.conformance import ADMIN_KEY, API_KEY, try_document


@pytest.mark.parametrize("keys", [ADMIN_KEY, API_KEY], ids=["admin key", "API key"])
@pytest.mark.parametrize("seed", [2, 3])
def test_every_answer_is_as_documented(seed: int, keys: dict[str, str], tiny_root: Path) -> None:
    findings = try_document(tiny_root, max_examples=100, seed=seed, **keys)
    print(f"{findings.answers.total()} answers: {dict(sorted(findings.answers.items()))}")
    assert not findings.defects, str(findings)
