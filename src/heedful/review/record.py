"""A help-seeker's own record: what they wrote, filled in and were told, in a form that they can read and take along.

Drafts that were never sent are the clinic's notes about its work, not messages to the person; the record says how many
there were, and the clinic answers for the rest (docs/decisions/0055-own-record.md).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from heedful.errors import NotFoundError
from heedful.review import notes
from heedful.store import Store
from heedful.store.records import Signature
from heedful.store.unit import Unit

VERSION = 1


def own_record(store: Store, user: str, *, kept: str) -> dict[str, Any]:
    """What is kept about one help-seeker, as plain JSON, oldest first; read at one moment.

    Args:
        kept: why it is, in words of the page: the entries of the ledger alone do not say what rests on them.

    Raises:
        NotFoundError: there is no such help-seeker.
    """
    with store.read() as unit:
        person = unit.users.find(user)
        if person is None or person.role != "help_seeker":
            raise NotFoundError("There is no help-seeker with this id.")
        return {
            "record": VERSION,
            "made": _at(unit.now()),
            "person": {
                "id": person.id,
                "name": person.name,
                "language": person.language,
                "since": _at(person.created_at),
                "counts_as_adult_from": person.adult_from or None,
            },
            "why_this_is_kept": kept,
            "conversations": [_thread(unit, thread.id) for thread in unit.threads.of(user)],
            "check_ins": [
                {"instrument": c.instrument, "answers": dict(c.answers), "total": c.total, "at": _at(c.created_at)}
                for c in unit.checkins.of(user)
            ],
            "exercises": [
                {
                    "kind": e.kind,
                    "answers": dict(e.answers),
                    "at": _at(e.created_at),
                    "changed": _at(e.changed_at),
                    "signed": _signed(notes.plan_signed(unit, e)),
                }
                for e in unit.exercises.of(user)
            ],
            "plans": [
                {"text": p.note.text, "shared": _at(p.note.shared_at), "signed": _signed(p.signed)}
                for p in notes.shared(unit, user)
            ],
            "problems_you_reported": [
                {"kind": r.kind, "text": r.text, "state": r.state, "at": _at(r.created_at)}
                for r in unit.reports.of(user)
            ],
            "memory": [
                {"text": m.text, "from_turn": m.turn_id, "at": _at(m.created_at), "edited": _at(m.edited_at)}
                for m in unit.memory.of(user)
            ],
            **_agreed(unit, user),
            "exports_that_hold_your_data": [
                {"name": e.name, "purpose": e.purpose, "at": _at(e.at)} for e in unit.exports.holding(user)
            ],
            "models_that_learned_from_your_data": [a.name for a in unit.adapters.learned_from(user)],
        }


def _agreed(unit: Unit, user: str) -> dict[str, Any]:
    """What they answered when they were asked, and what they were told."""
    return {
        "consents": [
            {"purpose": c.purpose, "action": c.action, "wording": c.wording, "version": c.version, "at": _at(c.at)}
            for c in unit.consents.of(user)
        ],
        "notices": [{"moment": n.moment, "wording": n.wording, "at": _at(n.at)} for n in unit.notices.of(user)],
    }


def _thread(unit: Unit, id: str) -> dict[str, Any]:
    thread = unit.threads.get(id)
    turns = unit.turns.of(id)
    writers = {user: unit.users.find(user) for user in {t.author for t in turns if t.author}}
    return {
        "id": id,
        "state": thread.state,
        "opened": _at(thread.opened_at),
        "closed": _at(thread.closed_at),
        "messages": [
            {
                "id": turn.id,
                "from": "you" if turn.role == "user" else _who(writers.get(turn.author or "")),
                "text": turn.text,
                "at": _at(turn.created_at),
            }
            for turn in turns
        ],
        "drafts_that_were_not_sent": sum(d.sent_turn_id is None for d in unit.drafts.of(id)),
    }


def _who(user: Any) -> str:
    return "a fixed text of the program" if user is None else (user.name or "a member of staff")


def _signed(signature: Signature | None) -> str | None:
    return None if signature is None else _at(signature.at)


def _at(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
