"""The page at `/`: plain files that come with the package, read once, which a browser keeps and asks about again."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from service.headers import PAGE_POLICY, POLICY_HEADER

INDEX = "index.html"

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class PageFile:
    """A file of the page, its media type, and the tag that changes with its content."""

    content: bytes
    media_type: str
    tag: str


@cache
def page_files() -> dict[str, PageFile]:
    """Return every file of the page by its name; there are no others to ask for."""
    found = {}
    for path in files("service").joinpath("page").iterdir():
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        found[path.name] = PageFile(content, _TYPES[path.name.rpartition(".")[2]], tag)
    return found


@router.head("/")
@router.get("/")
async def show_page(request: Request) -> Response:
    """Give the page."""
    return _answer(request, page_files()[INDEX])


@router.head("/page/{name}")
@router.get("/page/{name}")
async def show_file(name: str, request: Request) -> Response:
    """Give a file that the page asks for."""
    file = page_files().get(name)
    if file is None:
        raise HTTPException(404, f"the page has no file {name[:100]!r}")
    return _answer(request, file)


def _answer(request: Request, file: PageFile) -> Response:
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", POLICY_HEADER: PAGE_POLICY}
    if _is_known(file.tag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _is_known(tag: str, known: str) -> bool:
    """Whether a caller has a file already. Source: RFC 9110, section 13.1.2: tags compare weakly."""
    return known.strip() == "*" or tag in {each.strip().removeprefix("W/") for each in known.split(",")}
