"""The page of an evaluation: every number is on it, nothing claims more than the numbers, nothing hostile gets through.

All systems, numbers and conversations here are invented.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.errors import DataError, RunError
from heedful.evaluation._words import FAMILIES, GROUPS, group_of
from heedful.evaluation.report import render, write
from heedful.scoring import METRICS

VOID = {"meta", "col", "br", "link", "img", "hr", "input"}


def score(value: float | None, low: float | None = None, high: float | None = None, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 1203, "unscored": 0, "reason": None, **more}


def metric(title: str, group: str, *, better: bool | None, scale: str = "0-100") -> dict[str, Any]:
    return {
        "title": title,
        "definition": f"What {title} counts, in a sentence.",
        "signature": f"{title.lower()}|v1|lib 9.9",
        "higher_is_better": better,
        "scale": scale,
        "group": group,
    }


def comparison(a: str, b: str, name: str, difference: float, low: float, high: float, p: float) -> dict[str, Any]:
    return {"a": a, "b": b, "metric": name, "difference": difference, "low": low, "high": high, "p": p}


NO_LIKELIHOOD = "a fixed text gives no probabilities"


def make() -> dict[str, Any]:
    """A whole summary; each call a new one."""
    return copy.deepcopy(SUMMARY)


SUMMARY: dict[str, Any] = {
    "heedful": "0.1.0",
    "created": "2026-11-21T12:00:00Z",
    "command": "heedful eval run recipe.toml --split test --seed 13",
    "title": "A small model before and after training",
    "corpus": {
        "name": "lanternlog",
        "title": "Lantern Log (invented)",
        "split": "test",
        "licence": "CC-BY-4.0",
        "conversations": 97,
        "targets": 1214,
        "hash": "0f1e2d3c4b5a6978",
        "note": "Eleven turns without words were left out.",
    },
    "format": "chat/v1#5be1",
    "decoding": {"max_new_tokens": 64, "temperature": 0.7, "top_p": 0.9, "do_sample": True, "num_beams": 1},
    "seed": 13,
    "dtype": "bfloat16",
    "machine": {"cpu": "Exemplar 9", "cores": 2, "gpu": None, "seconds": {"replies": 812.4, "scores": 33.25}},
    "versions": {"python": "3.11.9", "torch": "2.13.0"},
    "systems": [
        {
            "name": "fixed",
            "kind": "baseline",
            "description": "The same kind sentence every time.",
            "note": None,
            "model": None,
            "metrics": {
                "ppl_token": score(None, n=0, unscored=1214, reason=NO_LIKELIHOOD),
                "bleu2": score(5.312, 4.911, 5.702),
                "rougeL": score(13.047, 12.62, 13.48),
                "similarity": score(21.93, 21.2, 22.7),
                "distinct2": score(0.0312, 0.0305, 0.0331),
                "length": score(11.0, 11.0, 11.0),
            },
            "finish": {},
        },
        {
            "name": "base",
            "kind": "model",
            "description": "A model of 135 million numbers, as published.",
            "note": "Its own chat template was used.",
            "model": {"name": "tiny-lantern-135", "hash": "aa11bb22cc33dd44"},
            "metrics": {
                "ppl_token": score(29.41, 28.77, 30.12, n=24811),
                "bleu2": score(4.871, 4.55, 5.2),
                "rougeL": score(12.511, 12.02, 13.01),
                "similarity": score(27.315, 26.1, 28.4),
                "distinct2": score(31.774, 30.9, 32.6),
                "length": score(38.27, 36.91, 39.66),
            },
            "finish": {"stop": 1011, "length": 203},
        },
        {
            "name": "sft",
            "kind": "model",
            "description": "The same model, trained on the other conversations.",
            "note": None,
            "model": {"name": "tiny-lantern-135+lora", "hash": "ee55ff6600778899"},
            "metrics": {
                "ppl_token": score(18.73, 18.21, 19.26, n=24811),
                "bleu2": score(6.083, 5.69, 6.49),
                "rougeL": score(14.958, 14.41, 15.52),
                "similarity": score(29.06, 28.0, 30.2, n=1209, unscored=5, reason="the reply is empty"),
                "distinct2": score(22.105, 21.3, 22.95),
                "length": score(16.84, 16.31, 17.4),
            },
            "finish": {"stop": 1208, "length": 6},
        },
    ],
    "metrics": {
        "bleu2": metric("BLEU-2", "overlap", better=True),
        "rougeL": metric("ROUGE-L", "overlap", better=True),
        "similarity": metric("Embedding similarity", "similarity", better=True),
        "distinct2": metric("Distinct-2", "diversity", better=True),
        "length": metric("Length", "form", better=None, scale="words"),
        "ppl_token": metric("Token perplexity", "likelihood", better=False, scale="1 and up"),
    },
    "comparisons": [
        comparison("sft", "base", "ppl_token", -10.68, -11.24, -10.11, 0.0),
        comparison("sft", "base", "bleu2", 1.212, 0.79, 1.66, 0.002),
        comparison("sft", "base", "rougeL", 2.447, 1.93, 2.98, 0.0),
        comparison("sft", "base", "similarity", 1.745, -0.13, 3.57, 0.068),
        comparison("sft", "base", "distinct2", -9.669, -10.4, -8.93, 0.0),
        comparison("sft", "base", "length", -21.43, -22.8, -20.1, 0.0),
        comparison("sft", "fixed", "bleu2", 0.771, 0.37, 1.19, 0.004),
        comparison("sft", "fixed", "rougeL", 1.911, 1.35, 2.5, 0.0),
        comparison("sft", "fixed", "similarity", 7.13, 5.94, 8.38, 0.0),
    ],
    "examples": [
        {
            "rule": "random",
            "why": "draw 1 of 2 with seed 13",
            "id": "lantern-041/t7",
            "context": [
                {"role": "user", "text": "The lamp in the hall is broken again and I cannot sleep."},
                {"role": "assistant", "text": "That sounds tiring. How long has it been dark?"},
                {"role": "user", "text": "Since Tuesday. I keep listening for the stairs."},
            ],
            "reference": "Listening all night must wear you out. What would make the hall feel safer?",
            "replies": {
                "fixed": "I am sorry that this is hard.",
                "base": "A lamp is a device that gives light. There are many kinds of lamps.",
                "sft": "It makes sense that you feel uneasy. Is there somebody who could look at the lamp with you?",
            },
        },
        {
            "rule": "worst",
            "why": "lowest BLEU-2 of sft",
            "id": "lantern-012/t3",
            "risk": ["thoughts"],
            "context": [{"role": "user", "text": "My bread did not rise."}],
            "reference": "Oh no. Was the yeast old?",
            "replies": {"fixed": "I am sorry that this is hard.", "base": "", "sft": "What happened then?"},
        },
    ],
    "training": {
        "steps": [10, 20, 30, 40, 50, 60, 70, 80],
        "loss": [3.4121, 3.1873, 3.0442, 2.9721, 2.9034, 2.8755, 2.8341, 2.8119],
        "eval_steps": [20, 40, 60, 80],
        "eval_loss": [3.2214, 3.0345, 2.9688, 2.9571],
        "tokens": 412_775,
        "seconds": 913.5,
        "trainable": 921_600,
        "parameters": 135_436_608,
        "summary": "Two passes over 812 conversations with low-rank updates.",
    },
    "limits": ["Ninety-seven conversations are few.", "All of them are invented."],
}


class Page(HTMLParser):
    """Checks nesting, and keeps tags, attributes and the text that a person sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.exact: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        if tag == "data":
            self.exact.append(dict(attrs)["value"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    @property
    def flat(self) -> str:
        return " ".join(self.text.split())

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


def between(page: Page, start: str, end: str) -> str:
    """The seen text from one heading to the next."""
    text = page.flat[page.flat.rindex(start) if start != "In short" else page.flat.index(start) :]
    return text[: text.index(end)]


def headline_of(summary: dict[str, Any]) -> str:
    return between(Page(render(summary)), "In short", "These sentences are written by a rule")


def numbers(value: Any) -> list[float]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, int | float):
        return [value]
    return [n for entry in (value.values() if isinstance(value, dict) else value) for n in numbers(entry)]


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict | list):
        return [t for entry in (value.values() if isinstance(value, dict) else value) for t in texts(entry)]
    return []


