"""The dossier (Utah HB 452): what this installation runs, on what it was trained, how it was tested, who answers.

Everything is read from the installation at the moment of asking. What is not there is None, which pages and Markdown
show as `missing`: nothing is filled in from hope. English, since it goes to an authority.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from heedful.agents.manner import RECORD, record_of
from heedful.models.embedded import EMBEDDED
from heedful.profiles import Profile
from heedful.review.problems import listed
from heedful.review.reports.incidents import incidents
from heedful.safety import crisis, gate, policy, rules
from heedful.safety.evaluation import evaluate, own_cases
from heedful.server import checks
from heedful.server.config import ServeConfig
from heedful.server.house import House
from heedful.store import Store, audit

SUMMARY: Final = "summary.json"
CARD: Final = "README.md"
MISSING: Final = "missing"
YEAR: Final = timedelta(days=365)


def dossier(store: Store, config: ServeConfig, house: House, profile: Profile) -> dict[str, Any]:
    """The whole dossier as plain JSON; None = missing."""
    now = store.clock()
    return {
        "made": now.isoformat(timespec="seconds"),
        "software": {"name": "heedful", "version": metadata.version("heedful"), "licence": "Apache-2.0"},
        "operator": _operator(store, house),
        "papers": {
            "impact assessment": _paper(house, "impact_assessment"),
            "ethics approval": _paper(house, "approval_number"),
        },
        "model": model(config),
        "crisis evaluation": crisis_evaluation(),
        "policy files": policy_files(),
        "profile": _profile(checks.applied(store, profile)),
        "privacy": _privacy(store, config, house, profile),
        "incidents of the last 365 days": _incidents(store, now),
        "problems that users reported": _problems(store, profile, now),
        "not in this dossier": [
            "the words of what users reported",
            "safety tests with people and advice of licensed persons, of which this program knows nothing",
        ],
    }


def missing(found: Any, at: str = "") -> Iterator[str]:
    """The places at which something is missing: `model / base model`."""
    if found is None or found == "":
        yield at
    elif isinstance(found, Mapping):
        for key, value in found.items():
            yield from missing(value, f"{at} / {key}" if at else str(key))


def as_markdown(found: Mapping[str, Any]) -> str:
    """The dossier to read and to print."""
    lines = [
        "# Dossier",
        "",
        f"Made {found['made']} from the installation itself. `{MISSING}` = it does not have this.",
        "",
    ]
    for key, value in found.items():
        if key != "made":
            lines += [f"## {key[0].upper()}{key[1:]}", "", *_markdown(value, 0), ""]
    return "\n".join(lines)


def _markdown(value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, Mapping):
        for key, part in value.items():
            if isinstance(part, Mapping | list) and part:
                yield f"{indent}- {key}:"
                yield from _markdown(part, depth + 1)
            else:
                yield f"{indent}- {key}: {plain(part)}"
    elif isinstance(value, list) and value:
        yield from (f"{indent}- {plain(part)}" for part in value)
    else:
        yield f"{indent}{plain(value)}"


def plain(value: Any) -> str:
    """A value as people read it."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in ([], {}) else str(value)


# ---------------------------------------------------------------------- parts


def _problems(store: Store, profile: Profile, now: datetime) -> dict[str, int] | None:
    """How many of the last 365 days, by kind, and how many are open; None where nobody can report any."""
    if profile.switches["report_button"] != "on":
        return None
    found = listed(store, since=now - YEAR)
    return {**dict(sorted(Counter(one.kind for one in found).items())), "open": sum(o.state == "open" for o in found)}


