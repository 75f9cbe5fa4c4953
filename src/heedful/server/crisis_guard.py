"""The guard that heedful ships: crisis rules before the model, the reply gate after it. It needs no model itself.

`/v1` has no clinician behind it, so what the rules call urgent is answered by a fixed text, and what the gate blocks is
not sent. Speaking of suicide is not refused: short of urgent, the model answers, and the caller is told what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from heedful.safety import crisis, gate, texts
from heedful.safety.events import RUNGS
from heedful.safety.policy import decide
from heedful.server.engine.base import Message
from heedful.server.guard import Verdict
from heedful.types import Turn

URGENT: Final = RUNGS.index("warm-handover")
WINDOW: Final = 8
"""So many messages are read; an earlier sign is one that somebody had the chance to answer."""
WORDS: Final[dict[str, tuple[str, str, str]]] = {
    "en": (
        "a crisis line in your country",
        "your emergency number",
        "This reply was held back. Please ask again in other words.",
    ),
    "de": (
        "ein Krisentelefon in Ihrem Land",
        "den Notruf",
        "Diese Antwort wurde zurückgehalten. Bitte fragen Sie anders.",
    ),
    "es": (
        "una línea de crisis de su país",
        "el número de emergencias",
        "Esta respuesta se retuvo. Pregunte de otra manera.",
    ),
    "zh": ("您所在国家的危机热线", "紧急电话", "这条回复没有发出。请换一种说法再问。"),
}
"""Language -> line, emergency number, and what stands in for a blocked reply. No country is known here."""


class CrisisGuard:
    """See the head of this module."""

    def before(self, messages: Sequence[Message]) -> Verdict:
        """Answer in place of the model where the rules call it urgent; else pass, and say what was found."""
        said = [turn for message in messages if (turn := _turn(message)) is not None][-WINDOW:]
        while said and said[-1].role != "user":
            said.pop()
        if not said:
            return Verdict()
        found = crisis.assess(said)
        decision = decide(found)
        if decision.tier == "none":
            return Verdict()
        facts: dict[str, Any] = {"risk": decision.tier, "rung": decision.rung, "rules": len(found.rules)}
        if RUNGS.index(decision.rung) < URGENT:
            return Verdict(facts=facts)
        language = texts.nearest_language(found.language)
        line, emergency, _ = WORDS[language]
        spoken = texts.load(language)
        title, lead = spoken.card("interrupt")
        options = spoken.options(texts.interrupt_for(found.classes), line=line, emergency=emergency)
        return Verdict(action="replace", text="\n".join((title, lead, *options)), facts=facts)

    def after(self, text: str) -> Verdict:
        """Hold back what the gate blocks; what it would return to a writer passes, and is said."""
        verdict = gate.check(text)
        if verdict.outcome == "pass":
            return Verdict()
        facts = {"gate": verdict.outcome, "gate_rules": list(verdict.rules)}
        if verdict.outcome == "return":
            return Verdict(facts=facts)
        language = texts.nearest_language(crisis.assess(text).language)
        return Verdict(action="replace", text=WORDS[language][2], facts=facts)


def _turn(message: Message) -> Turn | None:
    return Turn(role=message.role, text=message.content) if message.role in ("user", "assistant") else None
