"""From a request's body to the image files in it, in each of the three forms.

The form is told by the Content-Type: multipart, JSON, or anything else, which is one image's
bytes. What an image is, its content says, never its name or type.
"""

import base64
import binascii

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from model.errors import InvalidImage, Limit
from service.errors import InvalidRequest, TooManyImages
from service.schemas import PredictRequest
from service.served import Upload


async def read_uploads(request: Request, max_images: int) -> list[Upload]:
    """Read the images of a request.

    Raises:
        InvalidRequest: the form or the JSON cannot be understood, or holds no image.
        TooManyImages: it holds more than `max_images`.
        BodyTooLarge: it has too many bytes.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise InvalidRequest(f"the body has the Content-Encoding {encoding!r}: send it as it is")
    content_type, options = parse_options_header(request.headers.get("content-type"))
    body = await request.body()
    match content_type:
        case b"multipart/form-data":
            return await _read_form(request, body, options.get(b"boundary", b""), max_images)
        case b"application/json":
            return await run_in_threadpool(_read_json, body, max_images)
        case _:
            return [body]


async def _read_form(request: Request, body: bytes, boundary: bytes, max_images: int) -> list[Upload]:
    if boundary and b"--" + boundary + b"--" not in body:
        raise InvalidRequest("the multipart form ends before its closing boundary: it was cut off")
    try:
        # One more than is allowed, so that it is we who say that there are too many.
        async with request.form(max_files=max_images + 1, max_fields=max_images + 1) as form:
            for name, part in form.multi_items():
                if not isinstance(part, UploadFile):
                    raise InvalidRequest(
                        f"the form's field {name!r} is not a file: send images as files, as curl -F does"
                    )
            files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            check_count(len(files), max_images)
            return [await file.read() for file in files]
    except (MultiPartException, HTTPException) as error:
        detail = getattr(error, "detail", None) or str(error)
        if "Too many files" in detail:
            check_count(max_images + 1, max_images)
        raise InvalidRequest(f"the multipart form cannot be understood: {detail}") from error


def _read_json(body: bytes, max_images: int) -> list[Upload]:
    # One comma stands between two images, and none inside. Counting them first bounds what a
    # hostile body can make the parser build.
    if body.count(b",") > 2 * max_images:
        check_count(max_images + 1, max_images)
    try:
        images = PredictRequest.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidRequest(
            f'the JSON body is not of the form {{"images": [{{"b64": "..."}}]}}: {place or "body"}: {first["msg"]}'
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
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return InvalidImage(f"b64 is not base64: {error}")
