"""What a help-seeker fills in, reads, agrees to and has deleted; and what of it reaches a person."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send

from heedful.review.notes import sent_id
from heedful.server.disclosure import text_of
from heedful.server.words import load
from heedful.store.erasure import verify_receipt
from heedful.store.work import check_client_id
from store_kit import Clock

PLANTED = "ZZplantedZZ"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock)
    yield made
    made.store.close()


def phq9(*answers: int | None) -> dict[str, str]:
    return {f"q{n}": str(answer) for n, answer in enumerate(answers, start=1) if answer is not None}


def tasks(clinic: Clinic) -> list[Any]:
    with clinic.store.read() as unit:
        return list(unit.tasks.open())


# ---------------------------------------------------------------------- check-ins


def test_item_nine_opens_the_lines_and_makes_a_task_for_a_person(clinic: Clinic) -> None:
    client = clinic.begun()
    page = send(client, "/check-ins/phq9", phq9(0, 0, 0, 0, 0, 0, 0, 0, 1)).text
    assert "You are not alone with this" in page
    assert "within 60 minutes" in page
    assert "988" in page
    assert "Sum: 1 of 27" in page  # the smallest sum there is with it: the trigger does not wait for a high one
    (task,) = tasks(clinic)
    assert task.kind == "look"
    assert (task.due_at - clinic.store.clock()).total_seconds() == 3600
    assert clinic.thread().risk_level == 1
    assert 'id="card"' in client.get("/talk").text
    assert "Are you having thoughts of suicide" in client.get("/talk").text
    with clinic.store.read() as unit:
        struck = [e for e in unit.audit.all() if e.action == "checkin.struck"]
    assert [e.facts["rules"] for e in struck] == [["phq9/item-9"]]


def test_without_it_nobody_is_told_and_no_conversation_is_opened(clinic: Clinic) -> None:
    page = send(clinic.begun(), "/check-ins/phq9", phq9(3, 3, 3, 3, 3, 3, 3, 3, 0)).text
    assert "You are not alone" not in page
    assert "Sum: 24 of 27" in page
    assert "no diagnosis" in page
    assert tasks(clinic) == []
    with clinic.store.read() as unit:
        assert unit.threads.of(clinic.site.ids["help_seeker"]) == ()


def test_a_part_is_no_sum_but_its_trigger_counts(clinic: Clinic) -> None:
    page = send(clinic.begun(), "/check-ins/phq9", phq9(*[None] * 8, 2)).text
    assert "A sum needs all of them" in page
    assert len(tasks(clinic)) == 1


@pytest.mark.parametrize("values", [{}, {"q1": "9"}, {"q1": "x"}, {"q1": "-1"}])
def test_answers_off_the_scale_are_refused(clinic: Clinic, values: dict[str, str]) -> None:
    answer = send(clinic.begun(), "/check-ins/phq9", values)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    with clinic.store.read() as unit:
        assert unit.checkins.of(clinic.site.ids["help_seeker"]) == ()


def test_the_course_is_a_picture_with_the_numbers_beside_it(clinic: Clinic, clock: Clock) -> None:
    client = clinic.begun()
    for total in (3, 1, 2):
        send(client, "/check-ins/mood", {"q1": str(total)})
        clock.forward(minutes=10)
    page = client.get("/check-ins").text
    assert page.count("<svg class='curve'") == 1
    assert "style=" not in page
    assert re.findall(r'<td class="number">(\d)</td>', page) == ["3", "1", "2"]


def test_an_unknown_questionnaire_is_not_there(clinic: Clinic) -> None:
    assert clinic.begun().get("/check-ins/phq99").status_code == 404


def test_a_clinician_sees_sums_beside_the_conversation(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, "Hello", "m-1")
    send(client, "/check-ins/gad7", {f"q{n}": "2" for n in range(1, 8)})
    assert "Worry (GAD-7): 14" in clinic.client("clinician").get(f"/inbox/{clinic.thread().id}").text


# ---------------------------------------------------------------------- exercises


def test_an_exercise_is_kept_changed_and_sent_only_when_its_owner_sends_it(clinic: Clinic) -> None:
    client = clinic.begun()
    values = {"s_situation": f"A letter came. {PLANTED}", "s_belief_before": "70", "s_evidence_for": "one\n\ntwo"}
    kept = send(client, "/exercises/thought-record", values)
    place = kept.headers["location"].partition("?")[0]
    page = client.get(place).text
    assert "A letter came." in page
    assert 'value="70"' in page
    with clinic.store.read() as unit:
        assert unit.threads.of(clinic.site.ids["help_seeker"]) == ()  # nobody sees it
        (exercise,) = unit.exercises.of(clinic.site.ids["help_seeker"])
    assert list(exercise.answers["evidence_for"]) == ["one", "two"]
    send(client, place, {"s_situation": "Another letter came."})
    for _ in range(2):
        send(client, f"{place}/send", page=place)
    (turn,) = clinic.turns()
    assert "Another letter came." in turn[1]
    assert PLANTED not in turn[1]


@pytest.mark.parametrize(
    "values", [{}, {"s_belief_before": "seventy"}, {"s_belief_before": "101"}, {"s_situation": "x" * 4001}]
)
def test_what_cannot_be_kept_stays_in_the_form(clinic: Clinic, values: dict[str, str]) -> None:
    answer = send(clinic.begun(), "/exercises/thought-record", values)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert all(value in answer.text for value in values.values())


def test_the_safety_plan_stands_first(clinic: Clinic) -> None:
    page = clinic.begun().get("/exercises").text
    assert page.index("/exercises/safety-plan") < page.index("/exercises/thought-record")


def test_exercises_of_others_are_not_there(clinic: Clinic) -> None:
    kept = send(clinic.begun(), "/exercises/values-card", {"s_value": PLANTED})
    place = kept.headers["location"]
    made = clinic.site.accounts.add(role="help_seeker", name="berta", password=server_kit.PASSWORD, by="setup")
    clinic.site.ids["help_seeker"] = made.id
    berta = clinic.begun()
    assert berta.get(place).status_code == 404
    assert send(berta, place, {"s_value": "mine"}, page="/exercises/values-card").status_code == 404


# ---------------------------------------------------------------------- memory, consents, download


def test_memory_is_seen_with_its_source_changed_and_removed(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, "My dog is called Bruno.", "m-1")
    anna = clinic.site.ids["help_seeker"]
    with clinic.store.begin() as unit:
        turn = unit.turns.of(clinic.thread().id)[0]
        item = unit.memory.add(help_seeker=anna, text="Has a dog, Bruno", turn=turn.id).id
        other = unit.memory.add(help_seeker=clinic.site.ids["clinician"], text=PLANTED).id
    page = client.get("/me").text
    assert "Has a dog, Bruno" in page
    assert "My dog is called Bruno." in page
    assert PLANTED not in page
    send(client, f"/me/memory/{item}", {"text": "Had a dog, Bruno"}, page="/me")
    with clinic.store.read() as unit:
        assert unit.memory.get(item).text == "Had a dog, Bruno"
        assert unit.memory.get(item).edited_by == anna
    assert send(client, f"/me/memory/{item}", {"text": " "}, page="/me").status_code == 400
    assert send(client, f"/me/memory/{other}/remove", page="/me").status_code == 404
    send(client, f"/me/memory/{item}/remove", page="/me")
    assert "Had a dog" not in client.get("/me").text


def test_every_consent_is_no_until_somebody_says_yes(clinic: Clinic) -> None:
    client = clinic.begun()
    anna = clinic.site.ids["help_seeker"]
    assert client.get("/consents").text.count("The answer is no.") == 2  # recording and training; care is none here
    for answer in ("given", "given", "withdrawn"):
        send(client, "/consents/training", {"answer": answer})
    with clinic.store.read() as unit:
        entries = [(c.purpose, c.action, c.by) for c in unit.consents.of(anna)]
        wording = unit.consents.of(anna)[0].wording
        assert not any(unit.consents.current(anna).values())
    assert entries == [("training", "given", anna), ("training", "withdrawn", anna)]  # the second click adds nothing
    assert wording in client.get("/consents/training").text  # what was agreed to is what was shown
    assert send(client, "/consents/fun", {"answer": "given"}, page="/me").status_code == 404
    assert send(client, "/consents/training", {"answer": "maybe"}, page="/me").status_code == 404


def test_the_download_holds_what_was_said_and_not_what_was_never_sent(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, "Hello, it is me.", "m-1")
    clinic.draft()
    answer = client.get("/me/record.json")
    assert answer.headers["content-disposition"] == 'attachment; filename="my-record.json"'
    found = json.loads(answer.text)
    assert found["conversations"][0]["messages"][0]["text"] == "Hello, it is me."
    assert found["conversations"][0]["drafts_that_were_not_sent"] == 1
    assert clinic.writer.reply not in answer.text


# ---------------------------------------------------------------------- deletion


def test_deletion_asks_twice_and_leaves_a_signed_receipt(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, f"Hello. {PLANTED}", "m-1")
    thread = clinic.thread().id
    token = server_kit.csrf(client.get("/me/delete").text)
    unsure = client.post("/me/delete/now", data={"csrf": token})
    assert unsure.status_code == 400  # nobody gets past the second question
    second = client.post("/me/delete", data={"csrf": token})
    assert "This is the last question" in second.text
    page = client.post("/me/delete/now", data={"csrf": token, "sure": "yes"}).text
    assert "Everything is deleted" in page
    with clinic.store.read() as unit:
        (receipt,) = unit.erasures.of(clinic.site.ids["help_seeker"])
    assert verify_receipt(clinic.store, receipt)
    assert receipt.signature in page
    assert client.get("/talk").status_code == 303  # the session has ended
    clara = clinic.client("clinician")
    assert clara.get(f"/inbox/{thread}").status_code == 404
    assert "anna" not in clara.get("/inbox").text
    assert "anna" not in clara.get("/people").text


def test_a_deletion_in_danger_shows_the_lines_and_leaves_a_task_without_words(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, f"Hello. {PLANTED}", "m-1")
    assert "You do not have to wait for us" not in client.get("/me/delete").text
    say(client, f"I am going to kill myself tonight. {PLANTED}", "m-2")
    page = client.get("/me/delete").text
    assert "You do not have to wait for us" in page
    assert '<ol class="options">' in page
    token = server_kit.csrf(page)
    assert "Everything is deleted" in client.post("/me/delete/now", data={"csrf": token, "sure": "yes"}).text
    (task,) = tasks(clinic)
    assert (task.kind, task.text, task.thread_id) == ("erased_at_risk", None, None)  # the takeover has ended
    clara = clinic.client("clinician")
    page = clara.get("/tasks").text
    assert "Somebody at risk deleted their account" in page
    assert "anna" not in page
    values = {"version": str(task.version), "outcome": "The team has spoken about it."}
    assert send(clara, f"/tasks/{task.id}/done", values, page="/tasks").status_code == 303
    assert tasks(clinic) == []


def test_where_the_profile_offers_no_deletion_the_page_says_whom_to_ask(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "src/heedful/profiles/strict.toml").read_text("utf-8")
    (tmp_path / "own.toml").write_text(text.replace('erasure = "on"', 'erasure = "off"'), "utf-8")
    clinic = make_clinic(tmp_path, profiles=(str(tmp_path / "own.toml"),))
    client = clinic.begun()
    assert "Ask the team" in client.get("/me").text
    assert client.get("/me/delete").status_code == 404
    clinic.store.close()


@pytest.mark.parametrize(("language", "limit"), [("en", "your words"), ("de", "Ihrer Worte"), ("es", "palabra tuya")])
def test_the_pages_do_not_promise_more_than_they_do(clinic: Clinic, language: str, limit: str) -> None:
    """Where something is left out of the record or of a deletion, the page says so."""
    say = load(language).say
    assert limit in say("delete.stays")
    assert {"en": "levels of risk", "de": "Stufen der Gefahr", "es": "niveles de riesgo"}[language] in say(
        "record.attached", file="x.json"
    )
    days, _ = text_of(clinic.desk, "before-first-use", language)
    assert "365" in days
    assert "{" not in days
    assert {"en": "Backups", "de": "Sicherungen", "es": "copias"}[language] in days


def test_other_answers_within_a_second_are_another_message(clinic: Clinic, clock: Clock) -> None:
    with clinic.store.begin() as unit:
        kept = unit.exercises.add(help_seeker=clinic.site.ids["help_seeker"], kind="values", answers={"a": "b"})
    later = replace(kept, changed_at=kept.changed_at + timedelta(milliseconds=2))
    assert sent_id(later) != sent_id(kept)
    assert check_client_id(sent_id(later))
