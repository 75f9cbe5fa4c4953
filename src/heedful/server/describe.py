"""The OpenAPI document: FastAPI's, with who may call what and with our own errors in it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from heedful.server.access import Access

ERROR: Final[dict[str, Any]] = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
"""OpenAI's error object."""
SCHEMES: Final[dict[str, Any]] = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token with the scope that the call needs."},
    "session": {"type": "apiKey", "in": "cookie", "name": "heedful", "description": "A sign-in; see /api/session."},
}
_ANSWER: Final[dict[str, Any]] = {
    "description": "Refused, or failed.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}


def document(app: FastAPI, access: Access) -> dict[str, Any]:
    """The document; made once, as routes do not change."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for unused in (
            "HTTPValidationError",
            "ValidationError",
        ):  # FastAPI's own form of errors, which quotes the input
            schemas.pop(unused, None)
        schemas["Error"] = ERROR
        found["components"]["securitySchemes"] = SCHEMES
        for path, operations in found["paths"].items():
            for method, operation in operations.items():
                _complete(operation, access, path, method.upper())
        app.openapi_schema = found
    return app.openapi_schema


def _complete(operation: dict[str, Any], access: Access, path: str, method: str) -> None:
    row = next(row for row in access.rows if row.path == path and method in row.methods)
    operation["responses"].pop("422", None)
    operation["responses"] |= {"4XX": _ANSWER, "5XX": _ANSWER}
    if row.who == "public":
        return
    token: list[dict[str, list[str]]] = [{"token": []}] if row.scope else []
    operation["security"] = [*token, {"session": []}]
    if row.scope:
        operation["description"] = f"{operation.get('description', '')}\n\nScope of tokens: `{row.scope}`.".strip()
