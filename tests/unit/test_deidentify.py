"""De-identification: what is found, what is not touched, how much is missed on seeded sentences."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.errors import ConfigError, MissingExtraError, NotFoundError
from heedful.privacy.deidentify import Pseudonyms, deidentify, find
from heedful.privacy.deidentify.seeded import recall, sentences


def kinds(text: str, **options: object) -> list[tuple[str, str]]:
    return [(f.kind, text[f.start : f.end]) for f in find(text, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write to jo.bloggs+x@mail.example.org.", ("mail", "jo.bloggs+x@mail.example.org")),
        ("see https://example.org/a?b=c, please", ("link", "https://example.org/a?b=c")),
        ("call (020) 7946 0018 tonight", ("phone", "(020) 7946 0018")),
        ("Nummer: 0170/5550147", ("phone", "0170/5550147")),
        ("IBAN DE89 3704 0044 0532 0130 00", ("account", "DE89 3704 0044 0532 0130 00")),
        ("card 4539 1488 0343 6467", ("account", "4539 1488 0343 6467")),
        ("SSN 123-45-6789", ("id", "123-45-6789")),
        ("passport number X1234567", ("id", "X1234567")),
        ("born on 3 May 1987", ("date", "3 May 1987")),
        ("geboren am 03.05.1987", ("date", "03.05.1987")),
        ("at 12 Acacia Avenue", ("place", "12 Acacia Avenue")),
        ("Lindenstraße 7", ("place", "Lindenstraße 7")),
        ("en la Calle de Alcalá 14", ("place", "Calle de Alcalá 14")),
        ("my name is zuri", ("name", "zuri")),
        ("Dear Dr Okonkwo", ("name", "Dr Okonkwo")),
        ("my brother Tendai left", ("name", "Tendai")),
        ("Jürgen was there", ("name", "Jürgen")),
        ("it is José's dog", ("name", "José")),
        ("I told Kayo about it", ("name", "Kayo")),
    ],
)
def test_what_is_found(text: str, found: tuple[str, str]) -> None:
    assert found in kinds(text)


@pytest.mark.parametrize(
    "text",
    [
        "I slept 4 hours and weigh 61.5 kg.",
        "It cost 1,250,000 and took 2019 to 2023.",
        "On Monday in May I'm fine, but at Christmas I'd rather not.",
        "Ich habe am Montag mit meiner Mutter über die Arbeit gesprochen.",
        "No puedo dormir desde enero.",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert kinds(text) == []


def test_a_card_with_a_wrong_check_digit_is_no_account() -> None:
    assert ("account", "4539 1488 0343 6468") not in kinds("4539 1488 0343 6468")


def test_one_person_keeps_one_number_through_a_talk() -> None:
    numbers = Pseudonyms()
    first = deidentify("My sister Anna Berg called. Paul did not.", pseudonyms=numbers).text
    later = deidentify("Anna is angry with Paul.", pseudonyms=numbers).text
    assert first == "My sister [NAME_1] called. [NAME_2] did not."
    assert later == "[NAME_1] is angry with [NAME_2]."


def test_what_the_clinic_knows_is_found_in_small_letters_too() -> None:
    assert kinds("grace said so", names=["Grace Hill"]) == [("name", "grace")]
    assert kinds("gracefully, on the hillside", names=["Grace Hill"]) == []
    with pytest.raises(ConfigError, match="a list of names"):
        find("x", names="Grace")


@given(st.text(max_size=300))
def test_any_text_is_read_and_findings_stand_in_order_without_overlap(text: str) -> None:
    found = find(text, recognisers=["contact", "numbers", "dates", "places", "people", "capitals"])
    assert all(0 <= f.start < f.end <= len(text) for f in found)
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_findings_hold_no_words() -> None:
    assert "Anna" not in repr(find("Anna called.")) + repr(deidentify("Anna called."))


def test_seeded_sentences_are_the_same_again_and_their_places_are_right() -> None:
    assert list(sentences(60)) == list(sentences(60))
    assert list(sentences(60)) != list(sentences(60, seed=14))
    for seeded in sentences(260):
        if seeded.kind == "mail":
            assert re.fullmatch(r"\S+@example\.\w+", seeded.text[seeded.start : seeded.end])


def test_recall_on_seeded_sentences_does_not_fall() -> None:
    """The figures of docs/privacy.md are of 2,600 sentences; these are 520 of them, so a little lower is allowed."""
    ours = ["contact", "numbers", "dates", "places", "people", "capitals"]
    found = {slot: hit / all for slot, (hit, all) in recall(520, recognisers=ours).items()}
    assert min(found[slot] for slot in ("mail", "phone", "account", "link", "date")) >= 0.98
    assert min(found[slot] for slot in ("name, on the list", "surname", "street", "place")) >= 0.97
    assert found["name, not on the list"] >= 0.85, "the known gap: an unlisted name that begins a sentence"


def test_an_unknown_recogniser_is_refused_and_an_absent_library_is_said() -> None:
    with pytest.raises(NotFoundError):
        find("x", recognisers=["nobody"])
    try:
        import presidio_analyzer  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="pip install presidio-analyzer"):
            find("x", recognisers=["presidio"])
