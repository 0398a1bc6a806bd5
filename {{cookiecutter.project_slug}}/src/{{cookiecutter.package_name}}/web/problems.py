"""Errors as RFC 9457 problem details (`application/problem+json`)."""

from contextlib import suppress
from http.client import responses
from typing import Any

from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from fastapi.utils import is_body_allowed_for_status_code
from fastapi.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from {{ cookiecutter.package_name }}.database.failures import Failure, classify, related
from {{ cookiecutter.package_name }}.database.metrics import trace_id
from {{ cookiecutter.package_name }}.database.report import log_failure

MEDIA_TYPE = "application/problem+json"
BUSY = "The service or its database is busy or can't be reached. Try again."
# Seconds. Overload of a pool passes quickly; clients should add jitter of their own.
RETRY_AFTER = 1
# A choice: enough to mend a request by, where a body of 100,000 unknown fields has as many errors.
MAX_ERRORS = 20
# Characters of a location or a message, which a client may have made up.
MAX_TEXT = 200

_ANSWERS = {
    Failure.UNAVAILABLE: (503, BUSY),
    Failure.LOGIN: (503, "The database can't be used."),
    Failure.CONFLICT: (409, "This contradicts something that is stored."),
    Failure.INVALID: (422, "The database can't store such a value."),
    Failure.FORBIDDEN: (403, "The database does not allow this."),
    Failure.UNKNOWN: (500, None),
}

# Python's, but for those that are other words before 3.13: RFC 9110's.
_TITLES: dict[Any, str] = {
    **responses,
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    "4XX": "Client Error",
    "5XX": "Server Error",
}


class Problem(BaseModel):
    """What went wrong, for people and for programs."""

    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str | None = None
    request_id: str | None = None
    """Names the request in the log, and is the response's `X-Request-ID`."""
    trace_id: str | None = None
    """Of a request that is traced."""
    errors: list[dict[str, str]] | None = Field(
        default=None, examples=[[{"location": "body.name", "message": "Field required"}]]
    )


_REFUSAL = (
    Problem(title="Service Unavailable", status=503, detail=BUSY, request_id="%s")
    .model_dump_json(exclude_none=True)
    .encode()
)


def problems(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """`responses` for OpenAPI. The application has `4XX` and `5XX`, so a route needs none; it may name
    one, as `problems(404)`, for whoever reads the document."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": _TITLES[status], "content": content} for status in statuses}


def _respond(
    status: int,
    detail: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> JSONResponse:
    problem = Problem(
        title=_TITLES.get(status, "Error"),
        status=status,
        detail=detail,
        request_id=correlation_id.get(),
        trace_id=trace_id(),
        errors=errors,
    )
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers, MEDIA_TYPE)


async def refuse(send: Send, retry_after: int) -> None:
    """503 for a thousand at once: ready, but for the id and the seconds."""
    # An id has nothing in it that JSON would escape: main.py's REQUEST_ID.
    body = _REFUSAL % (correlation_id.get() or "").encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % retry_after),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _http(request: Request, error: HTTPException) -> Response:
    if not is_body_allowed_for_status_code(error.status_code):  # 304, for instance
        return Response(status_code=error.status_code, headers=error.headers)
    # FastAPI lets a route give anything for a detail, and any number for a status.
    told = error.detail is not None and error.detail != responses.get(error.status_code)
    detail = str(error.detail) if told else None
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers |= _allowed(request)
    return _respond(error.status_code, detail, headers=headers)


def _allowed(request: Request) -> dict[str, str]:
    """Every method of the path. Starlette names those of the first route that matches: of `/{id}`, it may
    be, where the path is `/count`."""
    known = iter_route_contexts(request.app.routes)
    routes = [route for route in known if route.matches(request.scope)[0] is Match.PARTIAL]
    if not routes:
        return {}
    path = min(routes, key=lambda route: len(route.param_convertors)).path
    methods = {method for route in routes if route.path == path for method in route.methods or ()}
    return {"Allow": ", ".join(sorted(methods))}


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    # Without the input: what was sent may be a secret, and need not travel back.
    errors = [
        {
            "location": ".".join(map(str, detail["loc"]))[:MAX_TEXT],
            "message": detail["msg"][:MAX_TEXT],
        }
        for detail in error.errors()[:MAX_ERRORS]
    ]
    return _respond(422, "The request does not fit the schema.", errors=errors)


def _database_error(error: BaseException) -> SQLAlchemyError | None:
    """The failure of the database that an error is, holds or was raised from."""
    return next((it for it in related(error) if isinstance(it, SQLAlchemyError)), None)


def _is_failure(error: BaseException) -> SQLAlchemyError | None:
    """The failure of the database that an error is, or that a `TaskGroup` raises, and nothing else."""
    if isinstance(error, ExceptionGroup) and error.split(SQLAlchemyError)[1] is None:
        return _database_error(error)
    return error if isinstance(error, SQLAlchemyError) else None


async def _database(connection: HTTPConnection, error: SQLAlchemyError) -> JSONResponse:
    failure = classify(error)
    if failure is Failure.UNKNOWN or isinstance(connection, WebSocket):
        raise error  # to `_unexpected`, or to `_WebSocketFailures`
    log_failure(error)
    return _answer(failure)


def _answer(failure: Failure, headers: dict[str, str] | None = None) -> JSONResponse:
    if failure is Failure.UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER)} | (headers or {})
    return _respond(*_ANSWERS[failure], headers=headers)


async def _group(connection: HTTPConnection, errors: ExceptionGroup) -> JSONResponse:
    error = _is_failure(errors)
    if error is None:
        raise errors
    return await _database(connection, error)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # A failure too that came from a middleware, or after the response had started, in a stream or a
    # background task: then no other handler is asked, and nothing of this one is sent.
    failure = Failure.UNKNOWN
    if (found := _database_error(error)) is not None:
        failure = log_failure(found)
    if _is_failure(error) is None:  # a defect, raised from it
        failure = Failure.UNKNOWN
    # Starlette sends this and raises the error again: the server logs it, with the request's id.
    request_id = correlation_id.get() or ""
    return _answer(failure, {"X-Request-ID": request_id})


class _WebSocketFailures:
    """Closes a WebSocket with 1011 when its database fails, or answers it like a request if it was not
    accepted yet. (No handler of `Exception` is asked about a WebSocket.)"""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        websocket = WebSocket(scope, receive, send)
        try:
            await self.app(scope, websocket.receive, websocket.send)
        except Exception as error:
            failed = _database_error(error)
            if failed is None:
                raise
            failure = log_failure(failed)
            if error is not failed:  # a defect, raised from it
                failure = Failure.UNKNOWN
            with suppress(RuntimeError, WebSocketDisconnect):  # it may be closed already
                early = websocket.application_state is WebSocketState.CONNECTING
                if early and "websocket.http.response" in scope.get("extensions", {}):
                    await websocket.send_denial_response(_answer(failure))
                else:
                    await websocket.close(1011)
            if failure is Failure.UNKNOWN:
                raise


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem, and none with the text of an exception."""
    app.exception_handler(HTTPException)(_http)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(SQLAlchemyError)(_database)
    app.exception_handler(ExceptionGroup)(_group)
    app.exception_handler(Exception)(_unexpected)
    app.add_middleware(_WebSocketFailures)
