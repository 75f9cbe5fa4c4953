"""Ledgers: consents, notices that were shown, counters for reports, and the audit chain."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Text, bindparam, func, select, update

from heedful.store import models
from heedful.store.columns import Moment
from heedful.store.prepared import OLD, Prepared
from heedful.store.records import AuditEntry, Consent, Notice, ProfileCheck
from heedful.store.repositories.base import Repository, new_id
from heedful.store.rows import table_of
from heedful.store.states import PURPOSES, ConsentAction, Purpose, check_word
from heedful.store.work import Work, as_name


class Consents(Repository[Consent]):
    """Append-only: one entry per purpose given or withdrawn. The last one counts; without one the answer is no."""

    model, record, noun = models.Consent, Consent, "consent"

    def add(
        self, *, user: str, purpose: Purpose, action: ConsentAction, wording: str, version: str, language: str, by: str
    ) -> Consent:
        """A new entry; `wording` is the text that was agreed to, `by` who recorded it (the user, or staff).

        Raises:
            DataError: no such purpose or action.
            NotFoundError: no such user.
        """
        check_word(purpose, PURPOSES, "A purpose")
        check_word(action, ("given", "withdrawn"), "A consent")
        self._locked(table_of(models.User), user, "user")
        consent = Consent(
            id=new_id(),
            user_id=user,
            position=self._next("position", user_id=user),
            purpose=purpose,
            action=action,
            wording=wording,
            version=version,
            language=language,
            by=by,
            at=self.work.now(),
        )
        self.work.say(by, f"consent.{action}", f"user:{user}", purpose=purpose, version=version)
        return self._add(consent)

    def of(self, user: str) -> tuple[Consent, ...]:
        """All entries of one user, in order."""
        return self._many(user_id=user, order=("position",))

    def current(self, user: str) -> dict[Purpose, bool]:
        """What is agreed to now, for every purpose."""
        out: dict[Purpose, bool] = dict.fromkeys(PURPOSES, False)
        for entry in self.of(user):
            out[entry.purpose] = entry.action == "given"  # type: ignore[index]
        return out


_N = table_of(models.Notice).c
_TIMES = Prepared(
    select(_N.moment, func.max(_N.at, type_=Moment()))
    .where(_N.user_id == bindparam("user", type_=Text()))
    .group_by(_N.moment)
)


class Notices(Repository[Notice]):
    """Proof of showing: which disclosure, in which wording and version, when."""

    model, record, noun = models.Notice, Notice, "notice"

    def add(
        self,
        *,
        moment: str,
        wording: str,
        version: str,
        language: str,
        user: str | None = None,
        thread: str | None = None,
    ) -> Notice:
        """A notice was shown; `user` None = to somebody who was not logged in."""
        notice = Notice(
            id=new_id(),
            user_id=user,
            thread_id=thread,
            moment=moment,
            wording=wording,
            version=version,
            language=language,
            at=self.work.now(),
        )
        about = f"user:{user}" if user else "user:unknown"
        self.work.say("program", "notice.shown", about, moment=moment, version=version, language=language)
        return self._add(notice)

    def of(self, user: str) -> tuple[Notice, ...]:
        """Notices that one user was shown, oldest first."""
        return self._many(user_id=user, order=("at", "id"))

    def times(self, user: str) -> dict[str, datetime]:
        """Moment -> when one user was shown it last; without the wordings."""
        return dict(self.work.rows(_TIMES, user=user))

    def last(self, user: str, moment: str) -> Notice | None:
        """The newest one for a moment (`start`, `timer`): when it has to be shown again follows from its time."""
        found = self._many(user_id=user, moment=moment, order=("-at",), limit=1)
        return found[0] if found else None


class ProfileChecks(Repository[ProfileCheck]):
    """Append-only: who checked which file of a profile. The newest one counts."""

    model, record, noun = models.ProfileCheck, ProfileCheck, "check of a profile"

    def add(self, *, profile: str, version: str, hash: str, checker: str, checked: date, by: str) -> ProfileCheck:
        """A check was made: by `checker` on the day `checked`; `by` enters it."""
        made = ProfileCheck(
            id=new_id(),
            profile=profile,
            version=version,
            hash=hash,
            checker=checker,
            checked=checked.isoformat(),
            by=by,
            at=self.work.now(),
        )
        self.work.say(by, "profile.checked", f"profile:{as_name(profile)}", hash=hash, day=made.checked)
        return self._add(made)

    def all(self) -> tuple[ProfileCheck, ...]:
        """All of them, as they were entered."""
        return self._all(order=(self.table.c.at, self.table.c.id))


class Counters:
    """Numbers for yearly reports, by name and period. No identifiers go in."""

    table = table_of(models.Counter)

    def __init__(self, work: Work) -> None:
        self.work = work

    def add(self, name: str, n: int = 1, *, period: str | None = None) -> None:
        """Count; `period` None = this year of the store's clock. Written when the transaction ends."""
        self.work.counted[name, period or str(self.work.now().year)] += n

    def all(self, *, period: str | None = None) -> dict[tuple[str, str], int]:
        """(name, period) -> value, of one period or of all."""
        where: list[ColumnElement[bool]] = [] if period is None else [self.table.c.period == period]
        rows = self.work.execute(select(self.table).where(*where).order_by(self.table.c.name, self.table.c.period))
        return {(row.name, row.period): int(row.value) for row in rows}


class Audit:
    """The audit chain, as a transaction sees it."""

    table = table_of(models.AuditEntry)

    def __init__(self, work: Work) -> None:
        self.work = work

    def add(self, actor: str, action: str, object: str, **facts: Any) -> None:
        """One more entry, written when the transaction ends; see `Work.say`.

        Raises:
            DataError: a fact looks like content.
        """
        self.work.say(actor, action, object, **facts)

    def of(self, object: str) -> tuple[AuditEntry, ...]:
        """Entries about one thing (`draft:<id>`), in order."""
        return self._read(self.table.c.object == object)

    def all(self, *, after: int = 0, limit: int = 1000) -> tuple[AuditEntry, ...]:
        """Entries in order, those above number `after`."""
        return self._read(self.table.c.seq > after, limit=limit)

    def last(self) -> str:
        """Hash of the last row. Written down elsewhere, it shows later whether an older copy was put back."""
        head = table_of(models.AuditHead)
        return str(self.work.execute(select(head.c.hash)).scalar_one())

    def _read(self, where: ColumnElement[bool], limit: int | None = None) -> tuple[AuditEntry, ...]:
        rows = self.work.execute(select(self.table).where(where).order_by(self.table.c.seq).limit(limit)).mappings()
        return tuple(AuditEntry(**{str(name): value for name, value in row.items()}) for row in rows)


_C = Counters.table.c
_MORE = Prepared(
    update(Counters.table)
    .where(_C.name == bindparam(f"{OLD}name", type_=Text()), _C.period == bindparam(f"{OLD}period", type_=Text()))
    .values(value=_C.value + bindparam("n", type_=BigInteger()))
)


def write_counters(work: Work) -> None:
    """Add what was counted, always in the same order, so that two transactions never wait for each other crosswise."""
    table = Counters.table
    for (name, period), n in sorted(work.counted.items()):
        here = {"n": n, f"{OLD}name": name, f"{OLD}period": period}
        if not work.run(_MORE, **here) and not work.insert_new(
            table, {"name": name, "period": period, "value": n}, key=("name", "period")
        ):
            work.run(_MORE, **here)
    work.counted.clear()
