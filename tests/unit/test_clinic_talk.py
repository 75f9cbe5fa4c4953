"""The help-seeker's pages: nothing undecided reaches them, help is always there, nothing is said twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send

from heedful.errors import BusyError
from heedful.server.disclosure import asks_whether_ai, cases
from server_kit import csrf
from store_kit import Clock

DANGER = "I am going to kill myself tonight."


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock, session_idle=40 * 86_400, session_absolute=40 * 86_400)
    yield made
    made.store.close()


def moments(clinic: Clinic) -> list[str]:
    with clinic.store.read() as unit:
        return [n.moment for n in unit.notices.of(clinic.site.ids["help_seeker"])]


def test_before_first_use_it_says_what_it_is_and_keeps_the_proof(clinic: Clinic) -> None:
    client = clinic.client("help_seeker")
    page = client.get("/talk").text
    assert "not a person" in page
    assert "Dr. Rowan Vale" in page
    assert 'name="text"' not in page
    assert moments(clinic) == []  # looking is not reading
    send(client, "/talk/begin", page="/talk")
    assert moments(clinic) == ["before-first-use"]
    page = client.get("/talk").text
    assert 'name="text"' in page
    assert "computer program (AI)" in page
    assert sorted(moments(clinic)) == ["before-first-use", "co-pilot", "recording", "start"]
    assert "computer program (AI)" not in client.get("/talk").text  # once, until it is due again


def test_there_is_no_way_round_what_is_said_before_first_use(clinic: Clinic) -> None:
    client = clinic.client("help_seeker")
    token = csrf(client.get("/talk").text)
    for path in ("/exercises", "/exercises/grounding", "/check-ins/phq9"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/talk"), path
    assert client.post("/check-ins/phq9", data={"csrf": token, "q1": "1"}).headers["location"] == "/talk"
    assert api(client, "hello", "page-1").status_code == 409
    assert say(client, "hello", "m-1").headers["location"] == "/talk"
    with clinic.store.read() as unit:
        assert unit.threads.of(clinic.site.ids["help_seeker"]) == ()
    assert moments(clinic) == []


def test_nothing_a_model_wrote_reaches_the_help_seeker_without_a_decision(clinic: Clinic) -> None:
    client = clinic.begun()
    assert say(client, "I slept badly again.", "m-1").status_code == 303
    clinic.draft()
    (draft,) = clinic.drafts("drafted")
    reply = clinic.writer.reply
    assert draft.text == reply
    assert reply not in client.get("/talk").text
    assert reply not in client.get("/api/talk/turns").text
    assert reply not in client.get("/me/record.json").text
    send(
        clinic.client("clinician"),
        f"/inbox/{draft.thread_id}/drafts/{draft.id}/approve",
        page=f"/inbox/{draft.thread_id}",
    )
    assert reply in client.get("/talk").text
    (turn,) = client.get("/api/talk/turns?after=1").json()["turns"]
    assert (turn["who"], turn["name"], turn["text"]) == ("person", "clara", reply)


def test_a_double_submit_is_one_message(clinic: Clinic) -> None:
    client = clinic.begun()
    page = client.get("/talk").text
    made = re.search(r'name="client_id" value="([^"]+)"', page)
    assert made is not None
    for _ in range(2):
        assert say(client, "Is anybody there today?", made[1]).status_code == 303
    assert clinic.turns() == [("user", "Is anybody there today?")]
    again = say(client, "Other words", made[1])
    assert again.status_code == 409
    assert "Other words" in again.text  # what was typed is not lost
    assert len(clinic.turns()) == 1


def test_the_api_acknowledges_once_and_refuses_what_it_does_not_know(clinic: Clinic) -> None:
    client = clinic.begun()
    token = server_kit.csrf(client.get("/talk").text)
    head = {"x-csrf-token": token}
    body = {"client_id": "page-1", "text": "Hello"}
    assert client.post("/api/talk/turns", json=body, headers=head).json() == {"sequence": 1, "again": False}
    assert client.post("/api/talk/turns", json=body, headers=head).json() == {"sequence": 1, "again": True}
    assert client.post("/api/talk/turns", json={**body, "role": "assistant"}, headers=head).status_code == 422
    assert client.post("/api/talk/turns", json=body).status_code == 403
    assert client.get("/api/talk/turns?after=-1").status_code == 422


@pytest.mark.parametrize(
    ("text", "status"),
    [("   ", 400), ("x" * 50_001, 400), ("a\x00b", 400), ("x" * 50_000, 303), ("🙂" * 50_000, 303), ("שלום 🙂", 303)],
    ids=["blank", "too long", "null", "longest", "longest of emoji", "right to left"],
)
def test_strange_messages_are_kept_or_refused_in_words(clinic: Clinic, text: str, status: int) -> None:
    client = clinic.begun()
    answer = say(client, text, "m-1")
    assert answer.status_code == status
    if status == 400:
        assert 'role="alert"' in answer.text
    else:
        assert clinic.turns()[0] == ("user", text.strip())


def test_danger_holds_the_conversation_and_shows_the_card_before_everything(clinic: Clinic, clock: Clock) -> None:
    client = clinic.begun()
    say(client, DANGER, "m-1")
    page = client.get("/talk").text
    assert 'class="interrupt"' in page
    assert "988" in page
    assert 'name="text"' not in page  # nothing to scroll past: the card is the page
    assert client.get("/api/talk/turns").json()["interrupt"] is True
    send(client, "/talk/seen", page="/talk")
    page = client.get("/talk").text
    assert 'name="text"' in page
    assert "a person is being told" in page
    assert "within 15 minutes" in page
    assert 'id="card"' in page  # the lines stay open
    assert clinic.thread().state == "risk_held"
    assert clinic.drafts() == []
    clock.forward(minutes=5)
    say(client, DANGER, "m-2")  # a newer sign brings the card back
    assert 'class="interrupt"' in client.get("/talk").text


def test_while_held_no_model_writes_and_the_fixed_question_was_announced(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, DANGER, "m-1")
    send(client, "/talk/seen", page="/talk")
    page = client.get("/talk").text
    assert "no model writes to you; the program may send fixed sentences" in page
    asked = [text for role, text in clinic.turns() if role == "assistant"]
    assert asked  # and so it does
    assert clinic.writer.seen == []


def test_out_of_hours_says_so_and_names_who_answers(tmp_path: Path, clock: Clock) -> None:
    clock.forward(hours=12)  # Sunday, 22:00 in Berlin
    house = 'timezone = "Europe/Berlin"\n[hours]\nmon = ["08:00-18:00"]\n'
    clinic = make_clinic(tmp_path, clock=clock, house=house)
    client = clinic.client("help_seeker")
    send(client, "/talk/begin", page="/talk")
    page = client.get("/talk").text
    assert "Nobody of our team is here now" in page
    assert "988" in page
    say(client, DANGER, "m-1")
    send(client, "/talk/seen", page="/talk")
    page = client.get("/talk").text
    assert "a person is being told" not in page
    assert "Nobody" in page
    clinic.store.close()


def test_a_person_is_one_tap_away_and_the_task_is_made_once(clinic: Clinic) -> None:
    client = clinic.begun()
    for _ in range(2):
        send(client, "/talk/person", page="/talk")
    with clinic.store.read() as unit:
        (task,) = unit.tasks.open()
        assert task.kind == "person_asked"
        assert (task.due_at - unit.now()).total_seconds() == 15 * 60
    assert "within 15 minutes" in client.get("/talk").text
    send(clinic.client("clinician"), f"/inbox/{task.thread_id}/take", page=f"/inbox/{task.thread_id}")
    with clinic.store.read() as unit:
        assert unit.tasks.open() == ()
    assert "clara answers you now" in client.get("/talk").text


def test_asked_whether_it_is_ai_it_says_yes_once(clinic: Clinic) -> None:
    client = clinic.begun()
    for _ in range(2):
        say(client, "Wait. Are you a robot?", "m-1")
    assert [role for role, _ in clinic.turns()] == ["user", "system"]
    page = client.get("/talk").text
    assert "Yes, I am a computer program (AI), not a human being." in page
    assert "A professional reads and decides" in page
    assert moments(clinic).count("when-asked") == 1


def test_where_a_person_answers_no_program_says_yes_for_them(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, "Hello", "m-1")
    thread = clinic.thread().id
    clara = clinic.client("clinician")
    send(clara, f"/inbox/{thread}/take", page=f"/inbox/{thread}")
    say(client, "Are you a real person?", "m-2")
    assert [role for role, _ in clinic.turns()] == ["user", "user"]
    assert "asks whether this is AI" in clara.get(f"/inbox/{thread}").text


@pytest.mark.parametrize("language", cases())
def test_every_language_knows_its_ways_to_ask(language: str) -> None:
    about = cases()[language]
    assert [text for text in about["yes"] if not asks_whether_ai(text)] == []
    assert [text for text in about["no"] if asks_whether_ai(text)] == []


def test_somebody_who_is_hit_is_not_told_to_keep_away_from_what_hurts_themselves(clinic: Clinic) -> None:
    client = clinic.begun()
    say(client, "My boyfriend hits me every day.", "m-1")
    say(client, "No, he is here.", "m-2")
    page = client.get("/talk").text
    assert 'class="interrupt"' in page
    assert "go where other people are" in page
    assert "hurt yourself" not in page
    assert "stay with you" not in page


def test_the_notice_comes_again_after_three_hours_and_after_a_week(clinic: Clinic, clock: Clock) -> None:
    client = clinic.begun()
    say(client, "Hello", "m-1")
    clock.forward(minutes=179)
    assert client.get("/api/talk/turns").json()["notices"] == []
    clock.forward(minutes=1)
    (text,) = client.get("/api/talk/turns").json()["notices"]
    assert "A reminder" in text
    assert client.get("/api/talk/turns").json()["notices"] == []
    clock.forward(days=8)
    assert "Welcome. As before" in client.get("/talk").text
    assert moments(clinic)[-2:] == ["timer", "return"]


def test_where_a_profile_allows_no_drafts_none_is_queued_or_spoken_of(tmp_path: Path, clock: Clock) -> None:
    clinic = make_clinic(tmp_path, clock=clock, profiles=("us-nv",))
    client = clinic.client("help_seeker")
    send(client, "/talk/begin", page="/talk")
    assert "Software may help us" not in client.get("/talk").text
    say(client, "Hello", "m-1")
    assert len(clinic.desk.workers) == 1  # the clock; no worker for drafts
    with clinic.store.read() as unit:
        assert unit.jobs.of(clinic.thread().id) == ()
    page = clinic.client("clinician").get(f"/inbox/{clinic.thread().id}").text
    assert "no model drafts replies" in page
    clinic.store.close()


STRICT = (Path(__file__).parents[2] / "src/heedful/profiles/strict.toml").read_text("utf-8")


def switched(folder: Path, clock: Clock, **switches: str) -> Clinic:
    """A clinic whose own profile is `strict` with other switches."""
    text = STRICT
    for name, value in switches.items():
        text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
    (folder / "own.toml").write_text(text, "utf-8")
    return make_clinic(
        folder, clock=clock, profiles=(str(folder / "own.toml"),), session_idle=10**6, session_absolute=10**6
    )


def test_notices_that_a_profile_does_not_ask_for_do_not_come(tmp_path: Path, clock: Clock) -> None:
    off = {
        "notice_before_use": '"none"',
        "notice_at_start": '"off"',
        "notice_on_question": '"off"',
        "timer_minutes": "0",
        "recording_consent": '"off"',
    }
    clinic = switched(tmp_path, clock, **off)
    client = clinic.client("help_seeker")
    assert 'name="text"' in client.get("/talk").text
    say(client, "Are you a robot?", "m-1")
    clock.forward(hours=4)
    assert client.get("/api/talk/turns").json()["notices"] == []
    assert [role for role, _ in clinic.turns()] == ["user"]
    assert moments(clinic) == []
    clinic.store.close()


def test_a_profile_can_ask_for_paper_a_shorter_timer_and_a_daily_notice(tmp_path: Path, clock: Clock) -> None:
    clinic = switched(tmp_path, clock, notice_before_use='"written"', timer_minutes="0", notice_daily='"on"')
    client = clinic.client("help_seeker")
    assert 'id="written"' in client.get("/talk").text
    send(client, "/talk/begin", page="/talk")
    client.get("/talk")
    clock.forward(hours=23)
    assert client.get("/api/talk/turns").json()["notices"] == []
    clock.forward(hours=1)
    assert "computer program (AI)" in client.get("/api/talk/turns").json()["notices"][0]
    assert moments(clinic)[-1] == "daily"
    clinic.store.close()


def test_without_the_interruption_card_the_lines_still_open(tmp_path: Path, clock: Clock) -> None:
    clinic = switched(tmp_path, clock, interruption_card='"off"')
    client = clinic.client("help_seeker")
    send(client, "/talk/begin", page="/talk")
    say(client, DANGER, "m-1")
    page = client.get("/talk").text
    assert 'class="interrupt"' not in page
    assert 'id="card"' in page
    clinic.store.close()


@pytest.mark.parametrize("path", ["/resources", "/sign-in", "/nothing-here", "/talk", "/invitation/x.1.y"])
def test_help_is_on_every_page_without_an_account(clinic: Clinic, path: str) -> None:
    client = clinic.site.client()
    answer = client.get(path)
    while answer.status_code == 303:
        answer = client.get(answer.headers["location"])
    assert 'class="help"' in answer.text
    assert "988" in answer.text
    assert 'href="/resources"' in answer.text


@pytest.mark.parametrize(("role", "path"), [("help_seeker", "/inbox"), ("clinician", "/admin"), ("admin", "/inbox")])
def test_a_refusal_shows_help_too(clinic: Clinic, role: str, path: str) -> None:
    answer = clinic.client(role).get(path)
    assert answer.status_code == 403
    assert 'class="help"' in answer.text


def test_pages_speak_the_language_of_the_account_or_of_the_browser(clinic: Clinic) -> None:
    client = clinic.begun()
    assert '<html lang="en">' in client.get("/talk").text
    send(client, "/language", {"language": "de"}, page="/talk")
    page = client.get("/talk").text
    assert '<html lang="de">' in page
    assert "Ihre Nachricht" in page
    anonymous = clinic.site.client()
    assert "Líneas de ayuda" in anonymous.get("/resources", headers={"accept-language": "es-MX,en;q=0.5"}).text


def test_another_persons_conversation_is_out_of_reach(clinic: Clinic) -> None:
    say(clinic.begun(), "Secret words of Anna", "m-1")
    made = clinic.site.accounts.add(role="help_seeker", name="berta", password=server_kit.PASSWORD, by="setup")
    clinic.site.ids["help_seeker"] = made.id
    other = clinic.begun()
    for path in ("/talk", "/api/talk/turns", "/me", "/me/record.json"):
        assert "Secret words" not in other.get(path).text


def api(client: Any, text: str, client_id: str) -> Any:
    """Send as the script of the page does."""
    token = csrf(client.get("/talk").text)
    return client.post("/api/talk/turns", json={"client_id": client_id, "text": text}, headers={"X-CSRF-Token": token})


def test_a_message_and_the_straight_yes_are_kept_together_or_not_at_all(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = clinic.begun()

    def busy(*words: Any, **more: Any) -> None:
        raise BusyError("Another writer holds the database; nothing was changed. Try again.")

    with monkeypatch.context() as broken:
        broken.setattr("heedful.server.routes.talk.disclosure.answer_question", busy)
        assert api(client, "Are you a robot?", "page-1").status_code == 503
    with clinic.store.read() as unit:
        assert all(not unit.turns.of(t.id) for t in unit.threads.of(clinic.site.ids["help_seeker"]))
    assert api(client, "Are you a robot?", "page-1").status_code == 201
    assert [role for role, _ in clinic.turns()] == ["user", "system"]


def test_a_message_that_is_sent_again_is_known_in_any_conversation(clinic: Clinic, clock: Clock) -> None:
    """However old, and though another conversation was begun since."""
    client, clinician = clinic.begun(), clinic.site.ids["clinician"]
    first = [api(client, f"Message {n}", f"page-{n}").json()["sequence"] for n in range(25)]
    clock.forward(minutes=1)
    clinic.desk.clinic.close(clinic.thread().id, by=clinician, reason="done")
    clock.forward(minutes=1)
    api(client, "Another", "page-new")
    again = api(client, "Message 0", "page-0")
    assert (again.status_code, again.json()) == (201, {"sequence": first[0], "again": True})
    assert clinic.turns() == [("user", "Another")]
