"""The console: the draft beside its reasons, every decision of a person, who was first, tasks, supervision, admin."""

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

from heedful.review.crisis import state_of as crisis_state
from heedful.safety.crisis import BEHAVIOURS, CLASSES, TIERS
from heedful.safety.events import RUNGS
from heedful.safety.state import facts
from heedful.server import words as page_words
from server_kit import PASSWORD
from store_kit import Clock

DANGER = "I am going to kill myself tonight."
PLANTED = "ZZplantedZZ"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock, session_idle=40 * 86_400, session_absolute=40 * 86_400)
    yield made
    made.store.close()


def drafted(clinic: Clinic, text: str = "I slept badly, and everything is grey.") -> tuple[Any, str]:
    """A clinician's client and the address of a conversation whose draft waits."""
    say(clinic.begun(), text, "m-1")
    clinic.draft()
    return clinic.client("clinician"), f"/inbox/{clinic.thread().id}"


def state(clinic: Clinic) -> str:
    return str(clinic.thread().state)


# ---------------------------------------------------------------------- inbox, conversation


def test_the_inbox_ranks_by_risk_and_waiting(clinic: Clinic, clock: Clock) -> None:
    clara, _ = drafted(clinic)
    clock.forward(minutes=7)
    made = clinic.site.accounts.add(role="help_seeker", name="berta", password=PASSWORD, by="setup")
    clinic.site.ids["help_seeker"] = made.id
    say(clinic.begun(), DANGER, "m-1")
    page = clara.get("/inbox").text
    assert page.index("berta") < page.index("anna")
    assert "Held" in page
    assert "waits 7 min" in page
    assert "15 min left" in page
    clock.forward(minutes=20)
    assert "5 min too late" in clara.get("/inbox").text


def test_a_draft_stands_beside_its_reasons(clinic: Clinic) -> None:
    clara, path = drafted(clinic)
    page = clara.get(path).text
    for words in ("Question", "61 %", "Sleep and worry", "case:17", "Take up the sleep", "35 %", "scripted-1"):
        assert words in page
    assert "0123456789abcdef" in page
    assert "<svg" in page
    assert "everything is grey" in page  # the words that an emotion rests on
    assert "anger" not in page  # without such words it is not shown: the profile asks for them
    assert "style=" not in page  # the content policy would drop it
    assert "<script>" not in page


def test_what_a_model_did_not_say_is_said_so(clinic: Clinic) -> None:
    clinic.writer.reasons = {}
    clara, path = drafted(clinic)
    page = clara.get(path).text
    assert "The model did not say." in page
    assert "Not measured." in page
    assert "Nothing was looked up." in page


def test_where_a_profile_forbids_emotions_they_are_not_even_stored(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "src/heedful/profiles/strict.toml").read_text("utf-8")
    own = tmp_path / "own.toml"
    own.write_text(text.replace('emotion_shown = "clinician"', 'emotion_shown = "off"'), "utf-8")
    clinic = make_clinic(tmp_path, profiles=(str(own),))
    clara, path = drafted(clinic)
    assert "emotion" not in clinic.drafts()[0].reasons
    assert "sadness" not in clara.get(path).text
    clinic.store.close()


def test_approve_sends_the_draft_once_and_says_who(clinic: Clinic) -> None:
    clara, path = drafted(clinic)
    (draft,) = clinic.drafts("drafted")
    assert send(clara, f"{path}/drafts/{draft.id}/approve", page=path).headers["location"] == path
    assert [role for role, _ in clinic.turns()] == ["user", "assistant"]
    again = send(clara, f"{path}/drafts/{draft.id}/approve", page=path)
    assert again.status_code == 409
    assert "clara was first" in again.text
    assert len(clinic.turns()) == 2


def test_two_clinicians_at_once_one_wins_and_the_other_is_told(clinic: Clinic) -> None:
    clara, path = drafted(clinic)
    (draft,) = clinic.drafts("drafted")
    susan = clinic.client("supervisor")
    token = server_kit.csrf(susan.get(path).text)
    send(clara, f"{path}/drafts/{draft.id}/approve", page=path)
    late = susan.post(f"{path}/drafts/{draft.id}/edit", data={"csrf": token, "text": "My own warmer words"})
    assert late.status_code == 409
    assert "clara was first" in late.text
    assert "approved" in late.text
    assert "My own warmer words" in late.text  # to copy
    assert len(clinic.turns()) == 2


