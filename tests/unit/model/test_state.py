import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model.errors import (
    AliasNotFound,
    CorruptCheckpoint,
    InvalidReference,
    NothingToRollBack,
    PromotionRefused,
    StateConflict,
    VersionInUse,
    VersionNotFound,
)
from model.state import Canary, DiffRecord, PromotionRule, RolledBack, Shadow, State, Traffic, parse_state, write_state

NOW = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
CANARY = Canary(version=2, percent=10)
SHADOW = Shadow(version=3, percent=50)


def after(*numbers: int, alias: str = "production") -> State:
    """The state after an alias was moved to one version after another."""
    state = State()
    for number in numbers:
        state = state.with_alias(alias, number)
    return state


def diff(agreement: float = 1.0, *, baseline: int = 1, candidate: int = 2, images: int = 100) -> DiffRecord:
    return DiffRecord(baseline=baseline, candidate=candidate, images=images, agreement=agreement, created=NOW)


def protected(*diffs: DiffRecord, **rule: float) -> State:
    """Version 1 is `production`, and a diff is asked for."""
    state = after(1).model_copy(update={"promotion": PromotionRule.model_validate({"min_agreement": 0.9, **rule})})
    for record in diffs:
        state = state.with_diff(record)
    return state


# ---- aliases


def test_the_first_version_becomes_production_and_the_second_does_not() -> None:
    assert State().with_version(4, None, first=False) == State()
    state = State().with_version(1, None).with_version(2, None)
    assert state.aliases == {"production": 1}


def test_a_first_version_with_another_alias_becomes_production_too() -> None:
    assert State().with_version(1, "trial").aliases == {"production": 1, "trial": 1}


def test_a_published_version_takes_the_alias_that_it_was_given() -> None:
    state = after(1).with_version(2, "production")
    assert (state.aliases, state.previous) == ({"production": 2}, {"production": (1,)})


def test_publishing_does_not_go_round_the_promotion_rule() -> None:
    with pytest.raises(PromotionRefused):
        protected().with_version(2, "production")
    assert protected().with_version(2, "trial").aliases == {"production": 1, "trial": 2}


@pytest.mark.parametrize("alias", ["7", "", "Big", "a/b", "a" * 65])
def test_what_cannot_be_an_alias_is_refused(alias: str) -> None:
    with pytest.raises(InvalidReference):
        after(1).with_alias(alias, 1)


def test_an_alias_does_not_move_to_a_removed_version() -> None:
    with pytest.raises(VersionNotFound, match="version 2 was removed"):
        after(1).without_version(2).with_alias("trial", 2)


def test_a_change_leaves_the_state_before_as_it_was() -> None:
    state = after(1)
    state.with_alias("production", 2).with_loaded(3, wanted=True)
    assert state == after(1)


def test_an_alias_is_taken_away_and_the_others_stay() -> None:
    state = after(1, 2).with_alias("trial", 2).without_alias("trial")
    assert (state.aliases, state.previous) == ({"production": 2}, {"production": (1,)})


def test_an_alias_that_comes_back_has_no_past() -> None:
    state = after(1, 2, alias="trial").with_alias("production", 1).without_alias("trial").with_alias("trial", 3)
    with pytest.raises(NothingToRollBack):
        state.rolled_back_to_previous("trial")


def test_production_cannot_be_taken_away() -> None:
    with pytest.raises(VersionInUse, match="'production' cannot be taken away"):
        after(1).without_alias("production")


def test_an_alias_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(AliasNotFound, match="no alias 'trial'; there is production"):
        after(1).without_alias("trial")
    with pytest.raises(AliasNotFound, match="no alias 'trial'; there is none"):
        State().rolled_back_to_previous("trial")


# ---- back


def test_rolling_back_goes_back_one_version_at_a_time_and_then_no_further() -> None:
    state = after(1, 2, 3, 4)
    seen = []
    for _ in range(3):
        state = state.rolled_back_to_previous("production")
        seen.append(state.aliases["production"])
    assert seen == [3, 2, 1]
    with pytest.raises(NothingToRollBack, match="'production' has meant no version before 1"):
        state.rolled_back_to_previous("production")


def test_rolling_back_and_promoting_again_does_not_come_back_to_what_failed() -> None:
    state = after(1, 2).rolled_back_to_previous("production").with_alias("production", 3)
    assert state.rolled_back_to_previous("production").aliases["production"] == 1


def test_naming_the_same_version_again_is_no_move() -> None:
    assert after(1, 2, 2, 2).rolled_back_to_previous("production").aliases["production"] == 1


