"""The second reader of the crisis path: calibrated, with an operating point, and never below the rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from heedful.classify import belief as module
from heedful.classify.belief import Example, RiskBelief, examples_of, examples_of_cases, train_belief
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.safety import crisis
from heedful.safety.evaluation import own_cases
from heedful.safety.policy import decide
from heedful.types import Conversation, Label, Turn


def toy(n: int = 60) -> list[Example]:
    """Words that tell the tiers apart, each conversation its own group."""
    words = {
        "none": "walk dog tea garden",
        "thoughts": "gone dark nothing left",
        "immediate": "tonight bridge plan ready",
    }
    tiers = ["none", "none", "thoughts", "none", "immediate"]
    return [
        Example(text=f"{words[tiers[i % 5]]} {i % 7}", tier=tiers[i % 5], group=f"g{i}", before=("hello",))
        for i in range(n)
    ]


@pytest.fixture(autouse=True)
def _without_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEATURES", "tfidf")


@pytest.fixture
def trained() -> RiskBelief:
    return train_belief(toy(), heads=3, folds=3, recall=0.9)[0]


def said(text: str) -> list[Turn]:
    return [Turn(role="user", text="hello"), Turn(role="user", text=text)]


def test_it_tells_tiers_apart_and_keeps_no_words(trained: RiskBelief) -> None:
    calm, dark, ready = (trained(said(t)) for t in ("dog walk", "nothing left gone", "bridge plan tonight"))
    assert calm.thoughts < trained.point.thoughts <= dark.thoughts
    assert ready.immediate >= trained.point.immediate
    assert all(not head._seen for head in trained.heads)


def test_the_operating_point_reaches_its_target_and_names_its_model(trained: RiskBelief) -> None:
    assert trained.point.recall >= trained.point.recall_target == 0.9
    assert trained.point.model == trained.name
    higher = train_belief(toy(), heads=3, folds=3, recall=1.0)[0].point
    assert higher.thoughts <= trained.point.thoughts, "more recall never costs a higher threshold"


def test_it_adds_to_rules_and_takes_nothing_away(trained: RiskBelief) -> None:
    words = "I am going to kill myself tonight."
    alone = decide(crisis.assess(words))
    with_belief = decide(crisis.assess(words), belief=trained(said("dog walk")), point=trained.point)
    assert with_belief.rung == alone.rung
    assert (
        decide(crisis.assess("nothing left"), belief=trained(said("nothing left")), point=trained.point).rung != "none"
    )


def test_saved_and_loaded_it_says_the_same(trained: RiskBelief, tmp_path: Path) -> None:
    trained.save(tmp_path / "b")
    again = RiskBelief.load(tmp_path / "b")
    assert again(said("nothing left")) == trained(said("nothing left"))
    assert again.point == trained.point


def test_what_was_changed_is_refused(trained: RiskBelief, tmp_path: Path) -> None:
    trained.save(tmp_path / "b")
    file = tmp_path / "b" / module.FILE
    found = json.loads(file.read_text())
    file.write_text(json.dumps({**found, "heads": 2}))
    with pytest.raises(DataError, match="not those that its operating point"):
        RiskBelief.load(tmp_path / "b")
    file.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        RiskBelief.load(tmp_path / "b")
    with pytest.raises(NotFoundError):
        RiskBelief.load(tmp_path / "nowhere")


def test_examples_are_messages_with_their_gravest_label() -> None:
    labels = (Label(set="risk", value="passive"), Label(set="risk", value="intent"))
    turns = (
        Turn(role="user", text="a"),
        Turn(role="assistant", text="b"),
        Turn(role="user", text="c", labels=labels),
        Turn(role="user", text="d", labels=(Label(set="risk", value="denied"),)),
    )
    found = examples_of([Conversation(id="x", turns=turns, source="t")])
    assert [(e.text, e.before, e.tier) for e in found] == [
        ("a", (), "none"), ("c", ("a",), "immediate"), ("d", ("a", "c"), "none")
    ]  # fmt: skip


def test_nothing_is_learnt_from_held_out_cases() -> None:
    from heedful.training.belief import BeliefConfig, gather

    held = {e.text for e in examples_of_cases(c for c in own_cases() if c.part == "held-out")}
    assert held
    assert not held & {e.text for e in gather(BeliefConfig())}


@pytest.mark.parametrize(("values", "error"), [({"recall": 0.2}, ConfigError), ({"heads": 1}, DataError)])
def test_what_cannot_be_asked_for_is_refused(values: dict[str, float], error: type[Exception]) -> None:
    with pytest.raises(error):
        train_belief(toy(), folds=3, **{"heads": 3, **values})  # type: ignore[arg-type]


def test_a_tier_without_examples_is_refused() -> None:
    with pytest.raises(DataError, match="immediate"):
        train_belief([e for e in toy() if e.tier != "immediate"], heads=3, folds=3)


def test_a_run_says_how_rules_and_belief_do_on_unseen_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heedful.training import belief as run

    monkeypatch.setattr(run, "gather", lambda config: toy())
    done = run.train(run.BeliefConfig(output_dir=str(tmp_path / "r"), heads=2, folds=2))
    table = done.summary["held-out cases"]
    assert table["rules or belief"]["recall"]["found"] >= table["rules"]["recall"]["found"]
    assert run.train(run.BeliefConfig(output_dir=str(tmp_path / "r"), heads=2, folds=2, resume_from_checkpoint=True))
