"""What is asked of callers, as FastAPI's routes say it: the bearer key in the document, the admin key at routes."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from service.access import METRICS_PATH, Access, key_of
from service.keys import Role
from service.openapi import problems

_OF_KEYS = (401, 403, 429)


class _Documented(HTTPBearer):
    """Marks operations as asking for a key; who really asks is `LetIn`, and at admin routes `AdminRoute`."""

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        """Do nothing."""


bearer = Depends(_Documented(scheme_name="HTTPBearer", description="An API key, or HUBEL_ADMIN_KEY."))


def key_needed() -> dict[str, Any]:
    """Describe routes for which `LetIn` asks for a key, as `include_router` takes it."""
    return {"dependencies": [bearer], "responses": problems(*_OF_KEYS)}


class _GuardedRoute(APIRoute):
    """A route that asks for a key by itself, before it reads anything else of the request."""

    def needed(self, access: Access) -> Role | None:
        """Return the role of the key."""
        raise NotImplementedError

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_guarded(request: Request) -> Response:
            access: Access = request.app.state.access
            if role := self.needed(access):
                access.require(key_of(request.scope), role)
            return await answer(request)

        return answer_guarded


class AdminRoute(_GuardedRoute):
    """A route for administrators."""

    def needed(self, access: Access) -> Role:
        """Return the role of the key."""
        return Role.ADMIN


class MetricsRoute(_GuardedRoute):
    """The route of the metrics, also under spellings of its path that `LetIn` does not know for it."""

    def needed(self, access: Access) -> Role | None:
        """Return the role of the key, if there is to be one."""
        return access.needed_for(METRICS_PATH)


def admin_router(*statuses: int) -> APIRouter:
    """Make a router of routes about models that ask for an admin key.

    Args:
        statuses: of the problems that the routes may answer with, beside those of keys.
    """
    return APIRouter(
        prefix="/v1/models",
        tags=["administration"],
        route_class=AdminRoute,
        dependencies=[bearer],
        responses=problems(*_OF_KEYS, *statuses),
    )
