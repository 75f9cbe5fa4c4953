"""Notes and plans: what a model drafted counts only under a name, and a client sees a plan only once it is shared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send
from test_clinic_consents import with_switches

from server_kit import PASSWORD
from store_kit import Clock

NOTE = "Came because of bad nights. Will try to get up at seven."


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    """`strict`: a second look at notes of a model, a consent to recording."""
    made = make_clinic(tmp_path, clock=clock)
    yield made
    made.store.close()


def talked(clinic: Clinic, *, recording: str | None = "given") -> tuple[Any, str]:
    """The clinician's client, and the path of the notes of a conversation."""
    client = clinic.begun()
    say(client, "I slept badly. zzplantedzz", "m-1")
    if recording:
        send(client, "/consents/recording", {"answer": recording})
    return clinic.client("clinician"), f"/inbox/{clinic.thread().id}/notes"


def drafted(clinic: Clinic, kind: str = "note") -> tuple[Any, str, Any]:
    """A model's draft of a note, as the clinician finds it."""
    clara, at = talked(clinic)
    clinic.desk.noter.writer = clinic.writer
    clinic.writer.reply = NOTE
    assert send(clara, f"{at}/draft", {"kind": kind}, page=at).status_code == 303
    clinic.note()
    return clara, at, papers(clinic)[-1]


def papers(clinic: Clinic) -> list[Any]:
    with clinic.store.read() as unit:
        return list(unit.case_notes.of(clinic.thread().id))


def carl(clinic: Clinic) -> Any:
    """Another clinician."""
    if "carl" not in clinic.site.ids:
        made = clinic.site.accounts.add(role="clinician", name="carl", password=PASSWORD, by="setup")
        clinic.site.ids["carl"] = made.id
        clinic.site.confirm("carl")
    return clinic.client("carl")


def counted(client: Any, at: str) -> list[Any]:
    return list(json.loads(client.get(f"{at}/counted.json").text)["notes"])


# ---------------------------------------------------------------------- notes


def test_a_models_note_counts_only_signed_and_read_by_somebody_else(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    assert (note.text, note.model, note.author) == (NOTE, "scripted-1", clinic.site.ids["clinician"])
    assert "Draft, not signed" in clara.get(at).text
    assert counted(clara, at) == []
    path, version = f"{at}/{note.id}", {"version": "1"}
    assert send(carl(clinic), f"{path}/review", version, page=at).status_code == 409  # first its author
    assert send(carl(clinic), f"{path}/sign", version, page=at).status_code == 409  # not somebody else's
    assert send(clara, f"{path}/sign", version, page=at).status_code == 303
    assert "waits for a second person" in clara.get(at).text
    assert counted(clara, at) == []
    assert send(clara, f"{path}/review", version, page=at).status_code == 409  # not one's own
    assert send(carl(clinic), f"{path}/review", version, page=at).status_code == 303
    (row,) = counted(clara, at)
    assert (row["text"], row["signed"]["name"], row["reviewed"]["name"]) == (NOTE, "clara", "carl")
    with clinic.store.read() as unit:
        said = {e.action: e for e in unit.audit.of(f"note:{note.id}")}
    assert said["signature.author"].facts["digest"] == row["signed"]["digest"]
    assert said["signature.review"].actor == clinic.site.ids["carl"]


def test_other_words_need_new_names(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at)
    send(carl(clinic), f"{at}/{note.id}/review", {"version": "1"}, page=at)
    send(clara, f"{at}/{note.id}/change", {"version": "1", "text": "Other words."}, page=at)
    assert counted(clara, at) == []
    assert "Draft, not signed" in clara.get(at).text
    # Whoever still has the old page open signs nothing that they did not read.
    assert send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at).status_code == 409


def test_where_no_second_look_is_asked_for_one_name_is_enough(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, note_review="none")
    clara, at, note = drafted(clinic)
    send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at)
    assert [row["text"] for row in counted(clara, at)] == [NOTE]
    clinic.store.close()


