"""The guard in use: urgent words get a fixed answer, others the model's; a blocked reply is not sent."""

from __future__ import annotations

import pytest

import server_kit

server_kit.require()

from heedful.safety import gate, texts
from heedful.server import guard
from heedful.server.config import ServeConfig
from heedful.server.crisis_guard import WORDS, CrisisGuard
from heedful.server.engine.base import Message
from heedful.settings import check


def said(*texts_: str) -> list[Message]:
    roles = ("user", "assistant")
    return [
        Message(role="system", content="Be kind."),
        *(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts_)),
    ]  # type: ignore[arg-type]


def test_it_is_the_one_that_heedful_serve_takes() -> None:
    assert isinstance(guard.make(check(ServeConfig, {}, where="test").guard), CrisisGuard)


@pytest.mark.parametrize("text", ["I am going to kill myself tonight.", "Ich bringe mich heute Nacht um."])
def test_urgent_words_are_answered_without_the_model(text: str) -> None:
    verdict = CrisisGuard().before(said("Hello.", "Hi.", text))
    assert verdict.action == "replace"
    assert verdict.facts["risk"] == "immediate"
    assert gate.check(verdict.text, author="person").outcome != "block"


def test_speaking_of_suicide_is_not_refused() -> None:
    verdict = CrisisGuard().before(said("Sometimes I think I don't want to live anymore."))
    assert verdict.action == "pass"
    assert verdict.facts["risk"] == "thoughts"


def test_everyday_words_pass_without_a_word() -> None:
    assert CrisisGuard().before(said("I'm dead tired after work.")) == guard.Verdict()
    assert CrisisGuard().before([Message(role="system", content="x")]) == guard.Verdict()


def test_a_blocked_reply_is_not_sent_and_a_doubtful_one_is_said() -> None:
    blocked = next(
        case
        for rule in gate.load_gate().rules
        if rule.verdict == "block" and rule.when == "always"
        for case in rule.rule.fails
    )
    held = CrisisGuard().after(blocked)
    assert held.action == "replace"
    assert blocked not in held.text
    doubtful = CrisisGuard().after("You clearly have depression.")
    assert (doubtful.action, doubtful.facts["gate"]) == ("pass", "return")
    assert CrisisGuard().after("What happened then?") == guard.Verdict()


def test_every_language_of_the_texts_has_words() -> None:
    assert set(WORDS) == set(texts.LANGUAGES)
