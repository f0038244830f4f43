"""`hubel models`: what each command says, what it refuses and leaves as it was, how it exits."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubel import main
from model.checkpoint import MANIFEST, NETWORK
from model.registry import Registry, StoredVersion
from model.state import Canary, DiffRecord, PromotionRule, RolledBack, Shadow, Traffic
from model.types import ModelRef
from tests.command import hubel
from tests.fakes import tiny_release
from tests.publishers import publish_again
from tests.unit.model.test_state import NOW
from training.publish import publish


@pytest.fixture
def registry(tiny_root: Path, tiny: StoredVersion) -> Registry:
    """A registry with three versions, of which the first is `production` and the third cannot be loaded."""
    registry = Registry(tiny_root)
    publish_again(registry, tiny)
    (publish_again(registry, tiny).folder / NETWORK).write_bytes(b"broken")
    return registry


class Models:
    """Runs `hubel models` in this process, which takes a hundredth of the time; nobody answers what it asks."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capture = capture

    def __call__(self, registry: Registry, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["hubel", "models", *arguments]
        with self._patch.context() as patch:
            for name in [name for name in os.environ if name.startswith("HUBEL_")]:
                patch.delenv(name)
            patch.setenv("HUBEL_REGISTRY", registry.address)
            patch.setattr(sys, "argv", command)
            patch.setattr(sys, "stdin", io.StringIO())
            with pytest.raises(SystemExit) as ended:
                main()
        output, errors = self._capture.readouterr()
        return subprocess.CompletedProcess(command, int(ended.value.code or 0), output, errors)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    return Models(monkeypatch, capsys)


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that a command ended with 2, said why, and said nothing else."""
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in " ".join(result.stderr.replace("│", " ").split())


def test_promoting_moves_an_alias_and_says_so(registry: Registry, models: Models) -> None:
    assert models(registry, "promote", "tiny:2", "--alias", "trial").stdout == "tiny@trial is now version 2\n"
    result = hubel("models", "promote", "tiny@trial", "--registry", registry.address)
    assert (result.returncode, result.stdout) == (0, "tiny@production is now version 2\n")
    assert registry.state("tiny").aliases == {"production": 2, "trial": 2}


def test_a_version_that_does_not_load_gets_neither_alias_nor_traffic(registry: Registry, models: Models) -> None:
    before = registry.state("tiny")
    for arguments in (
        ("promote", "tiny:3"),
        ("traffic", "tiny", "--canary", "3"),
        ("traffic", "tiny", "--shadow", "3"),
    ):
        assert_refused(models(registry, *arguments), NETWORK)
    assert registry.state("tiny") == before


def test_a_version_that_may_not_be_promoted_is_not_loaded_first(registry: Registry, models: Models) -> None:
    registry.set_promotion_rule("tiny", PromotionRule(min_agreement=0.9))
    assert_refused(models(registry, "promote", "tiny:3"), "not compared with version 1", "hubel models diff")


def test_rolling_back_says_where_it_came_to_and_stops_at_the_first(registry: Registry, models: Models) -> None:
    registry.promote(ModelRef.parse("tiny:2"))
    result = models(registry, "rollback", "tiny")
    assert (result.returncode, result.stdout) == (0, "tiny@production is version 1 again\n")
    assert_refused(models(registry, "rollback", "tiny"), "'production' has meant no version before 1")
    assert_refused(models(registry, "rollback", "tiny", "--alias", "trial"), "no alias 'trial'; there is production")
    assert_refused(models(registry, "rollback", "dogs"), "no model 'dogs'")
    assert registry.state("tiny").aliases == {"production": 1}


def test_rolling_back_to_what_does_not_load_changes_nothing(registry: Registry, models: Models) -> None:
    registry.change("tiny", lambda state: state.with_alias("production", 3).with_alias("production", 2))
    assert_refused(models(registry, "rollback", "tiny"), NETWORK)
    assert registry.state("tiny").aliases == {"production": 2}


def test_removing_asks_first_and_then_the_number_is_never_given_again(
    registry: Registry, models: Models, tiny: StoredVersion
) -> None:
    asked = models(registry, "remove", "tiny:3")  # nobody answers
    assert (asked.returncode, "tiny:3" in asked.stdout, "for good?" in asked.stdout) == (1, True, True)
    assert registry.numbers("tiny") == [1, 2, 3]
    result = models(registry, "remove", "tiny:3", "--yes")
    assert (result.returncode, result.stdout) == (0, "tiny:3 is removed\n")
    assert_refused(models(registry, "remove", "tiny:3", "--yes"), "has no version 3; it has 1, 2")
    assert publish_again(registry, tiny).number == 4


def test_a_version_in_use_is_not_removed_and_its_user_is_named(registry: Registry, models: Models) -> None:
    registry.change("tiny", lambda state: state.with_traffic(Traffic(canary=Canary(version=2, percent=1))))
    assert_refused(models(registry, "remove", "tiny", "--yes"), "version 1 is in use by alias 'production'")
    assert_refused(models(registry, "remove", "tiny:2", "--yes"), "version 2 is in use by the traffic")
    assert registry.numbers("tiny") == [1, 2, 3]


def test_traffic_is_divided_shown_and_ended(registry: Registry, models: Models) -> None:
    result = models(
        registry, "traffic", "tiny", "--canary", "2", "--percent", "5", "--header", "X-Tenant",
        "--max-error-rate", "0.2", "--max-latency-ratio", "1.5", "--shadow", "2",
    )  # fmt: skip
    told = "production: version 1\ncanary: version 2, 5 % by X-Tenant or the request's id\nshadow: version 2, 10 %\n"
    assert (result.returncode, result.stdout) == (0, told)
    canary = Canary(version=2, percent=5, header="X-Tenant", max_error_rate=0.2, max_latency_ratio=1.5)
    assert registry.state("tiny").traffic == Traffic(canary=canary, shadow=Shadow(version=2, percent=10))
    assert models(registry, "traffic", "tiny").stdout == told
    kept = models(registry, "traffic", "tiny", "--shadow", "2", "--shadow-percent", "0")
    assert registry.state("tiny").traffic == Traffic(canary=canary, shadow=Shadow(version=2, percent=0)), kept.stderr
    assert models(registry, "traffic", "tiny", "--end").stdout == "production: version 1\n"
    assert registry.state("tiny").traffic == Traffic()


def test_a_larger_share_leaves_the_rest_of_a_canary_and_a_shadow_as_they_are(
    registry: Registry, models: Models
) -> None:
    models(
        registry, "traffic", "tiny", "--canary", "2", "--header", "X-Tenant", "--max-error-rate", "0.01",
        "--max-latency-ratio", "2", "--min-requests", "7", "--shadow", "2", "--shadow-percent", "25",
    )  # fmt: skip
    canary = Canary(version=2, percent=10, header="X-Tenant", max_error_rate=0.01, max_latency_ratio=2, min_requests=7)
    shadow = Shadow(version=2, percent=25)
    assert registry.state("tiny").traffic == Traffic(canary=canary, shadow=shadow)
    models(registry, "traffic", "tiny", "--canary", "2", "--percent", "50", "--shadow", "2")
    larger = canary.model_copy(update={"percent": 50})
    assert registry.state("tiny").traffic == Traffic(canary=larger, shadow=shadow)
    models(registry, "traffic", "tiny", "--canary", "2", "--max-error-rate", "0.2")
    bound = larger.model_copy(update={"max_error_rate": 0.2})
    assert registry.state("tiny").traffic == Traffic(canary=bound, shadow=shadow)
    models(registry, "traffic", "tiny", "--end", "--canary", "2")
    assert registry.state("tiny").traffic == Traffic(canary=Canary(version=2, percent=10))


def test_another_canary_and_shadow_begin_with_the_defaults(
    registry: Registry, models: Models, tiny: StoredVersion
) -> None:
    before = Traffic(
        canary=Canary(version=2, percent=50, header="X-Tenant", max_error_rate=0.01, min_requests=7),
        shadow=Shadow(version=2, percent=50),
    )
    registry.change("tiny", lambda state: state.with_traffic(before))
    publish_again(registry, tiny)
    models(registry, "traffic", "tiny", "--canary", "4", "--shadow", "4")
    traffic = Traffic(canary=Canary(version=4, percent=10), shadow=Shadow(version=4, percent=10))
    assert registry.state("tiny").traffic == traffic


def test_a_canary_that_was_taken_out_is_shown_with_its_reason(registry: Registry, models: Models) -> None:
    failed = RolledBack(version=2, reason="it was slow", at=NOW)
    registry.change("tiny", lambda state: state.model_copy(update={"rolled_back": failed}))
    assert "taken out at 2026-01-31 12:00:00: version 2: it was slow\n" in models(registry, "traffic", "tiny").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--canary", "9"], ["has no version 9; it has 1, 2, 3"]),
        (["--canary", "1"], ["version 1 is production already"]),
        (["--shadow", "1"], ["version 1 is production already"]),
        (["--percent", "50"], ["--percent goes with --canary"]),
        (["--header", "X-Tenant"], ["--header"]),
        (["--shadow-percent", "50"], ["--shadow-percent with --shadow"]),
        (["--canary", "2", "--min-requests", "0"], ["--min-requests"]),
        (["--canary", "2", "--percent", "101"], ["--percent"]),
        (["--canary", "2", "--percent", "nan"], ["--percent"]),
        (["--canary", "2", "--header", "X Y"], ["--header", "should match pattern"]),
        (["--canary", "2", "--max-latency-ratio", "inf"], ["--max-latency-ratio", "finite"]),
    ],
)
def test_traffic_that_makes_no_sense_is_refused(
    arguments: list[str], words: list[str], registry: Registry, models: Models
) -> None:
    assert_refused(models(registry, "traffic", "tiny", *arguments), *words)
    assert registry.state("tiny").traffic == Traffic()


def test_protecting_asks_for_a_diff_before_production_moves(registry: Registry, models: Models) -> None:
    result = models(registry, "protect", "tiny", "--min-agreement", "0.95", "--min-images", "50")
    told = "tiny@production asks for a diff with an agreement of 95.0% on 50 images or more before it moves\n"
    assert (result.returncode, result.stdout) == (0, told)
    assert registry.state("tiny").promotion == PromotionRule(min_agreement=0.95, min_images=50)
    registry.record_diff("tiny", DiffRecord(baseline=1, candidate=2, images=49, agreement=1, created=NOW))
    assert_refused(models(registry, "promote", "tiny:2"), "on 49 images", "50 images or more")
    registry.record_diff("tiny", DiffRecord(baseline=1, candidate=2, images=50, agreement=0.95, created=NOW))
    assert models(registry, "promote", "tiny:2").stdout == "tiny@production is now version 2\n"
    off = models(registry, "protect", "tiny", "--off")
    assert off.stdout == "tiny@production asks for no diff before it moves\n"
    assert registry.state("tiny").promotion is None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["tiny"], "--min-agreement, with or without --min-images, or --off"),
        (["tiny", "--off", "--min-agreement", "1"], "--min-agreement, with or without --min-images, or --off"),
        (["tiny", "--off", "--min-images", "5"], "--min-images"),
        (["tiny", "--min-agreement", "nan"], "--min-agreement"),
        (["dogs", "--off"], "no model 'dogs'"),
    ],
)
def test_protection_that_makes_no_sense_is_refused(
    arguments: list[str], word: str, registry: Registry, models: Models
) -> None:
    assert_refused(models(registry, "protect", *arguments), word)


def test_versions_are_listed_with_their_aliases_and_shown(registry: Registry, models: Models) -> None:
    rows = json.loads(models(registry, "list", "--json").stdout)
    assert [(row["model"], row["version"], row["aliases"]) for row in rows] == [
        ("tiny", 1, ["production"]),
        ("tiny", 2, []),
        ("tiny", 3, []),
    ]
    table = models(registry, "list")
    assert (table.returncode, "production" in table.stdout) == (0, True)
    shown = models(registry, "show", "tiny:2")
    assert ("tiny:2 in" in shown.stdout, "tiny network" in shown.stdout) == (True, True)
    manifest = json.loads(models(registry, "show", "tiny", "--json").stdout)
    assert manifest["labels"] == ["ant", "bee", "cow"]


def test_the_list_tells_shares_of_the_traffic(registry: Registry, models: Models) -> None:
    assert models(registry, "traffic", "tiny", "--canary", "2", "--percent", "12.5").returncode == 0
    rows = json.loads(models(registry, "list", "--json").stdout)
    assert [row["traffic"] for row in rows] == [[], ["12.5 % canary"], []]
    assert "12.5 % canary" in " ".join(models(registry, "list").stdout.split())


def test_an_alias_is_taken_away_but_not_production(registry: Registry, models: Models) -> None:
    models(registry, "promote", "tiny:2", "--alias", "trial")
    assert models(registry, "unalias", "tiny@trial").stdout == "tiny@trial is no alias any more\n"
    assert registry.state("tiny").aliases == {"production": 1}
    assert_refused(models(registry, "unalias", "tiny@trial"), "no alias 'trial'")
    assert_refused(models(registry, "unalias", "tiny@production"), "cannot be taken away")
    assert_refused(models(registry, "unalias", "tiny:2"), "write name@alias")
    assert_refused(models(registry, "unalias", "dogs@trial"), "there is no model 'dogs'")


def test_the_last_version_goes_only_by_its_own_option_and_its_model_with_it(registry: Registry, models: Models) -> None:
    assert models(registry, "remove", "tiny:3", "--yes").returncode == 0
    assert_refused(models(registry, "remove", "tiny:1", "--yes", "--last"), "in use by alias 'production'")
    assert models(registry, "remove", "tiny:2", "--yes").returncode == 0
    assert_refused(models(registry, "remove", "tiny:1", "--yes"), "in use by alias 'production'")
    assert models(registry, "remove", "tiny:1", "--yes", "--last").returncode == 0
    assert registry.names() == []
    assert publish(registry, tiny_release()).number == 4
    assert registry.state("tiny").aliases == {"production": 4}


def test_what_is_broken_does_not_hide_the_others_and_ends_with_1(registry: Registry, models: Models) -> None:
    (Path(registry.address) / "tiny" / "2" / MANIFEST).write_text("{}")
    result = models(registry, "list", "--json")
    first, broken, third = json.loads(result.stdout)
    assert (result.returncode, first["error"], third["error"]) == (1, "", "")
    assert "manifest.json is not a manifest" in broken["error"]
    (Path(registry.address) / "tiny" / "state.json").write_text("{")
    result = models(registry, "list", "--json")
    assert result.returncode == 1
    assert all("state.json is not understood" in row["error"] for row in json.loads(result.stdout)[:1])
    assert_refused(models(registry, "promote", "tiny:1"), "state.json is not understood")
