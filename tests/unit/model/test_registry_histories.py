"""Any history of one model in a registry, against a plain model of what a registry is."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from model.errors import (
    AliasNotFound,
    ModelError,
    ModelNotFound,
    NothingToRollBack,
    StateConflict,
    VersionInUse,
    VersionNotFound,
)
from model.manifest import Manifest
from model.registry import Registry, StoredVersion, state_tag
from model.state import Canary, Shadow, State, Traffic
from model.types import PRODUCTION, ModelRef

NAME = "tiny"
REMEMBERED = 10
ALIASES = st.sampled_from([PRODUCTION, "canary", "best"])
NUMBERS = st.integers(1, 12)


class Histories(RuleBasedStateMachine):
    """What is done to the registry is noted in four plain collections, which the registry must agree with."""

    manifest: Manifest

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="histories-"))
        self.registry = Registry(self.root)
        self.there: list[int] = []
        self.given = 0  # the highest number that was ever given
        self.aliases: dict[str, int] = {}
        self.meant: dict[str, list[int]] = {}
        self.canary: int | None = None
        self.shadow: int | None = None
        self.load: list[int] = []

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(alias=st.none() | ALIASES)
    def publish(self, alias: str | None) -> None:
        with self.registry.staging(NAME) as folder:
            (folder / "weights").write_text(str(self.given))
            version = self.registry.publish(folder, self.manifest, alias)
        self.given += 1
        assert version.number == self.given
        first = not self.there
        self.there.append(self.given)
        if alias is not None:
            self._mean(alias, self.given)
        if first and PRODUCTION not in self.aliases:
            self._mean(PRODUCTION, self.given)

    @rule(alias=ALIASES, number=NUMBERS)
    def promote(self, alias: str, number: int) -> None:
        fault = self._missing(number)
        if self._try(fault, lambda: self.registry.promote(ModelRef(NAME, version=number), alias)):
            self._mean(alias, number)

    @precondition(lambda self: self.given)
    @rule(alias=ALIASES)
    def roll_back(self, alias: str) -> None:
        past = [number for number in self.meant.get(alias, []) if number in self.there]
        while past and past[-1] == self.aliases.get(alias):
            past.pop()
        fault = None if past else NothingToRollBack if alias in self.aliases else AliasNotFound
        if self._try(fault, lambda: self._change(lambda state: state.rolled_back_to_previous(alias))):
            self.meant[alias] = past[:-1]
            self._point(alias, past[-1])

    @precondition(lambda self: self.given)
    @rule(alias=ALIASES)
    def drop_alias(self, alias: str) -> None:
        fault = VersionInUse if alias == PRODUCTION else AliasNotFound if alias not in self.aliases else None
        if self._try(fault, lambda: self._change(lambda state: state.without_alias(alias))):
            del self.aliases[alias]
            self.meant.pop(alias, None)

    @rule(number=NUMBERS, last=st.booleans())
    def remove(self, number: int, last: bool) -> None:
        fault = self._missing(number)
        whole = last and self.there == [number]
        if fault is None:
            needed = {self.canary, self.shadow, *self.load, *(() if whole else self.aliases.values())}
            fault = VersionInUse if number in needed else None
        if self._try(fault, lambda: self.registry.remove(ModelRef(NAME, version=number), last=last)):
            self.there.remove(number)
            if whole:
                self.aliases, self.meant = {}, {}

    @precondition(lambda self: self.there)
    @rule(canary=st.none() | NUMBERS, shadow=st.none() | NUMBERS, percent=st.floats(0, 100))
    def divide_traffic(self, canary: int | None, shadow: int | None, percent: float) -> None:
        asked = [number for number in (canary, shadow) if number is not None]
        if any(number > self.given for number in asked):
            return  # whether it was ever published is looked at before the state is
        removed, production = [n for n in asked if n not in self.there], self.aliases.get(PRODUCTION)
        if self._try(
            (VersionNotFound, VersionInUse) if removed or production in asked else None,
            lambda: self._change(
                lambda state: state.with_traffic(
                    Traffic(
                        canary=None if canary is None else Canary(version=canary, percent=percent),
                        shadow=None if shadow is None else Shadow(version=shadow, percent=percent),
                    )
                )
            ),
        ):
            self.canary, self.shadow = canary, shadow

    @precondition(lambda self: self.there)
    @rule(data=st.data(), wanted=st.booleans())
    def keep_loaded(self, data: st.DataObject, wanted: bool) -> None:
        number = data.draw(st.sampled_from(self.there))
        self._change(lambda state: state.with_loaded(number, wanted))
        self.load = [each for each in self.load if each != number] + [number] * wanted

    @precondition(lambda self: self.there)
    @rule(number=NUMBERS)
    def come_too_late(self, number: int) -> None:
        """A change that is meant for an older state changes nothing."""
        seen = state_tag(self.registry.state(NAME))
        self._change(lambda state: state.with_loaded(self.there[-1], self.there[-1] not in self.load))
        last = self.there[-1]
        self.load = [each for each in self.load if each != last] + [last] * (last not in self.load)
        with pytest.raises((StateConflict, VersionNotFound)):
            self.registry.remove(ModelRef(NAME, version=number), expected=seen)
        with pytest.raises(StateConflict):
            self.registry.change(NAME, lambda state: state.model_copy(update={"aliases": {}}), expected=seen)

    @rule()
    def open_anew(self) -> None:
        self.registry = Registry(self.root)

    @invariant()
    def it_is_what_was_done_to_it(self) -> None:
        state = self.registry.state(NAME)
        assert state.aliases == self.aliases
        assert {alias: list(past) for alias, past in state.previous.items() if past} == {
            alias: past for alias, past in self.meant.items() if past
        }
        assert list(state.load) == self.load
        assert (state.traffic.canary and state.traffic.canary.version) == self.canary
        assert (state.traffic.shadow and state.traffic.shadow.version) == self.shadow
        assert set(state.removed) == set(range(1, self.given + 1)) - set(self.there)
        assert self.registry.names() == ([NAME] if self.there else [])
        assert self.registry.has(NAME) == bool(self.there)

    @invariant()
    def whatever_is_named_is_there(self) -> None:
        named = self.registry.state(NAME).wanted()
        assert named <= set(self.there)
        if self.there:
            assert self.registry.numbers(NAME) == sorted(self.there)
            assert self.registry.resolve(ModelRef.parse(NAME)) == self.aliases[PRODUCTION]
        for number in self.there:
            (content,) = (
                path.read_text() for path in (self.root / NAME / str(number)).iterdir() if path.name == "weights"
            )
            assert int(content) == number - 1  # it is the one that was published under this number

    def _mean(self, alias: str, number: int) -> None:
        before = self.aliases.get(alias)
        if before not in (None, number):
            self.meant[alias] = [*self.meant.get(alias, []), before][-REMEMBERED:]
        self._point(alias, number)

    def _point(self, alias: str, number: int) -> None:
        self.aliases[alias] = number
        if alias == PRODUCTION:
            self.canary = None if self.canary == number else self.canary
            self.shadow = None if self.shadow == number else self.shadow

    def _missing(self, number: int) -> type[ModelError] | None:
        if number in self.there:
            return None
        return VersionNotFound if self.there else ModelNotFound

    def _change(self, change: Callable[[State], State]) -> None:
        self.registry.change(NAME, change)

    def _try(
        self, fault: type[ModelError] | tuple[type[ModelError], ...] | None, attempt: Callable[[], object]
    ) -> bool:
        """Do something, which must fail in the way that is said, or not at all; tell whether it was done."""
        if fault is None:
            attempt()
            return True
        with pytest.raises(fault):
            attempt()
        return False


def test_any_history_leaves_the_registry_whole(tiny: StoredVersion) -> None:
    Histories.manifest = tiny.manifest
    run_state_machine_as_test(Histories, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))