def test_a_note_by_hand_needs_only_its_authors_name(clinic: Clinic) -> None:
    clara, at = talked(clinic, recording=None)
    send(clara, at, {"text": NOTE, "kind": "note", "sign": "yes"})
    assert [row["model"] for row in counted(clara, at)] == [None]
    assert send(clara, at, {"text": " ", "kind": "note"}).status_code == 400
    assert send(clara, at, {"text": "x", "kind": "poem"}).status_code == 409


def test_a_help_seeker_never_sees_a_note(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at)
    client = clinic.client("help_seeker")
    for path in ("/talk", "/me", "/me/record.json", "/api/talk/turns"):
        assert "bad nights" not in client.get(path).text
    assert client.get(at).status_code == 403
    assert clinic.client("admin").get(at).status_code == 403
    assert send(clara, f"{at}/{note.id}/share", {"version": "1"}, page=at).status_code == 409


# ---------------------------------------------------------------------- what a consent stops


@pytest.mark.parametrize("answer", [None, "withdrawn"])
def test_without_consent_to_recording_no_model_reads_the_transcript_for_a_note(
    clinic: Clinic, answer: str | None
) -> None:
    clara, at = talked(clinic, recording=answer)
    assert "has not agreed that a transcript is used" in clara.get(at).text
    assert send(clara, f"{at}/draft", {"kind": "note"}, page=at).status_code == 409
    with clinic.store.read() as unit:
        assert [job for job in unit.jobs.of(clinic.thread().id) if job.kind == "note"] == []


def test_a_consent_taken_back_meanwhile_drops_the_draft_and_leaves_none_to_sign(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    client = clinic.client("help_seeker")
    say(client, "And again.", "m-2")
    send(clara, f"{at}/draft", {"kind": "note"}, page=at)
    send(client, "/consents/recording", {"answer": "withdrawn"})
    clinic.note()
    assert len(papers(clinic)) == 1
    assert send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at).status_code == 409


def test_where_nothing_is_drafted_there_is_no_worker_and_no_button(tmp_path: Path, clock: Clock) -> None:
    clinic = make_clinic(tmp_path, clock=clock, profiles=("us-nv",))
    clara, at = talked(clinic)
    assert "no model drafts notes" in clara.get(at).text
    assert send(clara, f"{at}/draft", {"kind": "note"}, page=at).status_code == 409
    assert [worker.name for worker in clinic.desk.workers] == ["clocks"]
    clinic.store.close()


def test_notes_only_means_notes(tmp_path: Path, clock: Clock) -> None:
    clinic = make_clinic(tmp_path, clock=clock, profiles=("us-il",))
    _, _, note = drafted(clinic)
    assert note.model == "scripted-1"
    assert clinic.drafts() == []  # no reply is drafted
    assert [worker.name for worker in clinic.desk.workers] == ["clocks", "notes"]
    clinic.store.close()


# ---------------------------------------------------------------------- plans


@pytest.mark.parametrize(("switch", "status"), [("on", 409), ("off", 303)])
def test_a_plan_by_hand_is_shared_unsigned_only_where_no_signature_is_asked_for(
    tmp_path: Path, clock: Clock, switch: str, status: int
) -> None:
    clinic = with_switches(tmp_path, clock, plan_signature=switch)
    clara, at = talked(clinic)
    send(clara, at, {"text": "Get up at seven.", "kind": "plan"})
    (plan,) = papers(clinic)
    assert send(clara, f"{at}/{plan.id}/share", {"version": "1"}, page=at).status_code == status
    assert ("Get up at seven." in clinic.client("help_seeker").get("/me").text) == (status == 303)
    clinic.store.close()