def test_a_draft_is_decided_in_its_own_conversation_only(clinic: Clinic) -> None:
    clara, path = drafted(clinic)
    (draft,) = clinic.drafts("drafted")
    for what, values in {"approve": {}, "edit": {"text": "Other words"}, "reject": {"reason": "no"}}.items():
        assert send(clara, f"/inbox/{'0' * 32}/drafts/{draft.id}/{what}", values, page=path).status_code == 404
    assert clinic.drafts("drafted") == [draft]


def test_edit_sends_other_words_and_the_gate_speaks_first(clinic: Clinic) -> None:
    clara, path = drafted(clinic)
    (draft,) = clinic.drafts("drafted")
    words = "You clearly have depression."
    refused = send(clara, f"{path}/drafts/{draft.id}/edit", {"text": words}, page=path)
    assert refused.status_code == 409
    assert words in refused.text  # what was typed stays
    assert 'name="anyway"' in refused.text
    assert len(clinic.turns()) == 1
    send(clara, f"{path}/drafts/{draft.id}/edit", {"text": words, "anyway": "yes"}, page=path)
    assert clinic.turns()[-1] == ("assistant", words)


def test_what_the_gate_blocks_stays_blocked(clinic: Clinic) -> None:
    clara, path = drafted(clinic)
    (draft,) = clinic.drafts("drafted")
    words = "Don't tell anyone."
    for anyway in ("", "yes"):
        answer = send(clara, f"{path}/drafts/{draft.id}/edit", {"text": words, "anyway": anyway}, page=path)
        assert answer.status_code == 409
    assert len(clinic.turns()) == 1


def test_reject_needs_a_reason(clinic: Clinic) -> None:
    clara, path = drafted(clinic)
    (draft,) = clinic.drafts("drafted")
    assert send(clara, f"{path}/drafts/{draft.id}/reject", {"reason": " "}, page=path).status_code == 409
    assert send(clara, f"{path}/drafts/{draft.id}/reject", {"reason": "Too early"}, page=path).status_code == 303
    assert clinic.drafts()[0].state == "rejected"
    assert "Draft rejected" in clara.get(path).text


def test_take_over_write_and_give_back(clinic: Clinic) -> None:
    clara, path = drafted(clinic)
    assert f'action="{path}/write"' not in clara.get(path).text
    send(clara, f"{path}/take", page=path)
    assert clinic.drafts()[0].state == "expired"
    send(clara, f"{path}/write", {"text": "I am Clara. I am here.", "client_id": "c-1"}, page=path)
    send(clara, f"{path}/write", {"text": "I am Clara. I am here.", "client_id": "c-1"}, page=path)
    assert [text for role, text in clinic.turns() if role == "assistant"] == ["I am Clara. I am here."]
    susan = clinic.client("supervisor")
    other = send(susan, f"{path}/take", page=path)
    assert other.status_code == 409
    assert "clara was first" in other.text
    assert send(clara, f"{path}/give-back", {"reason": ""}, page=path).status_code == 409
    send(clara, f"{path}/give-back", {"reason": "She feels steadier"}, page=path)
    assert state(clinic) == "ai_assisted"
    assert "She feels steadier" in clara.get(path).text


def test_hold_risk_follow_up_and_close(clinic: Clinic, clock: Clock) -> None:
    clara, path = drafted(clinic)
    send(clara, f"{path}/hold", {"reason": "I am not sure"}, page=path)
    assert state(clinic) == "risk_held"
    send(clara, f"{path}/take", page=path)
    send(clara, f"{path}/risk/raise", {"tier": "thoughts", "reason": "She told me on the phone"}, page=path)
    assert clinic.thread().risk_level == 1
    send(clara, f"{path}/risk/lower", {"tier": "none", "reason": "It was about a film"}, page=path)
    assert clinic.thread().risk_level == 0
    assert send(clara, f"{path}/risk/raise", {"tier": "terrible", "reason": "x"}, page=path).status_code == 409
    past = send(clara, f"{path}/follow-up", {"at": "2020-01-01T09:00"}, page=path)
    assert past.status_code == 409
    send(clara, f"{path}/follow-up", {"at": "2026-11-23T09:00"}, page=path)
    assert send(clara, f"{path}/close", {"reason": "done"}, page=path).status_code == 409  # a follow-up is open
    clock.forward(days=2)
    clinic.tick()
    assert "Follow up" in clara.get("/tasks").text
    send(clara, f"{path}/followed-up", {"outcome": "We spoke; she sleeps again."}, page=path)
    send(clara, f"{path}/close", {"reason": "We agreed on it"}, page=path)
    assert state(clinic) == "closed"
    assert send(clara, f"{path}/take", page=path).status_code == 409