# --- everything is there ---------------------------------------------------------------------------------------------


def test_every_number_of_scores_comparisons_and_training_is_on_the_page_exactly() -> None:
    summary = make()
    page = Page(render(summary))
    exact = {float(value) for value in page.exact}
    scores = [
        s[k] for system in summary["systems"] for s in system["metrics"].values() for k in ("value", "low", "high")
    ]
    counts = [system["metrics"]["ppl_token"]["n"] for system in summary["systems"] if system["kind"] == "model"]
    wanted = [
        *numbers(scores),
        *counts,
        *numbers([{k: v for k, v in pair.items() if k != "metric"} for pair in summary["comparisons"]]),
        *numbers(summary["training"]),
        *numbers([system["finish"] for system in summary["systems"]]),
        summary["corpus"]["conversations"],
        summary["corpus"]["targets"],
        summary["systems"][2]["metrics"]["similarity"]["unscored"],
    ]
    assert len(wanted) > 100
    assert [number for number in wanted if float(number) not in exact] == []


def test_settings_are_shown_as_they_are() -> None:
    page = Page(render(make()))
    for value in [*numbers(SUMMARY["decoding"]), *numbers(SUMMARY["machine"]), SUMMARY["seed"]]:
        assert re.search(rf"(?<![\d.]){re.escape(repr(value))}(?![\d.])", page.text), value


