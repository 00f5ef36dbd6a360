"""The routes beside studies: samples, validations, advice, and who one is."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from a2sf_core.half_life import alpha_of
from a2sf_core.serve.bounds import content_type
from tuner.inputs.tasks import bundled_tasks, load_task
from tuner.service.bodies import BYTES, bounded, read_body, shown
from tuner.service.desk import Desk, owner_of
from tuner.service.problems import Problem, documented
from tuner.service.regressors import Regressors
from tuner.service.shown import Advice, Choices, Me, UploadShown, ValidationShown, validation_of
from tuner.service.spec import ID, Question, StudySpec
from tuner.workers.leases import workers
from tuner.workers.words import STUDY, VALIDATION

SampleId = Annotated[str, Path(description="As POST /v1/samples gave it.", pattern=ID)]
ValidationId = Annotated[str, Path(description="As POST /v1/validations gave it.", pattern=ID)]
_UPLOAD_SECONDS = 1800.0
_bytes = {"requestBody": {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}}


def samples(desk: Desk) -> APIRouter:
    """All of /v1/samples."""
    routes = APIRouter(prefix="/v1/samples", tags=["samples"])

    @routes.post("", status_code=201, responses=documented(400, 408, 413, 415, 422, 507), openapi_extra=_bytes)
    async def upload(
        request: Request,
        name: Annotated[str, Query(description="What the file is called: NAME.jsonl, .csv or .parquet.",
                                   examples=["calls.jsonl"], max_length=200)],
    ) -> UploadShown:  # fmt: skip
        """Send a file of samples as it is. What is wrong with its rows is said when a study names it."""
        owner = owner_of(request)
        if content_type(request) != BYTES:
            raise Problem(415, f"send the file as it is, with {BYTES} as Content-Type.")
        most = min(desk.limits.upload, await asyncio.to_thread(desk.room_of, owner))
        sent = bounded(request, most, _UPLOAD_SECONDS, "the file")
        return UploadShown.of(await desk.uploads.take(owner, name, sent))

    @routes.get("", responses=documented())
    def newest(request: Request) -> list[UploadShown]:
        """Your samples, newest first."""
        return [UploadShown.of(each) for each in desk.uploads.newest(owner_of(request))]

    @routes.delete("/{sample}", status_code=204, responses=documented(404, 409, 422))
    def remove(request: Request, sample: SampleId) -> Response:
        """Remove samples that no waiting or running study needs."""
        owner = owner_of(request)
        if desk.jobs.uses(owner, sample):
            raise Problem(409, "a study that waits or runs reads these samples; let it end first.")
        if not desk.uploads.remove(owner, sample):
            raise Problem(404, f"you have no samples {sample!r}.")
        return Response(status_code=204)

    return routes


def validations(desk: Desk) -> APIRouter:
    """All of /v1/validations."""
    routes = APIRouter(prefix="/v1/validations", tags=["validations"])

    @routes.post(
        "",
        status_code=201,
        responses=documented(400, 408, 413, 415, 422, 429, 503, 507),
        openapi_extra=shown(StudySpec, yaml=True),
    )
    async def put(request: Request, response: Response) -> ValidationShown:
        """Show a study's first prompt, its parts and the full cache's score, without a search; a worker does it."""
        owner = owner_of(request)
        spec = await read_body(request, StudySpec, desk.limits.body, yaml=True)
        most = desk.limits.validations
        job = await desk.take_in(owner, VALIDATION, spec, most, f"{most} validations of yours wait; let them end.")
        response.headers["Location"] = f"/v1/validations/{job.id}"
        return validation_of(job)

    @routes.get("/{validation}", responses=documented(404, 422))
    def one(request: Request, validation: ValidationId) -> ValidationShown:
        """What was found, once its state is `done`."""
        return validation_of(desk.job(owner_of(request), VALIDATION, validation))

    return routes


def the_rest(desk: Desk) -> APIRouter:
    """/v1/suggest, /v1/me, /v1/choices."""
    routes = APIRouter(prefix="/v1", tags=["others"])

    regressors = Regressors(desk)

    @routes.post("/suggest", responses=documented(400, 404, 408, 413, 415, 422), openapi_extra=shown(Question))
    async def suggest(request: Request) -> Advice:
        """Which alpha suits an input of that many tokens, from the regressor that a study fitted."""
        question = await read_body(request, Question, desk.limits.body)
        model, task = await regressors.of(owner_of(request), question.study)
        half_life, remark = model.suggest(question.tokens)
        low, high = model.tokens_range
        return Advice(
            alpha=alpha_of(half_life), half_life=half_life if half_life != float("inf") else None,
            tokens_range=(low, high), in_range=low <= question.tokens <= high, task=task, remark=remark,
        )  # fmt: skip

    @routes.get("/me", responses=documented())
    def me(request: Request) -> Me:
        """Who one is here, what of one's limits is used, and how many workers there are."""
        owner, limits = owner_of(request), desk.limits
        alive, busy = workers(desk.database)
        return Me(
            owner=owner, unfinished=desk.jobs.unfinished(owner, STUDY), most_unfinished=limits.waiting,
            bytes=desk.used(owner), most_bytes=limits.disk, most_upload=limits.upload, workers=alive,
            busy_workers=busy, mlflow=desk.mlflow,
        )  # fmt: skip

    tasks = {name: load_task(name).title for name in bundled_tasks()}

    @routes.get("/choices", responses=documented())
    def choices() -> Choices:
        """The bundled tasks and the models that a study may name."""
        return Choices(tasks=tasks, models=desk.places.model_names())

    return routes