PAGES = {
    "help_seeker": (
        "/talk",
        "/check-ins",
        "/check-ins/gad7",
        "/exercises",
        "/exercises/safety-plan",
        "/me",
        "/me/delete",
        "/consents",
        "/consents/recording",
        "/consents/training",
        "/report",
    ),
    "clinician": ("/inbox", "{thread}", "{thread}/notes", "/tasks", "/people", "/resources"),
    "supervisor": ("/supervision", "/problems"),
    "admin": ("/admin", "/admin/resources/us-dv"),
}


@pytest.mark.parametrize("language", ["de", "es"])
def test_every_page_speaks_every_language(clinic: Clinic, language: str) -> None:
    _, thread = drafted(clinic)
    for role, paths in PAGES.items():
        client = clinic.client(role)
        send(client, "/language", {"language": language}, page=paths[0])
        for path in paths:
            answer = client.get(path.format(thread=thread))
            assert answer.status_code == 200
            assert f'<html lang="{language}">' in answer.text


# ---------------------------------------------------------------------- tasks


@pytest.mark.parametrize("language", page_words.LANGUAGES)
def test_every_fact_of_the_crisis_path_stands_beside_its_name(clinic: Clinic, language: str) -> None:
    say(clinic.begun(), DANGER, "m-1")
    clara = clinic.client("clinician")
    send(clara, "/language", {"language": language}, page="/inbox")
    page = clara.get(f"/inbox/{clinic.thread().id}").text
    known = facts(crisis_state(clinic.thread()), clinic.desk.now())
    assert {"tier", "classes", "denials", "minutes_since_first_sign"} <= set(known)
    for name in known:
        label = page_words.load(language).say(f"fact.{name}")
        assert f"<div><dt>{label}</dt><dd>" in page, name
    shown = dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", page))
    spoken = page_words.load(language).say
    assert shown[spoken("fact.level")] == "5"
    assert shown[spoken("fact.refused")] == spoken("thread.no")


def test_the_person_on_duty_gets_a_short_summary_and_not_the_transcript(clinic: Clinic) -> None:
    """Requirement 11 of the crisis path."""
    anna = clinic.begun()
    say(anna, "Mondays are grey. ZZmarkerZZ", "m-0")
    say(anna, DANGER, "m-1")
    with clinic.store.read() as unit:
        (task,) = [t for t in unit.tasks.open(thread=clinic.thread().id) if t.kind == "takeover"]
    told = json.loads(task.text)
    assert set(told) == set(facts(crisis_state(clinic.thread()), clinic.desk.now()))
    assert told["tier"] == "immediate"
    heard = {word for _, text in clinic.turns() for word in re.findall(r"[A-Za-z]{5,}", text.lower())}
    written = set(re.findall(r"[a-z]{5,}", " ".join(str(value) for value in told.values())))
    assert written <= KNOWN_WORDS, "a summary is made of names that the program chose"
    assert "zzmarkerzz" in heard - written
    page = clinic.client("clinician").get("/tasks").text
    assert 'class="summary"' in page
    assert "Immediate" in page.partition('class="summary"')[2][:120]
    assert "ZZmarker" not in page
    assert "tonight" not in page


def test_a_task_with_words_of_its_own_has_no_summary(clinic: Clinic) -> None:
    say(clinic.begun(), "hello", "m-1")
    thread, due = clinic.thread().id, clinic.desk.now()
    for kind, text in (("look", "call her back"), ("look", '["a list"]'), ("follow_up", '{"tier": "immediate"}')):
        clinic.store.run(
            lambda unit, k=kind, t=text: unit.tasks.add(kind=k, due_at=due, by="rules", thread=thread, text=t)
        )
    page = clinic.client("clinician").get("/tasks").text
    assert 'class="summary"' not in page
    assert "call her back" not in page


KNOWN_WORDS = set(re.findall(r"[a-z]{5,}", " ".join((*TIERS, *RUNGS, *BEHAVIOURS, *CLASSES))))


def test_a_handover_is_taken_over_and_its_clock_cannot_be_moved(clinic: Clinic) -> None:
    say(clinic.begun(), DANGER, "m-1")
    clara = clinic.client("clinician")
    with clinic.store.read() as unit:
        task = next(t for t in unit.tasks.open() if t.kind == "takeover")
    page = clara.get("/tasks").text
    assert "15 min left" in page
    values = {"version": str(task.version)}
    assert send(clara, f"/tasks/{task.id}/done", {**values, "outcome": "x"}, page="/tasks").status_code == 409
    assert send(clara, f"/tasks/{task.id}/move", {**values, "at": "2027-01-01T00:00"}, page="/tasks").status_code == 409
    assert send(clara, f"/tasks/{task.id}/take", values, page="/tasks").status_code == 303
    stale = send(clinic.client("supervisor"), f"/tasks/{task.id}/take", values, page="/tasks")
    assert stale.status_code == 409
    assert "clara was first" in stale.text


