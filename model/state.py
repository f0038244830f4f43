"""What is wanted of a model: aliases, traffic, what is to be loaded, and what its versions were found to be.

One `state.json` per model, changed whole. Every change is a pure function from one state to the
next, so that a store can repeat it when another process was faster.
"""

import datetime as dt
import json
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from model.errors import (
    AliasNotFound,
    CorruptCheckpoint,
    NothingToRollBack,
    PromotionRefused,
    StateConflict,
    VersionInUse,
    VersionNotFound,
)
from model.sealed import DIGEST, is_as_written, write_sealed
from model.types import PRODUCTION, check_alias

_REMEMBERED = 10  # earlier targets of an alias, and diffs, that are kept
_HEADER_PATTERN = r"^[A-Za-z0-9-]{1,64}$"


def _only_a_number(value: object) -> object:
    """Refuse what pydantic would turn into a number; 1.0 is a whole one in JSON."""
    if isinstance(value, bool | str):
        raise ValueError("it is not a number")
    return value


_NUMBER = BeforeValidator(_only_a_number)
AtLeastOne = Annotated[int, Field(ge=1), _NUMBER]
VersionNumber = AtLeastOne
Percent = Annotated[float, Field(ge=0, le=100), _NUMBER]
Share = Annotated[float, Field(ge=0, le=1), _NUMBER]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # JSON has neither of the two


class Canary(_Record):
    """A version that answers a share of the requests for `production`, and when it has failed.

    Attributes:
        version: the number of the version on trial.
        percent: of the requests, 0 to 100.
        header: of a request; requests with the same value land on the same side. Without it the request's id decides.
        max_error_rate: how much greater than that of `production` the share of its answers that are 5xx may be.
        max_latency_ratio: how many times the mean seconds of a request may be those of `production`.
        min_requests: answers that the canary must have given before it is judged.
    """

    version: VersionNumber
    percent: Percent
    header: str = Field(default="X-Client-ID", pattern=_HEADER_PATTERN)
    max_error_rate: Share = 0.05
    max_latency_ratio: Annotated[float, Field(ge=1), _NUMBER] = 3.0
    min_requests: AtLeastOne = 50


class Shadow(_Record):
    """A version that is asked, unnoticed, what `production` was asked, for `percent` of the requests, 0 to 100."""

    version: VersionNumber
    percent: Percent


class Traffic(_Record):
    """How requests for `production` are divided."""

    canary: Canary | None = None
    shadow: Shadow | None = None

    def versions(self) -> set[int]:
        """Return the numbers that have a share."""
        return {share.version for share in (self.canary, self.shadow) if share is not None}

    def without(self, number: int) -> "Traffic":
        """Return the traffic of which a version has no share."""
        shares = {"canary": self.canary, "shadow": self.shadow}
        gone = {name: None for name, share in shares.items() if share is not None and share.version == number}
        return self.model_copy(update=gone)


class RolledBack(_Record):
    """A canary that was taken out because it passed a bound."""

    version: VersionNumber
    reason: str
    at: dt.datetime


class DiffRecord(_Record):
    """What a comparison of two versions of this model found.

    Attributes:
        baseline: the number of the version that was compared with.
        candidate: the number of the version that was looked at.
        images: how many both were asked.
        agreement: the share of the images with the same most probable label.
        baseline_accuracy: share of right answers, where the labels are known.
        candidate_accuracy: likewise.
        data: where the images are from, and their fingerprint.
        created: when.
    """

    baseline: VersionNumber
    candidate: VersionNumber
    images: int = Field(ge=1)
    agreement: float = Field(ge=0, le=1)
    baseline_accuracy: float | None = None
    candidate_accuracy: float | None = None
    data: str = ""
    created: dt.datetime


class PromotionRule(_Record):
    """What must be known before `production` moves: a diff.

    Attributes:
        min_agreement: the least share of the images with the same most probable label, 0 to 1.
        min_images: how many images the diff must have looked at.
    """

    min_agreement: Share
    min_images: AtLeastOne = 20


