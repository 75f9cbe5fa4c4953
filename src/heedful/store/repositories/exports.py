"""What left the house, which models learned from it, and receipts of deletions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from sqlalchemy import insert, select

from heedful.errors import ConflictError
from heedful.store import models
from heedful.store.records import Adapter, Export, Receipt
from heedful.store.repositories.base import Repository, new_id
from heedful.store.rows import table_of
from heedful.store.states import PURPOSES, Purpose, check_word

ITEMS = table_of(models.ExportItem)


class Exports(Repository[Export]):
    """Files that left the store, and whose data they hold."""

    model, record, noun = models.Export, Export, "export"

    def add(
        self, *, kind: str, purpose: Purpose, name: str, rows: int, sha256: str, by: str, help_seekers: Iterable[str]
    ) -> Export:
        """A file was written; `help_seekers` are the ids of those whose data are in it."""
        check_word(purpose, PURPOSES, "A purpose")
        export = Export(
            id=new_id(),
            kind=kind,
            purpose=purpose,
            name=name,
            rows=rows,
            sha256=sha256,
            by=by,
            at=self.work.now(),
        )
        self._add(export)
        people = sorted(set(help_seekers))
        if people:
            self.work.execute(insert(ITEMS), [{"export_id": export.id, "user_id": user} for user in people])
        self.work.say(by, "export.written", f"export:{export.id}", kind=kind, rows=rows, people=len(people))
        return export

    def holding(self, help_seeker: str) -> tuple[Export, ...]:
        """Exports that hold data of one help-seeker, oldest first."""
        inside = select(ITEMS.c.export_id).where(ITEMS.c.user_id == help_seeker)
        return self._all(self.table.c.id.in_(inside), order=(self.table.c.at, self.table.c.id))


class Adapters(Repository[Adapter]):
    """Models that were trained on exports."""

    model, record, noun = models.Adapter, Adapter, "adapter"

    def add(self, *, export: str, name: str, trained_at: datetime, by: str, sha256: str | None = None) -> Adapter:
        """A model was trained on `export`."""
        adapter = Adapter(id=new_id(), export_id=export, name=name, sha256=sha256, trained_at=trained_at)
        self.work.say(by, "adapter.trained", f"adapter:{adapter.id}", export=export)
        return self._add(adapter)

    def retire(self, id: str, *, by: str) -> Adapter:
        """It is no longer used.

        Raises:
            ConflictError: it was retired before.
        """
        adapter, now = self.get(id), self.work.now()
        if adapter.retired_at is not None:
            raise ConflictError("This adapter was retired already.")
        self._set(id, retired_at=now)
        self.work.say(by, "adapter.retired", f"adapter:{id}")
        return replace(adapter, retired_at=now)

    def learned_from(self, help_seeker: str) -> tuple[Adapter, ...]:
        """Models that were trained on data of one help-seeker, retired ones too, oldest first."""
        inside = select(ITEMS.c.export_id).where(ITEMS.c.user_id == help_seeker)
        return self._all(self.table.c.export_id.in_(inside), order=(self.table.c.trained_at, self.table.c.id))


class Erasures(Repository[Receipt]):
    """Append-only: signed receipts of deletions. `heedful.store.erasure.erase` writes them."""

    model, record, noun = models.Erasure, Receipt, "receipt"

    def add(self, receipt: Receipt) -> Receipt:
        """Keep a receipt."""
        return self._add(receipt)

    def of(self, user: str) -> tuple[Receipt, ...]:
        """Receipts of one (former) user, oldest first."""
        return self._all(self.table.c.user_id == user, order=(self.table.c.at, self.table.c.id))