def test_other_tasks_are_moved_and_done_with_an_outcome(clinic: Clinic) -> None:
    client = clinic.begun()
    send(client, "/talk/person", page="/talk")
    clara = clinic.client("clinician")
    with clinic.store.read() as unit:
        (task,) = unit.tasks.open()
    moved = send(clara, f"/tasks/{task.id}/move", {"version": "1", "at": "2026-11-22T18:30"}, page="/tasks")
    assert moved.status_code == 303
    assert "2026-11-22 18:30" in clara.get("/tasks").text  # the clinic's own time zone
    assert send(clara, f"/tasks/{task.id}/done", {"version": "2", "outcome": " "}, page="/tasks").status_code == 409
    send(clara, f"/tasks/{task.id}/done", {"version": "2", "outcome": "Called back"}, page="/tasks")
    assert "There is nothing to do." in clara.get("/tasks").text


# ---------------------------------------------------------------------- people, supervision, admin


def test_an_invitation_opens_an_account_once(clinic: Clinic, clock: Clock) -> None:
    clara = clinic.client("clinician")
    page = send(clara, "/people", {"name": "dora", "language": "de"}).text
    found = re.search(r"http://127.0.0.1(/invitation/[^<\s]+)", page)
    assert found is not None
    guest = clinic.site.client()
    assert "Willkommen" in guest.get(found[1], headers={"accept-language": "de"}).text
    assert send(guest, found[1], {"password": "short"}).status_code == 400
    assert send(guest, found[1], {"password": PASSWORD}).headers["location"] == "/sign-in?next=/"
    assert guest.get(found[1]).status_code == 404
    signed = server_kit.post(guest, "/sign-in", {"name": "dora", "password": PASSWORD})
    assert signed.headers["location"] == "/"
    assert guest.get("/").headers["location"] == "/talk"