def test_every_text_of_the_summary_is_on_the_page() -> None:
    summary = make()
    page = Page(render(summary))
    for entry in summary["metrics"].values():
        del entry["group"]  # shown as a heading in plain words
    for example in summary["examples"]:
        example["rule"] = ""
        for turn in example["context"]:
            turn["role"] = ""
    assert [t for t in texts(summary) if " ".join(t.split()) not in page.flat] == []


def test_a_number_is_rounded_for_the_eye_and_exact_for_a_program() -> None:
    assert '<data value="18.73">18.7</data>' in render(make())


def test_groups_stand_in_order_and_models_before_baselines() -> None:
    table = between(Page(render(make())), "Value and 95 % interval", "Why something is missing")
    order = ["Models", "Baselines", "base", "sft", "fixed", "Words shared", "Closeness", "How expected", "How varied"]
    places = [table.index(word) for word in order[:2]] + [
        table.index(word, table.index("Baselines")) for word in order[2:]
    ]
    assert places == sorted(places)


def test_cells_stand_under_the_head_of_their_system() -> None:
    html = render(make())
    table = html[html.index('<table class="scores">') :]
    cells = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table[: table.index("</thead>")])
    heads = [re.sub(r".*<code>(\w+)</code>.*", r"\1", cell) for cell in cells if cell != "Score"]
    assert heads == ["base", "sft", "fixed"]
    for name, info in SUMMARY["metrics"].items():
        if name != "ppl_token":
            wanted = [str(s["metrics"][name]["value"]) for h in heads for s in SUMMARY["systems"] if s["name"] == h]
            cells = row_of(html, info["title"]).split("<td")[1:]
            assert [re.findall(r'<data value="([^"]+)"', cell)[0] for cell in cells] == wanted


def test_replies_stand_models_first_then_baselines() -> None:
    card = between(Page(render(make())), "lantern-041/t7", "Lowest scores")
    replies = make()["examples"][0]
    order = [
        card.index(text) for text in (replies["reference"], *(replies["replies"][n] for n in ("base", "sft", "fixed")))
    ]
    assert order == sorted(order)


def test_an_unknown_group_of_metrics_is_shown_under_its_own_name() -> None:
    summary = make()
    summary["metrics"]["length"]["group"] = "postage"
    assert "postage" in Page(render(summary)).text


# --- missing is not zero ---------------------------------------------------------------------------------------------


def row_of(html: str, title: str) -> str:
    table = html[html.index('<table class="scores">') :]
    start = table.index(f'<th scope="row">{title} ')
    return table[start : table.index("</tr>", start)]


def test_a_missing_value_is_a_dash_with_its_reason() -> None:
    html = render(make())
    row = row_of(html, "Token perplexity")
    assert f'<span title="{NO_LIKELIHOOD}">—</span>' in row
    assert not re.search(r">\s*0(\.0+)?\s*<", row)
    assert f"{NO_LIKELIHOOD}: Token perplexity, fixed." in Page(html).flat


