"""The page of an RL run: the verdict follows from the intervals, any state of the folder gives a page, nothing leaks.

All runs, prompts and replies here are invented.
"""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rl_run_kit import CONFIG, SUMMARY, metrics, probes, validation, write_run

from heedful.errors import DataError, NotFoundError, RunError
from heedful.training.rl.report import render, write
from heedful.training.rl.verdict import adjusted, change, component_changes, verdict

VOID = {"meta", "col", "br", "link", "img", "hr", "input"}
UP = {"emotion_heldout": 0.2, "similarity_heldout": 0.1}
STAY = {"emotion_heldout": 0.0, "similarity_heldout": 0.0}


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.partition("<body>")[2]))


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "held", "kind", "words"),
    [
        (0.3, STAY, "gap", "while none of the held-out scorers did: the model learnt to please the reward."),
        (0.3, UP, "both", "and so did both held-out scorers; none got worse."),
        (0.3, {"emotion_heldout": 0.2, "similarity_heldout": 0.0}, "both", "so did emotion_heldout of the 2"),
        (0.3, {"emotion_heldout": 0.2, "similarity_heldout": -0.2}, "mixed", "and similarity_heldout got worse."),
        (0.3, {"emotion_heldout": 0.0, "similarity_heldout": -0.2}, "gap", "and similarity_heldout got worse: the"),
        (0.0, STAY, "neither", "and neither did any held-out scorer."),
        (0.0, UP, "heldout_only", "did not rise beyond chance"),
        (0.0, {"emotion_heldout": -0.2, "similarity_heldout": 0.0}, "worse", "emotion_heldout got worse"),
        (-0.3, UP, "worse", "The training reward fell by 0.3"),
        (0.3, {}, "no_heldout", "cannot tell a better model from a pleased reward"),
    ],
)
def test_the_verdict_follows_from_intervals(gain: float, held: dict[str, float], kind: str, words: str) -> None:
    found = verdict(validation(0, held=dict.fromkeys(held, 0.0)), validation(40, gain=gain, held=held))
    assert found.kind == kind
    assert words in found.sentence
    assert json.loads(json.dumps(found.to_dict()))["kind"] == kind
    assert set(found.declined) == {name for name, shift in held.items() if shift < 0}


def test_a_change_is_the_paired_difference_with_its_interval() -> None:
    first, last = validation(0), validation(40, gain=0.3)
    found = change(first, last, ("total",))
    differences = [b - a for a, b in zip(first["total"], last["total"], strict=True)]
    assert found.difference == pytest.approx(sum(differences) / 48)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high
    assert (found.n, found.unscored, found.conversations) == (48, 0, 24)
    assert found.standardised == pytest.approx(found.difference / found.deviation)


def test_replies_are_paired_by_id_whatever_their_order() -> None:
    first, last = validation(0), validation(40, gain=0.3, held=UP)
    order = list(reversed(range(48)))
    turned = {
        **last,
        "ids": [last["ids"][i] for i in order],
        "clusters": [last["clusters"][i] for i in order],
        "total": [last["total"][i] for i in order],
        "heldout": {name: [column[i] for i in order] for name, column in last["heldout"].items()},
    }
    a, b = verdict(first, last), verdict(first, turned)
    assert b.training.difference == pytest.approx(a.training.difference)
    assert b.training.deviation == pytest.approx(a.training.deviation)
    assert a.kind == b.kind


def test_several_replies_to_one_prompt_keep_their_order() -> None:
    first = {"step": 0, "ids": ["a", "a", "b"], "clusters": ["a", "a", "b"], "total": [0.0, 1.0, 0.0], "heldout": {}}
    last = {**first, "step": 1, "total": [0.5, 1.0, 0.5]}
    found = change(first, last, ("total",))
    assert found.n == 3
    assert found.difference == pytest.approx(1 / 3)


