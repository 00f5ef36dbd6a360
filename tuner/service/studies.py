"""The routes of studies: put in, looked at, followed, ended, and what they leave behind."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from sse_starlette import EventSourceResponse

from a2sf_core.config import FILE_NAME
from tuner.reporting.names import PICTURES, REPORT_FILE
from tuner.service.bodies import read_body, shown
from tuner.service.desk import Desk, owner_of
from tuner.service.events import changes
from tuner.service.problems import Problem, documented
from tuner.service.shown import StudyPage, StudyShown, read_front, row_of, study_of
from tuner.service.spec import ID, StudySpec
from tuner.workers.jobs import Job
from tuner.workers.words import STUDY

StudyId = Annotated[str, Path(description="As POST /v1/studies gave it.", pattern=ID)]
FileName = Annotated[str, Path(json_schema_extra={"enum": list(PICTURES)})]
_TYPES = {".png": "image/png", ".html": "text/html; charset=utf-8", ".json": "application/json"}
# A page that a run wrote has scripts in it; it opens, but as if it came from elsewhere: no cookie, no token.
_SANDBOX = {"Content-Security-Policy": "sandbox allow-scripts; default-src 'unsafe-inline' data: blob:"}
_PRIVATE = {"Cache-Control": "private, no-cache"}


def router(desk: Desk) -> APIRouter:
    """All of /v1/studies."""
    routes = APIRouter(prefix="/v1/studies", tags=["studies"])

    def shown_of(job: Job) -> StudyShown:
        return study_of(job, desk.places.study(job.id))

    async def mine(request: Request, study: str) -> Job:
        return await asyncio.to_thread(desk.job, owner_of(request), STUDY, study)

    @routes.post(
        "",
        status_code=201,
        responses=documented(400, 408, 413, 415, 422, 429, 503, 507),
        openapi_extra=shown(StudySpec, yaml=True),
    )
    async def put(request: Request, response: Response) -> StudyShown:
        """Put a study into the queue, from JSON or YAML. Task and samples are read first, as the command line does."""
        owner = owner_of(request)
        spec = await read_body(request, StudySpec, desk.limits.body, yaml=True)
        most = desk.limits.waiting
        full = f"you have {most} studies that wait or run; let some of them end."
        job = await desk.take_in(owner, STUDY, spec, most, full)
        response.headers["Location"] = f"/v1/studies/{job.id}"
        return await asyncio.to_thread(shown_of, job)

    @routes.get("", responses=documented(422))
    def newest(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[float | None, Query(description="`next` of the page before this one.", ge=0, le=1e12)] = None,
    ) -> StudyPage:
        """Your studies, newest first."""
        found = desk.jobs.newest(owner_of(request), STUDY, limit, before)
        following = found[-1].created if len(found) == limit else None
        return StudyPage(studies=[row_of(job) for job in found], next=following)

    @routes.get("/{study}", responses=documented(404, 422))
    def one(request: Request, study: StudyId) -> StudyShown:
        """How far a study is: the running step, the time that it still takes, the best trials, and how it ended."""
        return shown_of(desk.job(owner_of(request), STUDY, study))

    @routes.delete("/{study}", status_code=202, responses=documented(404, 422))
    def end(request: Request, study: StudyId) -> StudyShown:
        """Cancel a study that waits or runs; remove one that has ended, with its files."""
        owner = owner_of(request)
        job = desk.job(owner, STUDY, study)
        if not job.has_ended:
            desk.jobs.cancel(owner, STUDY, study)
            return shown_of(desk.job(owner, STUDY, study))
        answer = shown_of(job)
        if desk.jobs.remove(owner, STUDY, study):
            desk.places.remove(desk.places.study(study))
        return answer

    @routes.get(
        "/{study}/events",
        response_class=EventSourceResponse,
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Until it ends."},
            **documented(404, 422),
        },
    )
    async def events(request: Request, study: StudyId) -> EventSourceResponse:
        """Server-sent events: `study`, with what GET of the study gives, at once and whenever it changes."""
        owner = owner_of(request)
        await mine(request, study)

        def version() -> int | None:
            return desk.jobs.version(owner, STUDY, study)

        def look() -> Job | None:
            return desk.jobs.get(owner, STUDY, study)

        return EventSourceResponse(changes(version, look, shown_of), sep="\n", ping=15, send_timeout=30)

    @routes.get("/{study}/front", responses=documented(404, 422))
    async def front(request: Request, study: StudyId) -> dict[str, Any]:
        """Every finished trial, and the picture of them: of the search while it runs, of what was proven at the end."""
        await mine(request, study)
        found = await asyncio.to_thread(read_front, desk.places.study(study))
        return dict(found) if found else {"trials": [], "picture": None}

    async def file_of(request: Request, study: str, name: str, what: str) -> FileResponse:
        job = await mine(request, study)
        path = desk.places.study(study) / name
        if not path.is_file():
            state = "has ended without one" if job.has_ended else f"is {job.state}"
            raise Problem(404, f"there is no {what}: the study {state}.")
        headers = _PRIVATE | (_SANDBOX if path.suffix == ".html" else {})
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=headers)

    json_file: dict[str, Any] = {"response_class": FileResponse, "responses": {
        200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "The file."},
        **documented(404, 422),
    }}  # fmt: skip

    @routes.get("/{study}/config", **json_file)
    async def config(request: Request, study: StudyId) -> FileResponse:
        """The policy that serving loads, a2sf_config.json."""
        return await file_of(request, study, FILE_NAME, "policy")

    @routes.get("/{study}/report", **json_file)
    async def report(request: Request, study: StudyId) -> FileResponse:
        """The evidence for it, report.json."""
        return await file_of(request, study, REPORT_FILE, "report")

    any_file = {kind: {"schema": {"type": "string"}} for kind in ("image/png", "text/html", "application/json")}

    @routes.get(
        "/{study}/files/{name}",
        response_class=FileResponse,
        responses={200: {"content": any_file, "description": "The file."}, **documented(404, 422)},
    )
    async def picture(request: Request, study: StudyId, name: FileName) -> FileResponse:
        """The pictures, and what some of them show as figures."""
        if name not in PICTURES:
            raise Problem(404, f"there is no file of that name; expected one of {', '.join(PICTURES)}.")
        return await file_of(request, study, name, name)

    return routes