def test_a_metric_that_a_system_does_not_have_is_a_dash() -> None:
    summary = make()
    del summary["systems"][1]["metrics"]["length"]
    assert '<span title="not measured for this system">—</span>' in row_of(render(summary), "Length")


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_missing(odd: float) -> None:
    summary = make()
    summary["systems"][1]["metrics"]["length"].update(value=odd, low=odd, high=odd)
    html = render(summary)
    assert '<span title="the value is not a finite number">—</span>' in row_of(html, "Length")
    assert not re.search(r"\b(nan|inf)\b", Page(html).text)


def test_rows_left_out_of_a_value_are_told_with_the_reason() -> None:
    page = Page(render(make()))
    assert "the reply is empty: Embedding similarity, sft (5 left out)." in page.flat
    assert "5 unscored" in page.flat


def test_a_reply_that_is_empty_or_missing_is_said_to_be_so() -> None:
    summary = make()
    del summary["examples"][1]["replies"]["fixed"]
    page = Page(render(summary))
    assert "the reply is empty" in between(page, "Lowest scores", "What these numbers cannot say")
    assert "no reply was recorded" in page.flat


# --- claims follow from numbers --------------------------------------------------------------------------------------


def only(metric: str, **change: Any) -> dict[str, Any]:
    """A summary whose only comparison is that of sft with base on one metric."""
    summary = make()
    summary["comparisons"] = [c for c in summary["comparisons"] if (c["b"], c["metric"]) == ("base", metric)]
    summary["comparisons"][0].update(change)
    return summary


def test_the_headline_claims_a_change_where_the_paired_interval_excludes_zero() -> None:
    assert (
        "sft foresees the replies in the corpus better than the model before training, as one score has it: "
        "Token perplexity fell from 29.4 (28.8 to 30.1) with the model before training to 18.7 (18.2 to 19.3) with sft "
        "(lower is better). The difference, −10.7 (−11.2 to −10.1), is larger than chance would explain."
    ) in headline_of(only("ppl_token"))


def test_the_headline_begins_with_words_shared_and_not_with_perplexity() -> None:
    text = headline_of(make())
    assert "sft shares more words with the replies in the corpus than the model before training, as one" in text
    assert "perplexity" not in text


def test_nothing_is_claimed_where_swapping_replies_gives_as_much() -> None:
    """The interval excludes zero, the swap test does not reject: the headline, the dot and the table all hold back."""
    summary = only("bleu2", p=0.13)
    text, html = headline_of(summary), render(summary)
    assert "chance can explain it, because alike systems differ as much with probability 0.130 (swap test)" in text
    assert not re.search(r"fell|rose|shares more|larger than chance", text)
    assert "can be chance" in html
    assert "fill:var(--paper" in html
    assert "<strong>" not in row_of(html, "BLEU-2")
    assert "fill:var(--paper" not in render(only("bleu2", p=0.049))


def test_a_score_without_a_swap_test_says_that_its_interval_alone_decides() -> None:
    summary = only("distinct2", p=None)
    assert "larger than chance would explain by its interval; this score has no swap test." in headline_of(summary)
    assert "no p: interval only" in Page(render(summary)).flat


@pytest.mark.parametrize(("low", "high"), [(-11.24, 0.02), (-11.24, 0.0), (0.0, 1.0)])
def test_the_headline_claims_nothing_where_the_interval_holds_zero(low: float, high: float) -> None:
    text = headline_of(only("ppl_token", low=low, high=high))
    assert "chance can explain it, because its interval includes zero" in text
    assert not re.search(r"fell|rose|better|larger than chance", text)


def test_the_headline_says_rose_for_a_value_that_rose() -> None:
    assert "BLEU-2 rose from 5.31 (4.91 to 5.70) with fixed to 6.08 (5.69 to 6.49) with sft" in headline_of(make())


def test_the_headline_says_when_a_system_got_worse() -> None:
    text = headline_of(only("ppl_token", difference=10.68, low=10.11, high=11.24))
    assert "sft foresees the replies in the corpus less well than the model before training" in text


def test_an_interval_on_the_other_side_of_its_difference_supports_no_claim() -> None:
    text = headline_of(only("ppl_token", difference=0.4))
    assert "because its interval lies on the other side of zero" in text


def test_a_page_without_intervals_says_so() -> None:
    summary = make()
    summary["comparisons"] = []
    for system in summary["systems"]:
        for entry in system["metrics"].values():
            entry.update(low=None, high=None)
    flat = Page(render(summary)).flat
    assert "No intervals were computed" in flat
    assert "95 % interval in brackets" not in flat
    assert "95 % interval in brackets" in Page(render(make())).flat


