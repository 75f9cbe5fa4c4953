"""Notes and plans: a clinician writes them, by hand or from a model's draft, and they count once they are signed.

    note   the clinic's own record of a conversation; never shown to a help-seeker
    plan   for the help-seeker, who sees it once it is shared

What they need is a policy (`Policy.papers`): `plan-signature` = every plan is signed before it is shared, not only
those that a model helped with; `note-review` = a note that a model helped with needs a second person's look.
A signature is under words: whoever changes them signs again (docs/decisions/0064-signatures.md). What a model drafted
passes `note_gate` before that, or is discarded with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from heedful.errors import NotFoundError, TransitionError
from heedful.review.clinic import GATED, Clinic, Gate, checked
from heedful.review.crisis import PROGRAM
from heedful.review.drafting import Drafter, Proposal
from heedful.review.note_gate import Look, judge, look
from heedful.review.policy import Policy
from heedful.safety.gate import check
from heedful.store.columns import canonical
from heedful.store.records import CaseNote, Exercise, Job, Signature
from heedful.store.unit import Unit
from heedful.store.work import as_name

NOTE_JOB: Final = "note"
SIGN_PLAN: Final = "sign_plan"
"""Kind of the task that asks for a signature under a plan that a help-seeker sent."""
Kind = Literal["note", "plan"]
Standing = Literal["unsigned", "waits-for-review", "counts"]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A note or plan with what stands under it, and what the rules say of an unsigned draft of a model."""

    note: CaseNote
    standing: Standing
    signed: Signature | None = None
    reviewed: Signature | None = field(default=None)
    look: Look = field(default=Look(outcome="pass"))


def standing(unit: Unit, policy: Policy, note: CaseNote) -> Paper:
    """How a note or plan stands: only signatures under its present words are looked at."""
    signed = unit.signatures.valid(_object(note), note.text)
    reviewed = unit.signatures.valid(_object(note), note.text, kind="review")
    second = note.kind == "note" and note.model is not None and "note-review" in policy.papers
    how: Standing = "unsigned" if signed is None else "waits-for-review" if second and reviewed is None else "counts"
    return Paper(note=note, standing=how, signed=signed, reviewed=reviewed)


def papers(unit: Unit, policy: Policy, thread: str, *, gate: Gate = check) -> tuple[Paper, ...]:
    """All notes and plans of a conversation, oldest first."""
    found = (standing(unit, policy, note) for note in unit.case_notes.of(thread))
    return tuple(paper if paper.signed else replace(paper, look=look(unit, paper.note, gate=gate)) for paper in found)


def write(clinic: Clinic, thread: str, kind: Kind, text: str, *, by: str) -> CaseNote:
    """A note or plan in a person's own words.

    Raises:
        DataError: nothing in it, or too long.
        TransitionError: `by` is no clinician or supervisor.
    """
    words = checked(text)
    return clinic.store.run(lambda unit: unit.case_notes.add(thread=thread, kind=kind, text=words, by=by))


def change(clinic: Clinic, note: str, text: str, *, by: str, version: int) -> CaseNote:
    """Other words: signatures under the old ones do not stand under the new ones, and nothing stays shared.

    Raises:
        ConflictError, TransitionError: see `CaseNotes.change`.
    """
    words = checked(text)
    return clinic.store.run(lambda unit: unit.case_notes.change(note, words, by=by, version=version))


def sign(clinic: Clinic, note: str, *, by: str, version: int, anyway: bool = False) -> Signature:
    """The author signs what stands there. What a model drafted passes the rules first.

    Args:
        anyway: the author has seen what the rules say and signs; what they block stays unsigned.

    Raises:
        TransitionError: `by` is not the author, or the rules ask for other words.
        ConflictError: the words changed since `version`, or are signed already.
    """

    def work(unit: Unit) -> Signature:
        found = unit.case_notes.seen(note, version)
        if found.author != by:
            raise TransitionError("A note is signed by its author; another person reviews it.")
        if found.model is not None and not _recorded(unit, clinic.policy, found.thread_id):
            raise TransitionError("The consent to use a transcript was taken back; write this by hand, then sign it.")
        if unit.signatures.valid(_object(found), found.text) is None:
            _pass(unit, clinic, found, by=by, anyway=anyway)
        return unit.signatures.add(object=_object(found), kind="author", words=found.text, by=by)

    return clinic.store.run(work)


def _pass(unit: Unit, clinic: Clinic, note: CaseNote, *, by: str, anyway: bool) -> None:
    found = look(unit, note, gate=clinic.gate)
    if found.outcome == "pass":
        return
    rules = ", ".join(found.rules)
    if found.outcome == "block":
        raise TransitionError(f"These words are not signed ({rules}); change them, or discard the draft.")
    if not anyway:
        raise TransitionError(f"Look at these words again ({rules}): change them, or sign them all the same.")
    unit.audit.add(by, "gate.overruled", _object(note), rules=[as_name(rule) for rule in found.rules])


