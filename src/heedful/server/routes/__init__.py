"""Routers. To add one: a module with `router`, its name in `ROUTERS`, a row in `access.toml` for each path."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from heedful.server import clinic
from heedful.server.routes import (
    admin,
    checkins,
    colleagues,
    consents,
    decide,
    exercises,
    health,
    inbox,
    me,
    notes,
    openai,
    people,
    problems,
    protocol,
    reports,
    setup,
    sign_in,
    start,
    supervision,
    talk,
    tasks,
    tokens,
)

ROUTERS: Final[tuple[APIRouter, ...]] = (
    talk.router,  # what is asked most comes first: routes are looked through in this order
    health.router,
    sign_in.router,
    setup.router,
    tokens.router,
    openai.router,
    clinic.router,
    start.router,
    checkins.router,
    exercises.router,
    me.router,
    consents.router,
    problems.router,
    inbox.router,
    decide.router,
    notes.router,
    tasks.router,
    people.router,
    colleagues.router,
    supervision.router,
    admin.router,
    protocol.router,
    reports.router,
)
"""What the app answers with."""