def test_a_page_without_stated_limits_still_has_one() -> None:
    summary = make()
    summary["limits"] = []
    assert "None of them measures whether a reply helps somebody" in Page(render(summary)).flat


def test_the_headline_without_intervals_claims_nothing() -> None:
    summary = make()
    for pair in summary["comparisons"]:
        pair.update(low=None, high=None, p=None)
    text = headline_of(summary)
    assert "without an interval this page cannot say" in text
    assert not re.search(r"fell|rose|larger than chance", text)


def test_the_headline_names_what_is_missing() -> None:
    summary = make()
    summary["comparisons"] = [comparison("sft", "fixed", "ppl_token", 1.0, 1.0, 1.0, 0.5)]
    summary["comparisons"][0].update(difference=None, low=None, high=None, p=None)
    assert f"fixed has no value ({NO_LIKELIHOOD})" in headline_of(summary)


def test_the_headline_counts_all_scores_and_names_the_worse_ones() -> None:
    assert (
        "sft against the model before training, over 5 kinds of score with a better end, beyond chance: better on 3; "
        "worse on 1 (Distinct-2); not to be told apart on 1."
    ) in headline_of(make())


def test_variants_of_one_score_count_once() -> None:
    summary = make()
    for name in ("bleu1", "bleu3", "distinct1_published", "rougeL_published", "newcomer"):
        summary["metrics"][name] = metric(name, "other", better=True)
        summary["comparisons"].insert(0, comparison("sft", "base", name, 1.0, 0.5, 1.5, 0.001))
    text = headline_of(summary)
    assert "over 6 kinds of score with a better end, beyond chance: better on 4; worse on 1 (Distinct-2)" in text


def test_every_metric_of_replies_has_a_family_and_another_stands_under_other() -> None:
    for name in METRICS.names():
        if "gold" not in METRICS.get(name).needs:
            assert group_of(name) != "other", name
    assert group_of("newcomer") == "other"
    families = [name for group in FAMILIES.values() for family in group for name in family]
    assert len(families) == len(set(families))
    assert set(FAMILIES) <= set(GROUPS)


def test_without_comparisons_no_system_is_called_better() -> None:
    summary = make()
    summary["comparisons"] = []
    html = render(summary)
    assert "does not say that one is better" in headline_of(summary)
    assert "<strong>" not in html
    assert 'id="differences"' not in html


def test_a_score_without_a_better_end_has_no_winner() -> None:
    summary = make()
    summary["comparisons"] = [pair for pair in summary["comparisons"] if pair["metric"] == "length"]
    text = headline_of(summary)
    assert "neither end is better" in text
    assert not re.search("is better than|better on", text)
    assert "<strong>" not in row_of(render(summary), "Length")


def test_a_value_is_marked_best_only_against_all_others() -> None:
    html = render(make())
    assert '<strong><data value="6.083">' in row_of(html, "BLEU-2")
    # Against base the interval holds zero, against fixed it does not: no winner.
    assert "<strong>" not in row_of(html, "Embedding similarity")
    # Only two systems have a value here.
    assert '<strong><data value="18.73">' in row_of(html, "Token perplexity")
    # base beats sft, but was never compared with fixed.
    assert "<strong>" not in row_of(html, "Distinct-2")


def test_a_bound_that_excludes_zero_never_reads_as_zero() -> None:
    summary = make()
    summary["comparisons"][1].update(difference=1.2, low=0.0004, high=2.4)
    html = render(summary)
    assert '<data value="0.0004">0.0004</data>' in html


def test_a_tiny_value_never_reads_as_zero() -> None:
    assert '<data value="0.0312">0.03</data>' in row_of(render(make()), "Distinct-2")


def test_how_many_intervals_would_exclude_zero_by_chance_is_told() -> None:
    summary = make()
    summary["comparisons"] += [comparison("base", "fixed", "length", 27.3, 25.9, 28.6, 0.0)]
    flat = Page(render(summary)).flat
    assert "There are 10 comparisons with an interval." in flat
    assert "up to about one in twenty (here 0.5)" in flat


