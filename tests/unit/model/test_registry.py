from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model.checkpoint import MANIFEST
from model.errors import (
    AliasNotFound,
    CorruptCheckpoint,
    InvalidReference,
    ModelNotFound,
    RegistryUnavailable,
    VersionNotFound,
)
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from tests.publishers import publish_again


def test_versions_are_numbered_and_the_first_becomes_production(tiny_root: Path, tiny: StoredVersion) -> None:
    registry = Registry(tiny_root)
    assert publish_again(registry, tiny).number == 2
    assert registry.numbers("tiny") == [1, 2]
    assert registry.version(ModelRef.parse("tiny")).number == 1
    assert registry.names() == ["tiny"]


def test_an_alias_moves_when_it_is_told(tiny_root: Path, tiny: StoredVersion) -> None:
    registry = Registry(tiny_root)
    publish_again(registry, tiny, alias="canary")
    assert registry.version(ModelRef.parse("tiny@canary")).number == 2
    registry.promote(ModelRef.parse("tiny@canary"))
    assert registry.state("tiny").aliases == {"production": 2, "canary": 2}


def test_a_published_version_can_be_read_by_other_users(tiny: StoredVersion) -> None:
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in [tiny.folder, *tiny.folder.iterdir()])


def test_publishers_at_the_same_time_lose_no_version(tiny_root: Path, tiny: StoredVersion) -> None:
    registry = Registry(tiny_root)
    with ThreadPoolExecutor(8) as pool:
        numbers = [f.number for f in pool.map(lambda _: publish_again(registry, tiny), range(16))]
    assert sorted(numbers) == list(range(2, 18))
    assert registry.state("tiny").aliases == {"production": 1}


def test_aliases_that_change_at_the_same_time_are_all_kept(tiny_root: Path) -> None:
    registry = Registry(tiny_root)
    names = [f"alias-{number}" for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: registry.promote(ModelRef.parse("tiny"), name), names))
    assert set(registry.state("tiny").aliases) == {"production", *names}


def test_a_folder_without_a_manifest_is_no_version(tiny_root: Path, tiny: StoredVersion) -> None:
    registry = Registry(tiny_root)
    second = publish_again(registry, tiny)
    (second.folder / MANIFEST).unlink()
    assert registry.numbers("tiny") == [1]
    assert publish_again(registry, tiny).number == 3


def test_a_version_that_a_list_misses_is_found_by_its_number(
    tiny_root: Path, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tiny_root)
    publish_again(registry, tiny)
    monkeypatch.setattr(registry._store, "_listed", lambda _: [1])
    assert registry.version(ModelRef.parse("tiny:2")).number == 2
    with pytest.raises(VersionNotFound, match=r"has no version 3; it has 1$"):
        registry.version(ModelRef.parse("tiny:3"))


def test_a_listed_version_whose_manifest_is_broken_is_told(tiny_root: Path, tiny: StoredVersion) -> None:
    (tiny.folder / MANIFEST).write_text("{}")
    with pytest.raises(CorruptCheckpoint, match=r"tiny/1/manifest\.json is not a manifest"):
        Registry(tiny_root).version(ModelRef.parse("tiny:1"))


def test_only_names_lead_to_versions(tiny_root: Path) -> None:
    with pytest.raises(ModelNotFound):
        Registry(tiny_root / "tiny").version(ModelRef("../tiny", version=1))


def test_a_state_that_was_lost_makes_no_new_version_production(tiny_root: Path, tiny: StoredVersion) -> None:
    registry = Registry(tiny_root)
    (tiny_root / "tiny" / "state.json").unlink()
    publish_again(registry, tiny)
    assert registry.state("tiny").aliases == {}
    publish_again(registry, tiny, alias="production")
    assert registry.state("tiny").aliases == {"production": 3}


def test_a_publication_that_fails_leaves_nothing(tiny_root: Path) -> None:
    registry = Registry(tiny_root)
    before = sorted(path.name for path in (tiny_root / "tiny").iterdir())
    with pytest.raises(ZeroDivisionError), registry.staging("tiny") as folder:
        (folder / "half").write_text(str(1 / 0))
    assert sorted(path.name for path in (tiny_root / "tiny").iterdir()) == before


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("dogs", ModelNotFound, "there is no model 'dogs'; the registry .* has tiny"),
        ("tiny:9", VersionNotFound, "has no version 9; it has 1"),
        ("tiny@canary", AliasNotFound, "has no alias 'canary'; it has production"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    text: str, error: type[Exception], message: str, tiny_root: Path
) -> None:
    with pytest.raises(error, match=message):
        Registry(tiny_root).version(ModelRef.parse(text))


def test_a_missing_registry_says_how_to_fill_one(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable, match=r"hubel setup.*HUBEL_REGISTRY"):
        Registry(tmp_path / "nowhere").names()


def test_aliases_that_cannot_be_read_are_an_error_not_an_empty_list(tiny_root: Path) -> None:
    (tiny_root / "tiny" / "state.json").write_text('{"aliases": {"production": "one"}}')
    with pytest.raises(CorruptCheckpoint, match=r"state\.json"):
        Registry(tiny_root).version(ModelRef.parse("tiny"))


@pytest.mark.parametrize("alias", ["7", "", "a b", "../x"])
def test_what_cannot_be_an_alias_is_refused(alias: str, tiny_root: Path) -> None:
    with pytest.raises(InvalidReference):
        Registry(tiny_root).promote(ModelRef.parse("tiny"), alias)


def test_files_that_are_no_models_are_passed_over(tiny_root: Path) -> None:
    (tiny_root / "lost+found").mkdir()
    (tiny_root / "README").write_text("mine")
    assert Registry(tiny_root).names() == ["tiny"]
