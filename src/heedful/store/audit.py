"""The audit chain: rows that can only be added, each with the hash of the one before. No content in it.

    hash = SHA-256(JSON [previous, seq, at, actor, action, object, facts]), keys sorted, no blanks

A changed or missing row breaks the chain at that row. The end of the chain is signed (HMAC, `audit` key) in
`audit_head`, so rows cut off the end are missed too. What this cannot show: a whole older copy of the database put back
by somebody with write access. Keep the last hash that `verify` printed somewhere else, or compare with a backup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Row, select

from heedful.errors import TamperError
from heedful.store import prepared
from heedful.store.columns import canonical, moment_text
from heedful.store.models import AuditEntry, AuditHead
from heedful.store.prepared import Prepared
from heedful.store.rows import table_of
from heedful.store.work import Work

if TYPE_CHECKING:
    from heedful.store.store import Store

GENESIS: Final = "0" * 64
AUDIT, HEAD = table_of(AuditEntry), table_of(AuditHead)
_LOCKED_HEAD: Final = Prepared(select(HEAD.c.seq, HEAD.c.hash).where(HEAD.c.id == 1).with_for_update())
_CHANGED_HEAD: Final = prepared.change(HEAD, names=("seq", "hash", "signature"), equal=("id",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `verify` found.

    Args:
        state: `ok`, or `broken`.
        rows: how many rows were looked at.
        last: hash of the last good row; write it down elsewhere to notice an older copy.
        broken: number of the first row that does not fit.
        why: what does not fit there.
    """

    state: Literal["ok", "broken"]
    rows: int
    last: str
    broken: int | None = None
    why: str | None = None


def link(previous: str, seq: int, at: datetime, actor: str, action: str, object: str, facts: Any) -> str:
    """The hash of one row (64 hex digits)."""
    fields = [previous, seq, moment_text(at), actor, action, object, facts]
    return hashlib.sha256(canonical(fields).encode("utf-8")).hexdigest()


def lock(work: Work) -> None:
    """Take the end of the chain for this transaction: every other writer waits here, sooner or later."""
    work.rows(_LOCKED_HEAD)


def append(work: Work) -> None:
    """Write what the transaction said. The row of the head is locked first: writers queue, the chain cannot fork."""
    if not work.said:
        return
    head = work.rows(_LOCKED_HEAD)
    if not head:
        raise TamperError("The signed end of the audit chain is missing; restore the last backup.")
    # Rows that somebody else put behind our end must not stop the service: we go on behind them, and the break stays.
    beyond = work.rows(prepared.highest(AUDIT, "seq"))[0][0] or 0
    seq, previous = max(head[0][0], beyond), head[0][1]
    for said in work.said:
        seq += 1
        hashed = link(previous, seq, said.at, said.actor, said.action, said.object, said.facts)
        row = {
            "seq": seq,
            "at": said.at,
            "actor": said.actor,
            "action": said.action,
            "object": said.object,
            "facts": said.facts,
            "previous": previous,
            "hash": hashed,
        }
        work.run(prepared.add(AUDIT), **{prepared.NEW + name: value for name, value in row.items()})
        previous = hashed
    new = {prepared.NEW + name: value for name, value in head_values(work, seq, previous).items()}
    work.run(_CHANGED_HEAD, **new, **{f"{prepared.OLD}id": 1})
    work.said.clear()


def head_values(work: Work, seq: int, hash: str) -> dict[str, Any]:
    """The signed end of the chain."""
    return {"seq": seq, "hash": hash, "signature": work.keys.sign(_head_text(seq, hash))}


def verify(store: Store) -> Verdict:
    """Read the whole chain and say whether it holds; it never raises because of what it finds."""
    with store.read() as unit:
        return verify_work(unit)


def verify_work(work: Work) -> Verdict:
    """`verify` inside a transaction."""
    with work.execute(select(AUDIT).order_by(AUDIT.c.seq).execution_options(yield_per=1000)) as rows:
        found = _walk(rows)
    if found.state == "broken":
        return found
    head = work.execute(select(HEAD).where(HEAD.c.id == 1)).one_or_none()
    if head is None:
        return _broken(found, found.rows + 1, "the signed end of the chain is missing")
    if not work.keys.signed(_head_text(head.seq, head.hash), head.signature):
        return _broken(found, max(1, found.rows), "the end of the chain is not signed by our keys")
    if head.seq != found.rows:
        return _broken(found, min(head.seq, found.rows) + 1, f"the chain should end at row {head.seq}")
    if head.hash != found.last:
        return _broken(found, found.rows, "the last row is not the one that was signed")
    return found


def _walk(rows: Iterable[Row[Any]]) -> Verdict:
    seen, last = 0, GENESIS
    for row in rows:
        why = None
        if row.seq != seen + 1:
            why = f"row {seen + 1} is missing"
        elif row.previous != last:
            why = "it does not follow the row before"
        elif row.hash != link(row.previous, row.seq, row.at, row.actor, row.action, row.object, row.facts):
            why = "it was changed"
        if why:
            return Verdict(state="broken", rows=seen, last=last, broken=seen + 1, why=why)
        seen, last = seen + 1, row.hash
    return Verdict(state="ok", rows=seen, last=last)


def _broken(found: Verdict, at: int, why: str) -> Verdict:
    return Verdict(state="broken", rows=found.rows, last=found.last, broken=at, why=why)


def _head_text(seq: int, hash: str) -> bytes:
    return f"audit head {seq} {hash}".encode()
