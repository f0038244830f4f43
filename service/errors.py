"""Every way in which serving can fail that is not the model's own. No word of HTTP here.

ServiceError
├── SettingsError           a HUBEL_ variable is misspelt or out of bounds
├── InvalidRequest          a form, a JSON body or a parameter that cannot be understood
├── UnsupportedEncoding     a body that is compressed
├── BodyTooLarge            more bytes than the limit
├── TooManyImages           more images in one request than the limit
├── Unauthorized            a key is needed, and is missing or not known
├── Forbidden               the key is known, and not enough
├── RateLimited             the key has made too many requests in a time
├── TooManyRequests         the key has too many requests under way
├── NoRoom                  no more versions may be loaded
├── QueueFull               no more is taken in until some of what waits is answered
├── DeadlineExceeded        no answer within the time the request had
├── CallerLeft              nobody waits for the answer any more
└── ModelNotReady           a version that is known, but not (yet) loaded
"""

from model.errors import Limit


class ServiceError(Exception):
    """The root of this tree; its text is written for the person who has to act on it."""


class SettingsError(ServiceError):
    """A setting is unknown or has a value that is not allowed."""


class InvalidRequest(ServiceError):
    """The request's body or parameters cannot be understood."""


class UnsupportedEncoding(ServiceError):
    """The request's body is compressed."""


class LimitReached(ServiceError):
    """A limit of the service was reached; `limit` says which."""

    def __init__(self, message: str, limit: Limit) -> None:
        super().__init__(message)
        self.limit = limit


class BodyTooLarge(LimitReached):
    """The request's body has more bytes than are read."""


class TooManyImages(LimitReached):
    """The request has more images than one request may have."""


class QueueFull(LimitReached):
    """No more images are taken in until some are answered."""

    def __init__(self, message: str, limit: Limit, retry_after_seconds: int) -> None:
        super().__init__(message, limit)
        self.retry_after_seconds = retry_after_seconds


class NoRoom(LimitReached):
    """A version is not loaded, and what is loaded cannot go."""


class RateLimited(LimitReached):
    """The key has made as many requests as it may for now."""

    def __init__(self, message: str, limit: Limit, retry_after_seconds: int) -> None:
        super().__init__(message, limit)
        self.retry_after_seconds = retry_after_seconds


class TooManyRequests(RateLimited):
    """The key has as many requests under way as it may."""


class Unauthorized(ServiceError):
    """The request needs a key and carries none that is known."""


class Forbidden(ServiceError):
    """The request's key is known, but its role is too small."""


class DeadlineExceeded(LimitReached):
    """The answer was not there in time."""


class CallerLeft(ServiceError):
    """Whoever sent the request has closed the connection."""

    def __init__(self) -> None:
        super().__init__("the caller has left")


class ModelNotReady(ServiceError):
    """The version is known, but it is not loaded; where it is being loaded, it is worth coming back."""

    def __init__(self, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