def test_a_models_plan_is_always_signed_before_anybody_is_shown_it(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, plan_signature="off")
    clara, at, plan = drafted(clinic, "plan")
    client = clinic.client("help_seeker")
    assert send(clara, f"{at}/{plan.id}/share", {"version": "1"}, page=at).status_code == 409
    send(clara, f"{at}/{plan.id}/sign", {"version": "1"}, page=at)
    assert NOTE not in client.get("/me").text  # signed is not shown
    send(clara, f"{at}/{plan.id}/share", {"version": "1"}, page=at)
    assert NOTE in client.get("/me").text
    assert json.loads(client.get("/me/record.json").text)["plans"][0]["signed"]
    send(clara, f"{at}/{plan.id}/change", {"version": "2", "text": "Other steps."}, page=at)
    assert "Other steps." not in client.get("/me").text
    clinic.store.close()


def test_a_plan_that_a_help_seeker_sent_is_signed_as_it_stands(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, plan_signature="on")
    clara, at = talked(clinic)
    client = clinic.client("help_seeker")
    kept = send(client, "/exercises/safety-plan", {"s_signs": "no sleep"}).headers["location"].partition("?")[0]
    assert "No professional has signed" in client.get(kept).text
    assert "Sent by the help-seeker" not in clara.get(at).text  # theirs until they send it
    send(client, f"{kept}/send", page=kept)
    with clinic.store.read() as unit:
        assert [t.kind for t in unit.tasks.open()] == ["sign_plan"]
    found = re.search(r'action="([^"]+/plans/[0-9a-f]+/sign)"', clara.get(at).text)
    assert found
    assert send(clara, found[1], page=at).status_code == 303
    with clinic.store.read() as unit:
        assert unit.tasks.open() == ()
    assert "Signed by clara" in client.get(kept).text
    assert json.loads(client.get("/me/record.json").text)["exercises"][0]["signed"]
    clock.forward(minutes=1)
    send(client, kept, {"s_signs": "other signs"})
    assert "No professional has signed" in client.get(kept).text
    assert send(clara, found[1], page=at).status_code == 404  # the clinician has not seen the new words
    clinic.store.close()


def test_without_the_switch_a_plan_of_ones_own_asks_for_nothing(clinic: Clinic) -> None:
    _, at = talked(clinic)
    client = clinic.client("help_seeker")
    kept = send(client, "/exercises/safety-plan", {"s_signs": "no sleep"}).headers["location"].partition("?")[0]
    assert "No professional has signed" not in client.get(kept).text
    send(client, f"{kept}/send", page=kept)
    with clinic.store.read() as unit:
        assert unit.tasks.open() == ()
    assert "Sent by the help-seeker" not in clinic.client("clinician").get(at).text


def test_a_note_of_another_conversation_is_not_there(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    other = clinic.store.run(
        lambda unit: unit.threads.open(
            help_seeker=unit.users.add(role="help_seeker", name="berta", by="setup").id, by="setup"
        )
    )
    wrong = f"/inbox/{other.id}/notes/{note.id}/sign"
    assert send(clara, wrong, {"version": "1"}, page=at).status_code == 404


# ---------------------------------------------------------------------- what a model's draft has to pass

DETAIL = "To die you could take thirty pills with alcohol."


def offered(clinic: Clinic, reply: str, *, said: str = "I slept badly.", kind: str = "note") -> tuple[Any, str]:
    """A model writes `reply` after somebody said `said`; the clinician's client, and the path of the notes."""
    clara, at = talked(clinic)
    say(clinic.client("help_seeker"), said, "m-2")
    clinic.desk.noter.writer = clinic.writer
    clinic.writer.reply = reply
    send(clara, f"{at}/draft", {"kind": kind}, page=at)
    for _ in range(4):
        clinic.note()
    return clara, at


def audited(clinic: Clinic, action: str) -> list[Any]:
    with clinic.store.read() as unit:
        return [entry for entry in unit.audit.all() if entry.action == action]


def test_a_models_draft_is_marked_until_somebody_signs_it(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    assert "A model wrote these words." in clara.get(at).text
    assert "A model wrote these words." in carl(clinic).get(at).text
    send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at)
    assert "A model wrote these words." not in clara.get(at).text


@pytest.mark.parametrize("kind", ["note", "plan"])
def test_words_that_the_gate_blocks_are_not_kept(clinic: Clinic, kind: str) -> None:
    _, at = offered(clinic, DETAIL, kind=kind)
    assert papers(clinic) == []
    blocked = audited(clinic, "note.blocked")
    assert len(blocked) == 3, "the model may try again, and no further"
    assert "thirty" not in json.dumps(blocked[0].facts)
    assert "blocked" in clinic.client("clinician").get(at).text


@pytest.mark.parametrize(
    ("reply", "said", "rule"),
    [
        ("Spoke of bad nights. Her sister Katrin will call on 0170 5550147.", "I slept badly.", "nobody said"),
        ("Spoke of bad nights and early mornings.", "I don't want to live anymore.", "danger was spoken of"),
        ("Says that he wants to kill himself.", "I slept badly.", "speaks of danger and nobody did"),
        ("You clearly have depression.", "I slept badly.", "Look at it again"),
    ],
)
def test_what_a_rule_asks_about_is_looked_at_before_it_is_signed(
    clinic: Clinic, reply: str, said: str, rule: str
) -> None:
    clara, at = offered(clinic, reply, said=said)
    (note,) = papers(clinic)
    assert rule in clara.get(at).text
    refused = send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at)
    assert refused.status_code == 409
    assert counted(clara, at) == []
    assert send(clara, f"{at}/{note.id}/sign", {"version": "1", "anyway": "yes"}, page=at).status_code == 303
    assert audited(clinic, "gate.overruled")[-1].object == f"note:{note.id}"


