"""Consents: one page a purpose, no until somebody says yes, and what a no stops. Help is there before any answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send

from store_kit import Clock

DANGER = "I am going to kill myself tonight."
STRICT = (Path(__file__).parents[2] / "src/heedful/profiles/strict.toml").read_text("utf-8")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def with_switches(folder: Path, clock: Clock, **switches: str) -> Clinic:
    text = STRICT
    for name, value in switches.items():
        text, n = re.subn(rf"(?m)^{name} = .*$", f'{name} = "{value}"', text)
        assert n == 1
    (folder / "own.toml").write_text(text, "utf-8")
    return make_clinic(folder, clock=clock, profiles=(str(folder / "own.toml"),))


@pytest.fixture
def health(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    """A clinic in which health data need an explicit consent."""
    made = with_switches(tmp_path, clock, sensitive_data_consent="on")
    yield made
    made.store.close()


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock)
    yield made
    made.store.close()


def read_first(clinic: Clinic) -> Any:
    client = clinic.client("help_seeker")
    send(client, "/talk/begin", page="/talk")
    return client


# ---------------------------------------------------------------------- before the first word


def test_no_conversation_begins_before_the_consent_and_help_is_there_before_it(health: Clinic) -> None:
    client = read_first(health)
    page = client.get("/talk").text
    assert "explicit yes" in page
    assert 'name="text"' not in page
    assert 'class="help"' in page
    assert page.index('class="options"') < page.index("explicit yes")  # what to do comes before the question
    assert say(client, "Hello", "m-1").headers["location"] == "/talk"
    head = {"x-csrf-token": server_kit.csrf(page)}
    answer = client.post("/api/talk/turns", json={"client_id": "m-1", "text": "Hello"}, headers=head)
    assert answer.status_code == 409
    with health.store.read() as unit:
        assert unit.threads.of(health.site.ids["help_seeker"]) == ()
    for path in ("/check-ins/phq9", "/exercises/thought-record"):
        assert client.get(path).headers["location"] == "/talk"  # what is filled in there is health data too
    assert client.get("/resources").status_code == 200


def test_after_the_yes_the_conversation_begins_and_the_wording_is_kept(health: Clinic) -> None:
    client = read_first(health)
    assert send(client, "/consents/care", {"answer": "given"}).headers["location"] == "/talk"
    assert say(client, "Hello", "m-1").status_code == 303
    assert health.turns() == [("user", "Hello")]
    with health.store.read() as unit:
        (entry,) = unit.consents.of(health.site.ids["help_seeker"])
    assert (entry.purpose, entry.action, entry.language) == ("care", "given", "en")
    assert "explicit yes" in entry.wording
    assert entry.version.startswith("pages-")


def test_a_no_is_kept_and_the_page_still_asks(health: Clinic) -> None:
    client = read_first(health)
    send(client, "/consents/care", {"answer": "withdrawn"})
    page = client.get("/talk").text
    assert "You said no." in page
    assert 'name="text"' not in page


def test_taking_it_back_stops_drafts_and_tells_the_team_but_never_ends_the_talk(health: Clinic) -> None:
    client = read_first(health)
    send(client, "/consents/care", {"answer": "given"})
    say(client, "I slept badly.", "m-1")
    health.draft()
    send(client, "/consents/care", {"answer": "withdrawn"})
    assert [d.state for d in health.drafts()] == ["expired"]
    with health.store.read() as unit:
        assert [task.kind for task in unit.tasks.open()] == ["consent_withdrawn"]
    say(client, DANGER, "m-2")  # somebody in danger is heard, whatever was agreed to
    assert health.thread().state == "risk_held"
    page = health.client("clinician").get(f"/inbox/{health.thread().id}").text
    assert "took back the consent to care" in page
    desk, clara, thread = health.desk.clinic, health.site.ids["clinician"], health.thread().id
    desk.take_over(thread, by=clara)
    desk.lower_risk(thread, "none", by=clara, reason="We spoke.")
    desk.give_back(thread, by=clara, reason="We spoke.")
    say(client, "And again I slept badly.", "m-3")
    with health.store.read() as unit:
        assert [job.state for job in unit.jobs.of(health.thread().id) if job.state == "queued"] == []


def test_without_the_switch_the_first_word_needs_no_consent(clinic: Clinic) -> None:
    client = read_first(clinic)
    assert 'name="text"' in client.get("/talk").text
    assert say(client, "Hello", "m-1").status_code == 303


# ---------------------------------------------------------------------- recording


@pytest.mark.parametrize("answer", ["given", "withdrawn"])
def test_recording_is_asked_by_itself_and_care_goes_on_either_way(clinic: Clinic, answer: str) -> None:
    client = read_first(clinic)
    page = client.get("/talk").text
    assert "May we use a transcript?" in page
    assert 'name="text"' in page  # the question does not stand in the way
    with clinic.store.read() as unit:
        assert unit.notices.last(clinic.site.ids["help_seeker"], "recording") is not None
    send(client, "/consents/recording", {"answer": answer}, page="/talk")
    page = client.get("/talk").text
    assert "May we use a transcript?" not in page
    assert say(client, "Hello", "m-1").status_code == 303
    seen = clinic.client("clinician").get(f"/inbox/{clinic.thread().id}").text
    assert f"Recording and transcripts: <b>{'yes' if answer == 'given' else 'no'}</b>" in seen


def test_without_the_switch_recording_is_not_asked(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, recording_consent="off")
    assert "May we use a transcript?" not in read_first(clinic).get("/talk").text
    clinic.store.close()


# ---------------------------------------------------------------------- the ledger


def test_each_purpose_has_a_page_that_says_what_taking_it_back_cannot_undo(health: Clinic) -> None:
    client = read_first(health)
    for purpose, said in (
        ("care", "stays until it is deleted"),
        ("recording", "already stay in the record"),
        ("training", "cannot forget on its own"),
    ):
        page = client.get(f"/consents/{purpose}").text
        assert said in page
        assert "The answer is no." in page


def test_where_no_ledger_is_kept_the_pages_are_not_there(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, consent_ledger="off", recording_consent="off")
    client = clinic.begun()
    assert client.get("/consents").status_code == 404
    assert send(client, "/consents/training", {"answer": "given"}, page="/me").status_code == 404
    assert "kept on paper" in client.get("/me").text
    say(client, "Hello", "m-1")
    assert "kept on paper" in clinic.client("clinician").get(f"/inbox/{clinic.thread().id}").text
    clinic.store.close()


def test_a_consent_that_is_needed_keeps_the_ledger_whatever_its_switch(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, consent_ledger="off", recording_consent="on")
    assert clinic.begun().get("/consents").status_code == 200
    clinic.store.close()


@pytest.mark.parametrize("proof", ["on", "off"])
def test_the_answer_to_the_question_keeps_its_words_only_where_proof_is_wanted(
    tmp_path: Path, clock: Clock, proof: str
) -> None:
    clinic = with_switches(tmp_path, clock, notice_proof=proof)
    say(clinic.begun(), "Are you a robot?", "m-1")
    with clinic.store.read() as unit:
        (kept,) = [n for n in unit.notices.of(clinic.site.ids["help_seeker"]) if n.moment == "when-asked"]
    assert bool(kept.wording) == (proof == "on")
    clinic.store.close()


def test_what_is_not_enforced_is_not_asked_and_an_old_yes_can_be_taken_back(clinic: Clinic) -> None:
    client, anna = read_first(clinic), clinic.site.ids["help_seeker"]
    assert "/consents/research" not in client.get("/consents").text
    for purpose in ("quality_review", "research"):
        assert client.get(f"/consents/{purpose}").status_code == 404
        assert send(client, f"/consents/{purpose}", {"answer": "given"}, page="/me").status_code == 404
    with clinic.store.begin() as unit:
        unit.consents.add(
            user=anna, purpose="research", action="given", wording="ok?", version="1", language="en", by=anna
        )
    assert "/consents/research" in client.get("/consents").text
    send(client, "/consents/research", {"answer": "withdrawn"})
    with clinic.store.read() as unit:
        assert not unit.consents.current(anna)["research"]


# ---------------------------------------------------------------------- what pages, record and console say about care


def purposes(page: str) -> set[str]:
    return set(re.findall(r'href="/consents/([a-z_]+)"', page))


def console(clinic: Clinic) -> str:
    page = clinic.client("clinician").get(f"/inbox/{clinic.thread().id}").text
    return page[page.index("Consents") :]


def test_where_care_is_no_consent_nothing_says_that_it_was_refused(clinic: Clinic) -> None:
    """A "Care: no" beside messages that are kept would be false on one side: it is not asked, and the page says why."""
    client = read_first(clinic)
    say(client, "I slept badly.", "m-1")
    for page in (client.get("/consents").text, client.get("/me").text):
        assert "care" not in purposes(page)
        assert "because nobody could answer you without them" in page
    assert client.get("/consents/care").status_code == 404
    assert "Care:" not in console(clinic)
    record = client.get("/me/record.json").json()
    assert record["conversations"][0]["messages"]
    assert "nobody could answer you without them" in record["why_this_is_kept"]
    assert record["consents"] == []


def test_where_care_rests_on_a_consent_each_answer_says_what_follows(health: Clinic) -> None:
    client = read_first(health)
    assert "so no conversation begins" in client.get("/consents").text
    send(client, "/consents/care", {"answer": "given"})
    say(client, "I slept badly.", "m-1")
    assert "kept because you agreed to it" in client.get("/me").text
    assert "kept because you agreed to it" in client.get("/me/record.json").json()["why_this_is_kept"]
    assert re.search(r"Care: <b>yes</b>", console(health))
    send(client, "/consents/care", {"answer": "withdrawn"})
    for said in (client.get("/consents").text, client.get("/me/record.json").json()["why_this_is_kept"]):
        assert "You have not agreed" in said
        assert "a conversation that is still open is kept too" in said
    assert re.search(r"Care: <b>no</b>", console(health))


def test_an_answer_from_before_another_profile_can_be_taken_back_and_says_that_it_changes_nothing(
    clinic: Clinic,
) -> None:
    client = read_first(clinic)
    user = clinic.site.ids["help_seeker"]
    clinic.store.run(
        lambda unit: unit.consents.add(
            user=user, purpose="care", action="given", wording="w", version="v", language="en", by=user
        )
    )
    page = client.get("/consents/care").text
    assert "This answer changes nothing here" in page
    assert "no new conversation begins" not in page  # true under another profile only
    assert send(client, "/consents/care", {"answer": "withdrawn"}).status_code == 303
    assert 'value="given"' not in client.get("/consents/care").text
    assert say(client, "Hello", "m-1").status_code == 303


def test_recording_is_asked_where_it_stops_something(tmp_path: Path, clock: Clock) -> None:
    clinic = with_switches(tmp_path, clock, recording_consent="off")
    assert purposes(read_first(clinic).get("/consents").text) == {"training"}
    clinic.store.close()


@pytest.mark.parametrize(("language", "words"), [("de", "weil Ihnen ohne sie"), ("es", "porque sin ellos nadie")])
def test_why_it_is_kept_is_said_in_the_readers_language(clinic: Clinic, language: str, words: str) -> None:
    client, user = read_first(clinic), clinic.site.ids["help_seeker"]
    clinic.store.run(lambda unit: unit.users.change(user, by=user, language=language))
    assert words in client.get("/consents").text
    assert words in client.get("/me/record.json").json()["why_this_is_kept"]
