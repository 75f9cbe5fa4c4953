"""Routers. To add one: a module with `router`, its name in `ROUTERS`, a row in `access.toml` for each path."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from heedful.server.routes import health, openai, setup, sign_in, tokens

ROUTERS: Final[tuple[APIRouter, ...]] = (health.router, sign_in.router, setup.router, tokens.router, openai.router)
"""What the app answers with."""
