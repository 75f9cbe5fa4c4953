"""The page of a study: findings follow from the numbers by rule, the constant comes first, hostile text is escaped.

All numbers and words here are invented.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from heedful.errors import DataError
from heedful.evaluation._study_words import findings
from heedful.evaluation.emotion import label_report
from heedful.evaluation.study_page import render

HOSTILE = '<script>alert("x")</script>\x00 & <b>bold</b>'


def info(title: str, group: str, *, better: bool | None = True) -> dict[str, Any]:
    return {
        "title": title,
        "definition": f"What {title} counts.",
        "signature": f"{title}|v1",
        "higher_is_better": better,
        "scale": "0 to 1",
        "group": group,
    }


METRICS = {
    "reward": info("training reward, total", "reward"),
    "reward/sim": info("sim, weight 0.4", "reward"),
    "heldout/one": info("one", "heldout"),
    "heldout/two": info("two", "heldout"),
    "rougeL": info("ROUGE-L", "overlap"),
    "length": info("words", "form", better=None),
}
UP, DOWN, FLAT = (0.2, 0.1, 0.3, 0.001), (-0.2, -0.3, -0.1, 0.001), (0.01, -0.1, 0.1, 0.8)
BY_CHANCE_AFTER_ALL = (0.2, 0.1, 0.3, 0.2)


def comparison(metric: str, numbers: tuple[float, float, float, float | None], **more: Any) -> dict[str, Any]:
    difference, low, high, p = numbers
    return {
        "decoding": "greedy", "a": "rl", "b": "sft", "metric": metric,
        "difference": difference, "low": low, "high": high, "p": p, **more,
    }  # fmt: skip


def summary(**signs: tuple[float, float, float, float | None]) -> dict[str, Any]:
    """A study of two models and a baseline; keyword = metric with `_` for `/`."""
    names = {name.replace("/", "_"): name for name in METRICS}
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "unscored": 0, "reason": None, "seeds": {}}
    drawn = {**score, "seeds": {"13": 0.45, "21": 0.55}}
    report = label_report(
        list("aab") * 6,
        [list("aaa") * 6],
        labels=("a", "b"),
        clusters=[str(i // 3) for i in range(18)],
        source="classifier: judge",
        draws=20,
    )
    systems = ["sft", "rl", "fixed_reply"]
    return {
        "kind": "study", "heedful": "0.1", "created": "2026-11-21T12:00:00+00:00", "command": "study",
        "title": "Invented", "seed": 13, "bootstrap": 20,
        "corpus": {
            "name": "lantern", "title": "Lantern Log", "split": "test", "licence": None, "conversations": 6,
            "targets": 18, "hash": "0f1e", "note": None,
        },
        "machine": {"cpu": "x", "cores": 2, "gpu": None, "seconds": {"all": 1.0}}, "versions": {"python": "3.11"},
        "systems": [
            {
                "name": name, "kind": "baseline" if name == "fixed_reply" else "model", "description": HOSTILE,
                "note": None, "model": None, "format": "chat/v1#00", "client_labels": {},
            }
            for name in systems
        ],
        "decodings": {"greedy": {"max_new_tokens": 4, "seeds": []}, "sampled": {"do_sample": True, "seeds": [13, 21]}},
        "metrics": METRICS,
        "scores": {
            "greedy": {name: dict.fromkeys(METRICS, score) for name in systems},
            "sampled": {name: dict.fromkeys(METRICS, drawn) for name in systems},
        },
        "comparisons": [comparison(names[key], numbers) for key, numbers in signs.items()],
        "endings": {d: {name: {"stop": 18} for name in systems} for d in ("greedy", "sampled")},
        "labels": {"toy_set": {"greedy": [{"system": "rl", "target": "therapist", **report.to_dict()}]}},
        "findings": [],
        "examples": [
            {
                "rule": "random", "why": "drawn", "id": "t/1", "risk": [],
                "context": [{"role": "user", "text": HOSTILE}],
                "reference": HOSTILE, "replies": {"rl, greedy": HOSTILE, "fixed_reply": None},
            }
        ],
        "limits": ["A limit."],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("signs", "status", "words"),
    [
        ({"reward": UP, "heldout_one": UP, "heldout_two": UP}, "better", "outside the reward as well."),
        ({"reward": UP, "heldout_one": UP, "heldout_two": FLAT}, "better", "as well, on some scorers"),
        ({"reward": UP, "heldout_one": FLAT, "heldout_two": FLAT}, "worse", "learned only to please the reward"),
        ({"reward": UP, "heldout_one": UP, "heldout_two": DOWN}, "worse", "a sign that the model learned to please"),
        ({"reward": UP}, "better", "No held-out scorer was measured"),
        ({"reward": FLAT, "heldout_one": UP}, "chance", "does not beat it on the training reward beyond chance"),
        ({"reward": DOWN}, "worse", "falls below it"),
        ({"reward": BY_CHANCE_AFTER_ALL}, "chance", "does not beat it"),
        ({"rougeL": UP}, "better", "Of 1 kind of score, beyond chance: better on 1 (ROUGE-L); worse on 0"),
    ],
)
def test_findings_follow_from_the_intervals(signs: dict[str, Any], status: str, words: str) -> None:
    claim = findings(summary(**signs))[0]
    assert words in claim.text
    assert claim.status == status
    assert claim.text.startswith("rl against sft (greedy): ")


def test_beats_with_numbers() -> None:
    text = findings(summary(reward=UP, heldout_one=UP, heldout_two=FLAT))[0].text
    assert "it beats it on the training reward, by 0.20 (0.10 to 0.30). " in text
    assert (
        "Of 2 held-out scorers, beyond chance: better on 1 (one); worse on 0; not to be told apart on 1 (two)." in text
    )


def test_a_score_that_was_trained_on_is_no_other_witness() -> None:
    """ROUGE-L under its metric's name says again what the reward, or a held-out score, has said already."""
    for key in ("reward/rouge1", "heldout/rougeL"):
        found = summary(reward=UP, rougeL=UP)
        found["metrics"] = {**METRICS, key: info("again", key.partition("/")[0])}
        assert "other kind" not in findings(found)[0].text
    assert "other kind of score, beyond chance: better on 1" in findings(summary(reward=UP, rougeL=UP))[0].text


