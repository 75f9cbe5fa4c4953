"""The crisis path of `/v1`: rules before the model, the reply gate after it. It needs no model itself.

`/v1` has no clinician behind it, so nobody can take a conversation over. What the rules call urgent is answered by a
fixed text with the clinic's lines, and the model is not asked. Any other sign is answered by lines first, then by the
model. Speaking of suicide is not refused. Whatever other guard is configured comes behind these rules (`around`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from heedful.review.crisis import Lines, names
from heedful.safety import crisis, gate, texts
from heedful.safety.crisis import Assessment
from heedful.safety.events import RUNGS, Question
from heedful.safety.policy import Decision, decide
from heedful.server import logs
from heedful.server.engine.base import Message
from heedful.server.guard import Guard, Verdict
from heedful.types import Turn

URGENT: Final = RUNGS.index("warm-handover")
WINDOW: Final = 8
"""An urgent sign in so many last messages is answered without the model; an older one, by lines before its reply."""
SAID: Final = 20
"""So many messages before a reply tell the gate what it is about."""
WORDS: Final[dict[str, tuple[str, str, str, str]]] = {
    "en": (
        "a crisis line in your country",
        "your emergency number",
        "This reply was held back. Please ask again in other words.",
        "A program wrote this by itself. Nobody of the team is told of it.",
    ),
    "de": (
        "ein Krisentelefon in Ihrem Land",
        "den Notruf",
        "Diese Antwort wurde zurückgehalten. Bitte fragen Sie anders.",
        "Das schreibt ein Programm von selbst. Niemand vom Team erfährt davon.",
    ),
    "es": (
        "una línea de crisis de tu país",
        "número de emergencias",
        "Esta respuesta se retuvo. Pregunta de otra manera.",
        "Esto lo escribe un programa por sí solo. Nadie del equipo se entera.",
    ),
    "zh": (
        "您所在国家的危机热线",
        "紧急电话",
        "这条回复没有发出。请换一种说法再问。",
        "这是程序自动写的，团队里没有人会收到通知。",
    ),
}
"""Language -> line and emergency number where no country is known, what stands in for a blocked reply, who writes."""

_SENTENCE: Final = re.compile(r"(?<=[.!?。！？\n])")
_ORDER: Final = re.compile(
    r"[\W\d_]*(?:(?:if|when|whenever|in case|should|wenn|falls|sobald)\b(?! (?:i|i['’]m|ich)\b)"
    r"|(?:never|always|do not|don['’]t|niemals|immer|nunca|siempre)\b(?! (?:i|ich)\b)"
    r"|(?:si|cuando|en caso de que) (?:alguien|la persona|el|la|los|las|un|una|quien)\b|如果|若|当|不要)",
    re.IGNORECASE,
)
"""How a sentence begins that tells a model what to do."""
FAILED: Final[Mapping[str, Any]] = {"guard": "failed"}
"""What the caller learns where the configured guard raised and the rules answered alone."""


class CrisisGuard:
    """See the head of this module.

    Args:
        lines: what stands in the texts of a language; None = no country is known, and none is named.
    """

    def __init__(self, *, lines: Callable[[str], Lines] | None = None) -> None:
        self.lines = lines

    def before(self, messages: Sequence[Message]) -> Verdict:
        """What the whole conversation asks for: nothing, lines before the reply, or a text in place of it."""
        said = [turn for message in messages if (turn := _turn(message)) is not None]
        while said and said[-1].role != "user":
            said.pop()
        if not said and messages:  # nobody speaks as the person: then the last one does
            said = [Turn(role="user", text=messages[-1].content)]
        if not said:
            return Verdict()
        ever = crisis.assess(said)
        decision = decide(ever)
        if decision.rung == "none":
            return self._told(messages, said)
        answering = 2 if len(said) > 1 and said[-2].role == "assistant" else 1
        near, now = crisis.assess(said[-WINDOW:]), crisis.assess(said[-answering:])
        heard = now.language if now.matches or now.heard_language or not ever.matches else ever.matches[-1].language
        language = texts.nearest_language(heard)
        urgent = _urgent(decide(near))
        action: Literal["replace", "precede"] = "replace" if urgent else "precede"
        fresh = decide(now)
        lines = self._lines(language)
        if _urgent(fresh):
            words = _card("interrupt", now, language, lines)
        elif urgent or fresh.tier != "none":
            words = _card("card", now, language, lines)
        else:
            words = "\n".join(_card("card", ever, language, lines).split("\n")[0:3:2])
        asked = texts.load(language).question(_question(now)) if fresh.tier != "none" else WORDS[language][2]
        return Verdict(
            action=action,
            text=f"{words}\n{WORDS[language][3]}" if urgent else words,
            otherwise=f"{asked}\n{WORDS[language][3]}",
            facts=self._facts(decision, ever, lines),
            log=_log(decision, ever, action),
            after=lambda text: self._looked(text, said[-SAID:], language if decision.tier != "none" else None),
        )

    def _told(self, messages: Sequence[Message], said: Sequence[Turn]) -> Verdict:
        """Lines first where a prompt of the system quotes a person in danger.

        Signs in the first person count. That a prompt names hotlines, or says what to do if somebody is in danger, does
        not: it stands in every request.
        """
        parts = [part for m in messages if m.role == "system" for part in _SENTENCE.split(m.content)]
        # What stands behind "The person wrote:" is a sentence of its own.
        found = crisis.assess(" ".join(part.replace(":", ".") for part in parts if not _ORDER.match(part)))
        decision = decide(found)
        mine = found.level > 1 or (found.level == 1 and "someone-else" not in found.classes)
        if not (mine or decision.tier == "immediate"):
            return Verdict()
        language = texts.nearest_language(found.language)
        lines = self._lines(language)
        return Verdict(
            action="precede",
            text=_card("card", found, language, lines),
            otherwise=f"{WORDS[language][2]}\n{WORDS[language][3]}",
            facts=self._facts(decision, found, lines),
            log=_log(decision, found, "precede"),
            after=lambda text: self._looked(text, said[-SAID:], language),
        )

    def after(self, text: str) -> Verdict:
        """Hold back what the gate blocks; what it would return to a writer passes, and is said."""
        return self._looked(text, (), None)

    def _looked(self, text: str, said: Sequence[Turn], language: str | None) -> Verdict:
        """The gate on a reply. Where a sign stands nobody is there to edit, so what it would return is held back."""
        verdict = gate.check(text, said=said)
        if verdict.outcome == "pass":
            return Verdict()
        facts = {"gate": verdict.outcome, "gate_rules": list(verdict.rules)}
        if verdict.outcome == "return" and language is None:
            return Verdict(facts=facts)
        spoken = language or texts.nearest_language(crisis.assess(text).language)
        return Verdict(action="replace", text=WORDS[spoken][2], facts=facts)

    def _lines(self, language: str) -> Lines:
        if self.lines is not None:
            return self.lines(language)
        return Lines(line=WORDS[language][0], emergency=WORDS[language][1])

    def _facts(self, decision: Decision, found: Assessment, lines: Lines) -> dict[str, Any]:
        facts: dict[str, Any] = {"risk": decision.tier, "rung": decision.rung, "rules": len(found.rules)}
        if found.overflow:
            facts["overflow"] = True
        if self.lines is not None:
            facts["lines"] = {"line": lines.line, "emergency": lines.emergency}
        return facts


class Around:
    """Crisis rules first, then another guard; no configuration takes the rules away."""

    def __init__(self, *, crisis: CrisisGuard, other: Guard) -> None:
        self.crisis, self.other = crisis, other

    def before(self, messages: Sequence[Message]) -> Verdict:
        """The rules' verdict; the other guard is asked where they leave room for it."""
        first = self.crisis.before(messages)
        if first.action == "replace":
            return first
        try:
            second = self.other.before(messages)
        except Exception as err:  # whatever it is: it takes nobody's help away
            if first.action == "pass":
                raise
            logs.fault(err)
            # What the other guard would have said of the model's reply is not known, so there is none.
            return replace(
                first, action="replace", text=f"{first.text}\n\n{first.otherwise}", facts={**first.facts, **FAILED}
            )
        facts, look = {**second.facts, **first.facts}, first.after or self.crisis.after
        later = second.after or self.other.after
        after = _both(look, later if first.action == "pass" else _held_back(later))
        if first.action == "pass" or second.action == "pass":
            kept = second if first.action == "pass" else first
            return replace(kept, facts=facts, after=after)
        text = f"{first.text}\n\n{second.text}"
        return replace(first, action=second.action, text=text, facts=facts, after=after)

    def after(self, text: str) -> Verdict:
        """Both."""
        return _both(self.crisis.after, self.other.after)(text)


