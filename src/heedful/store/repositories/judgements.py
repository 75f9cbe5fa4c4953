"""Traces of replies, labels and scores. Corrections are new rows: who, when."""

from __future__ import annotations

from heedful.store import models
from heedful.store.records import StoredLabel, StoredScore, StoredTrace
from heedful.store.repositories.base import Repository, new_id
from heedful.types import Label, Score, Trace


class Traces(Repository[StoredTrace]):
    """How replies came about."""

    model, record, noun = models.Trace, StoredTrace, "trace"

    def add(self, *, thread: str, trace: Trace, turn: str | None = None, draft: str | None = None) -> StoredTrace:
        """Keep a trace of a turn or of a draft."""
        return self._add(
            StoredTrace(
                id=new_id(),
                thread_id=thread,
                turn_id=turn,
                draft_id=draft,
                system=trace.system,
                trace=trace,
                created_at=self.work.now(),
            )
        )

    def of(self, thread: str) -> tuple[StoredTrace, ...]:
        """Traces of one conversation, oldest first."""
        return self._all(self.table.c.thread_id == thread, order=(self.table.c.created_at, self.table.c.id))


class Labels(Repository[StoredLabel]):
    """Labels of turns, or (turn None) of whole conversations."""

    model, record, noun = models.Label, StoredLabel, "label"

    def add(self, *, thread: str, label: Label, turn: str | None = None, by: str | None = None) -> StoredLabel:
        """Keep a label."""
        return self._add(
            StoredLabel(
                id=new_id(),
                thread_id=thread,
                turn_id=turn,
                label_set=label.set,
                label=label,
                by=by,
                created_at=self.work.now(),
            )
        )

    def of(self, thread: str) -> tuple[StoredLabel, ...]:
        """Labels of one conversation, oldest first."""
        return self._all(self.table.c.thread_id == thread, order=(self.table.c.created_at, self.table.c.id))


class Scores(Repository[StoredScore]):
    """Judgements of replies or of whole conversations."""

    model, record, noun = models.Score, StoredScore, "score"

    def add(self, *, thread: str, score: Score, trace: str | None = None, by: str | None = None) -> StoredScore:
        """Keep a score."""
        return self._add(
            StoredScore(
                id=new_id(),
                thread_id=thread,
                trace_id=trace,
                name=score.name,
                score=score,
                by=by,
                created_at=self.work.now(),
            )
        )

    def of(self, thread: str) -> tuple[StoredScore, ...]:
        """Scores of one conversation, oldest first."""
        return self._all(self.table.c.thread_id == thread, order=(self.table.c.created_at, self.table.c.id))
