"""What is served: models, versions, and all that a caller may want to know of one."""

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from model.checkpoint import REPORT, read_card, read_manifest
from model.errors import ReportNotFound
from model.registry import Registry
from model.types import ModelRef
from service.dependencies import CurrentSettings, Host
from service.openapi import problems
from service.schemas import ModelOut, ModelsOut, VersionDetail

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(host: Host, settings: CurrentSettings) -> ModelsOut:
    """List the models of the registry, their versions and aliases, and which are loaded."""
    return ModelsOut(
        default_model=settings.default_model, models=[ModelOut.of(model) for model in host.models.values()]
    )


@router.get("/{ref}", response_model_exclude_none=True, responses=problems(404, 422))
async def show_model(ref: str, host: Host, settings: CurrentSettings) -> VersionDetail:
    """Show a version: labels, input contract, metrics, engine, card."""
    parsed = ModelRef.parse(ref)
    version = host.find(parsed)
    folder = Registry(settings.registry).folder(parsed.name, version.number)
    manifest = version.stored.manifest if version.stored else await run_in_threadpool(read_manifest, folder)
    card = await run_in_threadpool(read_card, folder)
    return VersionDetail.describe(host.models[parsed.name], version, manifest, card)


@router.get("/{ref}/report/{file}", response_class=FileResponse, responses=problems(404, 422))
async def show_report(ref: str, file: str, host: Host, settings: CurrentSettings) -> FileResponse:
    """Give a file of a version's report; `index.html` is the report as one page."""
    parsed = ModelRef.parse(ref)
    number = host.find(parsed).number
    folder = Registry(settings.registry).folder(parsed.name, number)
    manifest = await run_in_threadpool(read_manifest, folder)
    name = f"{REPORT}/{file}"
    if name not in manifest.files:
        known = ", ".join(listed.removeprefix(f"{REPORT}/") for listed in manifest.files if listed.startswith(REPORT))
        raise ReportNotFound(
            f"the report of {parsed.name}:{number} has no {file!r}; it has {known or 'no file at all'}"
        )
    return FileResponse(folder / name)
