"""What clinicians decided becomes data to learn from: pairs for DPO and reward models, with consent, without names.

    edited     the words that were sent are better than the draft
    rejected   what the clinician wrote instead, before the help-seeker wrote again, is better than the draft
    approved   (form `answers` only) the draft was good

Only conversations of help-seekers whose consent to training stands now. Every text is de-identified before it is
written (`heedful.privacy.deidentify`: it misses things, so a person reads the file before it is used), ids are keyed
digests, and the store remembers whose data a file holds, so that a deletion can name the models that learned from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from heedful.errors import ConfigError, DataError, TransitionError
from heedful.privacy import Keys
from heedful.privacy.deidentify import Pseudonyms, deidentify
from heedful.profiles import Profile
from heedful.review.said import as_turn
from heedful.store import Store
from heedful.store.records import Draft, Export, StoredTurn
from heedful.store.states import Purpose
from heedful.store.unit import Unit

Form = Literal["pairs", "answers"]
SUFFIX = ".sealed"
_ROLES = {"clinician", "supervisor", "admin"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written.

    Args:
        lines, people: how many examples, of how many help-seekers.
        replaced: kind -> how many findings got a stand-in.
        without_consent: decided drafts that were left out.
    """

    path: Path
    export: Export
    lines: int
    people: int
    replaced: dict[str, int]
    without_consent: int


def export_preferences(
    store: Store,
    path: str | Path,
    *,
    by: str,
    form: Form = "pairs",
    names: Sequence[str] = (),
    plain: bool = False,
    purposes: Sequence[Purpose] = ("training",),
) -> Exported:
    """Write what was decided so far, in TRL's columns, as `heedful train method=dpo dataset=FILE` reads it.

    Args:
        path: must not be there yet. Without `plain` the file is sealed with the store's keys and gets the ending
            `.sealed`; `open_export` reads it.
        names: more names that are to be taken out, of people and places that turn up in your conversations.
        purposes: consents that have to stand, all of them; `needed` says which a profile asks for.

    Raises:
        DataError: there is nothing to write, or the file is there already.
        TransitionError: `by` is neither staff who decide nor an admin.
    """
    if form not in get_args(Form):
        raise ConfigError(f"'form' must be one of {', '.join(get_args(Form))}, not '{form}'.")
    target = Path(path) if plain else Path(f"{path}{SUFFIX}")
    if target.exists():
        raise DataError(f"'{target}' is there already; name another file.")

    def work(unit: Unit) -> Exported:
        _check_role(unit, by)
        made = _Made(unit=unit, keys=store.keys, names=tuple(names), form=form, purposes=tuple(purposes))
        lines = list(made.lines())
        if not lines:
            raise DataError(
                f"There is nothing to export: {made.without_consent} decided drafts are of people who have not agreed "
                f"to {' and '.join(purposes)}, and no other draft was decided in a way that says which words are "
                "better."
            )
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        kept = content if plain else store.keys.seal(content, _context(target), purpose="backup")
        export = unit.exports.add(
            kind=f"preferences.{form}",
            purpose="training",
            name=target.name,
            rows=len(lines),
            sha256=hashlib.sha256(kept).hexdigest(),
            by=by,
            help_seekers=made.people,
        )
        _write(target, kept)  # last: where it cannot be written, nothing is remembered either
        return Exported(
            path=target,
            export=export,
            lines=len(lines),
            people=len(made.people),
            replaced=dict(sorted(made.replaced.items())),
            without_consent=made.without_consent,
        )

    return store.run(work)


def needed(profile: Profile) -> tuple[Purpose, ...]:
    """Consents without which nothing is exported to learn from: training, and recording where a profile has one.

    >>> from heedful.profiles import load
    >>> needed(load("strict")), needed(load("us-nv"))
    (('training', 'recording'), ('training',))
    """
    return ("training", "recording") if profile.switches["recording_consent"] == "on" else ("training",)


def open_export(path: str | Path, keys: Keys) -> bytes:
    """The content of a sealed export.

    Raises:
        TamperError: it was changed or renamed, or belongs to other keys.
    """
    return keys.unseal(Path(path).read_bytes(), _context(Path(path)), purpose="backup")


def _context(path: Path) -> tuple[str, str]:
    return ("export", path.name)


def _check_role(unit: Unit, by: str) -> None:
    user = unit.users.find(by)
    if user is None or user.disabled or user.role not in _ROLES:
        raise TransitionError("Only a clinician, a supervisor or an admin can export what was decided.")


class _Made:
    """The lines of one export, and what is said about them."""

    def __init__(
        self, *, unit: Unit, keys: Keys, names: Sequence[str], form: Form, purposes: Sequence[Purpose]
    ) -> None:
        self.unit, self.keys, self.form, self.purposes = unit, keys, form, purposes
        staff = [user.name for user in unit.users.all() if user.role != "help_seeker" and user.name]
        self.names = (*names, *staff)
        self.people: set[str] = set()
        self.replaced: dict[str, int] = {}
        self.without_consent = 0

    def lines(self) -> Iterator[dict[str, Any]]:
        """All examples, conversation by conversation."""
        for person in self.unit.users.all(role="help_seeker"):
            stands = self.unit.consents.current(person.id)
            agreed = all(stands[purpose] for purpose in self.purposes)
            for thread in self.unit.threads.of(person.id):
                decided = [d for d in self.unit.drafts.of(thread.id) if d.state in ("approved", "edited", "rejected")]
                if not agreed:
                    self.without_consent += len(decided)
                    continue
                names = (*self.names, *([person.name] if person.name else []))
                found = list(self._of(thread.id, decided, names))
                if found:
                    self.people.add(person.id)
                yield from found

    def _of(self, thread: str, decided: Sequence[Draft], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        turns = self.unit.turns.of(thread)
        numbers = Pseudonyms()
        clean = {turn.id: self._clean(turn.text, names, numbers) for turn in turns}
        group = self.keys.digest(thread.encode())[:16]
        place = {turn.id: i for i, turn in enumerate(turns)}
        for draft in sorted(decided, key=lambda d: (place[d.turn_id], d.created_at)):
            at = place[draft.turn_id]
            better = _better(draft, turns, at)
            head = {
                "conversation_id": group,
                "prompt": [
                    {"role": t.role, "content": clean[t.id]} for t in turns[: at + 1] if as_turn(t).role != "system"
                ],
            }
            drafted = self._clean(draft.text, names, numbers)
            id = self.keys.digest(draft.id.encode())[:16]
            if self.form == "pairs":
                if draft.state != "approved" and better is not None and clean[better.id].strip() != drafted.strip():
                    yield {"id": id, **head, "chosen": clean[better.id], "rejected": drafted}
                continue
            yield {"id": id, **head, "completion": drafted, "label": draft.state == "approved"}
            if draft.state == "edited" and better is not None:
                yield {"id": f"{id}-sent", **head, "completion": clean[better.id], "label": True}

    def _clean(self, text: str, names: Sequence[str], numbers: Pseudonyms) -> str:
        made = deidentify(text, names=names, pseudonyms=numbers)
        for finding in made.findings:
            self.replaced[finding.kind] = self.replaced.get(finding.kind, 0) + 1
        return made.text


def _better(draft: Draft, turns: Sequence[StoredTurn], at: int) -> StoredTurn | None:
    """What a person sent to the same message: the edited words, or what came instead of a rejected draft."""
    if draft.state == "edited":
        return next((t for t in turns if t.id == draft.sent_turn_id), None)
    for turn in turns[at + 1 :]:
        if turn.role == "user":
            return None
        if turn.author is not None:
            return turn
    return None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
