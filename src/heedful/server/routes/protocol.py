"""`/protocol`: the crisis protocol of this service, as its files and settings say it. Public where the profile asks."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from heedful.safety import crisis, gate, policy, texts
from heedful.safety import rules as reply_rules
from heedful.server import here
from heedful.server.access import Called
from heedful.server.clinic import At
from heedful.server.house import DAYS
from heedful.server.shown import show

router = APIRouter(include_in_schema=False)


@router.get("/protocol")
def protocol(caller: Called, desk: At) -> Response:
    """The page; nothing on it is written by hand, so it cannot differ from what the server does.

    Raises:
        HTTPException: 404 where the profile does not publish it.
    """
    if not desk.on("protocol_page"):
        raise HTTPException(404, "There is nothing here.")
    rules, replies = policy.load(), gate.load_gate()
    asked = [
        *(("level", str(level), rung) for level, rung in sorted(rules.levels.items())),
        *(("behaviour", name, rung) for name, rung in rules.behaviours.items()),
        *(("sign", name, rung) for name, rung in rules.classes.items()),
    ]
    versions = {
        "policy.toml": f"{rules.version} ({rules.hash})",
        "gate.toml": f"{replies.version} ({replies.hash})",
        "risk.toml": reply_rules.load().version,
        **{
            f"crisis/{name}.toml": f"{held.version} ({held.hash})"
            for name in crisis.LANGUAGES
            if (held := crisis.load(name))
        },
        "resources.toml": desk.directory.table().version,
    }
    house, lines = desk.house, desk.directory.fill(here.language())
    found = texts.load(texts.nearest_language(here.language()))
    spans = {} if house.hours is None else house.hours
    hours = [] if isinstance(spans, str) else [(day, spans.get(day, ())) for day in DAYS]
    return show(
        "protocol.html.j2",
        caller,
        desk,
        asked=asked,
        hours=hours,
        immediate=found.options("interrupt", line=lines.line, emergency=lines.emergency),
        never=[rule.title for rule in (*replies.base.rules, *(entry.rule for entry in replies.rules))],
        versions=versions,
    )
