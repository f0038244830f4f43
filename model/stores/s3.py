"""Objects on S3, or on what speaks its protocol: fewer requests, short time limits, writing on conditions.

Credentials and the region come from where AWS' own tools take them (AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, a role of the machine); AWS_ENDPOINT_URL names a store that is
not AWS'. That one must honour If-None-Match and If-Match on writing, as AWS does since November
2024 and MinIO, Ceph and R2 do; one that ignores them would let one of two publishers at the same
moment overwrite the other.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from botocore.exceptions import (  # type: ignore[import-untyped]
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from fsspec.asyn import sync  # type: ignore[import-untyped]

from model.errors import RegistryUnavailable
from model.stores.conditional import Change, Found, change_if_unchanged
from model.stores.objects import Objects

_WRITER = "writer"
_PAGES = 100  # of 1,000 objects each
_PART_BYTES = 16 * 2**20
_PARTS_AT_ONCE = 4
_REFUSED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "OperationAborted"}
_UNKNOWN_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
_PAST_THE_END = {"InvalidRange", "416"}
_REASONS = (
    (
        (NoCredentialsError, PartialCredentialsError),
        "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    (EndpointConnectionError, "nothing answers at its endpoint; AWS_ENDPOINT_URL names another than AWS' own"),
    ((ConnectTimeoutError, ReadTimeoutError), "it does not answer in time"),
)


class S3Objects(Objects):
    """What lies under s3://bucket/folder.

    A store that accepts connections and says nothing costs a call at most two times five seconds.
    """

    options: ClassVar[Mapping[str, Any]] = {
        "config_kwargs": {
            "connect_timeout": 3,
            "read_timeout": 5,
            "retries": {"total_max_attempts": 2, "mode": "standard"},
        }
    }

    attributes: ClassVar[Mapping[str, Any]] = {"retries": 1}  # botocore tries again itself

    def listing(self, folder: str = "") -> list[str]:
        """Return the paths of all objects below a folder: one request for every 1,000."""
        with self._talking():
            bucket, root = self._bucket_and_key("")
            below = f"{root}/" if root else ""
            request = {"Bucket": bucket, "Prefix": f"{below}{folder}/" if folder else below}
            paths: list[str] = []
            for _ in range(_PAGES):
                page = self.filesystem.call_s3("list_objects_v2", **request)
                paths += [found["Key"][len(below) :] for found in page.get("Contents", [])]
                if not page.get("IsTruncated"):
                    return paths
                request["ContinuationToken"] = page["NextContinuationToken"]
        raise RegistryUnavailable(
            f"{self.address} holds more than {_PAGES * 1000:,} objects: is that a registry? Give it a folder of its own"
        )

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return an object's content, or the bytes from `start` to before `end`, as many as there are.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._talking():
            try:
                return self._get(path, {} if end is None else {"Range": f"bytes={start or 0}-{end - 1}"}).content or b""
            except OSError as error:
                if _code(error) in _PAST_THE_END:
                    return b""
                raise

    def find(self, path: str) -> Found:
        """Read an object with its tag and its writer."""
        with self._talking():
            try:
                return self._get(path, {})
            except FileNotFoundError as error:
                if self.is_missing(error):
                    raise
                return Found()

    def create(self, path: str, content: bytes) -> bool:
        """Write an object that is not there yet; say whether that was so."""
        return self._put(path, content, mode="create")

    def replace(self, path: str, found: Found, content: bytes, writer: str) -> bool:
        """Write an object if it still is what was found, also if that was none; say whether it was."""
        condition = {"IfMatch": found.tag} if found.tag else {"mode": "create"}
        return self._put(path, content, Metadata={_WRITER: writer}, **condition)

    def write(self, path: str, content: bytes) -> None:
        """Write an object over what is there."""
        with self._talking():
            self.filesystem.pipe_file(self.path(path), content)

    def upload(self, source: Path, path: str) -> None:
        """Write a file's content as an object, in parts where it is large."""
        with self._talking():
            self.filesystem.put_file(
                str(source), self.path(path), chunksize=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )

    def change(self, path: str, change: Change) -> bytes:
        """Replace an object so that no other change is lost."""
        return change_if_unchanged(self, path, change)

    def reason(self, error: Exception) -> str:
        """Say in a few words why the store could not do what it was asked for."""
        code = _code(error)
        if code in _UNKNOWN_KEY:
            return f"the credentials are not accepted ({code})"
        if code == "NoSuchBucket":
            return f"there is no bucket {self._bucket_and_key('')[0]!r}"
        told = next((told for kinds, told in _REASONS if isinstance(error, kinds)), "")
        return told or super().reason(error)

    def is_missing(self, error: FileNotFoundError) -> bool:
        """Say whether the bucket is missing."""
        return _code(error) == "NoSuchBucket"

    def _get(self, path: str, extra: dict[str, str]) -> Found:
        """Read all of an object in one request, so that its parts belong together."""
        bucket, key = self._bucket_and_key(path)
        filesystem = self.filesystem
        answer = filesystem.call_s3("get_object", Bucket=bucket, Key=key, **extra)
        try:
            content = sync(filesystem.loop, answer["Body"].read)
        finally:
            answer["Body"].close()
        return Found(content, answer["ETag"], answer.get("Metadata", {}).get(_WRITER, ""))

    def _put(self, path: str, content: bytes, **condition: str | dict[str, str]) -> bool:
        with self._talking():
            try:
                self.filesystem.pipe_file(self.path(path), content, **condition)
            except OSError as error:  # a tag of an object that is gone is told as a missing object
                gone = isinstance(error, FileNotFoundError) and not self.is_missing(error)
                if isinstance(error, FileExistsError) or gone or _code(error) in _REFUSED:
                    return False
                raise
            return True

    def _bucket_and_key(self, path: str) -> tuple[str, str]:
        bucket, key, _ = self.filesystem.split_path(self.path(path))
        return bucket, key


def _code(error: BaseException) -> str:
    """Return what the store called its refusal; empty where it did not answer."""
    for candidate in (error, error.__cause__):
        answer = getattr(candidate, "response", None)
        if isinstance(answer, dict):
            return str(answer.get("Error", {}).get("Code", ""))
    return ""
