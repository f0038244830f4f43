"""Changing what is served. These routes exist only where an admin key is set, and ask for it.

Each changes the registry, which every process follows; the worker that answers does so at once. With `If-Match` a
change is made only to the state that the caller has seen, whose tag is its `ETag`.
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import Header, Query, Response
from fastapi.concurrency import run_in_threadpool

from model.registry import state_tag
from model.state import PromotionRule, State, Traffic
from model.types import ModelRef
from service.dependencies import Host
from service.hosting import ModelHost
from service.openapi import headers
from service.schemas import AliasIn, RollbackIn, VersionOut
from service.security import admin_router

router = admin_router(404, 409, 412, 413, 422, 503)

_PRODUCTION = RollbackIn()
_TAG = headers(ETag="The state's tag, for If-Match.")
Expected = Annotated[str | None, Header(alias="If-Match", description="The state's ETag, as it was read.")]


@router.get("/{name}/state", responses=_TAG)
async def show_state(name: str, host: Host, response: Response) -> State:
    """Show what is wanted of a model: aliases, traffic, what is to be loaded, diffs."""
    return _answer(await run_in_threadpool(host.state, name), response)


@router.put("/{name}/aliases/{alias}", responses=_TAG)
async def move_alias(
    name: str, alias: str, *, body: AliasIn, host: Host, response: Response, expected: Expected = None
) -> State:
    """Let an alias mean a version, once this worker has loaded it and checked its golden outputs."""

    def change(state: State) -> State:
        return state.with_alias(alias, body.version)

    await _learn(host, name, body.version)
    change(await run_in_threadpool(host.state, name))  # what will be refused is not loaded first
    await host.load(name, body.version)
    return await _change(host, name, change, response, expected)


@router.delete("/{name}/aliases/{alias}", responses=_TAG)
async def drop_alias(name: str, alias: str, host: Host, response: Response, expected: Expected = None) -> State:
    """Take an alias away."""
    return await _change(host, name, lambda state: state.without_alias(alias), response, expected)


@router.post("/{name}/rollback", responses=_TAG)
async def roll_back(
    name: str, host: Host, response: Response, body: RollbackIn = _PRODUCTION, expected: Expected = None
) -> State:
    """Let an alias mean again what it meant before; without a body, `production`."""
    await _learn(host, name)
    before = await run_in_threadpool(host.state, name)
    number = before.rolled_back_to_previous(body.alias).aliases[body.alias]
    await host.load(name, number)
    return await _change(
        host, name, lambda state: state.rolled_back_to_previous(body.alias, to=number), response, expected
    )


@router.put("/{name}/traffic", responses=_TAG)
async def divide_traffic(name: str, body: Traffic, host: Host, response: Response, expected: Expected = None) -> State:
    """Give a share of the requests for `production` to a canary, copies of a share to a shadow, or end both."""
    for number in sorted(body.versions()):
        await _learn(host, name, number)
        await host.load(name, number)
    return await _change(host, name, lambda state: state.with_traffic(body), response, expected)


@router.put("/{name}/promotion", responses=_TAG)
async def set_promotion_rule(
    name: str, body: PromotionRule | None, host: Host, response: Response, expected: Expected = None
) -> State:
    """Ask for a diff with a least agreement before `production` moves; `null` asks for nothing."""
    return await _change(host, name, lambda state: state.model_copy(update={"promotion": body}), response, expected)


@router.post("/{ref}/load")
async def load(ref: str, host: Host, expected: Expected = None) -> VersionOut:
    """Keep a version loaded, in every worker, although no alias may mean it."""
    return await _keep(host, ModelRef.parse(ref), expected, wanted=True)


@router.post("/{ref}/unload")
async def unload(ref: str, host: Host, expected: Expected = None) -> VersionOut:
    """Keep a version loaded no longer than an alias or the traffic needs it."""
    return await _keep(host, ModelRef.parse(ref), expected, wanted=False)


@router.delete("/{ref}", status_code=204)
async def remove(
    ref: str,
    host: Host,
    last: Annotated[bool, Query(description="Also if it is the only one: the model goes with it.")] = False,
    expected: Expected = None,
) -> None:
    """Remove a version that nothing needs from the registry; its number is never given again."""
    parsed = ModelRef.parse(ref)
    await _learn(host, parsed.name, parsed.version)
    host.find(parsed)
    await run_in_threadpool(host.registry.remove, parsed, last=last, expected=_tag(expected))
    await host.look()


async def _keep(host: ModelHost, ref: ModelRef, expected: str | None, *, wanted: bool) -> VersionOut:
    await _learn(host, ref.name, ref.version)
    version, model = host.find(ref), host.models[ref.name]
    number = version.number
    if wanted:
        await host.load(ref.name, number)
    await run_in_threadpool(
        host.registry.change, ref.name, lambda state: state.with_loaded(number, wanted), expected=_tag(expected)
    )
    if not wanted:
        host.unload(version)
    await host.look()
    return VersionOut.of(model, version)


async def _change(
    host: ModelHost, name: str, change: Callable[[State], State], response: Response, expected: str | None
) -> State:
    await _learn(host, name)
    host.check_known(name)
    state = await run_in_threadpool(host.registry.change, name, change, expected=_tag(expected))
    await host.look()
    return _answer(state, response)


def _tag(expected: str | None) -> str | None:
    return None if expected in (None, "*") else expected.strip('"')


async def _learn(host: ModelHost, name: str, number: int | None = None) -> None:
    """Look at the registry at once for a model or a version that may have been published a moment ago."""
    model = host.models.get(name)
    if model is None or (number is not None and number not in model.versions):
        await host.look()


def _answer(state: State, response: Response) -> State:
    response.headers["ETag"] = f'"{state_tag(state)}"'
    return state