class State(_Record):
    """What is wanted of a model.

    Attributes:
        schema_version: of this record.
        aliases: which version each alias means.
        previous: what an alias meant before, oldest first.
        traffic: how requests for `production` are divided.
        load: versions to be loaded although no alias and no traffic needs them.
        removed: numbers that are never given again.
        diffs: what comparisons found, oldest first.
        promotion: what `production` asks of a version before it moves there; null for nothing.
        rolled_back: the last canary that was taken out automatically.
    """

    schema_version: Literal[1] = 1
    aliases: dict[str, VersionNumber] = {}
    previous: dict[str, tuple[VersionNumber, ...]] = {}
    traffic: Traffic = Traffic()
    load: tuple[VersionNumber, ...] = ()
    removed: tuple[VersionNumber, ...] = ()
    diffs: tuple[DiffRecord, ...] = ()
    promotion: PromotionRule | None = None
    rolled_back: RolledBack | None = None

    def wanted(self) -> set[int]:
        """Return the versions that somebody may ask for without naming their number."""
        return {*self.aliases.values(), *self.traffic.versions(), *self.load}

    def with_version(self, number: int, alias: str | None, *, first: bool = True) -> "State":
        """Return the state after a version was published; the `first` one of a model becomes `production`.

        Raises:
            InvalidReference: `alias` cannot name an alias.
            PromotionRefused: `alias` is `production`, which asks for a diff.
        """
        state = self if alias is None else self.with_alias(alias, number)
        return state._moved(PRODUCTION, number) if first and PRODUCTION not in state.aliases else state

    def with_alias(self, alias: str, number: int) -> "State":
        """Return the state in which `alias` means `number`.

        Raises:
            InvalidReference: `alias` cannot name an alias.
            VersionNotFound: the version was removed.
            PromotionRefused: `production` asks for a diff that there is not.
        """
        check_alias(alias)
        self._check_there(number)
        if alias == PRODUCTION:
            self._check_promotion(number)
        return self._moved(alias, number)

    def without_alias(self, alias: str) -> "State":
        """Return the state without an alias and without what it meant before.

        Raises:
            AliasNotFound: there is none.
            VersionInUse: it is `production`, which every model has.
        """
        if alias == PRODUCTION:
            raise VersionInUse(f"the alias {PRODUCTION!r} cannot be taken away: let it mean another version")
        self._target(alias)
        aliases = {name: number for name, number in self.aliases.items() if name != alias}
        previous = {name: numbers for name, numbers in self.previous.items() if name != alias}
        return self.model_copy(update={"aliases": aliases, "previous": previous})

    def rolled_back_to_previous(self, alias: str, *, to: int | None = None) -> "State":
        """Return the state in which an alias means what it meant before.

        Args:
            alias: the alias.
            to: the version that this was found to be; None for any.

        Raises:
            AliasNotFound: there is no such alias.
            NothingToRollBack: it has meant nothing else.
            StateConflict: it has meant another version before than `to`.
        """
        current = self._target(alias)
        past = [number for number in self.previous.get(alias, ()) if number not in self.removed]
        while past and past[-1] == current:  # what it meant in between was removed
            past.pop()
        if not past:
            raise NothingToRollBack(f"alias {alias!r} has meant no version before {current}")
        if to not in (None, past[-1]):
            raise StateConflict(f"alias {alias!r} was moved meanwhile: it means version {current}")
        return self._with_target(alias, past[-1], {**self.previous, alias: tuple(past[:-1])})

    def with_traffic(self, traffic: Traffic) -> "State":
        """Return the state with other traffic.

        Raises:
            VersionNotFound: a version in it was removed.
            VersionInUse: a version in it is `production`, whose requests it would share with itself.
        """
        for number in traffic.versions():
            self._check_there(number)
            if number == self.aliases.get(PRODUCTION):
                raise VersionInUse(f"version {number} is {PRODUCTION} already")
        return self.model_copy(update={"traffic": traffic})

    def without_canary(self, canary: Canary, reason: str, at: dt.datetime) -> "State":
        """Return the state after this canary failed; nothing changes where another one is on trial by now."""
        if self.traffic.canary != canary:
            return self
        return self.model_copy(
            update={
                "traffic": self.traffic.model_copy(update={"canary": None}),
                "rolled_back": RolledBack(version=canary.version, reason=reason, at=at),
            }
        )

    def with_loaded(self, number: int, wanted: bool) -> "State":
        """Return the state in which a version is to be loaded, or need not be.

        Raises:
            VersionNotFound: the version was removed.
        """
        self._check_there(number)
        others = [each for each in self.load if each != number]
        return self.model_copy(update={"load": (*others, number) if wanted else tuple(others)})

    def with_diff(self, record: DiffRecord) -> "State":
        """Return the state that remembers a comparison, in place of an older one of the same versions."""
        pair = (record.baseline, record.candidate)
        others = [diff for diff in self.diffs if (diff.baseline, diff.candidate) != pair]
        return self.model_copy(update={"diffs": tuple([*others, record][-_REMEMBERED:])})

    def without_version(self, number: int, *, last: bool = False) -> "State":
        """Return the state after a version is gone; with the `last` one of a model go its aliases, and the model.

        Raises:
            VersionInUse: an alias, the traffic or the list of what is loaded needs it.
        """
        users = [f"alias {alias!r}" for alias, target in self.aliases.items() if target == number and not last]
        users += ["the traffic"] * (number in self.traffic.versions())
        users += ["the list of versions to load"] * (number in self.load)
        if users:
            raise VersionInUse(f"version {number} is in use by {', '.join(users)}; take it out there first")
        removed = {"removed": tuple(sorted({*self.removed, number}))}
        return self.model_copy(update={**removed, "aliases": {}, "previous": {}} if last else removed)

    def _moved(self, alias: str, number: int) -> "State":
        before = self.aliases.get(alias)
        previous = self.previous
        if before is not None and before != number:
            previous = {**previous, alias: (*previous.get(alias, ()), before)[-_REMEMBERED:]}
        return self._with_target(alias, number, previous)

    def _with_target(self, alias: str, number: int, previous: dict[str, tuple[VersionNumber, ...]]) -> "State":
        """Let an alias mean a version; what becomes `production` is on trial no more."""
        traffic = self.traffic.without(number) if alias == PRODUCTION else self.traffic
        return self.model_copy(
            update={"aliases": {**self.aliases, alias: number}, "previous": previous, "traffic": traffic}
        )

    def _target(self, alias: str) -> int:
        number = self.aliases.get(alias)
        if number is None:
            raise AliasNotFound(f"there is no alias {alias!r}; there is {', '.join(sorted(self.aliases)) or 'none'}")
        return number

    def _check_there(self, number: int) -> None:
        if number in self.removed:
            raise VersionNotFound(f"version {number} was removed")

    def _check_promotion(self, number: int) -> None:
        current = self.aliases.get(PRODUCTION)
        if self.promotion is None or current in (None, number):
            return
        found = [diff for diff in self.diffs if (diff.baseline, diff.candidate) == (current, number)]
        rule = self.promotion
        wanted = f"this model asks for an agreement of {rule.min_agreement:.1%} on {rule.min_images:,} images or more"
        if not found:
            raise PromotionRefused(
                f"version {number} was not compared with version {current}, and {wanted}: compare them with "
                "'hubel models diff'"
            )
        if found[-1].images < rule.min_images:
            raise PromotionRefused(
                f"version {number} was compared with version {current} on {found[-1].images:,} images, and {wanted}"
            )
        if found[-1].agreement < rule.min_agreement:
            raise PromotionRefused(
                f"version {number} agrees with version {current} on {found[-1].agreement:.1%} of "
                f"{found[-1].images:,} images, and {wanted}"
            )


def parse_state(text: str | None, where: str) -> State:
    """Read a state's JSON; None is a model of which nothing was said yet. One without a digest was written by hand.

    Raises:
        CorruptCheckpoint: it is not a state, or was altered; `where` names it.
    """
    if text is None:
        return State()
    content = _sealed_content(text)
    if content is not None:
        if not is_as_written(content):
            raise CorruptCheckpoint(
                f"{where} was altered: its content does not have the digest that it carries; restore it, or, "
                f"if you have edited it by hand, take its {DIGEST!r} out"
            )
        del content[DIGEST]
        text = json.dumps(content)
    try:
        return State.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CorruptCheckpoint(f"{where} is not understood: {place or 'the file'}: {first['msg']}") from error


def write_state(state: State) -> str:
    """Write a state as JSON that carries its own digest, defaults too: they may be others one day."""
    return write_sealed(json.loads(state.model_dump_json()))


def _sealed_content(text: str) -> dict[str, JsonValue] | None:
    """Return the JSON object with a digest that a text is; None for any other text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and DIGEST in content else None
