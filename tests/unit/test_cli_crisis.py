"""`heedful eval crisis`: the table, the gate, and a belief beside the rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from heedful.safety.evaluation import evaluate, own_cases

Call = Callable[..., tuple[int, str, str]]


def test_the_table_is_that_of_the_library(call: Call) -> None:
    code, out, _ = call("eval", "crisis", "--json")
    assert code == 0
    rows = {(r["part"], r["language"], r["cls"], r["kind"]): r["found"] for r in json.loads(out)["rows"]}
    expected = evaluate(own_cases()).row("held-out", "all")
    assert rows["held-out", "all", "all", "recall"] == expected.found


def test_the_gate_passes_and_says_so(call: Call) -> None:
    code, out, err = call("eval", "crisis", "--gate")
    assert code == 0
    assert "at or above what is on file" in err
    assert "held-out" in out


def test_the_gate_refuses_rules_that_find_less(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.cli import crisis

    high = json.loads(json.dumps(crisis.recorded()))
    row = high["rows"]["held-out/all/all/recall"]
    row["found"] = row["n"]
    monkeypatch.setattr(crisis, "recorded", lambda: high)
    code, _, err = call("eval", "crisis", "--gate")
    assert code == 3
    assert "do worse than what is on file" in err


def test_sets_that_are_not_at_hand_are_named(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path))
    code, _, err = call("eval", "crisis", "--outside")
    assert code == 0
    assert "xstest" in err


def test_a_belief_only_adds(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from heedful.classify import belief as module
    from heedful.classify.belief import Example, train_belief

    monkeypatch.setattr(module, "FEATURES", "tfidf")
    tiers = ("none", "thoughts", "immediate")
    toy = [
        Example(text=f"{['walk', 'gone', 'tonight'][i % 3]} {i}", tier=tiers[i % 3], group=f"g{i}") for i in range(30)
    ]
    train_belief(toy, heads=2, folds=2)[0].save(tmp_path / "b")
    _, out, _ = call("eval", "crisis", "--belief", tmp_path / "b", "--json")
    _, alone, _ = call("eval", "crisis", "--json")
    for with_belief, rules in zip(json.loads(out)["rows"], json.loads(alone)["rows"], strict=True):
        assert with_belief["found"] >= rules["found"]


def test_what_to_do_with_a_belief_is_said_when_it_is_trained(tmp_path: Path) -> None:
    from heedful.cli.train import _next

    said = _next(tmp_path, {"method": "belief"})
    assert f"heedful eval crisis --belief {tmp_path}" in said
    assert f"heedful serve belief={tmp_path}" in said
    assert "chat" not in said
