"""From a request's body to the image files in it, in each of the three forms.

The form is told by the Content-Type: multipart, JSON, or anything else, which is one image's
bytes. What an image is, its content says, never its name or type. All stays in memory, whose
bound is that of the body; so a body is never inflated either: a few kilobytes that become
gigabytes would pass that bound, and image files are compressed as they are.
"""

import base64
import binascii
from collections.abc import Iterator
from functools import lru_cache

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from model.errors import InvalidImage, Limit
from service.errors import InvalidRequest, TooManyImages, UnsupportedEncoding
from service.middleware import header_of
from service.schemas import PredictRequest
from service.served import Upload

_LONGEST_BOUNDARY = 256  # bytes; RFC 2046 allows 70
_LONGEST_HEAD = 8192  # bytes of a part's headers together
_MOST_HEADERS = 16
_LONG_BODY = 2**20  # bytes, from which on the event loop does not wait for the parser
_LONGEST_ECHO = 100  # characters of what a caller sent
_SPACE = b" \t\n\r\x0b\x0c"


async def read_uploads(request: Request, max_images: int) -> list[Upload]:
    """Read the images of a request.

    Raises:
        UnsupportedEncoding: the body is compressed.
        InvalidRequest: the form or the JSON cannot be understood, or holds no image.
        TooManyImages: it holds more than `max_images`.
        BodyTooLarge: it has too many bytes.
    """
    encoding = header_of(request.scope, b"content-encoding").strip().decode("latin-1")
    if encoding.lower() not in ("identity", ""):
        raise UnsupportedEncoding(f"the body has the Content-Encoding {_echo(encoding)}: send it as it is")
    content_type, options = _read_content_type(header_of(request.scope, b"content-type"))
    body = await _read_body(request)
    match content_type:
        case b"multipart/form-data":
            boundary = options.get(b"boundary", b"")
            if len(body) < _LONG_BODY:
                return _read_form(body, boundary, max_images)
            return await run_in_threadpool(_read_form, body, boundary, max_images)
        case b"application/json":
            return await run_in_threadpool(_read_json, body, max_images)
        case _:
            return [body]


@lru_cache(256)
def _read_content_type(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    return parse_options_header(value)


async def _read_body(request: Request) -> bytes:
    """Read a body; one that came as a whole is not copied.

    Raises:
        ClientDisconnect: the caller left before its end.
    """
    pieces = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_form(body: bytes, boundary: bytes, max_images: int) -> list[Upload]:
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
        raise InvalidRequest("the Content-Type of a multipart form needs a boundary of 1 to 256 bytes")
    # Between two images stands a boundary. Counting them first bounds what a hostile body can make us build.
    if body.count(b"\r\n--" + boundary) > max_images + 1:
        check_count(max_images + 1, max_images)
    files: list[Upload] = []
    for head, content in _parts(body, boundary):
        _check_part(head)
        files.append(content)
    check_count(len(files), max_images)
    return files


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut a multipart body (RFC 2046) into its parts, each with its headers; what is around them is passed over."""
    delimiter = b"\r\n--" + boundary
    at = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    start = at + len(delimiter) - 2
    if at == 1:
        raise InvalidRequest("the multipart form does not have the boundary that its Content-Type tells")
    while not body.startswith(b"--", start):
        end = body.find(delimiter, start)
        if end < 0:
            raise InvalidRequest("the multipart form ends before its closing boundary: it was cut off")
        blank = body.find(b"\r\n\r\n", start, min(end, start + _LONGEST_HEAD))
        if blank < 0:
            raise InvalidRequest(
                f"a part of the multipart form has no empty line after its headers, or more than {_LONGEST_HEAD} bytes "
                "of headers"
            )
        yield body[start:blank], body[blank + 4 : end]
        start = end + len(delimiter)


def _check_part(head: bytes) -> None:
    """Refuse a part that is not a file sent as it is.

    Raises:
        InvalidRequest: it is a text field, or it is encoded, or its headers are none.
    """
    padding, *lines = head.split(b"\r\n")
    headers = dict(_header(line) for line in lines[:_MOST_HEADERS])
    if padding.strip(b" \t") or len(lines) > _MOST_HEADERS:
        raise InvalidRequest("the multipart form cannot be understood: a boundary occurs within a part, or headers do")
    kind, options = parse_options_header(headers.get(b"content-disposition"))
    if kind != b"form-data" or b"name" not in options:
        raise InvalidRequest("a part of the multipart form has no Content-Disposition: form-data with a name")
    if b"filename" not in options:
        name = options[b"name"].decode(errors="replace")
        raise InvalidRequest(f"the form's field {_echo(name)} is not a file: send images as files, as curl -F does")
    encoding = headers.get(b"content-transfer-encoding", b"binary").lower()
    if encoding not in (b"binary", b"8bit", b"7bit"):
        raise InvalidRequest(
            f"a part of the form has the Content-Transfer-Encoding {_echo(encoding.decode(errors='replace'))}: "
            "send it as it is"
        )


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon:
        raise InvalidRequest("a part of the multipart form has a header without a colon")
    return name.strip().lower(), value.strip()


def _echo(text: str) -> str:
    """Quote what a caller sent, but no more than helps."""
    return repr(text[:_LONGEST_ECHO])


def _read_json(body: bytes, max_images: int) -> list[Upload]:
    # One comma stands between two images, and none inside. Counting them first bounds what a
    # hostile body can make the parser build.
    if body.count(b",") > 2 * max_images:
        check_count(max_images + 1, max_images)
    try:
        images = PredictRequest.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:_LONGEST_ECHO] or "body"
        reason = first["msg"][:_LONGEST_ECHO]
        raise InvalidRequest(
            f'the JSON body is not of the form {{"images": [{{"b64": "..."}}]}}: {place}: {reason}'
        ) from error
    check_count(len(images), max_images)
    return [_decode_base64(image.b64) for image in images]


def check_count(count: int, max_images: int) -> None:
    """Refuse a request by the number of its images.

    Raises:
        InvalidRequest: there is none.
        TooManyImages: there are more than `max_images`.
    """
    if count == 0:
        raise InvalidRequest("the request holds no image")
    if count > max_images:
        raise TooManyImages(
            f"the request holds more than {max_images} images, the limit; send them in several requests",
            Limit("max_images_per_request", max_images),
        )


def _decode_base64(text: str) -> Upload:
    """Decode standard base64, broken into lines or not."""
    if text.startswith("data:"):
        return InvalidImage("b64 is a data URL: send only what follows its comma")
    try:
        return base64.b64decode(text.encode("ascii").translate(None, _SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        return InvalidImage(f"b64 is not base64: {error}")
