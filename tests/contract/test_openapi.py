"""Every answer is one that the OpenAPI document tells of, whatever is asked."""

from pathlib import Path

from tests.conformance import ADMIN_KEY, try_document


def test_every_answer_is_as_documented(tiny_root: Path) -> None:
    findings = try_document(tiny_root, max_examples=8, seed=1, **ADMIN_KEY)
    assert not findings.defects, str(findings)
    assert findings.answers[200] > 50