def test_rolling_back_passes_over_removed_versions() -> None:
    state = after(1, 2, 3, 4).without_version(3).without_version(2).rolled_back_to_previous("production")
    assert state.aliases["production"] == 1
    with pytest.raises(NothingToRollBack):
        state.rolled_back_to_previous("production")


def test_rolling_back_always_changes_what_an_alias_means() -> None:
    """1, 2, 1, and 2 is gone: before the 1 of now there was only the same 1."""
    state = after(1, 2, 1).without_version(2)
    with pytest.raises(NothingToRollBack):
        state.rolled_back_to_previous("production")
    assert after(3, 1, 2, 1).without_version(2).rolled_back_to_previous("production").aliases["production"] == 3


def test_rolling_back_to_what_was_found_is_refused_once_that_is_no_longer_so() -> None:
    state = after(1, 2, 3)
    assert state.rolled_back_to_previous("production", to=2).aliases["production"] == 2
    with pytest.raises(StateConflict, match="moved meanwhile: it means version 2"):
        state.rolled_back_to_previous("production").rolled_back_to_previous("production", to=2)


def test_the_last_ten_targets_are_remembered() -> None:
    state = after(*range(1, 21))
    assert state.previous["production"] == tuple(range(10, 20))


def test_aliases_roll_back_apart_from_one_another() -> None:
    state = after(1, 2).with_alias("trial", 3).with_alias("trial", 4).rolled_back_to_previous("trial")
    assert state.aliases == {"production": 2, "trial": 3}


@given(
    moves=st.lists(
        st.one_of(st.integers(1, 5).map(lambda n: ("move", n)), st.integers(1, 5).map(lambda n: ("remove", n))),
        max_size=20,
    )
)
def test_rolling_back_never_means_a_removed_version_nor_the_same_one(moves: list[tuple[str, int]]) -> None:
    state = after(1)
    for what, number in moves:
        try:
            state = state.with_alias("production", number) if what == "move" else state.without_version(number)
        except (VersionNotFound, VersionInUse):
            continue
    while True:
        before = state.aliases["production"]
        try:
            state = state.rolled_back_to_previous("production")
        except NothingToRollBack:
            return
        assert state.aliases["production"] not in {before, *state.removed}


# ---- promotion


def test_production_moves_freely_without_a_rule() -> None:
    assert after(1).with_alias("production", 2).aliases["production"] == 2


def test_production_does_not_move_without_a_diff() -> None:
    with pytest.raises(PromotionRefused, match=r"version 2 was not compared with version 1.*90\.0%.*hubel models diff"):
        protected().with_alias("production", 2)


def test_production_moves_with_enough_agreement() -> None:
    assert protected(diff(0.9)).with_alias("production", 2).aliases["production"] == 2


def test_too_little_agreement_names_both_figures() -> None:
    with pytest.raises(PromotionRefused, match=r"on 89\.0% of 1,000 images.*90\.0%"):
        protected(diff(0.89, images=1000)).with_alias("production", 2)


def test_a_diff_on_too_few_images_allows_nothing_and_names_both_numbers() -> None:
    with pytest.raises(PromotionRefused, match=r"on 19 images, and this model asks for .* on 20 images or more"):
        protected(diff(images=19)).with_alias("production", 2)
    assert protected(diff(images=20)).with_alias("production", 2).aliases["production"] == 2
    with pytest.raises(PromotionRefused, match=r"on 20 images, .* on 1,000 images"):
        protected(diff(images=20), min_images=1000).with_alias("production", 2)


@pytest.mark.parametrize(("baseline", "candidate"), [(2, 1), (3, 2), (1, 3)])
def test_the_diff_of_other_versions_allows_nothing(baseline: int, candidate: int) -> None:
    with pytest.raises(PromotionRefused, match="was not compared"):
        protected(diff(baseline=baseline, candidate=candidate)).with_alias("production", 2)


@pytest.mark.parametrize(("agreements", "allowed"), [((1.0, 0.5), False), ((0.5, 1.0), True)])
def test_the_latest_diff_counts(agreements: tuple[float, float], allowed: bool) -> None:
    state = protected(*map(diff, agreements))
    assert len(state.diffs) == 1
    if allowed:
        assert state.with_alias("production", 2).aliases["production"] == 2
    else:
        with pytest.raises(PromotionRefused):
            state.with_alias("production", 2)


def test_the_rule_is_for_production_alone_and_not_for_where_it_is() -> None:
    assert protected().with_alias("trial", 2).with_alias("production", 1).aliases == {"production": 1, "trial": 2}


