"""Versions as files: out of this registry, and into it. These routes exist only where an admin key is set."""

import tempfile
from contextlib import suppress
from typing import Annotated

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from model.archive import MEDIA_TYPE, SUFFIX, archive_blocks, read_archive
from model.errors import CorruptCheckpoint, EngineUnavailable, ModelError, RegistryUnavailable
from model.types import ModelRef
from service.dependencies import Host
from service.errors import InvalidRequest, ServiceError
from service.hosted import LoadState
from service.openapi import ARCHIVE, content
from service.schemas import PublishedOut
from service.security import admin_router

router = admin_router(404, 413, 422, 503)


@router.get("/{ref}/archive", response_class=StreamingResponse, responses=content(MEDIA_TYPE, "The archive."))
async def export_version(ref: str, host: Host) -> StreamingResponse:
    """Give a version as one file, which `POST /v1/models` and `hubel import` take."""
    parsed = ModelRef.parse(ref)
    number = host.find(parsed).number
    version = await run_in_threadpool(host.registry.version, ModelRef(parsed.name, version=number))
    name = f"{version.name}-{version.number}{SUFFIX}"
    return StreamingResponse(
        archive_blocks(version),
        media_type=MEDIA_TYPE,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.post("", status_code=201, **ARCHIVE)
async def import_version(
    request: Request,
    host: Host,
    name: Annotated[str | None, Query(description="Name of the model; the archive's own by default.")] = None,
    alias: Annotated[str | None, Query(description="Alias to move to the new version.")] = None,
) -> PublishedOut:
    """Publish an archive, which is the body, as the next version of its model, after checking that it loads."""
    try:
        with tempfile.TemporaryFile() as file:
            async for chunk in request.stream():
                await run_in_threadpool(file.write, chunk)
            file.seek(0)
            version = await run_in_threadpool(read_archive, file, host.registry, name, alias)
    except (CorruptCheckpoint, EngineUnavailable) as error:  # the sender's fault, not the registry's
        raise InvalidRequest(f"the archive is refused: {error}") from error
    except OSError as error:
        raise RegistryUnavailable(f"the archive cannot be kept in {tempfile.gettempdir()}: {error.strerror}") from error
    ready = False
    with suppress(ModelError, ServiceError):  # it is published, whatever becomes of it here
        await host.look()
        hosted = host.find(ModelRef(version.name, version=version.number))
        if hosted.loading:  # an alias means it
            await host.load(version.name, version.number)
        ready = hosted.state is LoadState.READY
    return PublishedOut(model=version.name, version=version.number, ready=ready)
