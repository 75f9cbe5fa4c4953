"""A suite becomes one page: same places, floors beside systems, pictures of numbers, published rows of one block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from conftest import Call
from heedful.errors import ConfigError, NotFoundError
from heedful.evaluation import suites
from heedful.evaluation.comparison import Comparison, compare, drawn, render
from heedful.evaluation.suites import Suite, study_of
from heedful.formats import make
from heedful.models.causal import add_markers
from heedful.settings import check
from heedful.testing import tiny_model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite") / "joint"
    causal = tiny_model()
    add_markers(causal, make("strategy").markers)
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    return folder


def suite(run: Path, **more: Any) -> Suite:
    system = {"model_name_or_path": str(run), "format": "strategy", "make": "heedful train recipes/x.yaml"}
    values: dict[str, Any] = {
        "title": "A toy suite",
        "block": "Z",
        "floors": "commons",
        "labels": "esconv_strategy",
        "systems": {
            "joint": {**system, "plan": "argmax"},
            "oracle": {**system, "plan": "gold"},
            "gone": {**system, "model_name_or_path": "runs/not-there", "make": "heedful train recipes/gone.yaml"},
        },
        "study": {
            "dataset": "commons", "split": "test", "max_conversations": 3, "metrics": ["bleu2", "length"],
            "bootstrap": 20,
            "baselines": ["fixed_reply"], "decodings": {"greedy": {"max_new_tokens": 4}}, "examples": 1,
            "dtype": "float32",
        },
        **more,
    }  # fmt: skip
    return check(Suite, values)


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    toy = suite(runs)
    folder = tmp_path_factory.mktemp("compared")
    return compare(toy, study_of(toy, "toy", ["joint", "oracle"], overrides=[f"output_dir={folder}"]))


@pytest.mark.slow
def test_the_page_has_all_its_parts(made: Comparison) -> None:
    text = made.page.read_text("utf-8")
    for said in ("A toy suite", "What the numbers cannot say", "GLHG", "fixed", "Over the course of the talk"):
        assert said in text
    found = made.summary["strategies"]
    assert list(found["systems"]) == ["joint"]
    assert found["handed"] == ["oracle"]  # 100 % by construction, so it is said and not scored
    scores = found["systems"]["joint"]["scores"]
    assert set(scores) == {"accuracy", "macro_f1", "weighted_f1", "preference_bias", "top3"}
    assert 0 <= scores["accuracy"]["low"] <= scores["accuracy"]["value"] <= scores["top3"]["value"] + 1e-9
    confusion = found["systems"]["joint"]["confusion"]
    assert sum(map(sum, confusion)) == made.summary["corpus"]["targets"]
    assert made.summary["floors"]["strategies"]


@pytest.mark.slow
def test_no_word_of_the_corpus_is_on_the_page_or_in_its_numbers(made: Comparison) -> None:
    from heedful import corpora

    texts = [turn.text for conv in corpora.load("commons", "test")[:3] for turn in conv.turns if len(turn.text) > 25]
    for path in (
        made.page,
        made.folder / "comparison.md",
        made.folder / "comparison.json",
        *(made.folder / "pictures").iterdir(),
    ):
        written = path.read_text("utf-8")
        assert not [text for text in texts if text in written], path.name


@pytest.mark.slow
def test_pictures_are_files_and_the_same_numbers_draw_them_again(made: Comparison) -> None:
    names = set(drawn(made.summary))
    assert names == {"progress-gold", "progress-joint", "confusion-joint"}
    assert {p.stem for p in (made.folder / "pictures").iterdir()} == names
    assert render(made.summary) == made.page.read_text("utf-8")


@pytest.mark.slow
def test_the_text_has_the_numbers_of_the_page(made: Comparison) -> None:
    text = (made.folder / "comparison.md").read_text("utf-8")
    scores = made.summary["strategies"]["systems"]["joint"]["scores"]
    assert f"| joint | argmax | {scores['accuracy']['value']:.2f} (" in text
    assert "| majority" in text
    assert "Handed over, and so not scored: oracle." in text
    assert "![progress-gold](pictures/progress-gold.svg)" in text
    assert text.index("progress-gold") < text.index("progress-joint")
    head = next(line for line in text.splitlines() if line.startswith("| greedy"))
    assert head.count("|") == len(made.summary["systems"]) + 2
    for limit in made.summary["limits"]:
        assert limit in text


def test_floors_are_of_the_places_that_systems_have(made: Comparison) -> None:
    floors = made.summary["floors"]
    assert floors["turns"] == made.summary["corpus"]["targets"]
    assert floors["dialogues"] == 3


def test_published_rows_stand_beside_the_suites_own_places_alone(runs: Path, tmp_path: Path) -> None:
    toy = suite(runs, floors=None)
    few = study_of(toy, "toy", ["oracle"], overrides=[f"output_dir={tmp_path / 'few'}", "max_conversations=1"])
    assert compare(toy, few).summary["published"] == []
    nothing = study_of(toy, "toy", ["oracle"], overrides=[f"output_dir={tmp_path / 'no'}", "split=null"])
    with pytest.raises(ConfigError, match="name both, for instance split=test"):
        compare(toy, nothing)
    assert not (tmp_path / "no").exists()


def test_a_run_that_is_missing_is_named_with_the_command_that_makes_it(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs runs/not-there.*heedful train recipes/gone\.yaml.*--run gone=FOLDER"):
        study_of(suite(runs), "toy", ["joint", "gone"])
    assert list(study_of(suite(runs), "toy").systems) == ["joint", "oracle"]  # all that are here
    assert list(study_of(suite(runs), "toy", ["gone"], runs={"gone": str(runs)}).systems) == ["gone"]


def test_what_is_not_in_the_suite_is_refused(runs: Path) -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'oracle'"):
        study_of(suite(runs), "toy", ["oracel"])
    with pytest.raises(NotFoundError, match=r"Unknown suite 'esconf'\. Did you mean 'esconv'"):
        suites.get("esconf")


def test_what_is_tested_does_not_hang_on_the_order_of_names(runs: Path) -> None:
    plain = suite(runs)
    fixed = plain.model_copy(
        update={
            "against": ["fixed_reply", "joint"],
            "contrasts": [("joint", "gone")],
            "study": {**plain.study, "baselines": ["fixed_reply"]},
        }
    )
    for names in (["joint", "oracle"], ["oracle", "joint"]):
        found = set(study_of(fixed, "toy", names).pairs)
        assert found == {("fixed_reply", "joint"), ("fixed_reply", "oracle"), ("joint", "oracle")}


def test_the_shipped_suites_can_be_read() -> None:
    for name in suites.names():
        found = suites.get(name)
        assert found.systems
        for spec in found.systems.values():
            named = "/" not in spec.model_name_or_path
            assert spec.make is None if named else str(spec.make).startswith("heedful train recipes/")


def test_the_verb_says_what_is_missing(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call("eval", "compare", "esconv")
    assert code == 2
    assert "Not one run of the suite 'esconv' is here. Begin with: heedful train recipes/esconv-joint.yaml" in err
    code, _, err = call("eval", "compare", "esconv", "--systems", "joint", "--run", "joint")
    assert code == 2
    assert "--run takes SYSTEM=FOLDER" in err
