"""Crisis rules: every rule against its own cases, disguises, excuses, answers, and work that stays bounded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import ConfigError, NotFoundError
from heedful.safety import crisis
from heedful.safety.crisis import _assess, _index, _needs, _views
from heedful.safety.crisis._rules import QUIET, RuleSet, tier_of
from heedful.types import Conversation, Turn

SETS = [crisis.load(language) for language in crisis.LANGUAGES]


def cases(kind: str) -> list[Any]:
    return [
        pytest.param(rules, rule, text, id=f"{rules.language}-{rule.name}-{n}")
        for rules in SETS
        for rule in rules.rules
        for n, text in enumerate(getattr(rule, kind))
    ]


@pytest.mark.parametrize("rules", SETS, ids=[rules.language for rules in SETS])
def test_every_language_has_every_class_and_enough_cases(rules: RuleSet) -> None:
    classes = {rule.cls for rule in rules.rules}
    # A joke and answers are no rules, and slang is a class of its own only where a file has one.
    assert set(crisis.CLASSES) - classes <= {"joking", "coded", "refusal", "unsafe"}
    assert all(rule.hits and rule.misses for rule in rules.rules)
    least = 120 if rules.language == "en" else 50
    for kind in ("hits", "misses"):
        texts = [text for rule in rules.rules for text in getattr(rule, kind)]
        assert len(texts) >= least
        assert len(set(texts)) == len(texts), "a case stands once"


@pytest.mark.parametrize(("rules", "rule", "text"), cases("hits"))
def test_what_a_rule_must_find(rules: RuleSet, rule: crisis.Rule, text: str) -> None:
    found = crisis.assess(text)
    assert f"{rules.language}/{rule.name}" in found.rules
    if rule.cls not in QUIET:
        assert crisis.TIERS.index(found.tier) >= crisis.TIERS.index(rule.tier)
    loud = crisis.assess(text.upper().replace("ß", "ẞ").replace("'", "’"))
    assert f"{rules.language}/{rule.name}" in loud.rules, "capitals and curly apostrophes change nothing"


@pytest.mark.parametrize(("rules", "rule", "text"), cases("misses"))
def test_what_raises_nothing(rules: RuleSet, rule: crisis.Rule, text: str) -> None:
    """No rule of any language raises anything, since all are tried on every message."""
    found = crisis.assess(text)
    assert (found.tier, found.level, found.behaviour) == ("none", 0, "none"), found.rules


# ---------------------------------------------------------------------- what it says about a message


def test_the_ladder() -> None:
    """Ideation counts upwards as on the C-SSRS; behaviour is beside it."""
    for level, text in enumerate(
        (
            "I slept badly.", "I wish I was dead.", "I think about suicide.", "I think about jumping off a bridge.",
            "I am going to kill myself.", "I am going to kill myself tonight.",
        )
    ):  # fmt: skip
        assert crisis.assess(text).level == level
    assert [tier_of(n, "none") for n in range(6)] == [
        "none",
        "thoughts",
        "thoughts",
        "thoughts",
        "immediate",
        "immediate",
    ]
    assert tier_of(0, "self-injury") == "thoughts"
    assert tier_of(0, "attempt") == tier_of(0, "preparation") == "immediate"
    assert crisis.assess("I took too many pills.").behaviour == "attempt"


def test_a_denial_is_noted_and_lowers_nothing() -> None:
    assert crisis.assess("I don't want to die.").denied
    said = crisis.assess("I want to die. Just venting, I would never do it.")
    assert said.denied
    assert (said.tier, said.level) == ("thoughts", 1)


def test_a_joke_is_noted_and_lowers_nothing() -> None:
    plain, joked = (
        crisis.assess("I'm going to kill myself tonight"),
        crisis.assess("I'm going to kill myself tonight lol 😂"),
    )
    assert joked.joking
    assert "joking" in joked.classes
    assert (joked.tier, joked.level) == (plain.tier, plain.level)
    assert not crisis.assess("lol").joking


@pytest.mark.parametrize(
    "text",
    [
        "I used to be suicidal in high school, and I am doing well.",
        "Ten years ago I tried to kill myself. I am glad I am here.",
        "Hace diez años intenté suicidarme.",
        "Früher wollte ich sterben, das ist lange her.",
        "以前我自残过。",
    ],
)
def test_resolved_history_is_noted_and_does_not_escalate(text: str) -> None:
    found = crisis.assess(text)
    assert found.history_only
    assert (found.tier, found.level) == ("none", 0)
    assert "past" in found.classes


@pytest.mark.parametrize(
    "text",
    [
        "I used to cut myself and now I am cutting myself again.",
        "I was suicidal in college. I want to die again.",
        "Vor Jahren wollte ich sterben, und jetzt will ich wieder sterben.",
    ],
)
def test_history_that_comes_back_counts(text: str) -> None:
    found = crisis.assess(text)
    assert found.tier != "none"
    assert not found.history_only


@pytest.mark.parametrize(
    "text",
    [
        "I can't sleep I want to die",
        "I am not okay and I want to die",
        "no I want to die",
        "Nothing helps, I never sleep, I want to kill myself",
        "I do not know what to do. I want to kill myself.",
        "She doesn't know that I want to die",
    ],
)
def test_a_negation_elsewhere_takes_nothing_back(text: str) -> None:
    assert crisis.assess(text).tier != "none"


DISGUISED = (
    "k i l l myself", "k.i.l.l m.y.s.e.l.f", "k-i-l-l myself", "k1ll mys3lf", "k!ll myself", "k*ll myself",
    "killlll myselfff",     "k\u200bi\u200bll my\u00adself", "ｋｉｌｌ　ｍｙｓｅｌｆ", "kіll myself", "kíll mysélf",
    "KILL MYSELF", "_kill_ *myself*",
    "killmyself", "#killmyself", "kill\nmyself", "kill      myself", "kill my self", "kill\u202e myself\u202c",
)  # fmt: skip


@pytest.mark.parametrize("words", DISGUISED, ids=range(len(DISGUISED)))
def test_disguises(words: str) -> None:
    found = crisis.assess(f"honestly i want to {words} 😔")
    assert found.level >= 2


def test_people_mix_languages() -> None:
    assert crisis.assess("Ich will einfach nur kms, sorry").rules == ("en/coded",)
    assert "en/wish-to-be-dead" in crisis.assess("我真的 want to die").rules
    all_four = crisis.assess("I want to die. Ich will sterben. Quiero morir. 我想死")
    assert {rule.split("/")[0] for rule in all_four.rules} == set(crisis.LANGUAGES)
    assert crisis.assess("Ich will sterben", languages=["en"]).tier == "none"


def test_the_language_of_the_words() -> None:
    for language, text in (
        ("en", "I do not know what to do"), ("de", "Ich weiß nicht, was ich machen soll"),
        ("es", "No sé qué hacer con mi vida"), ("zh", "我不知道该怎么办"),
    ):  # fmt: skip
        assert crisis.assess(text).language == language


# ---------------------------------------------------------------------- conversations


def talk(*texts: str) -> list[Turn]:
    return [Turn(role="user" if n % 2 == 0 else "assistant", text=text) for n, text in enumerate(texts)]


def test_a_short_answer_counts_as_what_it_answers() -> None:
    asked = "Are you thinking about suicide?"
    assert crisis.assess(talk("Hm.", asked, "yes")).level == 2
    assert crisis.assess(talk("Hm.", asked, "Sometimes.")).tier == "thoughts"
    no = crisis.assess(talk("Hm.", asked, "No."))
    assert no.denied
    assert no.tier == "none"
    refused = crisis.assess(talk("Hm.", asked, "I don't want to talk about that."))
    assert refused.refused
    assert not refused.denied
    assert crisis.assess(talk("Hm.", "Did you sleep?", "yes")).tier == "none"
    assert crisis.assess(talk("Hm.", "Denkst du an Suizid?", "ja")).level == 2
    assert crisis.assess(talk("嗯", "你有没有想过自杀？", "有")).level == 2
    assert crisis.assess(talk("Hm", "¿Has pensado en el suicidio?", "sí")).level == 2


def test_an_answer_that_discloses_is_no_denial() -> None:
    found = crisis.assess(talk("Hm.", "Are you thinking about suicide?", "No one would miss me if I died."))
    assert not found.denied
    assert found.tier == "thoughts"


def test_yes_to_being_safe_is_no_disclosure_and_no_is_urgent() -> None:
    """The last question is the one that is answered."""
    asked = "Thank you for telling me. Are you safe right now, and is anybody with you?"
    assert crisis.assess(talk("Hm.", asked, "yes")).tier == "none"
    no = crisis.assess(talk("Hm.", asked, "no"))
    assert (no.tier, no.classes) == ("immediate", ("unsafe",))
    assert not no.denied
    assert crisis.assess(talk("Hm.", "You are safe here. Do you think about suicide?", "yes")).level == 2
    assert crisis.assess(talk("Hm.", "Sind Sie im Moment in Sicherheit?", "nein")).tier == "immediate"
    assert crisis.assess(talk("嗯", "你现在安全吗？", "不")).tier == "immediate"
    assert crisis.assess(talk("Hm", "¿Estás a salvo en este momento?", "no")).tier == "immediate"


def test_only_the_help_seeker_is_assessed_and_turns_add_up() -> None:
    turns = talk("I want to die.", "Do you want to kill yourself tonight?", "I wrote my goodbye letters.")
    found = crisis.assess(Conversation(id="x", turns=tuple(turns)))
    assert {match.turn for match in found.matches} == {0, 2}
    assert found.tier == "immediate"
    assert crisis.assess(turns[1]).tier == "none"


# ---------------------------------------------------------------------- spans, text that stays inside


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("So. I want to die now.", "want to die"),
        ("Ünd… ich will sterben!", "will sterben"),
        ("well, i want to k.i.l.l. myself", "k.i.l.l. myself"),
        ("ok i wannnnna dieeee ok", "wannnnna dieeee"),
        ("ＯＫ I want to d\u200bie", "want to d\u200bie"),
        ("ﬁrst: 我想死", "想死"),
    ],
)
def test_spans_lead_back_to_the_words(text: str, words: str) -> None:
    match = crisis.assess(text).matches[0]
    assert text[match.start : match.end] == words


def test_no_words_of_a_person_in_repr() -> None:
    found = crisis.assess("I want to die because of Wilhelmina.")
    assert "Wilhelmina" not in repr(found)
    assert "want" not in repr(found)


# ---------------------------------------------------------------------- bounded work

ADVERSARIAL = (
    "i want to ", "want to kill myself. ", "k i l l ", "k*ll", "a", "é", "1a!", "!", "((((", "\n", " ",
    "don't want to don't ",     "sometimes i really just want to really ", "我想", "想死死", "killlllll", "😂",
    "my friend keeps saying that he ", "\u200b",
)  # fmt: skip


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Characters times patterns that were searched, for each piece."""
    counted: list[int] = []
    search = _assess._Reading._search

    def counting(self: _assess._Reading, piece: _assess._Piece) -> Iterator[Any]:
        counted.append(len(piece.text) * piece.bits.bit_count())
        return search(self, piece)

    monkeypatch.setattr(_assess._Reading, "_search", counting)
    return counted


