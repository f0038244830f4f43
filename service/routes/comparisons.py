"""Two versions asked the same images. The route exists only where an admin key is set."""

import datetime as dt
import hashlib
from typing import Annotated

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool

from model.errors import InvalidImage
from model.state import DiffRecord
from model.types import ModelRef
from service.dependencies import CurrentSettings, Host
from service.errors import InvalidRequest
from service.openapi import UPLOADS
from service.schemas import DifferenceOut, DiffOut, PredictionOut
from service.security import admin_router
from service.served import ClassifiedImage
from service.uploads import read_uploads

router = admin_router(404, 413, 422, 503, 504)


@router.post("/{ref}/diff", **UPLOADS)
async def compare(
    ref: str,
    request: Request,
    host: Host,
    settings: CurrentSettings,
    candidate: Annotated[str, Query(description="The version to compare with it: name, name:3 or name@alias.")],
) -> DiffOut:
    """Ask two versions the same images, and remember how far they agree if they are of one model."""
    refs = ModelRef.parse(ref), ModelRef.parse(candidate)
    versions = [host.find(each) for each in refs]
    uploads = await read_uploads(request, settings.max_images_per_request)
    seconds = settings.request_timeout_ms / 1000
    with await host.lease(versions[0], seconds) as one, await host.lease(versions[1], seconds) as other:
        asked = [(await served.predict(uploads)).results for served in (one, other)]
        pairs = [
            (index, PredictionOut.of(one.classifier.top(ours.probabilities, 1)[0]),
             PredictionOut.of(other.classifier.top(theirs.probabilities, 1)[0]))
            for index, (ours, theirs) in enumerate(zip(*asked, strict=True))
            if isinstance(ours, ClassifiedImage) and isinstance(theirs, ClassifiedImage)
        ]  # fmt: skip
    if not pairs:
        raise InvalidRequest("none of the images can be decoded")
    different = [
        DifferenceOut(image=index, baseline=ours, candidate=theirs)
        for index, ours, theirs in pairs
        if ours.label != theirs.label
    ]
    agreement = 1 - len(different) / len(pairs)
    if refs[0].name == refs[1].name and versions[0].number != versions[1].number:
        content = hashlib.sha256(b"".join(u for u in uploads if not isinstance(u, InvalidImage))).hexdigest()
        record = DiffRecord(
            baseline=versions[0].number,
            candidate=versions[1].number,
            images=len(pairs),
            agreement=agreement,
            data=f"images sent to the service, {content}",
            created=dt.datetime.now(dt.UTC).replace(microsecond=0),
        )
        await run_in_threadpool(host.registry.record_diff, refs[0].name, record)
    return DiffOut(
        baseline=f"{refs[0].name}:{versions[0].number}",
        candidate=f"{refs[1].name}:{versions[1].number}",
        images=len(pairs),
        unreadable=len(uploads) - len(pairs),
        agreement=agreement,
        differences=different,
    )
