"""What docs/security.md claims, held to the tests and settings that there are."""

import re
from pathlib import Path

import pytest

from service.settings import Settings, variable_of

_HEAD = 2  # lines


@pytest.fixture
def text(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "docs" / "security.md").read_text()


def rows(text: str) -> list[list[str]]:
    """Return the cells of the table's rows."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[_HEAD:]]


def test_every_threat_has_a_defence_and_a_test_that_exists(text: str, pytestconfig: pytest.Config) -> None:
    found = rows(text)
    assert len(found) > 30
    assert len({threat for threat, *_ in found}) == len(found)
    for threat, defence, proofs in found:
        assert defence, threat
        named = re.findall(r"`([^`]+)::(\w+)`", proofs)
        assert named, threat
        assert ", ".join(f"`{file}::{name}`" for file, name in named) == proofs
        for file, name in named:
            assert name in names_in(pytestconfig.rootpath / "tests" / file), (threat, name)


def names_in(path: Path) -> set[str]:
    """Return the names of a file's tests."""
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.M))


def test_the_settings_that_it_names_exist(text: str) -> None:
    named = set(re.findall(r"HUBEL_[A-Z_]+", text))
    assert named
    assert named <= {variable_of(field) for field in Settings.model_fields}


def test_links_between_the_documents_lead_somewhere(pytestconfig: pytest.Config) -> None:
    root = pytestconfig.rootpath
    for document in (root / "README.md", *(root / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), (document.name, target)


def test_the_readme_leads_here(pytestconfig: pytest.Config) -> None:
    assert "(docs/security.md)" in (pytestconfig.rootpath / "README.md").read_text()