def test_a_missing_score_is_left_out_and_counted_never_zero() -> None:
    first, last = validation(0), validation(40, gain=0.3)
    last["total"][:10] = [None] * 10
    first["total"][10] = None
    found = change(first, last, ("total",))
    assert (found.n, found.unscored) == (37, 11)
    assert found.difference == pytest.approx(0.3, abs=0.03)
    nothing = verdict({**first, "total": [None] * 48}, last)
    assert nothing.kind == "unknown"
    assert "no reply was scored at both" in nothing.sentence


def test_one_conversation_supports_no_claim() -> None:
    first, last = validation(0, per=48), validation(40, gain=0.3, per=48)
    found = verdict(first, last)
    assert found.kind == "unknown"
    assert found.training.low is None


def test_few_conversations_support_no_claim_of_a_gap() -> None:
    """That held-out scores did not rise beyond chance is not that they stayed: then the page says it cannot tell."""
    ids = [f"t{i}" for i in range(8)]
    first = {
        "step": 0,
        "ids": ids,
        "clusters": ids,
        "total": [0.1, 0.2, 0.3, 0.4] * 2,
        "heldout": {"h": [0.1, 0.9] * 4},
    }
    gains = [-0.4, 0.9, -0.6, 0.9, 0.8, 0.7, -0.9, 0.9]
    last = {
        **first,
        "step": 9,
        "total": [x + 0.05 + 0.001 * i for i, x in enumerate(first["total"])],
        "heldout": {"h": [x + g for x, g in zip(first["heldout"]["h"], gains, strict=True)]},
    }
    found = verdict(first, last)
    assert found.training.moved == "rose"
    assert found.heldout[0].moved == "chance"
    assert found.kind == "behind"
    assert "more conversations would tell" in found.sentence


def test_a_held_out_penalty_gets_better_by_falling() -> None:
    first, last = validation(0), validation(40, gain=0.3, held={"emotion_heldout": -0.2, "similarity_heldout": -0.1})
    assert verdict(first, last).kind == "gap"
    found = verdict(first, last, lower_is_better=["emotion_heldout", "similarity_heldout"])
    assert found.kind == "both"
    assert found.heldout_mean is not None
    assert found.heldout_mean.value > 0
    assert verdict(first, {**last, "lower_is_better": list(UP)}).kind == "both"


def test_the_gap_is_the_standardised_training_change_minus_the_mean_of_the_held_out_ones() -> None:
    found = verdict(validation(0), validation(40, gain=0.3, held=UP))
    held = [c.standardised for c in found.heldout]
    assert found.gap is not None
    assert found.gap.value == pytest.approx(found.training.standardised - sum(held) / 2)
    assert found.gap.low is not None
    assert found.gap.low < found.gap.value < (found.gap.high or 0)
    # Constant at the first validation: the deviation of the last one takes its place.
    flat = {**validation(0), "total": [0.0] * 48}
    assert verdict(flat, validation(40, gain=0.3)).gap is not None


def test_many_held_out_scores_are_many_chances_to_be_wrong() -> None:
    """Holm: the smallest p counts as often as there are scores, the next once less, and none below an earlier one."""
    one = change(validation(0), validation(40, gain=0.3), ("total",))
    found = adjusted([replace(one, p=p) for p in (0.04, None, 0.02, 0.03)])
    assert [c.p for c in found] == pytest.approx([0.06, None, 0.06, 0.06])
    assert [c.moved for c in found] == ["chance", "rose", "chance", "chance"]
    assert adjusted([replace(one, p=0.04)])[0].moved == "rose"


def test_a_held_out_score_that_moved_by_chance_makes_no_verdict() -> None:
    """Eight scores on 24 conversations, nothing changed: at one test each a third of such runs would claim some."""
    draw = np.random.default_rng(5)
    talks = [f"t{i}" for i in range(24)]
    claimed = 0
    for _ in range(60):
        rows = [
            {
                "step": step,
                "ids": talks,
                "clusters": talks,
                "total": [0.5 * step + float(v) for v in draw.normal(size=24)],
                "heldout": {f"h{k}": draw.normal(size=24).tolist() for k in range(8)},
            }
            for step in (0, 10)
        ]
        found = verdict(*rows, draws=400)
        claimed += any(c.better or c.worse for c in found.heldout)
    assert claimed <= 8