def discard(clinic: Clinic, note: str, *, by: str, reason: str, version: int) -> None:
    """Nobody wants this draft of a model: its words are gone, the reason stays in the timeline.

    Raises:
        TransitionError: no reason, a person wrote it, or it is signed.
        ConflictError: the words changed since `version`.
    """
    why = checked(reason)

    def work(unit: Unit) -> None:
        found = unit.case_notes.seen(note, version)
        if unit.signatures.of(_object(found)):
            raise TransitionError("What was signed once belongs to the record and is not discarded.")
        unit.case_notes.discard(note, by=by, version=version)
        unit.threads.notes.add(thread=found.thread_id, kind="note_discarded", text=why, by=by)

    clinic.store.run(work)


def review(clinic: Clinic, note: str, *, by: str, version: int) -> Signature:
    """A second person has read the note and stands by it.

    Raises:
        TransitionError: `by` wrote it, or it is not signed yet.
        ConflictError: the words changed since `version`.
    """

    def work(unit: Unit) -> Signature:
        found = unit.case_notes.seen(note, version)
        if found.author == by:
            raise TransitionError("A review is independent: another person than the author makes it.")
        if unit.signatures.valid(_object(found), found.text) is None:
            raise TransitionError("First its author signs it, then somebody else reviews it.")
        return unit.signatures.add(object=_object(found), kind="review", words=found.text, by=by)

    return clinic.store.run(work)


def share(clinic: Clinic, note: str, *, by: str, version: int) -> CaseNote:
    """Show a plan to its help-seeker.

    Raises:
        TransitionError: it is a note, or it needs a signature first.
        ConflictError: the words changed since `version`.
    """

    def work(unit: Unit) -> CaseNote:
        found = unit.case_notes.seen(note, version)
        needs = found.model is not None or "plan-signature" in clinic.policy.papers
        if found.kind == "plan" and needs and standing(unit, clinic.policy, found).signed is None:
            raise TransitionError("This plan needs a professional's signature before anybody is shown it.")
        return unit.case_notes.share(note, by=by, version=version)

    return clinic.store.run(work)


def counted(clinic: Clinic, thread: str, *, by: str) -> tuple[Paper, ...]:
    """What may leave the conversation: notes and plans that count. Taking them along is written down.

    Raises:
        TransitionError: `by` is no clinician or supervisor.
    """

    def work(unit: Unit) -> tuple[Paper, ...]:
        unit.need_person(by, "export notes")
        found = tuple(p for p in papers(unit, clinic.policy, thread) if p.standing == "counts")
        unit.audit.add(by, "notes.exported", f"thread:{thread}", n=len(found))
        return found

    return clinic.store.run(work)


def shared(unit: Unit, user: str) -> tuple[Paper, ...]:
    """The plans that a help-seeker is shown."""
    notes = [note for thread in unit.threads.of(user) for note in unit.case_notes.of(thread.id)]
    shown = [note for note in notes if note.kind == "plan" and note.shared_at is not None]
    return tuple(
        Paper(note=note, standing="counts", signed=unit.signatures.valid(_object(note), note.text)) for note in shown
    )


def _object(note: CaseNote) -> str:
    return f"note:{note.id}"


# ---------------------------------------------------------------------- drafts of a model


def may_draft(unit: Unit, policy: Policy, thread: str) -> str:
    """Why no model may draft a note here now, as a short name; empty = it may."""
    found = unit.threads.get(thread)
    if not policy.notes:
        return "profile"
    if found.drafts_stopped:
        return "stopped"
    return "" if _recorded(unit, policy, thread) else "recording"


def _recorded(unit: Unit, policy: Policy, thread: str) -> bool:
    """Whether the transcript may be used for more than the conversation."""
    seeker = unit.threads.get(thread).help_seeker
    return "recording" not in policy.consents or unit.consents.current(seeker)["recording"]


def ask(clinic: Clinic, thread: str, kind: Kind, *, by: str) -> Job:
    """Let a model draft a note or plan from the conversation as it stands; asked twice, it is drafted once.

    Raises:
        TransitionError: the profile, the consent or the stop rule forbids it, or nothing was said yet.
    """

    def work(unit: Unit) -> Job:
        unit.need_person(by, "have a note drafted")
        if why := may_draft(unit, clinic.policy, thread):
            raise TransitionError(f"No model drafts a note here ({why}); write it yourself.")
        last = unit.turns.last(thread, 1)
        if not last:
            raise TransitionError("Nothing was said yet; there is nothing to note.")
        # What failed or was discarded may be asked for again; what waits or is there, not.
        failed = len([job for job in unit.jobs.of(thread, states=("failed",)) if job.kind == NOTE_JOB])
        gone = len([note for note in unit.notes.of(thread) if note.kind == "note_discarded"])
        key = f"note:{kind}:{by}:{last[0].id}" + (f":{failed + gone}" if failed + gone else "")
        return unit.jobs.add(kind=NOTE_JOB, key=key, thread=thread, payload={"kind": kind, "by": by})

    return clinic.store.run(work)


