"""What is served: models, versions, and all that a caller may want to know of one."""

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from model.checkpoint import CARD, REPORT
from model.errors import ReportNotFound
from model.types import ModelRef
from service.dependencies import Board, CurrentSettings, Host
from service.headers import POLICY_HEADER, REPORT_POLICY
from service.openapi import content, problems
from service.schemas import ModelsOut, VersionDetail, WorkerOut

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(host: Host, board: Board, settings: CurrentSettings) -> ModelsOut:
    """List the models of the registry, their versions and aliases, and how each stands in every worker."""
    own = WorkerOut.of(host)
    workers = await run_in_threadpool(board.read, own)
    return ModelsOut(default_model=settings.default_model, models=own.models, workers=workers)


@router.get("/{ref}", response_model_exclude_none=True, responses=problems(404, 422))
async def show_model(ref: str, host: Host) -> VersionDetail:
    """Show a version: labels, input contract, metrics, engine, card."""
    parsed = ModelRef.parse(ref)
    version, model = host.find(parsed), host.models[parsed.name]
    manifest = await host.manifest(version)
    card = ""
    if CARD in manifest.files:
        path = await run_in_threadpool(host.registry.file, parsed.name, version.number, CARD)
        card = await run_in_threadpool(path.read_text, encoding="utf-8", errors="replace")
    return VersionDetail.describe(model, version, manifest, card)


@router.get(
    "/{ref}/report/{file}", response_class=FileResponse, responses={**content("*/*", "The file."), **problems(404, 422)}
)
async def show_report(ref: str, file: str, host: Host) -> FileResponse:
    """Give a file of a version's report; `index.html` is the report as one page."""
    parsed = ModelRef.parse(ref)
    version = host.find(parsed)
    manifest = await host.manifest(version)
    name = f"{REPORT}/{file}"
    if name not in manifest.files:
        known = ", ".join(listed.removeprefix(f"{REPORT}/") for listed in manifest.files if listed.startswith(REPORT))
        raise ReportNotFound(
            f"the report of {parsed.name}:{version.number} has no {file!r}; it has {known or 'no file at all'}"
        )
    path = await run_in_threadpool(host.registry.file, parsed.name, version.number, name)
    return FileResponse(path, headers={POLICY_HEADER: REPORT_POLICY})