def test_a_first_version_and_a_way_back_need_no_diff() -> None:
    rule = PromotionRule(min_agreement=1)
    assert State(promotion=rule).with_version(1, None).aliases == {"production": 1}
    state = after(1, 2).model_copy(update={"promotion": rule})
    assert state.rolled_back_to_previous("production").aliases == {"production": 1}


def test_the_last_ten_diffs_are_remembered() -> None:
    state = protected(*(diff(candidate=number) for number in range(2, 14)))
    assert [record.candidate for record in state.diffs] == list(range(4, 14))


# ---- traffic


def test_traffic_is_divided_and_its_versions_are_wanted() -> None:
    state = after(1).with_traffic(Traffic(canary=CANARY, shadow=SHADOW))
    assert state.traffic.versions() == {2, 3}
    assert state.wanted() == {1, 2, 3}
    assert state.with_traffic(Traffic()).wanted() == {1}


@pytest.mark.parametrize("traffic", [Traffic(canary=CANARY), Traffic(shadow=Shadow(version=2, percent=1))])
def test_a_removed_version_gets_no_traffic(traffic: Traffic) -> None:
    with pytest.raises(VersionNotFound, match="version 2 was removed"):
        after(1).without_version(2).with_traffic(traffic)


@pytest.mark.parametrize("traffic", [Traffic(canary=CANARY), Traffic(shadow=Shadow(version=2, percent=1))])
def test_production_gets_no_share_of_its_own_requests(traffic: Traffic) -> None:
    with pytest.raises(VersionInUse, match=r"^version 2 is production already$"):
        after(1, 2).with_traffic(traffic)


def test_what_becomes_production_leaves_the_traffic_and_does_not_come_back_with_the_next_one() -> None:
    state = after(1).with_traffic(Traffic(canary=CANARY, shadow=SHADOW)).with_alias("production", 2)
    assert state.traffic == Traffic(shadow=SHADOW)
    assert state.with_alias("production", 4).traffic == Traffic(shadow=SHADOW)
    assert state.with_alias("production", 3).traffic == Traffic()


def test_what_production_is_rolled_back_to_leaves_the_traffic() -> None:
    state = after(2, 1).with_traffic(Traffic(canary=CANARY, shadow=SHADOW))
    assert state.rolled_back_to_previous("production").traffic == Traffic(shadow=SHADOW)


def test_another_alias_takes_nothing_out_of_the_traffic() -> None:
    state = after(1).with_traffic(Traffic(canary=CANARY)).with_alias("trial", 2).with_alias("trial", 3)
    assert state.rolled_back_to_previous("trial").traffic == Traffic(canary=CANARY)


def test_a_canary_that_failed_is_out_and_the_shadow_stays() -> None:
    state = after(1).with_traffic(Traffic(canary=CANARY, shadow=SHADOW)).without_canary(CANARY, "slow", NOW)
    assert state.traffic == Traffic(shadow=SHADOW)
    assert state.rolled_back == RolledBack(version=2, reason="slow", at=NOW)


@pytest.mark.parametrize("other", [None, Canary(version=3, percent=10), Canary(version=2, percent=20)])
def test_only_the_canary_that_failed_is_taken_out(other: Canary | None) -> None:
    state = after(1).with_traffic(Traffic(canary=other))
    assert state.without_canary(CANARY, "slow", NOW) is state


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("percent", -0.1),
        ("percent", 100.1),
        ("percent", float("nan")),
        ("version", 0),
        ("header", "X Y"),
        ("header", ""),
        ("max_error_rate", 1.1),
        ("max_latency_ratio", 0.9),
        ("max_latency_ratio", float("inf")),  # would be written as null, and not be read again
        ("min_requests", 0),
        ("colour", "yellow"),
    ],
)
def test_a_canary_out_of_bounds_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Canary.model_validate({"version": 2, "percent": 10, field: value})


# ---- loaded, removed


def test_a_version_is_loaded_once_until_it_need_not_be() -> None:
    state = after(1).with_loaded(2, wanted=True).with_loaded(3, wanted=True).with_loaded(2, wanted=True)
    assert (state.load, state.wanted()) == ((3, 2), {1, 2, 3})
    assert state.with_loaded(3, wanted=False).load == (2,)
    assert state.with_loaded(9, wanted=False).load == (3, 2)


def test_a_removed_version_is_not_loaded() -> None:
    with pytest.raises(VersionNotFound):
        after(1).without_version(2).with_loaded(2, wanted=True)


