"""Reading ahead: which conversations are read, when, and what happens while others are answered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import Clinic, make_clinic, say, send

from heedful.server.ahead import MOST, TRIES, Ahead
from heedful.server.background import Repeated
from heedful.server.clinic import _readers_ahead
from heedful.types import Conversation


class Reading:
    """Notes what it is to read; `idle` says whether it can."""

    def __init__(self) -> None:
        self.idle = True
        self.read: list[tuple[Conversation, str]] = []

    def __call__(self, conversation: Conversation, key: str) -> bool:
        self.read.append((conversation, key))
        return self.idle


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    made = make_clinic(tmp_path)
    made.desk.ahead._read = Reading()
    yield made
    made.store.close()


def reading(clinic: Clinic) -> Any:
    return clinic.desk.ahead._read


def decided(clinic: Clinic, what: str, **values: str) -> None:
    say(clinic.begun(), "I slept badly.", "m-1")
    clinic.draft()
    path = f"/inbox/{clinic.thread().id}"
    (draft,) = clinic.drafts("drafted")
    assert send(clinic.client("clinician"), f"{path}/drafts/{draft.id}/{what}", values, page=path).status_code == 303


@pytest.mark.parametrize(("what", "values"), [("approve", {}), ("edit", {"text": "What kept you awake so long?"})])
def test_a_reply_that_was_sent_is_read_once(clinic: Clinic, what: str, values: dict[str, str]) -> None:
    decided(clinic, what, **values)
    assert clinic.desk.ahead.once()
    ((conversation, key),) = reading(clinic).read
    assert key == clinic.thread().id
    assert [(t.role, t.text) for t in conversation.turns] == clinic.turns()
    assert conversation.turns[-1].text == values.get("text", clinic.writer.reply)
    assert not clinic.desk.ahead.once(), "nothing is left"


def test_what_was_not_sent_is_not_read(clinic: Clinic) -> None:
    decided(clinic, "reject", reason="Too early")
    assert not clinic.desk.ahead.once()
    assert not reading(clinic).read


def test_a_message_that_was_faster_is_left_to_its_draft(clinic: Clinic) -> None:
    decided(clinic, "approve")
    say(clinic.client("help_seeker"), "One more thing.", "m-2")
    assert clinic.desk.ahead.once()
    assert not reading(clinic).read


@pytest.mark.parametrize("why", ["taken over", "held", "consent", "closed", "gone"])
def test_where_no_draft_would_be_made_nothing_is_read(clinic: Clinic, why: str) -> None:
    decided(clinic, "approve")
    thread, user = clinic.thread().id, clinic.site.ids["clinician"]
    if why == "consent":
        clinic.store.run(lambda unit: unit.threads.stop_drafts(thread, "consent", by=user))
    elif why == "gone":
        clinic.desk.ahead._tries = OrderedDict({"no-such-thread": TRIES})
    else:
        act = {"taken over": clinic.desk.clinic.take_over, "held": clinic.desk.clinic.hold}
        act |= {"closed": clinic.desk.clinic.close}
        act[why](thread, by=user, **({} if why == "taken over" else {"reason": "Enough for today"}))
    assert clinic.desk.ahead.once()
    assert not reading(clinic).read
    assert not clinic.desk.ahead.once(), "nothing is left"


def test_what_a_person_writes_in_a_conversation_of_theirs_is_not_for_the_model(clinic: Clinic) -> None:
    say(clinic.begun(), "I slept badly.", "m-1")
    path, client = f"/inbox/{clinic.thread().id}", clinic.client("clinician")
    assert send(client, f"{path}/take", {}, page=path).status_code == 303
    assert send(client, f"{path}/write", {"text": "I am here.", "client_id": "w-1"}, page=path).status_code == 303
    assert not clinic.desk.ahead._tries


def test_who_reads_ahead_and_who_drafts_are_woken(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr(Repeated, "wake", lambda worker: woken.append(worker.name.partition("-")[0]))
    decided(clinic, "reject", reason="Too early")
    woken.clear()
    path = f"/inbox/{clinic.thread().id}"
    assert send(clinic.client("clinician"), f"{path}/draft", {}, page=path).status_code == 303
    assert set(woken) == {"drafts"}
    clinic.draft()
    (draft,) = clinic.drafts("drafted")
    woken.clear()
    assert send(clinic.client("clinician"), f"{path}/drafts/{draft.id}/approve", {}, page=path).status_code == 303
    assert woken == ["ahead"]


def test_it_is_tried_again_while_others_are_answered(clinic: Clinic) -> None:
    reading(clinic).idle = False
    decided(clinic, "approve")
    for _ in range(TRIES + 2):
        assert not clinic.desk.ahead.once()
    assert len(reading(clinic).read) == TRIES


def test_the_newest_come_first_and_not_all_are_kept(clinic: Clinic) -> None:
    ahead = Ahead(clinic.store, Reading())
    for n in range(MOST + 3):
        ahead.sent(f"thread-{n}")
    ahead.sent("thread-5")
    kept = list(ahead._tries)
    assert (len(kept), kept[0], kept[-1]) == (MOST, "thread-3", "thread-5")


def test_engines_that_keep_no_prompts_read_nothing_ahead(clinic: Clinic) -> None:
    other = clinic.site.config.model_copy(update={"engine": "transformers"})
    assert _readers_ahead(clinic.desk, clinic.site.config)
    assert not _readers_ahead(clinic.desk, other)
    clinic.desk.ahead = None
    clinic.desk.sent("thread-1")  # and nothing happens
