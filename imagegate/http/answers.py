"""What the answers of both apps have in common: outcomes, errors, a limit on time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.model import (
    BadAnswer,
    BadPicture,
    Forbidden,
    GateClosed,
    ImageGateError,
    NotRecorded,
    Outcome,
    TooLate,
    UnknownGate,
    Verdict,
    sayable,
)
from ..storage.sql.deadline import SOON, limited

PROBLEMS = 5
"""The most problems of a request that an answer names."""
NO_STORE = {"cache-control": "no-store"}

SessionProgress = Callable[[], dict[str, Any]]
"""How far a folder's session is; see `imagegate.folder.session.FolderSession.progress`."""

STATUS: dict[type[ImageGateError], int] = {
    UnknownGate: 404,
    TooLate: 409,
    GateClosed: 410,
    BadAnswer: 422,
    BadPicture: 422,
    Forbidden: 403,
    NotRecorded: 507,
}


class AnswersSoon:
    """Limits calls to a few seconds, after which a person hears that the store does not answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with limited(SOON):
            await self._app(scope, receive, send)


class Nothing(BaseModel):
    """An empty object."""

    model_config = ConfigDict(extra="forbid")


# -- answers


def answer(verdict: Verdict, first: Callable[[], dict[str, Any]]) -> JSONResponse:
    """The outcome of an answer; ``first`` describes the one that was earlier."""
    content: dict[str, Any] = {"outcome": verdict.outcome.value}
    if verdict.outcome is Outcome.LOST:
        return JSONResponse(content | {"decision": first()}, status_code=409)
    return JSONResponse(content)


# -- what goes wrong


class NoSuchCall:
    """Says what is wrong with a request that matches no call.

    Without it the panel's page, which is mounted on the operator's app, would answer instead.
    """

    def __init__(self, calls: list[BaseRoute]) -> None:
        self._calls = [call for call in calls if isinstance(call, Route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        partly = [call for call in self._calls if call.matches(scope)[0] is Match.PARTIAL]
        allowed = ", ".join(sorted({name for call in partly for name in call.methods or ()}))
        if allowed:
            message = f"{method} is not allowed on {path}; allowed are {allowed}"
            raise HTTPException(405, message, {"Allow": allowed})
        raise HTTPException(404, f"no call {path!r}; docs/rest.md lists those there are")


def explain_all(app: FastAPI) -> None:
    """Answer requests that the framework itself refuses in the same form as all others."""
    app.add_exception_handler(RequestValidationError, _explain_input)
    app.add_exception_handler(HTTPException, _explain_http)


async def _explain_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_of(error.detail, error.status_code, error.headers)


async def _explain_input(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()[:PROBLEMS]
    ]
    return error_of("; ".join(problems), 422)


def error_of(message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error, in the form that all calls give it."""
    # Names of files come in messages, too, and need not be valid Unicode.
    return JSONResponse({"error": sayable(message)}, status, headers)
