"""Every switch of a jurisdiction profile, values from loosest to strictest. A server is tested against `matrix`.

Each switch is a total order, so that several profiles together have one answer: the strictest. Numbers are ordered too;
0 means "none", which is the loosest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from heedful.errors import ConfigError, nearest, shown

Value = str | int | tuple[str, ...]
Kind = Literal["choice", "at-most", "at-least", "all-of"]
REPORTS = ("dossier", "incidents", "yearly-counts")


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One switch.

    Args:
        kind: `choice`, one of `values`; `at-most`, a number of which the smaller is the stricter; `at-least`, one of
            which the larger is; `all-of`, words out of `values` of which more are stricter.
        values: of a choice, loosest first; of numbers, those that tests try.
        meaning: what it does. `where`: what shows it.
    """

    name: str
    kind: Kind
    values: tuple[str | int, ...]
    meaning: str
    where: Literal["server", "console", "both"] = field(default="both")

    def read(self, value: object) -> Value:
        """A value out of a file.

        Raises:
            ConfigError: the switch has no such value.
        """
        if self.kind == "choice":
            if isinstance(value, str) and value in self.values:
                return value
            known = ", ".join(map(str, self.values))
            hint = nearest(value, map(str, self.values)) if isinstance(value, str) else ""
            raise ConfigError(f"The switch '{self.name}' must be one of {known}, but it is {shown(value)}.{hint}")
        if self.kind == "all-of":
            if isinstance(value, list | tuple) and set(value) <= set(self.values):
                return tuple(sorted(set(map(str, value))))
            raise ConfigError(f"The switch '{self.name}' is a list of {', '.join(map(str, self.values))}.")
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        raise ConfigError(f"The switch '{self.name}' is a whole number, 0 for none, but it is {shown(value)}.")

    def stricter(self, one: Value, other: Value) -> Value:
        """The stricter of two values: commutative, associative, idempotent."""
        if isinstance(one, tuple) and isinstance(other, tuple):
            return tuple(sorted({*one, *other}))
        return max(one, other, key=self.rank)

    def rank(self, value: Value) -> int:
        """The larger, the stricter. Sets have no such number; see `at_least_as_strict`."""
        if isinstance(value, str):
            return self.values.index(value)
        if isinstance(value, tuple):
            return len(value)
        if value == 0:
            return -(1 << 62)
        return -value if self.kind == "at-most" else value

    def at_least_as_strict(self, one: Value, other: Value) -> bool:
        """Whether `one` is as strict as `other`, or stricter."""
        if isinstance(one, tuple) and isinstance(other, tuple):
            return set(one) >= set(other)
        return self.rank(one) >= self.rank(other)


def _choice(name: str, values: str, meaning: str, where: Literal["server", "console", "both"] = "both") -> Switch:
    return Switch(name=name, kind="choice", values=tuple(values.split()), meaning=meaning, where=where)


def _number(name: str, kind: Kind, tried: tuple[int, ...], meaning: str) -> Switch:
    return Switch(name=name, kind=kind, values=tried, meaning=meaning)


_ALL = (
    _choice(
        "client_replies",
        "by-policy ethics-approval off",
        "whether a model may answer a help-seeker without a person in between",
        "server",
    ),
    _choice(
        "drafts",
        "unreviewed approved notes-only off",
        "what a model may draft for a clinician: replies, each one approved; only notes and records; nothing",
    ),
    _choice("note_review", "none independent", "whether notes of a model need a second, independent look", "console"),
    _choice("emotion_shown", "per-protocol clinician off", "who sees what a model reads about emotions"),
    _choice("emotion_evidence", "optional required", "whether it is shown only with the words it rests on", "console"),
    _choice("risk_belief", "on counsel", "whether a risk classifier runs, or only once counsel confirmed it", "server"),
    _choice("notice_before_use", "none screen written", "before first use: nothing, a screen, a written notice"),
    _choice("notice_at_start", "off on", "whether each conversation starts with the notice that this is AI"),
    _choice("notice_on_question", "off on", "whether a question for it gets a straight yes"),
    _choice("notice_daily", "off on", "whether the notice comes again each day"),
    _choice("notice_proof", "off on", "whether what was shown, in which version and when, is kept", "server"),
    _choice("notice_minors", "off on", "whether known minors get their own notice"),
    _choice("recording_consent", "off on", "whether recording and transcripts need a consent of their own"),
    _choice("plan_signature", "off on", "whether every plan needs a professional's signature", "console"),
    _choice("sensitive_data_consent", "off on", "whether health data need an explicit consent first"),
    _choice("consent_ledger", "off on", "whether consents are kept by purpose, with wording and version", "server"),
    _choice("interruption_card", "off on", "whether a risk shows a card that cannot be scrolled past"),
    _choice("retention_tricks", "allowed forbidden", "streaks, guilt on leaving, come-back messages"),
    _choice("advertising", "allowed forbidden", "advertising, and sale or sharing of what people write"),
    _choice("report_button", "off on", "whether users can report a problem from every page"),
    _choice("name_filter", "off on", "whether names and pages are kept free of titles such as therapist"),
    _choice("protocol_page", "off on", "whether the crisis protocol is published"),
    _choice(
        "impact_assessment", "off on", "whether the service starts only with an impact assessment on file", "server"
    ),
    _choice("erasure", "off on", "whether people can have everything about them deleted, with a receipt"),
    _choice("approval_number", "not-needed needed", "whether an ethics approval has to be on file", "server"),
    _choice("staff_monitoring", "off on", "whether staff watches conversations while they run", "console"),
    _choice("stop_rule", "off on", "whether a stop rule of the protocol is enforced", "server"),
    _number("return_days", "at-most", (0, 30, 7), "days away after which the notice comes again"),
    _number("timer_minutes", "at-most", (0, 180, 60), "minutes after which the notice comes again"),
    _number("timer_minutes_minors", "at-most", (0, 180, 60), "the same for known minors, with a break"),
    _number("transcript_days", "at-most", (0, 3650, 365), "days that transcripts are kept at most"),
    _number("audit_years", "at-least", (0, 3, 6), "years that the audit is kept at least"),
    Switch(name="reports", kind="all-of", values=REPORTS, meaning="reports that have to be made"),
)
SWITCHES: Mapping[str, Switch] = {switch.name: switch for switch in _ALL}
"""All switches by name, in the order in which pages show them."""


def matrix() -> Iterator[tuple[str, Value]]:
    """Every switch with every value that a test of the server or the console has to try.

    >>> ("drafts", "notes-only") in set(matrix())
    True
    """
    for switch in SWITCHES.values():
        if switch.kind == "all-of":
            yield switch.name, ()
            yield from ((switch.name, (str(value),)) for value in switch.values)
        else:
            yield from ((switch.name, value) for value in switch.values)


def combined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Value]:
    """The stricter of each switch."""
    return {name: switch.stricter(one[name], other[name]) for name, switch in SWITCHES.items()}
