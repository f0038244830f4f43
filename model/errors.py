"""Every way in which a model, its files or an image can be wrong. No word of HTTP here.

ModelError
├── InvalidImage                 not an image, or broken
│   ├── UnsupportedFormat        an image, of a format that is not decoded here
│   └── ImageTooLarge            over a limit on pixels, sides, or what decoding them costs
├── InvalidReference             a model reference or a name that cannot be parsed
├── ModelNotFound                no such model
│   ├── VersionNotFound          the model has no such version
│   ├── AliasNotFound            the model has no such alias
│   └── ReportNotFound           the version has no report, or no such file in it
├── RegistryUnavailable          the registry cannot be read or written
│   ├── RegistryMissing          it was never made
│   └── AliasNotMoved            a version was published, but no alias could be moved to it
├── StateConflict                the state is not the one that a change was meant for
├── VersionInUse                 a version cannot go: an alias, the traffic or the load list needs it
├── PromotionRefused             the model asks for a diff before its production alias moves
├── NothingToRollBack            an alias has meant nothing else before
├── CorruptCheckpoint            a file of a version is missing, altered or not understood
│   └── GoldenMismatch           an engine does not repeat the version's stored outputs
├── EngineUnavailable            the engine or the device is not on this machine
├── UnknownArchitecture          no network of that name, or arguments that it does not take
├── NotExplainable               the network, or this machine, cannot be asked for such an explanation
├── NoSuchPart                   the network has no such layer, channel, pixel or class
├── ExplanationTooLarge          over a limit on what is explained at once
└── InferenceFailed              the engine failed on an image
    └── EngineTimeout            it did not answer in time
"""

from dataclasses import dataclass


class ModelError(Exception):
    """The root of this tree; its text is written for the person who has to act on it."""


@dataclass(frozen=True)
class Limit:
    """A bound that was reached: its name and its value."""

    name: str
    value: float


class InvalidImage(ModelError):
    """The bytes are not an image, or the image is broken."""


class UnsupportedFormat(InvalidImage):
    """The bytes are an image of a format that is not decoded here."""


class ImageTooLarge(InvalidImage):
    """The image's header announces more than a limit allows."""

    def __init__(self, message: str, limit: Limit) -> None:
        super().__init__(message)
        self.limit = limit


class InvalidReference(ModelError):
    """A reference is not of the form `name`, `name:3` or `name@alias`."""


class ModelNotFound(ModelError):
    """The registry has no model of that name."""


class VersionNotFound(ModelNotFound):
    """The model has no version of that number."""


class AliasNotFound(ModelNotFound):
    """The model has no alias of that name."""


class ReportNotFound(ModelNotFound):
    """The version has no report, or its report has no file of that name."""


class RegistryUnavailable(ModelError):
    """The registry cannot be read or written."""


class RegistryMissing(RegistryUnavailable):
    """There is nothing where the registry should be."""


class AliasNotMoved(RegistryUnavailable):
    """A version was published, but the registry could not be told which alias means it."""


class StateConflict(ModelError):
    """Somebody else has changed the state since it was read."""


class VersionInUse(ModelError):
    """A version that is needed cannot be removed."""


class PromotionRefused(ModelError):
    """The version is not known well enough to become `production`."""


class NothingToRollBack(ModelError):
    """The alias has had no earlier version that is still there."""


class CorruptCheckpoint(ModelError):
    """A file of a stored version is missing, altered or not understood."""


class GoldenMismatch(CorruptCheckpoint):
    """An engine's answers differ from the version's golden outputs by more than its tolerance."""


class EngineUnavailable(ModelError):
    """The engine or the device that was asked for is not on this machine."""


class UnknownArchitecture(ModelError):
    """No network has that name, or it does not take those arguments."""


class NotExplainable(ModelError):
    """The network, or this machine, cannot be asked for such an explanation; the text names what works."""


class NoSuchPart(ModelError):
    """The network has no layer, channel, pixel or class as was asked for; the text names some that it has."""


class ExplanationTooLarge(ModelError):
    """More is asked to be explained at once than a limit allows."""

    def __init__(self, message: str, limit: Limit) -> None:
        super().__init__(message)
        self.limit = limit


class InferenceFailed(ModelError):
    """The engine failed on an image."""


class EngineTimeout(InferenceFailed):
    """The engine did not answer in time, and was stopped."""

    def __init__(self, message: str, limit: Limit) -> None:
        super().__init__(message)
        self.limit = limit