def test_components_with_a_negative_weight_are_penalties() -> None:
    by_name = {c.name: c for c in component_changes(validation(0), validation(40, gain=0.4))}
    assert by_name["emotion"].better
    assert by_name["copy"].moved == "fell"
    assert by_name["copy"].better


@pytest.mark.slow
@pytest.mark.parametrize(("conversations", "per", "alone", "together"), [(24, 2, 0.077, 0.056), (8, 6, 0.125, 0.051)])
def test_where_nothing_changed_one_run_in_twenty_is_claimed(
    conversations: int, per: int, alone: float, together: float
) -> None:
    """Shares of 1,500 runs; docs/reward-hacking.md quotes them. The interval alone claims too much."""
    draw = np.random.default_rng(99)
    ids = [str(i) for i in range(conversations * per)]
    clusters = [str(i // per) for i in range(len(ids))]
    intervals = both = 0
    for _ in range(1500):
        rows = [
            {"step": step, "ids": ids, "clusters": clusters, "total": draw.normal(size=len(ids)).tolist()}
            for step in (0, 1)
        ]
        found = change(rows[0], rows[1], ("total",), draws=400)
        assert found.low is not None
        assert found.high is not None
        intervals += not found.low <= 0 <= found.high
        both += found.moved != "chance"
    assert intervals / 1500 == pytest.approx(alone, abs=0.0006)
    assert both / 1500 == pytest.approx(together, abs=0.0006)


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hacked(tmp_path: Path) -> Path:
    rows = [validation(s, gain=0.4 * s / 40, held=dict.fromkeys(STAY, -0.1 * s / 40)) for s in (0, 10, 20, 30, 40)]
    return write_run(tmp_path / "run", steps=metrics(40), validations=rows, replies=probes(list(range(0, 45, 5))))


def test_a_run_that_pleased_the_reward_is_told_so_first(hacked: Path) -> None:
    page = render(hacked)
    said = text_of(page)
    first, rest = said.index("the model learnt to please the reward"), said.index("What changed on validation")
    assert first < rest
    assert "The gap widened" in said
    assert "24 conversations" in said
    assert "Replies became longer" in said
    assert "all planned steps were taken." in said
    assert "2 replies at which it raised an error" in said
    assert "1 value outside its range" in said
    assert "KL" in said


def test_a_run_where_both_rose_claims_no_hacking(tmp_path: Path) -> None:
    rows = [validation(0), validation(40, gain=0.2, held=dict.fromkeys(UP, 0.25))]
    said = text_of(render(write_run(tmp_path, steps=metrics(40), validations=rows)))
    assert "so did both held-out scorers" in said
    assert "learnt to please the reward" not in said.replace("Did the model get better, or did it learn", "")


def test_a_fall_after_a_top_is_told(tmp_path: Path) -> None:
    """First against last would hide it."""
    shifts = {0: 0.0, 20: 0.25, 40: 0.0}
    rows = [validation(s, gain=0.3 * s / 40, held=dict.fromkeys(UP, shift)) for s, shift in shifts.items()]
    assert "were highest at step 20 and then fell by" in text_of(render(write_run(tmp_path, validations=rows)))


HELD = {"emotion_heldout": 0.2, "similarity_heldout": 0.2}


def back_to(tmp_path: Path, step: int | None, *, best: bool = True, **more: Any) -> str:
    """The page's words for a run whose held-out scores rose until step 20 and were below their start at step 40."""
    shifts = {0: (0.0, 0.0), 20: (0.2, 0.2), 40: (0.4, -0.1)}
    rows = [validation(s, gain=gain, held=dict.fromkeys(HELD, shift)) for s, (gain, shift) in shifts.items()]
    summary = SUMMARY if step is None else {**SUMMARY, "weights_step": step}
    config = {**CONFIG, "load_best_model_at_end": best, **more}
    return text_of(render(write_run(tmp_path / f"{step}-{best}", validations=rows, summary=summary, config=config)))


def test_the_weights_that_were_kept_are_judged_not_the_last_ones(tmp_path: Path) -> None:
    said = back_to(tmp_path, 20)
    top = said.index("so did both held-out scorers")
    trend = said.index("The trend, up to step 40, whose weights were not kept: The training reward rose by")
    assert top < said.index("it is step 20 that is judged here; training went on to step 40.") < trend
    assert "learnt to please the reward" in said[trend:]
    assert "learnt to please the reward" not in said[:trend].replace("or did it learn to please", "")
    assert "Step 20 was chosen because its held-out scores were the best on these prompts" in said
    assert "Step 0 and step 20 are compared" in said
    assert "From step 0 to step 20, whose weights were kept, on the same prompts" in said
    assert "at step 20:" in said[said.index("Correlation of the training reward with length") :][:80]
    # Held-out means of the table: 0.2 up, not 0.1 down.
    assert "Held out: emotion_heldout rose, which is better" in said
    assert "were highest at step 20 and then fell by" in said


def test_the_last_weights_are_judged_where_they_were_kept_or_nobody_knows(tmp_path: Path) -> None:
    for step in (40, None):
        said = back_to(tmp_path, step, best=False)
        assert "From step 0 to step 40, on the same prompts" in said
        assert "learnt to please the reward" in said[: said.index("What changed on validation")]
        assert "The trend" not in said
        assert "weights that were kept" not in said
        assert "was chosen because" not in said
    assert "Step 40 was chosen because" in back_to(tmp_path, 40)


def test_weights_that_nobody_validated_or_that_are_those_of_the_start_are_told(tmp_path: Path) -> None:
    said = back_to(tmp_path, 30)
    assert "are those of step 30, which was not validated; step 40 stands in their place." in said
    assert "was chosen because" not in said
    assert "From step 0 to step 40, on the same prompts" in said
    said = back_to(tmp_path, 0)
    first = said.index("are those of step 0, before any update: nothing that was learnt stayed.")
    assert first < said.index("What follows is about step 40, whose weights were not kept.")
    assert "was chosen because" not in said


def test_the_kept_step_has_a_column_of_probes(tmp_path: Path) -> None:
    rows = [validation(s) for s in (0, 35, 40)]
    summary = {**SUMMARY, "weights_step": 35}
    page = render(write_run(tmp_path, validations=rows, replies=probes(list(range(0, 45, 5))), summary=summary))
    table = re.findall(r'<table class="probe">.*?</table>', page, re.DOTALL)[0]
    steps = re.findall(r'<th scope="col"><data value="(\d+)">', table)
    assert (len(steps), steps[0], steps[-1]) == (6, "0", "40")
    assert re.search(r">35</data> <span class=\"small\">kept</span></th>", table)
    assert table.count(">kept<") == 1


@pytest.mark.parametrize(
    ("rewards", "heldout", "words"),
    [
        (
            ["similarity", {"name": "relevance", "label": "near"}],
            [{"name": "bertscore"}],
            "The held-out score bertscore and the rewards similarity and near read replies through the same encoder "
            "(minilm), so they are related",
        ),
        ([{"name": "relevance", "weight": 0.0, "gate": 0.2}], ["similarity"], "and the reward relevance read"),
        (["reader_paper"], ["similarity", "bertscore"], "The held-out scores similarity and bertscore and the reward"),
        ([{"name": "similarity", "params": {"encoder": "other"}}], ["bertscore"], None),
        ([{"name": "relevance", "weight": 0.0}], ["similarity"], None),
        (["emotion", "rougeL"], ["similarity"], None),
        ("similarity", {"name": "similarity"}, None),
    ],
)
def test_scores_that_share_an_encoder_with_the_reward_are_named(
    tmp_path: Path, rewards: Any, heldout: Any, words: str | None
) -> None:
    said = back_to(tmp_path, None, rewards=rewards, heldout=heldout)
    assert ("through the same encoder" in said) == (words is not None)
    assert words is None or said.count(words) == 1


@pytest.mark.parametrize("part", ["metrics", "validation", "probes", "summary", "config"])
def test_any_part_may_be_missing(tmp_path: Path, part: str) -> None:
    parts: dict[str, Any] = {
        "steps": None if part == "metrics" else metrics(5),
        "validations": None if part == "validation" else [validation(0), validation(5, gain=0.2, held=UP)],
        "replies": None if part == "probes" else probes([0, 5]),
        "summary": None if part == "summary" else SUMMARY,
        "config": None if part == "config" else CONFIG,
    }
    page = render(write_run(tmp_path, **parts))
    well_formed(page)
    said = text_of(page)
    expected = {
        "metrics": "What changed on validation",
        "validation": "There is no validation, so this page cannot say",
        "probes": "What changed on validation",
        "summary": "it is going on, or it was cut. Last step on file: 5.",
        "config": "config.resolved.yaml is not there.",
    }
    assert expected[part] in said
    assert ("keep it where you keep the corpus" in said) == (part != "probes")


def test_a_run_that_just_began_has_a_page(tmp_path: Path) -> None:
    said = text_of(render(write_run(tmp_path, validations=[validation(0)], summary=None)))
    assert "No step is finished yet." in said


def test_only_the_last_line_may_be_torn(tmp_path: Path) -> None:
    rows = [validation(0), validation(5, gain=0.2, held=UP)]
    folder = write_run(tmp_path, steps=metrics(5), validations=rows, replies=probes([0]))
    whole = render(folder)
    for name in ("metrics", "validation", "probes"):
        with (folder / f"{name}.jsonl").open("ab") as file:
            file.write('{"step": 6, "said": "caf\u00e9'.encode()[:-1])  # cut inside a letter
    assert render(folder) == whole
    with (folder / "probes.jsonl").open("a", encoding="utf-8") as file:
        file.write('secret\n{"step": 7, "id": "x"}\n')
    with pytest.raises(DataError, match=r"probes\.jsonl, line 3 is damaged") as caught:
        render(folder)
    assert "secret" not in str(caught.value)
    assert "secret" not in str(caught.value.__context__ or "")


def test_of_a_step_written_twice_the_later_line_counts(tmp_path: Path) -> None:
    steps = [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}, {"step": 2, "reward": 0.7}]
    page = render(write_run(tmp_path, steps=steps))
    assert "0.1 at step 1, 0.7 at step 2" in page


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"total": [0.1]}, "there are 48 ids but 1 values of total"),
        ({"heldout": {"h": [None]}}, r"1 values of heldout\.h"),
        ({"step": "I cannot sleep"}, r"line 1: 'step' cannot be used"),
        ({"train": "I cannot sleep"}, r"line 1: 'train' cannot be used"),
    ],
)
def test_a_wrong_row_is_named_without_its_text(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    folder = write_run(tmp_path, validations=[{**validation(0), **row}])
    with pytest.raises(DataError, match=message) as caught:
        render(folder)
    assert "sleep" not in str(caught.value)


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no reinforcement learning run"):
        render(tmp_path)


def test_numbers_that_are_not_finite_are_missing(tmp_path: Path) -> None:
    rows = [validation(0), validation(5, gain=0.2, held=UP)]
    rows[1]["total"][0] = float("nan")
    steps = metrics(3)
    steps[1]["kl"], steps[1]["note"], steps[2]["entropy"] = float("inf"), "a text", None
    page = render(write_run(tmp_path, steps=steps, validations=rows))
    assert 'n = <data value="47">47</data>' in page
    assert not re.search(r"\b(nan|inf)\b", text_of(page))


def test_probes_stand_in_at_most_six_columns_with_first_and_last(hacked: Path) -> None:
    page = render(hacked)
    tables = re.findall(r'<table class="probe">.*?</table>', page, re.DOTALL)
    assert len(tables) == 2
    steps = re.findall(r'<th scope="col"><data value="(\d+)">', tables[0])
    assert len(steps) == 6
    assert (steps[0], steps[-1]) == ("0", "40")
    assert "(step 0)" in tables[0]
    assert "(step 40)" in tables[0]
    assert '<span title="no value">—</span>' in tables[0]  # unscored at step 0
    assert "Plan: strategy" in tables[0]


def test_correlations_are_means_of_the_last_steps(hacked: Path) -> None:
    page = render(hacked)
    last = [row["reward/corr/emotion/copy"] for row in metrics(40)[-10:]]
    matrix = page[page.index('<table class="matrix">') :]
    assert f">{sum(last) / 10:.2f}</data></strong>" in matrix
    assert ">\u22120.20</data>" in matrix


def test_every_part_of_the_reward_has_a_curve(hacked: Path) -> None:
    page = render(hacked)
    for name in ("emotion", "copy", "length", "KL to the reference", "KL coefficient", "Entropy", "Clip fraction"):
        assert f'<strong class="plain">{name}</strong>' in page
    assert "The same at every step: Empty" in text_of(page)
    assert "weight \u22120.5" in page


def test_slashes_in_names_of_components_are_part_of_the_name(tmp_path: Path) -> None:
    steps = [
        {"step": s, "reward": 0.1, "reward/a/b": 0.1 * s, "reward/a/b/std": 0.1, "reward/std": 0.1} for s in (1, 2)
    ]
    page = render(write_run(tmp_path, steps=steps))
    assert '<strong class="plain">a/b</strong>' in page
    assert '<strong class="plain">a/b/std</strong>' not in page
    assert '<strong class="plain">std</strong>' not in page


class _Reader(HTMLParser):
    """Stops at the first tag that closes what is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "iframe", "link", "object"), tag
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name == "href":
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def well_formed(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_hostile_text_is_shown_and_not_run(tmp_path: Path) -> None:
    evil = "</td><script>alert(1)</script><img src=x onerror=alert(2)> \x00\ud800 {{ 7*7 }} {% raw %}"
    said = [
        {"step": s, "id": evil, "said": evil, "reply": evil, "scores": {evil: 0.5}, "plan": {evil: evil}}
        for s in (0, 5)
    ]
    rows = [validation(s, gain=s / 20, held={evil: 0.0}) for s in (0, 5)]
    steps = [{"step": s, "reward": 0.1 * s, f"reward/{evil}": 0.1 * s} for s in (1, 2)]
    folder = tmp_path / "run"
    folder.mkdir()
    for name, found in (("metrics", steps), ("validation", rows), ("probes", said)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), "utf-8")
    summary = {**SUMMARY, "stop_reason": evil, "method": evil}
    write_run(folder, summary=summary, config={**CONFIG, "system": "<b>&", "model_name_or_path": "<i>x"})
    page = write(folder).read_text("utf-8")
    well_formed(page)
    assert "&lt;script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert "\x00" not in page


def test_nothing_is_loaded_from_outside_and_links_lead_somewhere(hacked: Path) -> None:
    page = render(hacked)
    reader = well_formed(page)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)
    assert not re.search(r"url\(|@import", page)
    assert all(link.startswith("#") and link[1:] in reader.ids for link in reader.links)
    assert len(set(reader.ids)) == len(reader.ids)


def test_words_of_clients_stand_in_the_probes_only(hacked: Path) -> None:
    page = render(hacked)
    before, _, after = page.partition('id="probes"')
    after = after.partition('id="curves"')[2]
    assert "packed a single box" in page
    assert "packed a single box" not in before + after


def test_write_leaves_one_private_file_and_the_same_files_give_the_same_page(hacked: Path) -> None:
    path = write(hacked)
    assert path == hacked / "report.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(hacked.glob(".report*"))
    assert path.read_text("utf-8") == render(hacked)


def test_a_bad_disk_keeps_the_old_page(hacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write(hacked).read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match="No space left"):
        write(hacked)
    monkeypatch.undo()
    assert (hacked / "report.html").read_bytes() == old
    assert not list(hacked.glob(".report*"))
