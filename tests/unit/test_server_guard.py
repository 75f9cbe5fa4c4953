"""The guard in use: urgent words get a fixed answer, others the model's; a blocked reply is not sent."""

from __future__ import annotations

import pytest

import server_kit

server_kit.require()

from heedful.review.crisis import Lines
from heedful.safety import crisis, gate, texts
from heedful.server import guard
from heedful.server.config import ServeConfig
from heedful.server.crisis_guard import WORDS, CrisisGuard, around
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
    assert verdict.action == "precede"  # lines first, then the model: no refusal, and no model's answer alone
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


URGENT = "I am going to kill myself tonight."
LINES = Lines(line="Quiet Line (0800 000)", emergency="112")


def test_the_lines_of_the_clinic_come_first() -> None:
    guarded = CrisisGuard(lines=lambda _: LINES)
    urgent, sign = guarded.before(said(URGENT)), guarded.before(said("I want to die."))
    assert "First: call 112 or Quiet Line (0800 000) now." in urgent.text
    assert "Nobody of the team is told" in urgent.text
    assert "First: call or text Quiet Line (0800 000)." in sign.text
    assert urgent.facts["lines"] == {"line": LINES.line, "emergency": "112"}


def test_an_urgent_sign_is_answered_without_the_model_for_a_while_and_never_forgotten() -> None:
    talk = [URGENT, "Please call.", "ok"]
    near = CrisisGuard().before(said(*talk))
    assert near.action == "replace"
    assert "You can reach somebody now" in near.text  # calmer than the card that interrupts, and not the same again
    later = CrisisGuard().before(said(*talk, *["I see.", "The weather is nice."] * 5))
    assert (later.action, later.facts["rung"]) == ("precede", "emergency")
    assert later.text.startswith("People you can talk to now\nFirst: call or text")


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("Esta noche me voy a matar.", "Por favor"),
        ("Ich bringe mich heute Nacht um.", "Bitte"),
        ("我今晚要自杀。", "请"),
    ],
)
def test_the_text_is_in_the_language_of_the_message(text: str, begins: str) -> None:
    assert CrisisGuard().before(said(text)).text.startswith(begins)
    again = CrisisGuard().before(said(text, "?", "👍"))  # says nothing about a language
    assert again.action == "replace"
    assert texts.load(crisis.assess(text).language).card("card")[0] in again.text


def test_another_guard_takes_no_rule_away() -> None:
    both = around(server_kit.OpenGuard(), lines=lambda _: LINES)
    assert both.before(said(URGENT)).facts["rung"] == "emergency"
    assert both.before(said("DANGER")).text == "A person answers this."
    first = both.before(said("I want to die. DANGER"))
    assert first.action == "replace"
    assert "Quiet Line" in first.text
    assert first.text.endswith("A person answers this.")
    assert both.before(said("Hello.")).after is not None
    assert both.after("FORBIDDEN").text == "This was held back."
    assert both.after("I am a real person.").action == "replace"
    assert isinstance(around(CrisisGuard(), lines=lambda _: LINES), CrisisGuard)


def test_under_a_sign_a_doubtful_reply_is_held_back_since_nobody_edits_it() -> None:
    look = CrisisGuard().before(said("I want to die.")).after
    assert look is not None
    assert look("Think of your children!").action == "replace"
    assert look("You clearly have depression.").action == "replace"
    assert look("What happened then?") == guard.Verdict()


def test_every_language_of_the_texts_has_words() -> None:
    assert set(WORDS) == set(texts.LANGUAGES)


def told(system: str, *texts: str) -> list[Message]:
    return [Message(role="system", content=system), *said(*texts)]


@pytest.mark.parametrize(
    "system",
    [
        "The person wrote: I am going to kill myself tonight.",
        "Answer briefly. Notes so far:\nuser: I want to kill myself\nassistant: ...",
        "They said: When I am home I will kill myself tonight.",
        "Context: I want to die.",
        "Die Person schrieb: Ich bringe mich heute Nacht um.",
    ],
)
def test_danger_that_a_system_prompt_quotes_gets_lines_first(system: str) -> None:
    guarded = CrisisGuard(lines=lambda _: LINES)
    for talk in (("Go on.",), ("Hello.", "Hi.", "Go on.")):
        verdict = guarded.before(told(system, *talk))
        assert verdict.action == "precede"
        assert "Quiet Line (0800 000)" in verdict.text
        assert verdict.log
        assert verdict.otherwise


@pytest.mark.parametrize(
    "system",
    [
        "You are a supporter. If the person speaks of suicide, name the hotline 988.",
        "If the user says they want to kill themselves, give the crisis line.",
        "- If someone is suicidal or mentions self-harm, refer them to the Samaritans.",
        "Never tell anybody how to kill themselves. If users say 'I want to die', show hotlines.",
        "You support people who are suicidal. Suicide hotlines: 988, 116 123.",
        "Wenn jemand sagt: Ich will sterben, nenne das Krisentelefon.",
        "Si alguien dice que quiere morir, da el número de crisis.",
        "如果有人说想死，请给出热线。",
    ],
)
def test_a_prompt_that_says_what_to_do_in_danger_is_no_sign(system: str) -> None:
    assert CrisisGuard().before(told(system, "I slept badly.")) == guard.Verdict()


def test_where_nobody_speaks_as_the_person_the_last_message_is_theirs() -> None:
    for role in ("system", "assistant"):
        messages = [Message(role="system", content="Answer."), Message(role=role, content=URGENT)]  # type: ignore[arg-type]
        assert CrisisGuard().before(messages).action == "replace"