def test_a_page_without_baseline_says_so() -> None:
    summary = make()
    summary["systems"] = summary["systems"][1:]
    summary["comparisons"] = summary["comparisons"][:6]
    assert "no floor beside them" in Page(render(summary)).text
    assert "no floor beside them" not in Page(render(make())).text


# --- hostile and private text ----------------------------------------------------------------------------------------

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&amp;</div></main>"


def test_markup_in_any_text_is_shown_not_run() -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, str):
            return value + HOSTILE
        if isinstance(value, dict):
            return {k: poison(v) for k, v in value.items()}
        return [poison(v) for v in value] if isinstance(value, list) else value

    summary = make()
    free = ("command", "title", "corpus", "format", "decoding", "machine", "versions", "examples", "limits", "dtype")
    summary.update({key: poison(summary[key]) for key in free})
    summary["created"] += HOSTILE
    summary["training"]["summary"] += HOSTILE
    summary["metrics"] = poison(summary["metrics"])
    for system in summary["systems"]:
        system["name"] += HOSTILE
        system["description"] += HOSTILE
        system["metrics"]["bleu2"].update(value=None, reason=HOSTILE)
    for pair in summary["comparisons"]:
        pair["a"] += HOSTILE
        pair["b"] += HOSTILE
    html = render(summary)
    page = Page(html)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert page.text.count("<script>alert('x')</script>") > 30
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_replies_are_announced_as_private() -> None:
    banner = "This page holds text of conversations; keep it where you keep the corpus."
    assert banner in Page(render(make())).flat
    summary = make()
    summary["examples"] = []
    html = render(summary)
    assert banner not in html
    assert 'id="replies"' not in html


def test_a_wrong_entry_is_named_without_its_text() -> None:
    summary = make()
    summary["examples"][0]["context"][0] = {"role": "user", "text": ["secret words"]}
    with pytest.raises(DataError, match=r"entry 'examples\.0\.context\.0\.text'") as caught:
        render(summary)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_characters_that_html_cannot_hold_are_replaced(tmp_path: Path) -> None:
    summary = make()
    summary["examples"][0]["reference"] = "nul \x00 bell \x07 lone \ud83d end"
    text = write(tmp_path / "page.html", summary).read_text(encoding="utf-8")
    assert "nul \ufffd bell \ufffd lone \ufffd end" in text


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=60))
def test_any_reply_keeps_the_page_well_formed(text: str) -> None:
    summary = make()
    summary["examples"][1]["replies"]["sft"] = text
    assert len(Page(render(summary)).tags) > 100


# --- the page itself -------------------------------------------------------------------------------------------------


def test_the_page_opens_with_findings_and_replies_and_then_come_the_numbers() -> None:
    flat = Page(render(make())).flat
    parts = ["In short", "Replies side by side The framed", "lantern-041/t7", "What was measured and how Each"]
    parts += ["Value and 95 % interval", "Paired differences", "More replies These", "lantern-012/t3"]
    places = [flat.index(part) for part in parts]
    assert places == sorted(places)


def test_systems_have_plain_names_with_the_technical_one_in_small() -> None:
    summary = make()
    renamed = {"sft": "trained", "fixed": "copy_last_turn"}
    for system in summary["systems"]:
        system["name"] = renamed.get(system["name"], system["name"])
    for pair in summary["comparisons"]:
        pair.update(a=renamed.get(pair["a"], pair["a"]), b=renamed.get(pair["b"], pair["b"]))
    for example in summary["examples"]:
        example["replies"] = {renamed.get(k, k): v for k, v in example["replies"].items()}
    summary["systems"][0]["description"] = "None where nobody spoke."
    html = render(summary)
    assert '<th scope="col">The model after training <span class="small"><code>trained</code></span></th>' in html
    assert '<h4>The client’s words said back <span class="small"><code>copy_last_turn</code></span>' in html
    assert "The model after training shares more words" in headline_of(summary)
    assert "None where" not in html


def test_units_and_measured_numbers_are_for_people() -> None:
    summary = make()
    summary["metrics"]["bleu2"]["scale"] = "x100"
    summary["machine"]["seconds"]["all"] = 121.00550264200137
    flat = Page(render(summary)).flat
    assert "x100" not in flat
    assert "out of 100" in flat
    assert "121.00550264200137" not in flat
    assert "121.006" in flat


