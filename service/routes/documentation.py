"""The page that shows every route, to try out. Its files are those of fastapi-offline."""

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from service.headers import POLICY_HEADER, policy_of_page

FILES = "/docs/files"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def documentation(request: Request) -> HTMLResponse:
    """Show every route."""
    app: FastAPI = request.app
    root = request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        title=f"{app.title} {app.version}",
        openapi_url=f"{root}{app.openapi_url}",
        swagger_js_url=f"{root}{FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{FILES}/swagger-ui.css",
        swagger_favicon_url=f"{root}{FILES}/favicon.png",
    )
    page.headers[POLICY_HEADER] = policy_of_page(bytes(page.body).decode())
    return page


def files() -> StaticFiles:
    """Return what serves the page's files."""
    return StaticFiles(packages=[("fastapi_offline", "static")])
