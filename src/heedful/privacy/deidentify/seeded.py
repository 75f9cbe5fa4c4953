"""A seeded set: invented sentences with invented people in them, whose places are known, to measure recall.

Half of the given names are none of the list, made from syllables, as a name of another language would be. The sentences
are ours too, so the figure says what patterns can do with sentences of this kind, not with those of your clients.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from heedful.privacy.deidentify import find
from heedful.privacy.deidentify.recognisers import Finding, given_names

SENTENCES = (
    "My name is {name} and I have not slept for days.",
    "I'm {name}, we spoke last week.",
    "my sister {name} says I should call somebody",
    "Since {name} left, the flat is so quiet.",
    "I told {name} everything and now I regret it.",
    "{name} and I had a fight again yesterday.",
    "You can reach me at {phone} after six.",
    "my number is {phone}",
    "Write to {mail} please, not to my work address.",
    "We live at {street}, the house with the blue door.",
    "I moved to {place} in spring and know nobody here.",
    "I was born on {date} and I feel twice as old.",
    "My boss, Mr {surname}, shouted at me in front of everybody.",
    "Dr {surname} wrote me a letter for my employer.",
    "Ich heiße {name} und kann nicht mehr schlafen.",
    "Meine Freundin {name} hat sich nicht gemeldet.",
    "Ich wohne in {place} und kenne hier niemanden.",
    "Rufen Sie mich unter {phone} an.",
    "Frau {surname} aus der Schule hat angerufen.",
    "Me llamo {name} y no duermo bien.",
    "Mi hermano {name} no me habla desde enero.",
    "Vivo en {place} con mis padres.",
    "Mi correo es {mail}.",
    "La señora {surname} me llamó ayer.",
    "The account is {account}, they took everything.",
    "They found me through {link}.",
)
_SYLLABLES = (
    "ka",
    "mi",
    "ro",
    "ta",
    "ne",
    "lu",
    "sha",
    "vi",
    "do",
    "ra",
    "el",
    "yo",
    "zi",
    "be",
    "an",
    "ush",
    "im",
    "or",
)
_STREETS = ("{n} {w} Street", "{n} {w} Road", "{n} {w} Lane", "{W}straße {n}", "Calle {w} {n}")
KINDS = {"name": "name", "surname": "name", "phone": "phone", "mail": "mail", "street": "place", "place": "place",
         "date": "date", "account": "account", "link": "link"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """A sentence, where the person in it stands, and whether the given name is on the list."""

    text: str = field(repr=False)
    slot: str
    kind: str
    start: int
    end: int
    listed: bool


def sentences(n: int, *, seed: int = 13) -> Iterator[Seeded]:
    """`n` sentences; the same seed gives the same."""
    draw = random.Random(f"deidentify/{seed}")
    known = sorted(given_names())
    for at in range(n):
        pattern = SENTENCES[at % len(SENTENCES)]
        slot = re.findall(r"{(\w+)}", pattern)[0]
        listed = draw.random() < 0.5
        value = _value(slot, draw, known, listed=listed)
        start = pattern.index("{")
        text = pattern.replace(f"{{{slot}}}", value)
        yield Seeded(text=text, slot=slot, kind=KINDS[slot], start=start, end=start + len(value), listed=listed)


def _word(draw: random.Random) -> str:
    return "".join(draw.choice(_SYLLABLES) for _ in range(draw.randint(2, 3))).capitalize()


def _value(slot: str, draw: random.Random, known: Sequence[str], *, listed: bool) -> str:
    digits = "".join(str(draw.randint(0, 9)) for _ in range(9))
    day, month, year = draw.randint(1, 28), draw.randint(1, 12), draw.randint(1950, 1999)
    one, other, street = _word(draw), _word(draw), draw.choice(_STREETS)
    choices: dict[str, tuple[str, ...]] = {
        "name": (draw.choice(known).capitalize() if listed else one,),
        "surname": (one,),
        "place": (one,),
        "phone": (f"+49 170 {digits[:7]}", f"020 7946 0{digits[:3]}", f"(555) {digits[:3]}-{digits[3:7]}"),
        "mail": tuple(f"{one}.{other}@example.{end}".lower() for end in ("org", "com", "de")),
        "street": (street.format(n=day, w=one, W=one),),
        "date": (f"{day}/{month}/{year}", f"{day} March {year}", f"June {day}, {year}"),
        "account": ("4539 1488 0343 6467", "DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32"),
        "link": (f"www.{one}.example/me".lower(), f"@{one}_{digits[:2]}".lower()),
    }
    return draw.choice(choices[slot])


def covered(seeded: Seeded, findings: Sequence[Finding]) -> bool:
    """Whether every character of the person's data is in a finding, whatever kind it was taken for."""
    missing = set(range(seeded.start, seeded.end))
    for finding in findings:
        missing -= set(range(finding.start, finding.end))
    return not missing


def recall(n: int = 2600, *, seed: int = 13, recognisers: Sequence[str] | None = None) -> dict[str, tuple[int, int]]:
    """Found and seeded, by slot; given names apart by whether the list has them."""
    out: dict[str, tuple[int, int]] = {}
    for seeded in sentences(n, seed=seed):
        slot = f"name, {'on' if seeded.listed else 'not on'} the list" if seeded.slot == "name" else seeded.slot
        hit = covered(seeded, find(seeded.text, recognisers=recognisers))
        found, all = out.get(slot, (0, 0))
        out[slot] = found + hit, all + 1
    return out