def test_the_page_never_says_that_somebody_truly_said_it() -> None:
    """Corpora may be synthetic."""
    assert not re.search(r"truly|\breal\b|human repl|person’s reply|a person wrote", Page(render(make())).flat)


def test_disclosed_risk_is_marked_at_its_example_and_nowhere_else() -> None:
    html = render(make())
    with_risk, without = (html[html.index(f"<code>{name}</code>") :] for name in ("lantern-012/t3", "lantern-041/t7"))
    banner = "The help-seeker discloses risk in this dialogue (thoughts)."
    assert banner in with_risk[: with_risk.index('<ol class="talk">')]
    assert html.count("discloses risk") == 1
    assert "discloses risk" not in without[: without.index("</article>")]


def test_one_held_out_loss_is_a_labelled_dot() -> None:
    summary = make()
    summary["training"].update(eval_steps=[80], eval_loss=[2.9571])
    html = render(summary)
    assert "held out: 2.96" in html
    assert "Dot: held-out conversations, measured once." in html
    assert "Dashed: held-out" not in html
    assert "stroke-dasharray='7 4'" not in html
    assert "Dashed: held-out" in render(make())
    summary["training"].update(eval_steps=[], eval_loss=[])
    assert "held-out conversations" not in render(summary)


def test_nothing_is_loaded_from_outside_and_nothing_runs() -> None:
    html = render(make())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}
    assert page.attributes("src") == []
    assert page.attributes("xlink:href") == []
    assert all(link.startswith("#") for link in page.attributes("href"))
    assert "default-src 'none'" in html
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|@font-face", style)


def test_links_and_labels_point_to_something() -> None:
    page = Page(render(make()))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.attributes("href")} <= set(ids)
    assert set(page.attributes("aria-labelledby")) <= set(ids)


def test_tables_have_captions_and_every_header_cell_a_scope() -> None:
    page = Page(render(make()))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == 4
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert [a.get("lang") for tag, a in page.tags if tag == "html"] == ["en"]


def test_headings_go_down_one_step_at_a_time() -> None:
    levels = [int(tag[1]) for tag, _ in Page(render(make())).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_same_summary_gives_the_same_page() -> None:
    assert render(make()) == render(json.loads(json.dumps(make())))


def test_a_run_without_training_has_no_curve() -> None:
    summary = make()
    summary["training"] = None
    html = render(summary)
    assert 'id="training"' not in html
    assert "class='curve'" not in html


def test_a_long_training_is_thinned_and_says_so() -> None:
    summary = make()
    steps = list(range(1, 5001))
    summary["training"].update(steps=steps, loss=[3.0 + 1 / step for step in steps], eval_steps=[], eval_loss=[])
    html = render(summary)
    assert "Some of <data" in html
    assert "mean of neighbouring steps" in html
    assert len(html) < 120_000


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda s: s.pop("systems"), r"entry 'systems' cannot be used: field required"),
        (lambda s: s["systems"].clear(), r"entry 'systems' cannot be used"),
        (lambda s: s["systems"][0].update(kind="robot"), r"entry 'systems\.0\.kind'"),
        (lambda s: s["systems"][0].update(name="sft"), r"different names"),
        (lambda s: s["systems"][0]["metrics"].update(bleu3=score(1.0)), r"names the metric 'bleu3'.*mean 'bleu2'"),
        (lambda s: s["comparisons"][0].update(a="sfd"), r"names the system 'sfd'.*mean 'sft'"),
        (lambda s: s["comparisons"][0].update(metric="luck"), r"names the metric 'luck'"),
        (lambda s: s["training"]["loss"].pop(), r"'loss' has 7 values at 8 steps"),
        (lambda s: s["training"]["eval_loss"].pop(), r"'eval_loss' has 3 values at 4 steps"),
    ],
)
def test_a_summary_that_does_not_fit_is_refused_in_one_sentence(break_it: Any, message: str) -> None:
    summary = make()
    break_it(summary)
    with pytest.raises(DataError, match=message):
        render(summary)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_write_makes_the_folder_and_leaves_one_private_file(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "report.html", make())
    assert path.read_text(encoding="utf-8") == render(make())
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_write_keeps_the_old_page_when_the_summary_is_bad_or_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(DataError):
        write(path, {**make(), "systems": []})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        write(path, make())
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