def test_the_page_says_in_short_how_often_chance_speaks() -> None:
    short = re.sub(
        r"<[^>]+>", "", render(summary(reward=UP, heldout_one=UP)).partition('id="short"')[2].partition("</section>")[0]
    )
    assert "of 2 comparisons up to about 0.1 would be called so" in short


def test_without_a_comparison_nothing_is_better() -> None:
    assert findings(summary())[0].text.startswith("No two systems were compared")


def test_labels_start_with_the_constant() -> None:
    text = findings(summary(reward=UP))[-1].text
    assert "always saying “a” is right in 66.67 %" in text
    assert "None of them is better than the constant" in text
    page = render(summary(reward=UP))
    table = page[page.index('id="labels"') :]
    assert table.index("Always “a”") < table.index("classifier: judge")


def test_page_shows_every_number_and_no_markup() -> None:
    given = summary(reward=UP, heldout_one=FLAT, rougeL=DOWN)
    page = render(given)
    assert page == render(given)
    assert "<script" not in page
    assert "<b>" not in page
    assert "\x00" not in page
    assert page.count("&lt;script&gt;") >= 3
    for value in ("0.5", "0.4", "0.6", "0.45", "0.55", "-0.3"):
        assert f'value="{value}"' in page
    assert "Decoded with “greedy”" in page
    assert "Decoded with “sampled”" in page
    assert page.count("Every seed for itself") == 1
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert set(re.findall(r'aria-labelledby="([^"]+)"', page)) <= set(ids)


def test_rewards_that_were_clipped_or_failed_are_named() -> None:
    given = summary(reward=UP)
    trouble = {**given["scores"]["greedy"]["rl"]["reward/sim"], "clipped": 1203, "raised": 2}
    given["scores"]["greedy"]["rl"] = {**given["scores"]["greedy"]["rl"], "reward/sim": trouble}
    page = render(given)
    assert "sim, weight 0.4, rl: 1,203 values outside the declared range were clipped." in page
    assert "the function failed at 2 replies" in page
    assert render(summary(reward=UP)).count("Rewards with trouble") == 0


def test_a_summary_with_a_hole_is_one_sentence() -> None:
    broken = summary(reward=UP)
    broken["scores"] = {**broken["scores"], "greedy": {**broken["scores"]["greedy"], "rl": {"blue": {}}}}
    with pytest.raises(DataError, match="blue"):
        render(broken)


def test_too_few_conversations_are_said_before_anything_else() -> None:
    """Of n conversations 2^n swaps are possible; two give p = 0.5 at best, and an interval over two means nothing."""
    known = summary(reward=UP, heldout_one=UP)
    known["corpus"]["conversations"] = 2
    first = findings(known)[0]
    assert first.status == "unknown"
    assert "only 2 conversations" in first.text
    assert "fewer than 6" in first.text
    assert "only" not in findings(summary(reward=UP, heldout_one=UP))[0].text