def around(other: Guard, *, lines: Callable[[str], Lines]) -> Guard:
    """The guard that `/v1` asks: the crisis rules with the clinic's lines, then the configured one."""
    rules = CrisisGuard(lines=lines)
    return rules if type(other) is CrisisGuard else Around(crisis=rules, other=other)


def _both(one: Callable[[str], Verdict], other: Callable[[str], Verdict]) -> Callable[[str], Verdict]:
    def look(text: str) -> Verdict:
        first = one(text)
        if first.action == "replace":
            return first
        second = other(text)
        return replace(second, facts={**first.facts, **second.facts})

    return look


def _held_back(look: Callable[[str], Verdict]) -> Callable[[str], Verdict]:
    """Behind lines that went out already a guard that fails is no error: the reply stays back."""

    def careful(text: str) -> Verdict:
        try:
            return look(text)
        except Exception as err:
            logs.fault(err)
            spoken = texts.nearest_language(crisis.assess(text).language)
            return Verdict(action="replace", text=WORDS[spoken][2], facts=FAILED)

    return careful


def _urgent(decision: Decision) -> bool:
    return RUNGS.index(decision.rung) >= URGENT


def _card(id: Literal["card", "interrupt"], found: Assessment, language: str, lines: Lines) -> str:
    """Title, lead and at most three options, one a line."""
    spoken = texts.load(language)
    title, lead = spoken.card(id)
    if id == "interrupt":
        which = texts.interrupt_for(found.classes)
    else:
        which = "harm-from-others" if "harm-from-others" in found.classes else "thoughts"
    return "\n".join((title, lead, *spoken.options(which, line=lines.line, emergency=lines.emergency)))


def _question(found: Assessment) -> Question:
    """What is asked plainly where the model says nothing."""
    classes = set(found.classes)
    if "harm-from-others" in classes:
        return "others-safe"
    if "harm-to-others" in classes:
        return "harm-others"
    if "someone-else" in classes and found.level <= 1:
        return "someone-else"
    return "safe-now" if found.level >= 2 or found.behaviour != "none" else "thoughts"


def _log(decision: Decision, found: Assessment, action: str) -> Mapping[str, Any]:
    versions = ", ".join(f"{language} {version}" for language, version in found.versions.items())
    return {
        "tier": decision.tier,
        "rung": decision.rung,
        "rules": list(names(", ".join(found.rules), versions)),
        "answer": "fixed" if action == "replace" else "fixed-first",
    }


def _turn(message: Message) -> Turn | None:
    return Turn(role=message.role, text=message.content) if message.role in ("user", "assistant") else None