class NoteDrafter(Drafter):
    """A worker that drafts notes and plans. What it makes belongs to whoever asked, unsigned."""

    kinds = (NOTE_JOB,)
    counter = "notes_failed"

    def _key(self, job: Job) -> str:
        # Another prompt than that of replies: the kept beginning of the conversation is not thrown away for a note.
        return f"{(job.payload or {})['kind']}-{job.thread_id}/{job.id}"

    def _keep(self, unit: Unit, job: Job, made: Proposal) -> CaseNote | None:
        payload, thread = job.payload or {}, job.thread_id or ""
        if may_draft(unit, self.clinic.policy, thread) or not unit.is_person(str(payload["by"])):
            unit.jobs.finish(job)
            return None  # taken back meanwhile
        text, model = checked(made.text[:20_000]), made.model
        found = judge(unit, text, kind=payload["kind"], thread=thread, gate=self.clinic.gate)
        if found.outcome == "block":
            self._blocked(unit, job, found.rules, model)
            return None
        unit.jobs.finish(job)
        unit.counters.add("notes_drafted")
        return unit.case_notes.add(thread=thread, kind=payload["kind"], text=text, by=str(payload["by"]), model=model)

    def _blocked(self, unit: Unit, job: Job, rules: tuple[str, ...], model: str) -> None:
        """These words are not kept. The model may write others while attempts are left."""
        named = [as_name(rule) for rule in rules]
        unit.audit.add(PROGRAM, "note.blocked", f"thread:{job.thread_id}", rules=named, model=as_name(model))
        if unit.jobs.fail(job, error=GATED).state == "failed":
            unit.counters.add(self.counter)


# ---------------------------------------------------------------------- plans that help-seekers filled in


def plan_words(exercise: Exercise) -> str:
    """What is signed under a plan that a help-seeker filled in."""
    return canonical(dict(exercise.answers))


def plan_signed(unit: Unit, exercise: Exercise) -> Signature | None:
    """The signature under a help-seeker's own plan as it stands."""
    return unit.signatures.valid(f"exercise:{exercise.id}", plan_words(exercise))


def sent_plans(unit: Unit, thread: str, kinds: frozenset[str]) -> tuple[Exercise, ...]:
    """Plans that the help-seeker sent in this conversation and did not change since: what was not sent stays theirs."""
    sent = {turn.client_id for turn in unit.turns.of(thread)}
    mine = unit.exercises.of(unit.threads.get(thread).help_seeker)
    return tuple(e for e in mine if e.kind in kinds and sent_id(e) in sent)


def sent_id(exercise: Exercise) -> str:
    """The client id under which an exercise is sent; other answers are another message."""
    return f"exercise:{exercise.id}:{exercise.changed_at.timestamp():.6f}"


def sign_plan(clinic: Clinic, thread: str, exercise: str, *, by: str, kinds: frozenset[str]) -> Signature:
    """A professional signs a plan that its help-seeker sent; the task that asked for it is done.

    Raises:
        NotFoundError: no such plan was sent here, or it was changed since.
    """

    def work(unit: Unit) -> Signature:
        found = next((e for e in sent_plans(unit, thread, kinds) if e.id == exercise), None)
        if found is None:
            raise NotFoundError("There is no such plan in this conversation, or it was changed since it was sent.")
        made = unit.signatures.add(object=f"exercise:{exercise}", kind="author", words=plan_words(found), by=by)
        for task in unit.tasks.open(thread=thread):
            if task.kind == SIGN_PLAN and task.text == exercise:
                unit.tasks.done(task.id, by=by, version=task.version)
        return made

    return clinic.store.run(work)


def plan_sent(unit: Unit, policy: Policy, exercise: Exercise, thread: str, *, due: Any) -> None:
    """A help-seeker sent a plan: where plans are signed, somebody is asked to."""
    if "plan-signature" not in policy.papers or plan_signed(unit, exercise) is not None:
        return
    if any(task.kind == SIGN_PLAN and task.text == exercise.id for task in unit.tasks.open(thread=thread)):
        return
    unit.tasks.add(kind=SIGN_PLAN, due_at=due, by=exercise.help_seeker, thread=thread, text=exercise.id)
