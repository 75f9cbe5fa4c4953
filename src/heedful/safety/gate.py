"""Layer 4 of the crisis path: every outgoing text is checked before anybody can send it, whoever wrote it.

The rules are data: those of `risk.toml`, and those of `gate.toml` beside this file. They look for wording, mostly
English: a text that passes is not safe, it only breaks none of the rules.

>>> check("You clearly have depression.").outcome
'return'
>>> check("Don't tell anyone.").rules
('discourages-help',)
>>> check("Who could you tell?").outcome
'pass'
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast, get_args

from heedful.errors import ConfigError, NotFoundError, only_keys
from heedful.safety import crisis
from heedful.safety.rules import EXCUSES, Rule, Rules
from heedful.safety.rules import load as load_rules
from heedful.safety.state import State
from heedful.safety.texts import MOST_OPTIONS
from heedful.safety.wording import compiled, plain
from heedful.types import Turn

Outcome = Literal["pass", "return", "block"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Author = Literal["draft", "person"]
When = Literal["always", "crisis", "harm-from-others"]
Counts = Literal["options", "first"]

_KEYS = {"name", "title", "verdict", "when", "of", "said", "unless", "patterns", "counts", "fails", "passes"}
_ITEM = re.compile(r"(?m)^[ \t]*(?:[-*•–·]|\(?\d{1,2}[.)、])[ \t]*(?=\S)")
_INLINE = re.compile(r"(?:^|\s)\(?(\d{1,2})[.)][ \t]+(?=\S)")
_FIRST = re.compile(r"\b(?:first|firstly|1st|primero|zuerst|als erstes)\b|首先|先", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """One rule of `gate.toml`; see its head.

    Args:
        verdict: what happens to a text that breaks it.
        when: in which conversations it holds. `of`: whose texts it reads.
        counts: instead of a pattern, what is counted.
    """

    rule: Rule
    verdict: Outcome
    when: When
    of: Literal["anyone", "draft"]
    counts: Counts | None

    def holds(self, held: frozenset[str], author: Author) -> bool:
        """Whether it is asked about a text of this author in this conversation."""
        return self.when in held and (self.of == "anyone" or author == "draft")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The rules of risk.toml and of gate.toml.

    Args:
        returned: rules of risk.toml whose texts go back to their writer; the others block.
        hash: of both files.
    """

    version: str
    hash: str
    base: Rules = field(repr=False)
    returned: frozenset[str]
    rules: tuple[GateRule, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says about a text. It does not hold the text.

    Args:
        outcome: `pass`; `return`, back to the writer; `block`, may not be sent.
        rules: names of the rules that are broken.
        version: version and hash of the rules, for the log.
    """

    outcome: Outcome
    rules: tuple[str, ...]
    version: str

    def __bool__(self) -> bool:
        return self.outcome == "pass"


def check(text: str, *, said: Sequence[Turn] = (), state: State | None = None, author: Author = "draft") -> Verdict:
    """What the gate says about an outgoing text.

    Args:
        said: the turns before it; those of the help-seeker tell whether they are in danger.
        state: of the conversation, where there is one; a risk that it knows of counts as long as it stands.
        author: `draft` = a model wrote it, `person` = a clinician did.

    Raises:
        ConfigError: an unknown author.
    """
    if author not in get_args(Author):
        raise ConfigError(f"'author' must be draft or person, not '{author}'.")
    gate = load_gate()
    held = _held(said, state, gate.base)
    found: dict[str, Outcome] = {}
    for name in gate.base.broken(text, said):
        found[name] = "return" if name in gate.returned else "block"
    due = [rule for rule in gate.rules if rule.holds(held, author)]
    worded = replace(gate.base, rules=tuple(rule.rule for rule in due if rule.counts is None))
    broken = set(worded.broken(text, said)) | {rule.rule.name for rule in due if _counted(rule, text)}
    found |= {rule.rule.name: rule.verdict for rule in due if rule.rule.name in broken}
    outcome: Outcome = max(found.values(), key=OUTCOMES.index, default="pass")
    return Verdict(outcome=outcome, rules=tuple(found), version=f"{gate.version}/{gate.hash}")


def _held(said: Sequence[Turn], state: State | None, base: Rules) -> frozenset[str]:
    """In which kinds of conversation this is."""
    seeker = [turn for turn in said if turn.role == "user"][-base.window :]
    found = crisis.assess(seeker)
    classes = set(found.classes) | set(state.classes if state is not None else ())
    risky = found.tier != "none" or base.disclosed(said) or (state is not None and state.tier != "none")
    held = {"always", "crisis"} if risky else {"always"}
    return frozenset(held | ({"harm-from-others"} & classes))


def _counted(rule: GateRule, text: str) -> bool:
    items = options(text)
    if rule.counts == "options":
        return items > MOST_OPTIONS
    if rule.counts == "first":
        return items > 1 and not _FIRST.search(plain(text)) and not re.search(r"(?:^|\s)\(?1[.)]", text)
    return False


def options(text: str) -> int:
    """How many options a text lists: lines with a sign or a number, or numbers in one line.

    >>> options("1. Call 988. 2. Tell a friend.")
    2
    """
    listed = len(_ITEM.findall(text))
    counted = [int(number) for number in _INLINE.findall(text)]
    # Only numbers that count up from one are a list: "in 2. grade" is none.
    run = 0
    for number in counted:
        run = run + 1 if number == run + 1 else run
    return max(listed, run)


@cache
def load_gate() -> Gate:
    """The rules of `gate.toml`, with those of `risk.toml`.

    Raises:
        ConfigError: the file is not of the form that its head describes.
    """
    content = files("heedful.safety").joinpath("gate.toml").read_bytes()
    risk = files("heedful.safety").joinpath("risk.toml").read_bytes()
    return parse(content.decode("utf-8"), digest=hashlib.sha256(content + b"\n" + risk).hexdigest()[:16])


def parse(text: str, *, digest: str) -> Gate:
    """A gate from the text of a TOML file.

    Raises:
        ConfigError: as for `load_gate`.
    """
    try:
        found = tomllib.loads(text)
        base = load_rules()
        returned = frozenset(found["base"]["return"])
        if stray := returned - {rule.name for rule in base.rules}:
            raise ConfigError(f"[base] names '{min(stray)}', which risk.toml does not have.")
        rules = tuple(_rule(entry, found["words"]) for entry in found["rules"])
        names = [rule.rule.name for rule in rules] + [rule.name for rule in base.rules]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two rules are called '{min(twice)}'.")
        return Gate(version=found["version"], hash=digest, base=base, returned=returned, rules=rules)
    except ConfigError as err:
        raise ConfigError(f"The rules in gate.toml cannot be used: {err}") from err
    except (tomllib.TOMLDecodeError, re.error, KeyError, TypeError, ValueError, NotFoundError) as err:
        raise ConfigError(f"The rules in gate.toml cannot be used: {type(err).__name__} {err}.") from err


def _rule(entry: Mapping[str, Any], words: Mapping[str, str]) -> GateRule:
    name = entry["name"]
    only_keys(entry, _KEYS, where=f"rule '{name}'")
    counts, of = entry.get("counts"), entry.get("of", "anyone")
    allowed = (
        (entry["verdict"], OUTCOMES[1:]),
        (entry["when"], get_args(When)),
        (of, ("anyone", "draft")),
        (counts, (None, *get_args(Counts))),
    )
    for value, known in allowed:
        if value not in known:
            raise ConfigError(f"rule '{name}' says '{value}' where one of {', '.join(map(str, known))} belongs.")
    if (counts is None) == ("patterns" not in entry):
        raise ConfigError(f"rule '{name}' needs either 'patterns' or 'counts'.")
    if stray := set(entry["unless"]) - set(EXCUSES):
        raise ConfigError(f"rule '{name}': 'unless' knows {', '.join(EXCUSES)}, not '{min(stray)}'.")
    rule = Rule(
        name=name,
        title=entry["title"],
        when="always",
        unless=tuple(entry["unless"]),
        pattern=compiled(entry["patterns"], words) if "patterns" in entry else None,
        said=entry.get("said", ""),
        fails=tuple(entry["fails"]),
        passes=tuple(entry["passes"]),
    )
    return GateRule(
        rule=rule, verdict=entry["verdict"], when=entry["when"], of=of, counts=cast("Counts | None", counts)
    )