def test_what_was_said_may_be_noted(clinic: Clinic) -> None:
    said = "My sister Katrin found me. I have thirty pills at home, and I wish I was dead."
    clara, at = offered(clinic, "Has thirty pills at home. Wishes to be dead. Sister Katrin knows.", said=said)
    (note,) = papers(clinic)
    assert send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at).status_code == 303


def test_changed_into_what_the_gate_blocks_it_is_never_signed(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    send(clara, f"{at}/{note.id}/change", {"version": "1", "text": DETAIL}, page=at)
    for more in ({}, {"anyway": "yes"}):
        assert send(clara, f"{at}/{note.id}/sign", {"version": "2", **more}, page=at).status_code == 409
    assert f'action="{at}/{note.id}/sign"' not in clara.get(at).text


def test_what_a_person_writes_by_hand_is_theirs(clinic: Clinic) -> None:
    clara, at = talked(clinic)
    send(clara, at, {"text": "Her sister Katrin will call. I think of a depression.", "sign": "yes"}, page=at)
    assert [row["model"] for row in counted(clara, at)] == [None]


def test_a_draft_is_discarded_with_a_reason_and_its_words_are_gone(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    path = f"{at}/{note.id}/discard"
    assert send(clara, path, {"version": "1", "reason": " "}, page=at).status_code == 400
    assert send(clara, path, {"version": "7", "reason": "wrong person"}, page=at).status_code == 409
    assert send(clara, path, {"version": "1", "reason": "It is about somebody else."}, page=at).status_code == 303
    assert papers(clinic) == []
    (entry,) = audited(clinic, "note.discarded")
    assert (entry.actor, entry.facts["model"]) == (clinic.site.ids["clinician"], "scripted-1")
    page = clara.get(at.removesuffix("/notes")).text
    assert "draft of a note discarded" in page
    assert "It is about somebody else." in page
    send(clara, f"{at}/draft", {"kind": "note"}, page=at)  # and another one may be asked for
    clinic.note()
    assert [one.text for one in papers(clinic)] == [NOTE]


def test_what_was_signed_or_written_by_hand_is_not_discarded(clinic: Clinic) -> None:
    clara, at, note = drafted(clinic)
    send(clara, f"{at}/{note.id}/sign", {"version": "1"}, page=at)
    send(clara, at, {"text": "By hand."}, page=at)
    for one in papers(clinic):
        assert send(clara, f"{at}/{one.id}/discard", {"version": "1", "reason": "x"}, page=at).status_code == 409
    assert len(papers(clinic)) == 2
