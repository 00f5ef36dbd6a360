"""The application: routes behind the gate, faults as problem+json, and the OpenAPI description."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp

from a2sf_core.errors import A2SFError
from a2sf_core.version import __version__
from tuner.service import others, page, studies
from tuner.service.desk import Desk
from tuner.service.gate import Gate
from tuner.service.metrics import Metrics
from tuner.service.problems import Problem, ProblemBody, documented
from tuner.service.spec import Question, StudySpec

LOG = logging.getLogger("a2sf.service")
_DESCRIPTION = "Studies for a team: send samples, get a policy with its proof. Faults are told as problem+json."


class Health(BaseModel):
    """Whether the service can work."""

    status: str


def application(desk: Desk, trusts_loopback: bool) -> ASGIApp:
    """All of it; whoever it is served to comes through the gate."""
    # FastAPI's own pages for the description come from a CDN.
    app = FastAPI(
        title="a2sf-tune service", version=__version__, description=_DESCRIPTION, docs_url=None, redoc_url=None
    )
    bearer = [Depends(HTTPBearer(auto_error=False, description="Of `a2sf-tune token OWNER`; the gate looks at it."))]
    for routes in (studies.router(desk), others.samples(desk), others.validations(desk), others.the_rest(desk)):
        app.include_router(routes, dependencies=bearer)
    metrics = Metrics(desk)

    @app.get("/healthz", tags=["others"], responses={503: documented(503)[503]})
    def healthz() -> Health:
        """200 while the database answers; the only figure that needs no token."""
        desk.jobs.check()
        return Health(status="ok")

    @app.get(
        "/metrics",
        tags=["others"],
        dependencies=bearer,
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "For Prometheus."},
            **documented(),
        },
    )
    def show_metrics() -> Response:
        """Figures for Prometheus, of all owners together."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    page.add(app, desk)
    _say_faults(app)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return Gate(metrics.counted(app), desk.tokens, trusts_loopback)


def _say_faults(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    def problem(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    def route(request: Request, error: HTTPException) -> Response:
        response = Problem(error.status_code, f"{error.detail}: see /openapi.json.").response()
        if error.status_code == 405:  # Starlette names the methods of the first route of that path only
            response.headers["Allow"] = ", ".join(sorted(_methods(app, request)))
        return response

    @app.exception_handler(RequestValidationError)
    def field(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"][:3])
        return Problem(422, f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}.").response()

    @app.exception_handler(A2SFError)
    def mistake(_: Request, error: A2SFError) -> Response:
        return Problem(422, str(error)).response()

    @app.exception_handler(DBAPIError)
    def database(_: Request, error: DBAPIError) -> Response:
        LOG.warning("the database does not answer (%s)", type(error).__name__)
        return Problem(503, "the service's database does not answer; come back in a moment.").response()

    @app.exception_handler(Exception)
    def fault(_: Request, error: Exception) -> Response:
        return Problem(
            500, f"the service failed on this request ({type(error).__name__}); its log says more."
        ).response()


def _methods(app: FastAPI, request: Request) -> set[str]:
    described = app.openapi()["paths"]
    known = [set(told) for path, told in described.items() if compile_path(path)[0].match(request.scope["path"])]
    return {method.upper() for methods in known for method in methods}


def _described(app: FastAPI) -> dict[str, Any]:
    """The description, with the bodies that the routes read themselves."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for kind in (StudySpec, Question):
            schemas[kind.__name__] = kind.model_json_schema()
        schemas["Problem"] = ProblemBody.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = found
    return app.openapi_schema
