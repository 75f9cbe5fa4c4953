"""Scorers: features, heads, calibration, and what is kept of them; each part beside a reference or a count by hand."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from scorer_kit import LABELS, SECRET, SET, fitted, turns

from heedful import classify
from heedful.classify import FeatureSettings, Item, Lesson, Recipe, fit
from heedful.classify.base import Sparse, take, times
from heedful.classify.calibration import (
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    softmax,
)
from heedful.classify.features import make, parts_of
from heedful.classify.fit import class_weights
from heedful.classify.head import fit_head, logits
from heedful.classify.tfidf import TfIdf, _letter_grams, _word_grams, _words
from heedful.classify.tuned import TunedMiniLM
from heedful.classify.vectors import VectorStore
from heedful.errors import ConfigError, DataError, NotFoundError, RunError
from heedful.scoring.metrics.bertscore import missing

needs_encoder = pytest.mark.skipif(missing() is not None, reason=f"needs the sentence encoder: {missing()}")


def lesson(items: list[Item], gold: list[str], *, seed: int = 13, weights: Any = None) -> Lesson:
    targets = np.array([LABELS.index(label) for label in gold], dtype=np.int64)
    return Lesson(items=items, targets=targets, weights=np.ones(len(LABELS)) if weights is None else weights, seed=seed)


def dense(block: Sparse) -> Any:
    out = np.zeros((len(block), block.width))
    for i in range(len(block)):
        for at in range(block.start[i], block.start[i + 1]):
            out[i, block.columns[at]] += block.values[at]
    return out


# ---------------------------------------------------------------------------------------------------- features


def test_sparse_rows_multiply_like_dense_ones_also_where_they_are_empty() -> None:
    block = Sparse(
        columns=np.array([2, 0, 1, 2]),
        values=np.array([1, 2, 3, 4], dtype=np.float32),
        start=np.array([0, 0, 1, 1, 4, 4]),
        width=3,
    )
    weights = np.arange(6, dtype=np.float64).reshape(3, 2)
    assert np.array_equal(times(block, weights), dense(block) @ weights)
    some = take(block, np.array([3, 0, 3, 1]))
    assert isinstance(some, Sparse)
    assert np.array_equal(dense(some), dense(block)[[3, 0, 3, 1]])


@pytest.mark.parametrize("part", ["words", "letters"])
def test_tfidf_is_that_of_scikit_learn(part: str) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    items = [Item(text=t) for t in ("So glad, so very glad!", "Glad? No.", "It's late, no?", "Late again...", "")]
    ours = TfIdf(FeatureSettings())
    ours.fit(lesson(items, ["joy"] * 5))

    def analyse(said: str) -> list[int]:
        grams = _word_grams(_words(said), "w") if part == "words" else _letter_grams(_words(said), "l")
        return list(grams.elements())

    theirs = text.TfidfVectorizer(analyzer=analyse, sublinear_tf=True, min_df=2)
    expected = theirs.fit_transform([item.text for item in items]).toarray()
    at = [int(np.searchsorted(ours.known, gram)) for gram in theirs.get_feature_names_out()]
    assert np.allclose(dense(ours.block(items))[:, at], expected, atol=1e-6)


def test_tfidf_keeps_no_words_and_tells_context_from_turn() -> None:
    items = [Item(text="one two", context=("three four",)), Item(text="one two", context=("three four",))]
    features = TfIdf(FeatureSettings(context=1, speaker=True))
    features.fit(lesson(items, ["joy", "joy"]))
    swapped = [Item(text="one two", context=("one two",)), Item(text="one two", role="user")]
    first, second = dense(features.block(swapped))
    plain = dense(features.block(items))[0]
    assert np.count_nonzero(first != plain) == 3  # the context's words and their pair are not known as context
    assert np.count_nonzero(second != first) == 1  # the speaker alone
    assert features.known.dtype == np.uint32


def test_a_text_with_half_a_character_is_a_text() -> None:
    features = TfIdf(FeatureSettings())
    features.fit(lesson([Item(text="a\ud800 b"), Item(text="a\ud800 b")], ["joy", "joy"]))
    assert len(features.block([Item(text="a\ud800 b"), Item(text="")])) == 2


@pytest.mark.parametrize("name", ["", "tfidf+", "tfidf+tfidf"])
def test_names_of_features_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="joined by"):
        parts_of(name)
    with pytest.raises(NotFoundError, match=r"Did you mean 'minilm'"):
        make("minilmm", FeatureSettings())


# ------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("weighted", [True, False])
def test_the_logistic_head_is_scikit_learns_optimum_on_sparse_and_dense_rows(weighted: bool) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    items, gold = turns(150)
    gold = [label if i % 3 else "joy" for i, label in enumerate(gold)]
    weights = class_weights(gold, LABELS, "balanced" if weighted else "none")
    features = TfIdf(FeatureSettings())
    taught = lesson(items, gold, weights=weights)
    features.fit(taught)
    sparse = features.block(items)
    assert isinstance(sparse, Sparse)
    rows = dense(sparse)
    theirs = linear.LogisticRegression(
        C=2.0, class_weight="balanced" if weighted else None, max_iter=500, tol=1e-6
    ).fit(rows, gold)
    for block in (sparse, rows.astype(np.float32)):
        head = fit_head("logistic", [block], taught, l2=0.5)
        found = softmax(logits([block], head))[:, [LABELS.index(label) for label in theirs.classes_]]
        # Labels that never occur keep a probability next to nothing; the rest is theirs.
        assert np.abs(found - theirs.predict_proba(rows)).max() < 0.01


def test_two_blocks_are_one_wide_block() -> None:
    items, gold = turns(60)
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(60, 4)).astype(np.float32), draw.normal(size=(60, 3)).astype(np.float32)
    together = fit_head("logistic", [np.concatenate([left, right], axis=1)], lesson(items, gold), l2=1.0)
    apart = fit_head("logistic", [left, right], lesson(items, gold), l2=1.0)
    assert np.allclose(
        logits([left, right], apart), logits([np.concatenate([left, right], axis=1)], together), atol=1e-3
    )


def test_the_mlp_learns_what_no_line_divides() -> None:
    draw = np.random.default_rng(0)
    points = draw.choice([-1.0, 1.0], size=(800, 2)).astype(np.float32)
    gold = ["joy" if a * b > 0 else "anger" for a, b in points]
    items = [Item(text="")] * 800
    right = {}
    for kind in ("logistic", "mlp"):
        head = fit_head(kind, [points], lesson(items, gold), l2=0.01)  # type: ignore[arg-type]
        right[kind] = float(
            np.mean([LABELS[k] == g for k, g in zip(logits([points], head).argmax(1), gold, strict=True)])
        )
    assert right["mlp"] > 0.99
    assert right["logistic"] < 0.8


def test_equal_seeds_give_equal_scorers_and_the_seed_matters_where_something_is_drawn() -> None:
    texts = [item.text for item in turns(20, seed=5)[0]]
    one, same, other = (fitted(head="mlp", seed=seed).model.logits(texts) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_class_weights() -> None:
    gold = ["joy"] * 8 + ["anger"] * 2
    assert class_weights(gold, ("joy", "anger", "fear"), "balanced").tolist() == [10 / 16, 10 / 4, 1.0]
    assert class_weights(gold, ("joy", "anger"), "sqrt") == pytest.approx([(10 / 16) ** 0.5, (10 / 4) ** 0.5])
    assert class_weights(gold, ("joy", "anger"), "none").tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------------- calibration


def test_the_temperature_undoes_overconfidence() -> None:
    draw = np.random.default_rng(0)
    true = draw.normal(size=(4000, 3))
    targets = np.array([draw.choice(3, p=row) for row in softmax(true)], dtype=np.int64)
    found = fit_temperature(4.0 * true, targets)
    assert found == pytest.approx(4.0, rel=0.1)
    nearby = [negative_log_likelihood(4.0 * true, targets, found * f) for f in (0.98, 1.0, 1.02)]
    assert nearby[1] == min(nearby)
    before, after = (calibration_error(softmax(4.0 * true, t), targets) for t in (1.0, found))
    assert after < 0.03 < before


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])
    targets = np.array([0, 1, 1, 0])
    # Bins: {0.9, 0.9} right 1 of 2, {0.7} right, {0.5} right (a tie takes the first label).
    assert calibration_error(probabilities, targets) == pytest.approx((2 * 0.4 + 1 * 0.3 + 1 * 0.5) / 4)
    bins = reliability(probabilities, targets)
    assert [(b.n, b.accuracy) for b in bins] == [(1, 1.0), (1, 1.0), (2, 0.5)]
    assert all(b.low < b.confidence <= b.high for b in bins)


# ------------------------------------------------------------------------------------------------ what is kept


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorer")
    fitted().model.save(folder)
    return folder


def test_a_scorer_reads_what_it_was_taught() -> None:
    made = fitted()
    items, gold = turns(50, seed=9)
    texts = [item.text for item in items]
    assert made.model.predict(texts) == gold
    rows = made.model.probabilities(texts)
    assert rows.shape == (50, 7)
    assert np.allclose(rows.sum(axis=1), 1.0)
    unseen = [LABELS.index(label) for label in ("depression", "disgust", "sadness", "fear")]
    assert rows[:, unseen].max() < 0.02
    assert made.model.probabilities([]).shape == (0, 7)
    assert np.allclose(softmax(made.model.logits(texts), made.model.temperature), rows)
    assert made.parameters == sum(v.size for v in made.model.head.values())


def test_saved_and_opened_it_gives_the_same_answers(saved: Path) -> None:
    texts = [item.text for item in turns(30, seed=4)[0]]
    model = classify.load(saved)
    fresh = fitted().model
    assert np.allclose(model.probabilities(texts), fresh.probabilities(texts), atol=1e-12)
    assert (model.label_set, model.labels, model.record["seed"]) == (SET, LABELS, 13)
    assert classify.load(str(saved)) is model
    assert len(model.fingerprint) == 16
    assert SECRET not in repr(model)


def test_its_files_hold_no_pickle_and_no_word(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == ["scorer.json", "scorer.npz"]
    with np.load(saved / "scorer.npz", allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "fu" for name in file.files)
    for path in saved.iterdir():
        assert SECRET.encode() not in path.read_bytes()
    assert os.stat(saved / "scorer.npz").st_mode & 0o077 == 0


def test_the_fingerprint_covers_numbers_and_temperature_but_not_the_record(saved: Path, tmp_path: Path) -> None:
    made = fitted().model
    made.name, made.record = "another name", {"features": "tfidf", "seed": 99}
    made.save(tmp_path)
    assert made.fingerprint == classify.load(saved).fingerprint
    made.temperature *= 2
    made.save(tmp_path)
    assert made.fingerprint != classify.load(saved).fingerprint
    assert classify.load(tmp_path).temperature == made.temperature  # written anew, opened anew


def test_what_cannot_be_opened_is_one_sentence(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is no folder; train one with"):
        classify.load(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="holds no scorer"):
        classify.load(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    values = json.loads((other / "scorer.json").read_text("utf-8"))
    (other / "scorer.json").write_text(json.dumps({**values, "temperature": 9.0}), "utf-8")
    with pytest.raises(DataError, match="do not belong together"):
        classify.load(other)
    (other / "scorer.json").write_text(json.dumps({**values, "version": 2}), "utf-8")
    with pytest.raises(DataError, match="has version 2"):
        classify.load(other)
    (other / "scorer.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"cannot be read \(JSONDecodeError\)"):
        classify.load(other)
    shutil.copy(saved / "scorer.json", other)
    (other / "scorer.npz").write_bytes((saved / "scorer.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        classify.load(other)


def test_each_distinct_text_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted().model
    asked: list[str] = []
    block = TfIdf.block
    monkeypatch.setattr(
        TfIdf, "block", lambda self, items: (asked.extend(item.text for item in items), block(self, items))[1]
    )
    first = model.probabilities(["never said before", "nor this", "never said before"])
    assert asked == ["never said before", "nor this"]
    again = model.probabilities(["nor this", "never said before"])
    assert len(asked) == 2
    assert np.array_equal(first[[1, 0]], again)


def test_contexts_are_wanted_where_they_count() -> None:
    items, gold = turns(80)
    shown = [Item(text="well", context=("long ago", item.text)) for item in items]
    recipe = Recipe(features="tfidf", settings=FeatureSettings(context=1))
    model = fit(shown, gold, label_set=SET, labels=LABELS, recipe=recipe).model
    before = [["something else", items[0].text], [items[1].text]]
    assert model.predict(["well", "well"], before) == gold[:2]  # one turn back is all it looks at
    with pytest.raises(ConfigError, match="looks at 1 turns before"):
        model.predict(["well"])
    with pytest.raises(ConfigError, match="equally long, but they have 1, 2 and 1"):
        model.predict(["well"], before)


def test_one_label_is_nothing_to_tell_apart() -> None:
    items, _ = turns(5)
    with pytest.raises(DataError, match="at least 2 labels to learn from, but 5 turns carry 1"):
        fit(items, ["joy"] * 5, label_set=SET, labels=LABELS, recipe=Recipe(features="tfidf"))


def test_same_family_says_why_two_scorers_are_not_independent() -> None:
    def model(features: str, seed: int, fingerprint: str) -> Any:
        made = fitted().model
        made.record, made.fingerprint = {"features": features, "seed": seed}, fingerprint
        return made

    one = model("minilm+tfidf", 13, "a")
    assert classify.same_family(one, model("char", 42, "b")) is None
    assert "same scorer" in (classify.same_family(one, model("char", 42, "a")) or "")
    assert "both use the features tfidf" in (classify.same_family(one, model("tfidf", 42, "b")) or "")
    assert "features minilm" in (classify.same_family(one, model("minilm_tuned", 42, "b")) or "")
    assert "seed 13" in (classify.same_family(one, model("char", 13, "b")) or "")


# ----------------------------------------------------------------------------------------- the sentence encoder


class Counting:
    """Stands in for an encoder: one vector per length of text, and a list of what it was asked."""

    dim, signature = 2, "toy|layers:1|fp32"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> Any:
        self.asked += texts
        return np.array([[len(t), 1.0] for t in texts], dtype=np.float32).reshape(-1, 2)


def test_kept_vectors_are_computed_once_and_tell_no_text(tmp_path: Path) -> None:
    first = Counting()
    VectorStore(first, folder=tmp_path).keep([SECRET, "short"])  # type: ignore[arg-type]
    second = Counting()
    store = VectorStore(second, folder=tmp_path)  # type: ignore[arg-type]
    assert store.encode(["short", "new", SECRET])[:, 0].tolist() == [5, 3, len(SECRET)]
    assert (first.asked, second.asked) == ([SECRET, "short"], ["new"])
    assert store.encode([]).shape == (0, 2)
    assert SECRET.encode() not in store.path.read_bytes()
    assert os.stat(store.path).st_mode & 0o077 == 0
    store.path.write_bytes(store.path.read_bytes()[:100])  # torn
    third = Counting()
    VectorStore(third, folder=tmp_path).keep(["short"])  # type: ignore[arg-type]
    assert third.asked == ["short"]


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    VectorStore(Counting(), folder=tmp_path / "file" / "below").keep(["short"])  # type: ignore[arg-type]


@needs_encoder
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frozen_vectors_with_context_and_speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEEDFUL_CACHE", str(tmp_path))
    ((_, features),) = make("minilm", FeatureSettings(context=1, speaker=True))
    alone, after = Item(text="glad", role="user"), Item(text="glad", context=("furious",))
    rows = features.block([alone, after])
    assert not isinstance(rows, Sparse)
    assert rows.shape == (2, 769)
    assert np.array_equal(rows[0, :384], rows[1, :384])
    assert not rows[0, 384:768].any()
    assert np.linalg.norm(rows[1, 384:768]) == pytest.approx(1.0, abs=1e-5)
    assert rows[:, 768].tolist() == [-1.0, 1.0]


@needs_encoder
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tuned_encoder_learns_is_saved_and_opened(tmp_path: Path) -> None:
    items, gold = turns(48)
    recipe = Recipe(
        features="minilm_tuned", settings=FeatureSettings(epochs=3, batch_size=8, learning_rate=2e-4, precision="fp32")
    )
    rows: list[dict[str, float]] = []
    model = fit(
        items, gold, label_set=SET, labels=LABELS, recipe=recipe, log=rows.append,
        record={"features": "minilm_tuned", "seed": 13},
    ).model  # fmt: skip
    texts = [item.text for item in turns(20, seed=3)[0]]
    model.save(tmp_path)
    opened = classify.load(tmp_path)
    assert np.allclose(opened.logits(texts), model.logits(texts), atol=1e-4)
    assert opened.predict(texts) == turns(20, seed=3)[1]
    assert rows[0]["tuning_step"] == 1
    shutil.rmtree(tmp_path / "encoder")
    with pytest.raises(NotFoundError, match="needs its folder 'encoder'"):
        classify.model._load.__wrapped__(tmp_path.resolve(), 0)


@needs_encoder
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tuning_that_explodes_stops_and_one_out_of_time_keeps_what_it_has() -> None:
    items, gold = turns(24)
    wild = TunedMiniLM(FeatureSettings(learning_rate=1e30, epochs=4, batch_size=8, precision="fp32"))
    with pytest.raises(RunError, match=r"not a number at step \d+; lower learning_rate"):
        wild.fit(lesson(items, gold))
    said: list[str] = []
    short = TunedMiniLM(FeatureSettings(epochs=50, batch_size=8, max_seconds=0.2, precision="fp32"))
    short.fit(Lesson(items=items, targets=lesson(items, gold).targets, weights=np.ones(7), seed=1, say=said.append))
    assert "the time was over after" in said[-1]
    with pytest.raises(ConfigError, match="reads the turn alone"):
        TunedMiniLM(FeatureSettings(context=1))
    with pytest.raises(RunError, match="fitted or restored"):
        TunedMiniLM(FeatureSettings()).block(items)
