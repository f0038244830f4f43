"""Small values that the other modules hand around. They know nothing of files, engines or HTTP."""

import re
from dataclasses import dataclass
from functools import lru_cache

from model.errors import InvalidReference

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
_REFERENCE = re.compile(rf"(?P<name>{NAME_PATTERN})(?::(?P<version>[0-9]{{1,9}})|@(?P<alias>{NAME_PATTERN}))?")

PRODUCTION = "production"


@dataclass(frozen=True)
class ModelRef:
    """A model as its users write it: `name`, `name:3` or `name@canary`."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    @lru_cache(1024)
    def parse(cls, text: str) -> "ModelRef":
        """Read a reference; without a version it means the alias `production`.

        Raises:
            InvalidReference: the text is not a reference.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise InvalidReference(
                f"{text!r} is not a model reference: write name, name:3 or name@alias, "
                "names in lower-case letters, digits, '.', '_' and '-'"
            )
        if match["version"] is not None:
            return cls(match["name"], version=int(match["version"]))
        return cls(match["name"], alias=match["alias"] or PRODUCTION)

    def __str__(self) -> str:
        """Write the reference as `parse` reads it."""
        return f"{self.name}:{self.version}" if self.version is not None else f"{self.name}@{self.alias}"


def check_name(text: str, what: str = "a model") -> None:
    """Make sure that `text` may name a model.

    Raises:
        InvalidReference: it may not.
    """
    if not is_name(text):
        raise InvalidReference(
            f"{text!r} cannot be the name of {what}: use 1 to 64 lower-case letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit"
        )


def is_name(text: str) -> bool:
    """Say whether `text` may name a model."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def is_version_number(text: str) -> bool:
    """Say whether `text` is a version's number, as folders are called by it."""
    return re.fullmatch(r"[1-9][0-9]{0,8}", text) is not None


def check_alias(text: str) -> None:
    """Make sure that `text` may name an alias.

    Raises:
        InvalidReference: it may not, or it would read as a version's number.
    """
    check_name(text, "an alias")
    if text.isdecimal():
        raise InvalidReference(f"alias {text!r} would read as a version number; choose a word")


@dataclass(frozen=True)
class Prediction:
    """One class of an answer: its label, its place in the network's output, its probability."""

    label: str
    index: int
    probability: float
