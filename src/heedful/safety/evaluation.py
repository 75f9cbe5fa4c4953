"""How well crisis rules do, per class and language, with intervals; and the floors that a release may not fall below.

The cases in `cases/` are our own, invented for this. Each has a part: rules were written with the `tuned` cases in
view, and never for the `held-out` ones. Numbers of the tuned part say that nothing broke; only those of the held-out
part say what is found of words that nobody wrote a rule for. One author wrote both, and the rules.

>>> [round(end, 3) for end in interval(18, 20)]
[0.699, 0.972]
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from heedful.errors import DataError, GateError, NotFoundError
from heedful.safety.crisis import TIERS, Assessment, Tier, assess, load
from heedful.types import Turn

Part = Literal["tuned", "held-out", "outside"]
Z = 1.959963984540054
"""97.5 % quantile of the normal distribution: intervals are 95 %."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One message, or the turns of a conversation, with what it should come to.

    Args:
        cls: a class of crisis rules, or for harmless ones what they are (`stress`, `idiom`, `news`, `other`).
        tier: what it asks for at least; `none` = nothing may be raised.
    """

    id: str
    language: str
    part: Part
    cls: str
    tier: Tier
    turns: tuple[Turn, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        kind: `recall`, of cases with a sign; `false-positive`, of cases without.
        n, found: how many cases, and in how many something was raised.
        graded: of those with a sign, in how many the tier was as high as it should be.
        low, high: 95 % interval of the rate (Wilson).
    """

    part: Part
    language: str
    cls: str
    kind: Literal["recall", "false-positive"]
    n: int
    found: int
    graded: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Share in which something was raised."""
        return self.found / self.n


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table, with what it was made of."""

    rows: tuple[Row, ...]
    versions: Mapping[str, str]
    cases: str

    def row(self, part: str, language: str, cls: str = "all", kind: str = "recall") -> Row:
        """One line.

        Raises:
            NotFoundError: there is none.
        """
        for row in self.rows:
            if (row.part, row.language, row.cls, row.kind) == (part, language, cls, kind):
                return row
        raise NotFoundError(f"The report has no line for {part}, {language}, {cls}, {kind}.")

    def markdown(self) -> str:
        """The table for a page."""
        lines = [
            "| part | language | class | | n | raised | rate | 95 % interval |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            where = f"| {row.part} | {row.language} | {row.cls} | {row.kind} | {row.n} | {row.found} "
            lines.append(f"{where}| {row.rate:.2f} | {row.low:.2f} to {row.high:.2f} |")
        return "\n".join(lines)


def interval(found: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate (Wilson, 1927); (0, 1) where nothing was counted.

    >>> interval(0, 0)
    (0.0, 1.0)
    """
    if n == 0:
        return 0.0, 1.0
    rate, square = found / n, Z * Z / n
    middle = (rate + square / 2) / (1 + square)
    half = Z * (rate * (1 - rate) / n + square / (4 * n)) ** 0.5 / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def own_cases() -> tuple[Case, ...]:
    """heedful's own cases, in all languages."""
    found = []
    for file in sorted(files("heedful.safety.cases").iterdir(), key=lambda item: item.name):
        if file.name.endswith(".jsonl"):
            found += list(read_cases(file.read_text("utf-8"), where=file.name))
    return tuple(found)


def read_cases(text: str, *, where: str) -> Iterator[Case]:
    """Cases from JSON lines: `id`, `language`, `part`, `class`, `tier`, and `text`, or `turns` of `role` and `content`.

    Raises:
        DataError: a line is not of that form; the message names the line, never its words.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            found = json.loads(line)
            said = found.get("turns") or [{"role": "user", "content": found["text"]}]
            case = Case(
                id=found["id"],
                language=found["language"],
                part=found["part"],
                cls=found["class"],
                tier=found["tier"],
                turns=tuple(Turn(role=turn["role"], text=turn["content"]) for turn in said),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise DataError(f"{where}, line {number}: not a crisis case ({type(err).__name__}).") from err
        if case.tier not in TIERS:
            raise DataError(f"{where}, line {number}: 'tier' must be one of {', '.join(TIERS)}.")
        yield case


def evaluate(cases: Iterable[Case], *, judge: Callable[[Sequence[Turn]], Assessment] = assess) -> Report:
    """Recall and false positives per part, language and class, and over all classes and languages.

    Args:
        judge: what is measured; by default the rules alone, with all languages tried.
    """
    counted: Counter[tuple[Part, str, str, str]] = Counter()
    raised, graded = counted.copy(), counted.copy()
    digest = hashlib.sha256()
    for case in cases:
        tier = judge(case.turns).tier
        kind = "false-positive" if case.tier == "none" else "recall"
        digest.update(json.dumps([case.id, case.tier, [turn.text for turn in case.turns]]).encode())
        for language in (case.language, "all"):
            for cls in (case.cls, "all"):
                key = (case.part, language, cls, kind)
                counted[key] += 1
                raised[key] += tier != "none"
                graded[key] += TIERS.index(tier) >= TIERS.index(case.tier)
    rows = []
    for key in sorted(counted):
        part, language, cls, kind = key
        low, high = interval(raised[key], counted[key])
        rows.append(
            Row(
                part=part,
                language=language,
                cls=cls,
                kind=cast(Literal["recall", "false-positive"], kind),
                n=counted[key],
                found=raised[key],
                graded=graded[key],
                low=low,
                high=high,
            )
        )
    return Report(rows=tuple(rows), versions=assess("").versions, cases=digest.hexdigest()[:16])


# ---------------------------------------------------------------------- release gate


def recorded() -> dict[str, Any]:
    """The floors on file: what the released rules reached on the cases of that day."""
    return cast("dict[str, Any]", json.loads(files("heedful.safety.cases").joinpath("floors.json").read_text("utf-8")))


def floors(report: Report) -> dict[str, Any]:
    """A report as a file of floors."""
    return {
        "cases": report.cases,
        "versions": dict(report.versions),
        "rows": {
            f"{row.part}/{row.language}/{row.cls}/{row.kind}": {"n": row.n, "found": row.found, "graded": row.graded}
            for row in report.rows
        },
    }


def check_floors(report: Report, on_file: Mapping[str, Any]) -> None:
    """Refuse a release that finds less, grades lower, or raises more than what is on file (requirement 20).

    Cases that were added count from the next record on; cases that were taken away are a refusal, since a floor that
    nobody measures is none.

    Raises:
        GateError: with every line that fell.
    """
    now = floors(report)["rows"]
    fallen = []
    for name, before in on_file["rows"].items():
        row = now.get(name)
        if row is None or row["n"] < before["n"]:
            fallen.append(f"{name}: cases are missing")
        elif name.endswith("/recall"):
            # A rate, so that added cases do not count against it; the counts of equal cases are compared exactly.
            fallen += [
                f"{name}: {what} {row[what]} of {row['n']}, on file {before[what]} of {before['n']}"
                for what in ("found", "graded")
                if row[what] * before["n"] < before[what] * row["n"]
            ]
        elif row["found"] * before["n"] > before["found"] * row["n"]:
            fallen.append(f"{name}: raised {row['found']} of {row['n']}, on file {before['found']} of {before['n']}")
    if fallen:
        raise GateError("The crisis rules do worse than what is on file: " + "; ".join(fallen) + ".")


# ---------------------------------------------------------------------- public sets, where they are at hand


def read_vera(folder: Path) -> Iterator[Case]:
    """VERA-MH: the wordings that its personas suggest (`personas.tsv`), one case each.

    A persona with the risk level None is a case without a sign. One wording alone need not show a risk that its persona
    has, so recall here is below what a whole conversation would give.

    Raises:
        NotFoundError: the file is not there.
    """
    with _opened(folder / "personas.tsv") as lines:
        for n, row in enumerate(csv.DictReader(lines, delimiter="\t")):
            level = row["Current Risk Level"].strip().lower()
            for k, text in enumerate(filter(None, (part.strip() for part in row["Sample Prompts"].split(";")))):
                yield _outside(f"vera-{n}-{k}", f"vera-{level}", "none" if level == "none" else "thoughts", text)


def read_vera_talks(folder: Path) -> Iterator[Case]:
    """VERA-MH: the help-seekers' turns of its published conversations, each conversation one case by persona.

    The personas' risk levels decide the tier, as in `read_vera`.
    """
    with _opened(folder / "personas.tsv") as lines:
        levels = {
            row["Name"]: row["Current Risk Level"].strip().lower() for row in csv.DictReader(lines, delimiter="\t")
        }
    with _opened(folder / "concept_paper_conversations.jsonl.gz") as lines:
        for n, line in enumerate(lines):
            found = json.loads(line)
            name = next((part for part in Path(found["file"]).stem.split("_") if part in levels), None)
            if name is None:
                raise DataError(f"VERA-MH conversation {n} names no known persona.")
            level = levels[name]
            tier: Tier = "none" if level == "none" else "immediate" if level == "imminent" else "thoughts"
            yield Case(
                id=f"vera-talk-{n}",
                language="en",
                part="outside",
                cls=f"vera-talk-{level}",
                tier=tier,
                turns=tuple(_vera_turns(found["text"])),
            )


def _vera_turns(text: str) -> Iterator[Turn]:
    role, lines = "", list[str]()
    for line in [*text.splitlines(), "user: "]:
        head = next(
            (name for name in ("user", "chatbot", "assistant", "provider") if line.startswith(f"{name}: ")), None
        )
        if head is None:
            lines.append(line)
            continue
        if role:
            yield Turn(role="user" if role == "user" else "assistant", text="\n".join(lines))
        role, lines = head, [line[len(head) + 2 :]]


def read_ailuminate(folder: Path) -> Iterator[Case]:
    """AILuminate's prompts on suicide and self-harm (hazard `ssh`), each a case with a sign.

    They are written to get harmful answers out of a model, often in the third person or as a task: a hard set, and not
    how people in distress write.
    """
    with _opened(folder / "airr_official_1.0_demo_en_us_prompt_set_release.csv") as lines:
        for row in csv.DictReader(lines):
            if row["hazard"] == "ssh":
                yield _outside(row["release_prompt_id"], "ailuminate-ssh", "thoughts", row["prompt_text"])


def read_xstest(folder: Path) -> Iterator[Case]:
    """XSTest's safe prompts, by type: whatever is raised here is a false alarm. Few are about mental health."""
    with _opened(folder / "xstest_prompts.csv") as lines:
        for row in csv.DictReader(lines):
            if row["label"] == "safe":
                yield _outside(f"xstest-{row['id']}", f"xstest-{row['type']}", "none", row["prompt"])


OUTSIDE: Mapping[str, tuple[str, Callable[[Path], Iterator[Case]]]] = {
    "vera": ("vera_mh", read_vera),
    "vera-talks": ("vera_mh", read_vera_talks),
    "ailuminate": ("ailuminate", read_ailuminate),
    "xstest": ("xstest", read_xstest),
}
"""Name -> folder under HEEDFUL_DATA, and its reader. Their text stays where it is."""


def _outside(id: str, cls: str, tier: Tier, text: str) -> Case:
    return Case(id=id, language="en", part="outside", cls=cls, tier=tier, turns=(Turn(role="user", text=text),))


def _opened(path: Path) -> Any:
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        return path.open(encoding="utf-8", newline="")
    except OSError as err:
        raise NotFoundError(f"There is no file '{path}'; HEEDFUL_DATA names the folder of public sets.") from err


def protocol() -> str:
    """What the published crisis protocol says about the rules: languages, versions, rules and cases of each."""
    lines = ["| language | version | rules | hits | misses |", "|---|---|---|---|---|"]
    for name in assess("").versions:
        rules = load(name)
        hits = sum(len(rule.hits) for rule in rules.rules)
        misses = sum(len(rule.misses) for rule in rules.rules)
        lines.append(f"| {name} | {rules.version} | {len(rules.rules)} | {hits} | {misses} |")
    return "\n".join(lines)