@pytest.mark.parametrize("unit", ADVERSARIAL, ids=range(len(ADVERSARIAL)))
def test_work_grows_no_faster_than_the_message(unit: str, searched: list[int]) -> None:
    work = []
    for length in (4_000, 8_000, 16_000):
        searched.clear()
        crisis.assess("".join(f"{unit}{n % 97}" if n % 5 == 0 else unit for n in range(length // len(unit)))[:length])
        work.append(sum(searched))
    assert work[1] <= 2.5 * work[0] + 60_000
    assert work[2] <= 2.5 * work[1] + 60_000


def test_pieces_are_short_and_few(searched: list[int]) -> None:
    patterns = sum(len(rule.patterns) for rules in SETS for rule in rules.rules)
    found = crisis.assess(
        " ".join(f"my sister said {n} i want to kill {n} myself and die {n} tonight." for n in range(2000))
    )
    assert len(searched) <= _assess.BUDGET
    assert max(searched) <= _assess.PIECE * patterns
    assert found.overflow, "what was not read is not cleared"


def test_ordinary_long_messages_are_read_whole() -> None:
    calm = "The garden is green and the rain was soft, number {0}. We walked along the canal until noon. "
    text = "".join(calm.format(n) for n in range(300))
    assert not crisis.assess(text).overflow
    assert crisis.assess(text + "I want to die. " + text).tier == "thoughts"
    assert crisis.assess("word " * 5000 + "i want to die").tier == "thoughts", "also without any full stop"


def test_no_pattern_repeats_a_group_without_bound() -> None:
    with pytest.raises(ConfigError, match="without bound"):
        _needs.needs(r"(?:a b)+ kill")
    with pytest.raises(ConfigError, match="no fixed word"):
        _needs.needs(r"\w+ \w+")


def test_the_index_loses_nothing() -> None:
    """Looking words up first finds what searching everything finds."""
    texts = [text for rules in SETS for rule in rules.rules for text in (*rule.hits, *rule.misses)]
    for text in texts[::4]:
        assert crisis.assess(text) == crisis.assess(text, search="full")
    long = " ".join(texts)[:6000]
    assert crisis.assess(long).matches == crisis.assess(long, search="full").matches


PARTS = """
i want to die kill myself don't not never my friend he she said tonight used years ago lol pills end it all life
no . , ! " ich will sterben mich nicht quiero morir no me 我 想 死 不 自杀 k i l l d1e 😂"""
WORDS = st.sampled_from(PARTS.split())
ODD = (
    "i want to die",
    "ß",
    "É",
    "\u200b",
    "ﬁ",
    "我 想",
    "...",
    "   ",
    "k i l l",
    "killlll",
    "*",
    "~",
    "\n\n\n",
    "k*ll",
    "😂",
    "İ",
)


@given(st.lists(st.sampled_from(ODD) | st.text(max_size=8), max_size=30))
@settings(max_examples=100, deadline=None)
def test_long_texts_are_made_plain_like_short_ones(parts: list[str]) -> None:
    """Long texts take a shorter way to the same view."""
    text = " ".join(parts)
    short = _views.view(text, SETS[0].disguises)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_views, "SHORT", 0)
        long = _views.view(text, SETS[0].disguises)
    assert (long.text, long.edits) == (short.text, short.edits)


@pytest.mark.parametrize("sign", ["\u200b", "\u0301", "\ufe0f", "\u202e"])
def test_signs_that_become_nothing_are_no_fault(sign: str) -> None:
    assert crisis.assess(sign * 30_000).tier == "none"
    assert crisis.assess(sign * 30_000 + "I want to die").tier == "thoughts"


@given(st.lists(WORDS, max_size=25).map(" ".join) | st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_long_texts_are_searched_like_short_ones(text: str) -> None:
    short = crisis.assess(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_index, "SHORT", 0)
        patch.setattr(_views, "SHORT", 0)
        assert crisis.assess(text) == short


def test_a_letter_without_its_dot_hides_nothing() -> None:
    """The Turkish i without a dot looks like an i, and is one for our rules."""
    assert crisis.assess("I want to k\u0131ll myself").level == 2


def test_a_capital_in_a_pattern_is_refused() -> None:
    """Messages are in small letters when they are searched: a capital would never be found."""
    with pytest.raises(ConfigError, match="capital"):
        crisis.parse(SMALL.replace('patterns = ["lol"]', 'patterns = ["LOL"]'), where="small.toml")


@given(st.lists(WORDS, max_size=25).map(" ".join) | st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_is_assessed_and_both_searches_agree(text: str) -> None:
    found = crisis.assess(text)
    assert found == crisis.assess(text, search="full")
    for match in (*found.matches, *found.noted):
        assert 0 <= match.start < match.end <= len(text)
    assert (found.tier == "none") == all(match.cls in QUIET or match.tier == "none" for match in found.matches)


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_every_place_of_a_view_has_an_origin(text: str) -> None:
    made = _views.view(text, SETS[0].disguises)
    origins = [made.origin(n, n + 1) for n in range(len(made.text))]
    assert all(0 <= begin < end <= len(text) for begin, end in origins)
    assert [begin for begin, _ in origins] == sorted(begin for begin, _ in origins)


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_more_words_never_hide_a_plain_sentence(before: str, after: str) -> None:
    """Whatever stands in other sentences, a plain one is found."""
    found = crisis.assess(f"{before}\n\nI want to kill myself.\n\n{after}")
    assert found.level >= 2


# ---------------------------------------------------------------------- files

SMALL = """
language = "en"
version = "1"
spaceless = false
function_words = "a"
[disguised]
words = "gone"
phrases = []
[words]
[unless.negated]
before = ["not "]
[joking]
patterns = ["lol"]
[asked]
question = ["sad"]
safety = ["safe"]
yes = ["yes"]
no = ["no"]
refused = ["stop asking"]
[[rules]]
name = "x"
class = "passive"
ideation = 1
unless = ["negated"]
patterns = ["gone away"]
hits = []
misses = []
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('class = "passive"', 'class = "sad"', "'class' must be one of"),
        ("ideation = 1", "ideation = 9", "'ideation' is 0 to 5"),
        ('unless = ["negated"]', 'unless = ["absent"]', "names 'absent'"),
        ("[unless.negated]", "[unless.other]", "'unless' knows"),
        ('before = ["not "]', 'befour = ["not "]', "unknown key 'befour'"),
        ("hits = []", "hit = []", "unknown key 'hit'"),
        ('["gone away"]', '["(gone"]', "cannot be used"),
        ('["gone away"]', '["<gone>"]', "no word 'gone'"),
        ('["gone away"]', "['\\w+ \\w+']", "no fixed word"),
        ('version = "1"', "", "version"),
        ("spaceless = false", "spaceless =", "cannot be used"),
    ],
)
def test_a_damaged_file_is_one_sentence(old: str, new: str, message: str) -> None:
    assert crisis.parse(SMALL, where="small.toml").rules[0].name == "x"
    with pytest.raises(ConfigError, match=message):
        crisis.parse(SMALL.replace(old, new), where="small.toml")


def test_two_rules_with_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two rules are called 'x'"):
        crisis.parse(SMALL + SMALL[SMALL.index("[[rules]]") :], where="small.toml")


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(NotFoundError, match="language of crisis rules 'fr'"):
        crisis.assess("x", languages=["fr"])
    with pytest.raises(ConfigError, match="at least one language"):
        crisis.assess("x", languages=[])
    with pytest.raises(ConfigError, match="indexed or full"):
        crisis.assess("x", search="quick")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="crisis rule 'y'"):
        SETS[0].rule("y")


def test_versions_go_into_the_log() -> None:
    found = crisis.assess("hello")
    assert set(found.versions) == set(crisis.LANGUAGES)
    assert all(re.fullmatch(r"\d+\.\d+/[0-9a-f]{16}", version) for version in found.versions.values())
    assert {p.name for p in files("heedful.safety.crisis").iterdir() if p.name.endswith(".toml")} == {
        f"{language}.toml" for language in crisis.LANGUAGES
    }