def test_the_first_password_is_stretched_where_all_passwords_are(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stretching takes long on purpose: in the threads that look callers up, a flood of it would stop everybody."""
    server = clinic.site.app.state.server
    page = send(clinic.client("clinician"), "/people", {"name": "ida", "language": "en"}).text
    found = re.search(r"http://127.0.0.1(/invitation/[^<\s]+)", page)
    assert found
    hash, borrowed = server.accounts.passwords.hash, []

    def watched(*args: Any, **kwargs: Any) -> str:
        borrowed.append(server.stretching.borrowed_tokens)
        return str(hash(*args, **kwargs))

    monkeypatch.setattr(server.accounts.passwords, "hash", watched)
    assert send(clinic.site.client(), found[1], {"password": PASSWORD}).status_code == 303
    assert borrowed == [1]
    assert server.stretching.borrowed_tokens == 0


def test_an_invitation_dies_with_time_with_a_new_one_and_with_the_account(clinic: Clinic, clock: Clock) -> None:
    clara = clinic.client("clinician")
    link = re.compile(r"(/invitation/[^<\s]+)</textarea>")

    def made(answer: Any) -> str:
        found = link.search(answer.text)
        assert found is not None
        return found[1]

    first = made(send(clara, "/people", {"name": "dora"}))
    guest = clinic.site.client()
    assert guest.get(first).status_code == 200
    assert guest.get(first.replace(first[-3:], "000")).status_code == 404
    clock.forward(seconds=2)
    user = first.split("/")[2].split(".")[0]
    second = made(send(clara, f"/people/{user}/invite", page="/people"))
    assert guest.get(first).status_code == 404
    assert guest.get(second).status_code == 200
    clock.forward(days=7)
    assert guest.get(second).status_code == 404
    third = made(send(clara, f"/people/{user}/invite", page="/people"))
    send(clara, f"/people/{user}/disable", page="/people")
    assert guest.get(third).status_code == 404


def test_nobody_makes_accounts_that_are_not_theirs_to_make(clinic: Clinic) -> None:
    admin, clara = clinic.client("admin"), clinic.client("clinician")
    assert send(admin, "/admin/users", {"name": "x", "role": "help_seeker"}, page="/admin").status_code == 400
    susan = clinic.site.ids["supervisor"]
    assert send(clara, f"/people/{susan}/invite", page="/people").status_code == 409
    assert send(clara, f"/people/{susan}/disable", page="/people").status_code == 409
    anna = clinic.site.ids["help_seeker"]
    assert send(admin, f"/admin/users/{anna}/reset", page="/admin").status_code == 409
    assert send(admin, f"/admin/users/{clinic.site.ids['admin']}/disable", page="/admin").status_code == 409


def test_the_admin_adds_closes_opens_and_resets_staff(clinic: Clinic) -> None:
    admin = clinic.client("admin")
    made = send(admin, "/admin/users", {"name": "carl", "role": "clinician", "language": "es"}, page="/admin")
    assert "/invitation/" in made.text
    with clinic.store.read() as unit:
        carl = unit.users.by_name("carl")
    assert (carl.role, carl.language) == ("clinician", "es")
    clara = clinic.client("clinician")
    send(admin, f"/admin/users/{clinic.site.ids['clinician']}/disable", page="/admin")
    assert clara.get("/inbox").status_code == 303  # her session is over
    send(admin, f"/admin/users/{clinic.site.ids['clinician']}/enable", page="/admin")
    assert clinic.client("clinician").get("/inbox").status_code == 200


def test_the_admin_sees_no_content(clinic: Clinic) -> None:
    drafted(clinic, f"I slept badly. {PLANTED}")
    admin = clinic.client("admin")
    page = admin.get("/admin").text
    assert PLANTED not in page
    assert clinic.writer.reply not in page
    for path in ("/inbox", f"/inbox/{clinic.thread().id}", "/tasks", "/people", "/supervision", "/talk", "/me"):
        assert admin.get(path).status_code == 403


def test_the_admin_verifies_the_audit_and_sees_a_break(clinic: Clinic) -> None:
    admin = clinic.client("admin")
    page = send(admin, "/admin/audit/verify", page="/admin").text
    assert "The chain holds" in page
    with clinic.store.read() as unit:
        assert unit.audit.last() in page
    with clinic.store.begin() as unit:
        unit.connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        unit.connection.exec_driver_sql("UPDATE audit SET actor = 'somebody' WHERE seq = 2")
    assert "broken at entry 2" in send(admin, "/admin/audit/verify", page="/admin").text


def test_crisis_lines_show_their_age_and_a_change_is_on_every_page_at_once(clinic: Clinic) -> None:
    admin = clinic.client("admin")
    page = admin.get("/admin").text
    assert "never" in page
    assert "/admin/resources/us-dv" in page  # lines for some people only are checked too
    entry = {
        "name": "Our own line", "number": "555 0100", "hours": "24/7", "source": "our desk", "checked": "2026-11-20"
    }  # fmt: skip
    path = "/admin/resources/us-988"
    assert send(admin, path, {**entry, "checked": "2027-01-01"}).status_code == 400
    assert send(admin, path, {**entry, "name": ""}).status_code == 400
    assert send(admin, path, {**entry, "number": ""}).status_code == 400  # nothing to reach
    assert send(admin, path, entry).status_code == 303
    assert "days ago: 2" in admin.get("/admin").text
    assert "555 0100" in clinic.site.client().get("/sign-in").text
    say(clinic.begun(), DANGER, "m-1")
    assert "Our own line (555 0100)" in clinic.client("help_seeker").get("/talk").text


def test_the_supervisor_sees_load_clocks_and_decisions(clinic: Clinic, clock: Clock) -> None:
    clara, path = drafted(clinic)
    (draft,) = clinic.drafts("drafted")
    send(clara, f"{path}/drafts/{draft.id}/approve", page=path)
    client = clinic.client("help_seeker")
    say(client, "And today too.", "m-2")
    clinic.draft()
    (draft,) = clinic.drafts("drafted")
    send(clara, f"{path}/drafts/{draft.id}/reject", {"reason": "Too early"}, page=path)
    say(client, DANGER, "m-3")
    clock.forward(minutes=20)
    susan = clinic.client("supervisor")
    page = susan.get("/supervision").text
    assert "Conversations held now: 1" in page
    assert "50 % (1)" in page
    assert "Decisions in all: 2" in page
    send(clara, f"{path}/take", page=path)
    from heedful.review import overview

    clocks = {found.kind: found for found in overview.clocks(clinic.store)}
    assert clocks["takeover"].median == 20
    assert clocks["takeover"].late == 1
    (load,) = [row for row in overview.caseload(clinic.store) if row.name == "clara"]
    assert (load.owned, load.at_risk, load.decided) == (1, 1, 2)
    assert clara.get("/supervision").status_code == 403


def test_the_admins_page_says_what_an_admin_could_do(clinic: Clinic) -> None:
    assert "reads nothing until a clinician or supervisor confirms it" in clinic.client("admin").get("/admin").text
