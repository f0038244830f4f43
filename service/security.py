"""Who may change models: whoever has the admin key."""

import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from service.errors import Unauthorized
from service.openapi import problems
from service.settings import Settings

bearer = HTTPBearer(auto_error=False, description="HUBEL_ADMIN_KEY")


class AdminRoute(APIRoute):
    """A route that asks for the admin key before it reads anything else of the request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_admin(request: Request) -> Response:
            settings: Settings = request.app.state.settings
            check_key(settings.admin_key, await bearer(request))
            return await answer(request)

        return answer_admin


def admin_router(*statuses: int) -> APIRouter:
    """Make a router of routes about models that ask for the admin key.

    Args:
        statuses: of the problems that the routes may answer with, beside 401.
    """
    return APIRouter(
        prefix="/v1/models",
        tags=["administration"],
        route_class=AdminRoute,
        dependencies=[Depends(bearer)],  # for the document: it is the route that checks
        responses=problems(401, *statuses),
    )


def check_key(key: SecretStr | None, given: HTTPAuthorizationCredentials | None) -> None:
    """Let a request pass that carries the admin key as `Authorization: Bearer KEY`.

    Raises:
        Unauthorized: it does not.
    """
    if (
        key is None
        or given is None
        or not secrets.compare_digest(given.credentials.encode("latin-1"), key.get_secret_value().encode())
    ):
        raise Unauthorized("this route needs the admin key: Authorization: Bearer KEY, as HUBEL_ADMIN_KEY has it")
