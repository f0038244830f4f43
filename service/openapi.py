"""What the OpenAPI document says beyond what FastAPI sees: raw bodies, and failures as problems."""

from typing import Any

from fastapi import Response
from pydantic import BaseModel

from service.problems import MEDIA_TYPE
from service.schemas import PredictResponse, Problem

_FILE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"images": {"type": "array", "items": _FILE}}}
_JSON = {
    "type": "object",
    "required": ["images"],
    "additionalProperties": False,
    "properties": {
        "images": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["b64"],
                "additionalProperties": False,
                "properties": {"b64": {"type": "string", "description": "An image file, base64."}},
            },
        }
    },
}
_TEXT = {"type": "string"}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "description": "Bearer.", "schema": _TEXT}},
    429: {"Retry-After": {"required": True, "description": "Seconds.", "schema": {"type": "integer"}}},
    503: {"Retry-After": {"description": "Seconds, where it is worth coming back.", "schema": {"type": "integer"}}},
}
_PROBLEMS = {
    401: "The key is missing or wrong.",
    403: "The key's role is too small.",
    409: "The state of the model forbids it.",
    412: "The state is not the one that If-Match names.",
    404: "No such model, version or alias.",
    413: "Too many bytes, pixels or images.",
    415: "An image of a format that is not decoded.",
    422: "Not an image, or a request that cannot be understood.",
    429: "Too many requests with this key.",
    503: "The queue is full (see Retry-After), or the model is not ready.",
    504: "No answer in time.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route may answer with."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": _PROBLEMS[status], "content": content, "headers": _HEADERS.get(status, {})}
        for status in statuses
    }


def headers(**texts: str) -> dict[int | str, dict[str, Any]]:
    """Describe the headers that a route's good answer always has, by name, with _ for -."""
    return {
        200: {
            "headers": {
                name.replace("_", "-"): {"required": True, "description": text, "schema": _TEXT}
                for name, text in texts.items()
            }
        }
    }


def content(media_type: str, description: str) -> dict[int | str, dict[str, Any]]:
    """Describe a good answer that is a file."""
    return {200: {"description": description, "content": {media_type: {"schema": _FILE}}}}


UPLOADS: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "An image file as the whole body, under any Content-Type but the last two; "
            "or a form with one or many files; or JSON with base64. The content tells the format: "
            "JPEG, PNG, WebP, GIF, BMP or TIFF.",
            "content": {
                "image/*": {"schema": _FILE},
                "application/octet-stream": {"schema": _FILE},
                "multipart/form-data": {"schema": _FORM},
                "application/json": {"schema": _JSON},
            },
        }
    }
}
ARCHIVE: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "An archive, as `hubel export` and GET /v1/models/{ref}/archive make it.",
            "content": {"application/x-tar": {"schema": _FILE}},
        }
    }
}
EXPLANATION = UPLOADS


def explanation(answer: type[BaseModel], *statuses: int, png: bool = False) -> dict[str, Any]:
    """Describe a route that explains.

    Args:
        answer: the body.
        statuses: of the problems; by default those of a route that takes an image.
        png: whether the answer may be a picture instead.
    """
    good: dict[str, Any] = {
        "model": answer,
        "description": "The explanation.",
        **headers(Server_Timing="Milliseconds in line, and to compute.")[200],
    }
    if png:
        good["content"] = {"image/png": {"schema": _FILE}}
    return {
        "response_class": Response,
        "response_model": None,
        "responses": {200: good, **problems(*statuses or (404, 413, 415, 422, 503, 504))},
    }


PREDICTION: dict[str, Any] = {
    **UPLOADS,
    "responses": {
        200: {
            "model": PredictResponse,
            "description": "A result for each image, in the images' order.",
            **headers(Server_Timing="Milliseconds to decode, in the queue, and in the engine.")[200],
        },
        **problems(404, 413, 415, 422, 503, 504),
    },
}
