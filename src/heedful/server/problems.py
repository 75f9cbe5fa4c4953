"""Errors as answers: OpenAI's error object for programs, a page for people. Never what was sent, never a traceback.

Messages of our own errors may quote one short word of the input (`heedful.errors.shown`). Here such a word is cut out
unless it is one of the schema, since an answer may be stored or logged on its way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from heedful.errors import (
    BusyError,
    ConflictError,
    EngineError,
    GateError,
    HeedfulError,
    NotFoundError,
    StoreError,
    TransitionError,
    UserError,
)
from heedful.server import here, logs, words
from heedful.server.access import SCOPES
from heedful.server.conditions import ClosedError
from heedful.server.views import page
from heedful.store.states import DRAFT_STEPS, JOB_STEPS, PURPOSES, ROLES, THREAD_STEPS

KINDS: Final[dict[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""HTTP status -> OpenAI's `type`; everything else is a `server_error`."""
WORDS: Final[frozenset[str]] = frozenset(
    {*ROLES, *PURPOSES, *SCOPES}
    | {state for steps in (THREAD_STEPS, DRAFT_STEPS, JOB_STEPS) for pair in steps for state in pair}
)
"""Words that a message may quote."""
ENGINE: Final[dict[str, int]] = {
    "full": 503,
    "down": 503,
    "lost": 503,
    "late": 504,
    "cancelled": 499,
    "refused": 400,
    "failed": 500,
}
NEEDS: Final[dict[str, str]] = {
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "literal_error": "has a value that this server does not take",
    "model_attributes_type": "must be a JSON object, sent as application/json",
}
"""Kind of a wrong value -> what was expected; the numbers are those of our schema, never what was sent."""
_QUOTED: Final = re.compile(r"(?<!\w)(['\"]).*?\1(?!\w)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What an answer with an error says.

    Args:
        words: key and values of the text that a page shows instead of `message`; None = a general one for `code`.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    words: tuple[str, Mapping[str, object]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = KINDS.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def answer(problem: Problem, *, path: str, csrf: str = "") -> Response:
    """The response: JSON for programs, a page for everybody else."""
    if for_programs(path):
        problem = for_openai(problem) if path.startswith("/v1") else problem
        return JSONResponse(problem.body(), status_code=problem.status, headers=dict(problem.headers))
    said, rest = explained(problem)
    values: dict[str, Any] = {"problem": problem, "said": said, "rest": rest}
    return page("error.html.j2", status=problem.status, headers=problem.headers, csrf=csrf, **values)


def for_openai(problem: Problem) -> Problem:
    """A problem of `/v1` with the code that OpenAI gives it, which clients look for."""
    if problem.status == 401:
        said = "No API key was sent, or it is none of this server's. Send 'Authorization: Bearer hfd_...'."
        return replace(problem, message=said, code="invalid_api_key")
    if problem.code == "not_found":  # nothing else under /v1 has a name
        return replace(problem, code="model_not_found", param="model")
    return problem


def explained(problem: Problem) -> tuple[str, str]:
    """What a page says in its reader's language, and the message where it says more; that one is English."""
    if problem.words is not None:
        return here.t(problem.words[0], **problem.words[1]), ""
    english, key = words.load(words.LANGUAGES[0]), f"problem.{problem.code}"
    key = key if english.has(key) else "problem.engine" if problem.code.startswith("engine_") else "problem.other"
    return here.t(key), "" if problem.message == english.say(key) else problem.message


def for_programs(path: str) -> bool:
    """Whether a path belongs to an API."""
    return path.startswith(("/v1/", "/api/")) or path in ("/v1", "/api", "/health", "/metrics")


def of_error(err: Exception) -> Problem:
    """What an answer may say about an error of ours."""
    if isinstance(err, EngineError):
        return Problem(
            status=ENGINE.get(err.code, 500),
            message=cut(str(err)),
            code=f"engine_{err.code}",
            headers=wait(err.retry_after),
        )
    if isinstance(err, BusyError):
        return Problem(status=503, message=cut(str(err)), code="busy", headers=wait(1))
    for kind, status, code in _STATUS:
        if isinstance(err, kind):
            return Problem(status=status, message=cut(str(err)), code=code, words=err.words)
    if isinstance(err, StoreError):
        return Problem(
            status=503, message="The database cannot do this now; try again later.", code="store", headers=wait(30)
        )
    return Problem(status=500, message="Something went wrong here; nothing of it was your fault.", code="internal")


_STATUS: Final[tuple[tuple[type[HeedfulError], int, str], ...]] = (
    (ClosedError, 503, "closed"),
    (NotFoundError, 404, "not_found"),
    (TransitionError, 409, "illegal_change"),
    (ConflictError, 409, "conflict"),
    (GateError, 422, "gate_refused"),
    (UserError, 400, "invalid"),
)


def cut(message: str) -> str:
    """A message without quoted words that are not of the schema.

    >>> cut("A role must be one of admin, but it is 'Zoe Miller'."), cut("It is 'approved' now.")
    ('A role must be one of admin, but it is (left out).', "It is 'approved' now.")
    """
    return _QUOTED.sub(lambda m: m[0] if m[0][1:-1] in WORDS else "(left out)", message)


def wait(seconds: float | None) -> dict[str, str]:
    """A Retry-After header, where there is something to say."""
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}


def install(app: FastAPI) -> None:
    """Let the app answer this way."""

    async def ours(request: Request, err: Exception) -> Response:
        problem = of_error(err)
        if problem.status >= 500 and not isinstance(err, EngineError | ClosedError):
            logs.fault(err, request=request.state.id)
        return _answered(request, problem)

    async def http(request: Request, err: Exception) -> Response:
        assert isinstance(err, HTTPException)
        code = KINDS.get(err.status_code, "server_error").removesuffix("_error")
        message = cut(str(err.detail))
        return _answered(
            request, Problem(status=err.status_code, message=message, code=code, headers=dict(err.headers or {}))
        )

    async def invalid(request: Request, err: Exception) -> Response:
        assert isinstance(err, RequestValidationError)
        return _answered(request, of_validation(err, names=known_names(request.app)))

    app.add_exception_handler(HeedfulError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def of_validation(err: RequestValidationError, *, names: frozenset[str]) -> Problem:
    """Where a request is wrong and how, without what stood there. Names that the sender made up are left out too."""
    first = err.errors()[0]
    # FastAPI's message and `input` quote what was sent; the kind of the error does not.
    where = [str(part) for part in first["loc"][1:] if isinstance(part, int) or part in names]
    kind, limits = str(first["type"]), first.get("ctx", {})
    param = ".".join(where) or None
    if kind == "json_invalid":
        return Problem(status=400, message="The body is no valid JSON.", code="invalid_json")
    place = f"'{param}'" if param else "A part of the request"
    if kind == "missing":
        return Problem(
            status=422, message=f"{place} is needed and missing.", code="missing_required_parameter", param=param
        )
    numbers = {name: value for name, value in limits.items() if isinstance(value, int | float)}
    wanted = NEEDS.get(kind, f"is not as the API wants it ({kind.replace('_', ' ')})")
    fits = all(name in numbers for name in words.placeholders(wanted))
    message = f"{place} {wanted.format_map(numbers)}." if fits else f"{place} is not as the API wants it."
    return Problem(status=422, message=message, code="invalid_value", param=param)


def known_names(app: FastAPI) -> frozenset[str]:
    """Names of all fields and parameters of the API: what an error may name."""
    found: set[str] = set(getattr(app.state, "names", ()))
    if not found:
        for route in app.openapi().get("paths", {}).values():
            for operation in route.values():
                found |= {parameter["name"] for parameter in operation.get("parameters", ())}
        for schema in app.openapi().get("components", {}).get("schemas", {}).values():
            found |= set(schema.get("properties", ()))
        app.state.names = frozenset(found)
    return frozenset(found)


def _answered(request: Request, problem: Problem) -> Response:
    caller = getattr(request.state, "caller", None)
    return answer(problem, path=request.url.path, csrf=caller.csrf if caller else "")