def model(config: ServeConfig) -> dict[str, Any]:
    """What runs, and what is on record about how it was made."""
    found: dict[str, Any] = {
        "configured": config.model,
        "engine": config.engine,
        "base model": None,
        "licence of the base model": None,
        "training data": None,
        "licence of the training data": None,
        "hash of the training data": None,
        "method": None,
        "model card": None,
    }
    if config.model in EMBEDDED:
        known = EMBEDDED[config.model]
        note = {"base model": known.name, "licence of the base model": known.licence, "note": known.note}
        return found | note | {"training data": "none of this installation: the model runs as it was published"}
    path = Path(config.model).expanduser()
    run = path if path.is_dir() else path.parent if path.is_file() else None
    if config.engine == "openai" or run is None or not (run / RECORD).is_file():
        return found
    settings, summary = record_of(str(run)), _summary(run / SUMMARY)
    base = str(settings.get("model_name_or_path") or "") or None
    card = run / CARD
    return found | {
        "base model": base,
        "licence of the base model": EMBEDDED[base].licence if base in EMBEDDED else None,
        "training data": summary.get("dataset") or settings.get("dataset"),
        "licence of the training data": summary.get("licence"),
        "hash of the training data": summary.get("data_hash"),
        "method": settings.get("method"),
        "may be published": summary.get("publishable"),
        "model card": f"{CARD}, SHA-256 {_hash(card)}" if card.is_file() else None,
        "run record": f"{RECORD}, SHA-256 {_hash(run / RECORD)}",
    }


@cache
def crisis_evaluation() -> dict[str, Any]:
    """The crisis rules on our own cases, measured now, with the floors that a release may not fall below."""
    report = evaluate(own_cases())
    rows = [row for row in report.rows if row.cls == "all"]
    return {
        "cases": report.cases,
        "rules": dict(report.versions),
        "who reads": "rules alone; a belief model is not part of this measurement",
        **{
            f"{row.part}, {row.language}, {row.kind}": f"{row.found} of {row.n}, 95 %: {row.low:.2f} to {row.high:.2f}"
            for row in rows
        },
    }


def policy_files() -> dict[str, str]:
    """The files that decide, with version and hash: those of the published protocol too."""
    rule, replies = policy.load(), gate.load_gate()
    return {
        "policy.toml": f"{rule.version} ({rule.hash})",
        "gate.toml": f"{replies.version} ({replies.hash})",
        "risk.toml": rules.load().version,
        **{
            f"crisis/{name}.toml": f"{crisis.load(name).version} ({crisis.load(name).hash})"
            for name in crisis.LANGUAGES
        },
    }


def _operator(store: Store, house: House) -> dict[str, Any]:
    with store.read() as unit:
        people = Counter(user.role for user in unit.users.all() if not user.disabled and user.erased_at is None)
    return {
        "name": house.name or None,
        "responsible person": house.responsible or None,
        "contact": house.contact or None,
        "accounts of staff": {role: n for role, n in sorted(people.items()) if role != "help_seeker"},
        "hours of duty": _hours(house),
        "minutes until a person answers a handover": house.response_minutes,
    }


def _hours(house: House) -> str | None:
    if house.hours is None or isinstance(house.hours, str):
        return house.hours
    return f"{len(house.hours)} days a week, {house.timezone.key}"


def _paper(house: House, name: str) -> dict[str, Any] | None:
    paper = getattr(house, name)
    return None if paper is None else {key: str(value) if value else "not said" for key, value in asdict(paper).items()}


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "sources": {
            source.name: {
                "citation": source.citation,
                "version": f"{source.version} ({source.hash})",
                "checked against the primary text": str(source.checked) if source.checked else None,
                "checked by": source.checker or None,
            }
            for source in profile.sources
        },
        "switches": {name: plain(_joined(value)) for name, value in profile.switches.items()},
    }


def _privacy(store: Store, config: ServeConfig, house: House, profile: Profile) -> dict[str, Any]:
    verdict = audit.verify(store)
    return {
        "where data are kept": house.place or None,
        "at rest": "words of people are sealed (AES-256-GCM); keys are opened by a passphrase or the keychain",
        "network": f"listens on {config.host}, {'with TLS' if config.tls else 'without TLS of its own'}; no telemetry",
        "model outside of this machine": config.model if config.engine == "openai" else "no",
        "days that transcripts are kept": profile.switches["transcript_days"] or "no limit",
        "years that the audit is kept": profile.switches["audit_years"],
        "deletion by the person": profile.switches["erasure"],
        "training": "only with a consent of its own, which is no until somebody says yes",
        "audit chain": f"{verdict.state}, {verdict.rows} entries, last {verdict.last}",
    }


def _incidents(store: Store, now: datetime) -> dict[str, int]:
    return dict(sorted(Counter(one.kind for one in incidents(store, since=now - YEAR)).items()))


def _joined(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _summary(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
