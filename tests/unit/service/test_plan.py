from typing import cast

from model.state import Canary, Shadow, State, Traffic
from model.types import ModelRef
from service.hosted import HostedModel, HostedVersion, LoadState
from service.plan import Plan, make_plan
from service.served import ServedModel


def model(
    name: str, state: State, *, ready: tuple[int, ...] = (), aliases: dict[str, int] | None = None
) -> HostedModel:
    """A model with versions 1 to 4, some of them ready."""
    hosted = HostedModel(name, state, aliases if aliases is not None else dict(state.aliases))
    for number in range(1, 5):
        hosted.versions[number] = version = HostedVersion(name, number)
        if number in ready:
            version.state, version.served = LoadState.READY, cast(ServedModel, object())
    return hosted


def planned(*models: HostedModel, named: tuple[str, ...] = (), everything: bool = True) -> tuple[list[str], list[str]]:
    """What is kept and what is preferred, as references, in order."""
    plan = make_plan(
        {each.name: each for each in models}, [ModelRef.parse(ref) for ref in named], everything=everything
    )
    return [str(version) for version in plan.kept], [str(version) for version in plan.preferred]


TRAFFIC = Traffic(canary=Canary(version=2, percent=10), shadow=Shadow(version=3, percent=10))


def test_what_the_settings_name_is_kept_with_its_traffic_and_in_their_order() -> None:
    cat, dog = (
        model("cat", State(aliases={"production": 1}, traffic=TRAFFIC)),
        model("dog", State(aliases={"trial": 4})),
    )
    assert planned(cat, dog, named=("dog@trial", "cat"))[0] == ["dog:4", "cat:1", "cat:2", "cat:3"]


def test_a_number_is_kept_without_the_traffic() -> None:
    assert planned(model("cat", State(aliases={"production": 1}, traffic=TRAFFIC)), named=("cat:4",))[0] == ["cat:4"]


def test_all_that_aliases_and_traffic_mean_is_preferred_only_where_everything_is_wanted() -> None:
    cat = model("cat", State(aliases={"production": 1, "trial": 4}, traffic=TRAFFIC))
    assert planned(cat) == ([], ["cat:1", "cat:2", "cat:3", "cat:4"])
    assert planned(cat, everything=False) == ([], [])


def test_the_traffic_goes_with_a_production_that_a_request_has_loaded() -> None:
    cat = model("cat", State(aliases={"production": 1}, traffic=TRAFFIC), ready=(1,))
    assert planned(cat, everything=False) == ([], ["cat:2", "cat:3"])


def test_what_the_registry_lists_to_be_loaded_is_kept() -> None:
    assert planned(model("cat", State(aliases={"production": 1}, load=(3,))), everything=False)[0] == ["cat:3"]


def test_an_alias_that_is_about_to_switch_keeps_what_serves_and_its_successor() -> None:
    cat = model("cat", State(aliases={"production": 2}), ready=(1,), aliases={"production": 1})
    assert set(planned(cat, everything=False)[0]) == {"cat:1", "cat:2"}


def test_what_is_not_there_is_not_planned() -> None:
    cat = model("cat", State(aliases={"production": 9}, load=(8,)))
    assert planned(cat, named=("cat", "cat:7", "dog")) == ([], [])


def test_a_plan_knows_what_is_in_it() -> None:
    kept, preferred, other = (HostedVersion("cat", number) for number in (1, 2, 3))
    plan = Plan((kept,), (preferred,))
    assert [version in plan for version in (kept, preferred, other)] == [True, True, False]