def test_a_version_in_use_is_not_removed_and_every_user_is_named() -> None:
    state = after(1).with_alias("trial", 2).with_alias("stable", 2)
    state = state.with_traffic(Traffic(shadow=Shadow(version=2, percent=1)))
    with pytest.raises(VersionInUse) as caught:
        state.with_loaded(2, wanted=True).without_version(2)
    for user in ("'stable'", "'trial'", "the traffic", "the list of versions to load"):
        assert user in str(caught.value)


def test_removed_numbers_are_remembered_once_and_in_order() -> None:
    assert after(1).without_version(3).without_version(2).without_version(3).removed == (2, 3)


# ---- as text

VERSIONS = st.integers(1, 9)
STATES = st.builds(
    State,
    aliases=st.dictionaries(st.sampled_from(["production", "trial"]), VERSIONS),
    previous=st.dictionaries(st.sampled_from(["production", "trial"]), st.lists(VERSIONS, max_size=3).map(tuple)),
    traffic=st.builds(
        Traffic,
        canary=st.none() | st.builds(Canary, version=VERSIONS, percent=st.floats(0, 100), min_requests=VERSIONS),
        shadow=st.none() | st.builds(Shadow, version=VERSIONS, percent=st.floats(0, 100)),
    ),
    load=st.lists(VERSIONS, max_size=3).map(tuple),
    removed=st.lists(VERSIONS, max_size=3).map(tuple),
    diffs=st.lists(st.builds(diff, st.floats(0, 1), candidate=VERSIONS), max_size=3).map(tuple),
    promotion=st.none() | st.builds(PromotionRule, min_agreement=st.floats(0, 1), min_images=VERSIONS),
    rolled_back=st.none() | st.builds(RolledBack, version=VERSIONS, reason=st.text(max_size=9), at=st.just(NOW)),
)


@given(STATES)
def test_a_state_is_read_as_it_was_written(state: State) -> None:
    assert parse_state(write_state(state), "here") == state


@given(STATES, st.data())
def test_a_flipped_bit_never_makes_another_state(state: State, data: st.DataObject) -> None:
    content = bytearray(write_state(state).encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = parse_state(content.decode(), "here")
    except (UnicodeDecodeError, CorruptCheckpoint):
        return
    assert found == state  # as where a space became a line break


def test_an_altered_state_is_refused_with_what_to_do_about_it() -> None:
    text = write_state(after(1, 2)).replace('"production": 2', '"production": 3')
    with pytest.raises(CorruptCheckpoint, match=r"^tiny/state.json was altered: .* by hand, take its 'digest' out$"):
        parse_state(text, "tiny/state.json")


@pytest.mark.parametrize("digest", [None, 1, "", "0" * 64])
def test_a_digest_that_is_there_is_compared_whatever_it_is(digest: object) -> None:
    with pytest.raises(CorruptCheckpoint, match="was altered"):
        parse_state(json.dumps({**json.loads(write_state(after(1))), "digest": digest}), "here")


def test_a_state_without_a_digest_was_written_by_hand_and_is_read() -> None:
    content = json.loads(write_state(after(1, 2)))
    del content["digest"]
    content["aliases"]["production"] = 3
    assert parse_state(json.dumps(content), "here").aliases == {"production": 3}


def test_neither_order_nor_blanks_alter_a_state() -> None:
    content = json.loads(write_state(after(1, 2)))
    assert parse_state(json.dumps(dict(reversed(content.items()))), "here") == after(1, 2)


def test_defaults_are_written_so_that_other_ones_later_change_no_rule() -> None:
    assert json.loads(write_state(protected()))["promotion"] == {"min_agreement": 0.9, "min_images": 20}
    assert json.loads(write_state(State()))["load"] == []


def test_a_model_of_which_nothing_was_said_has_an_empty_state() -> None:
    assert parse_state(None, "here") == State()
    assert parse_state("{}", "here") == State()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the file"),
        ("{", "the file"),
        ("[]", "the file"),
        ("null", "the file"),
        ('{"schema_version": 2}', "schema_version"),
        ('{"colour": 1}', "colour"),
        ('{"aliases": {"production": "one"}}', "aliases.production"),
        ('{"aliases": {"production": 0}}', "aliases.production"),
        ('{"load": [-1]}', "load.0"),
        ('{"traffic": {"canary": {"version": 2}}}', "traffic.canary.percent"),
        ('{"traffic": {"canary": {"version": 2, "percent": 5, "hue": 1}}}', "traffic.canary.hue"),
    ],
)
def test_what_is_no_state_is_refused_and_the_place_is_named(text: str, place: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=f"^tiny/state.json is not understood: {place}: "):
        parse_state(text, "tiny/state.json")
