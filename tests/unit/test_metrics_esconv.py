"""Scores that esconv.md and anchors.md define: by hand, by the loop that defines them, and against printed numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from heedful.errors import ConfigError, DataError, LabelError, NotFoundError
from heedful.scoring import GROUPS, METRICS, Rows, anchors, score
from heedful.scoring.anchors import Anchor, AnchorTable
from heedful.scoring.files import load, read
from heedful.scoring.metrics import embedding
from heedful.scoring.published import GLHG_MEASURED, perplexities

# ----------------------------------------------------------------------------------------------- the table of metrics


def test_every_score_of_the_specification_has_a_name() -> None:
    asked = {
        "bleu1", "bleu2", "bleu3", "bleu4", "rougeL_published", "f1", "distinct1", "distinct2", "distinct1_published",
        "distinct2_published", "distinct1_per1000", "distinct2_per1000", "embedding_extrema", "embedding_average",
        "embedding_greedy",
    }  # fmt: skip
    assert asked <= set(GROUPS["esconv"])
    assert set(GROUPS["strategy"]) == {
        "accuracy", "top1", "top3", "accuracy_sampled", "macro_f1", "weighted_f1", "preference_bias",
    }  # fmt: skip
    for group in GROUPS.values():
        for entry in group:
            for name in entry.split("|"):
                assert METRICS.get(name).name == name


def test_rouge_l_with_beta_1_2_equals_the_published_loop() -> None:
    def by_loop(reply: list[str], reference: list[str]) -> float:
        table = np.zeros((len(reply) + 1, len(reference) + 1))
        for i, a in enumerate(reply):
            for j, b in enumerate(reference):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        p, r = table[-1, -1] / len(reply), table[-1, -1] / len(reference)
        return (1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p and r else 0.0

    texts = [("a b c d e", "b d c e x"), ("x", "a b"), ("a a b", "a b a"), ("c d", "c d")]
    rows = Rows.of([a for a, _ in texts], [b for _, b in texts])
    line = score(rows, metrics=["rougeL_published"], bootstrap=0).lines[0]
    np.testing.assert_allclose(line.per_sample, [100 * by_loop(a.split(), b.split()) for a, b in texts])


# ------------------------------------------------------------------------------------------ labels and distributions

LABELS = ("ask", "reflect", "advise", "other")


def test_top_k_counts_what_is_ahead_of_the_gold_label() -> None:
    rows = Rows.of(
        gold=["ask", "other", "advise", "other"],
        predicted=["ask", "ask", "ask", "ask"],
        sampled=["other", "other", "advise", "ask"],
        distributions=[(0.4, 0.3, 0.2, 0.1), (0.4, 0.3, 0.2, 0.1), (0.25, 0.25, 0.25, 0.25), (0.0, 0.0, 0.0, 1.0)],
        labels=LABELS,
    )
    table = score(rows, metrics=["strategy"], bootstrap=0)
    assert table.value("accuracy") == 25.0
    assert table.value("accuracy_sampled") == 50.0  # another number under another name
    np.testing.assert_array_equal(table.line("top1").per_sample, [100, 0, 0, 100])
    np.testing.assert_array_equal(table.line("top3").per_sample, [100, 0, 100, 100])  # a tie goes by the label's order


def test_rows_without_distribution_or_draw_are_unscored() -> None:
    rows = Rows.of(
        gold=["ask", "ask", None],
        predicted=["ask", "other", "ask"],
        distributions=[(0.1, 0.2, 0.3, 0.4), None, (1, 0, 0, 0)],
        labels=LABELS,
    )
    table = score(rows, metrics=["strategy"], bootstrap=0)
    top = table.line("top3")
    assert (top.value, top.n, top.unscored) == (0.0, 1, 2)
    assert top.reason == "no gold label; no distribution over the labels"
    assert (table.line("accuracy_sampled").value, table.line("accuracy_sampled").reason) == (
        None,
        "no gold label; no sampled label",
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [((0.5, 0.5), "for each of the 4 labels"), ((0.5, 0.5, 0.5, 0.0), "add up to 1"), ((1.5, -0.5, 0, 0), "0 or more")],
)
def test_what_is_no_distribution(row: tuple[float, ...], message: str) -> None:
    rows = Rows.of(gold=["ask"], distributions=[row], labels=LABELS)
    with pytest.raises(DataError, match=message):
        score(rows, metrics=["top1"])


def test_a_drawn_label_outside_the_set_is_refused() -> None:
    with pytest.raises(LabelError, match="not in the label set of 4: shrug"):
        score(Rows.of(gold=["ask"], sampled=["shrug"], labels=LABELS), metrics=["accuracy_sampled"])
    with pytest.raises(DataError, match="2 rows but 1 distributions"):
        Rows.of(gold=["ask", "ask"], distributions=[(1, 0, 0, 0)], labels=LABELS)


# -------------------------------------------------------------------------------------------------------- embeddings

VECTORS = {
    "sad": (1.0, -3.0, 0.5),
    "sorry": (2.0, 1.0, 0.25),
    "job": (-4.0, 0.5, -1.0),
    "work": (-3.0, 1.0, -1.0),
}


@pytest.fixture
def glove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tiny.3d.txt"
    path.write_text("".join(f"{w} {' '.join(map(str, v))}\n" for w, v in VECTORS.items()), "utf-8")
    monkeypatch.setenv("HEEDFUL_GLOVE", str(path))
    monkeypatch.setenv("HEEDFUL_CACHE", str(tmp_path / "cache"))
    return path


def of(*words: str) -> np.ndarray:
    mean = np.mean(list(VECTORS.values()), axis=0)
    return np.array([VECTORS.get(word, mean) for word in words])


def published_extrema(words: np.ndarray) -> list[float]:
    """nlg-eval's rule, as it is written there."""
    out = []
    for x, y in zip(words.max(axis=0), words.min(axis=0), strict=True):
        out.append(x if ((x > y or x < -y) and y > 0) or ((x < y or x > -y) and y < 0) else y)
    return out


def cosine(a: object, b: object) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_word_vector_scores_by_hand(glove: Path) -> None:
    said, wanted = of("sad", "sorry", "unheard"), of("work", "sad")
    table = score(Rows.of(["Sad sorry unheard"], ["work SAD"]), metrics=["embedding"], bootstrap=0)
    expected = {
        "embedding_extrema": cosine(published_extrema(said), published_extrema(wanted)),
        "embedding_average": cosine(said.sum(axis=0), wanted.sum(axis=0)),
    }
    cosines = np.array([[cosine(a, b) for b in wanted] for a in said])
    expected["embedding_greedy"] = (cosines.max(axis=0).mean() + cosines.max(axis=1).mean()) / 2
    for name, value in expected.items():
        assert table.value(name) == pytest.approx(100 * value), name
    assert f"tiny.3d.txt:{glove.stat().st_size}" in table.line("embedding_extrema").signature


@pytest.mark.parametrize("seed", range(4))
def test_extrema_equal_the_published_rule(seed: int) -> None:
    words = np.random.default_rng(seed).normal(size=(4, 50)).round(1)
    words[:, :10] = np.abs(words[:, :10])
    words[0, :5] = 0.0  # the smallest value is exactly 0: the published rule then takes it
    words[0, 5], words[1:, 5] = -2.0, 2.0  # as far from 0 on both sides
    np.testing.assert_array_equal(embedding.extrema(words), published_extrema(words))


def test_equal_replies_score_100_and_empty_ones_nothing(glove: Path) -> None:
    table = score(Rows.of(["my job", "", "work"], ["my job", "sad", ""]), metrics=["embedding"], bootstrap=0)
    for line in table.lines:
        assert line.value == pytest.approx(100.0)
        assert (line.n, line.unscored, line.reason) == (1, 2, "no word in the reply or in the reference")


def test_without_the_file_these_scores_are_unscored_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEEDFUL_GLOVE", raising=False)
    monkeypatch.setenv("HEEDFUL_DATA", str(tmp_path))
    rows = Rows.of(["a b"], ["a c"])
    table = score(rows, metrics=["esconv"], bootstrap=0)
    line = table.line("embedding_extrema")
    assert line.value is None
    assert f"put glove.6B.300d.txt at {tmp_path / 'glove' / 'glove.6B.300d.txt'}" in str(line.reason)
    assert table.value("f1") == 50.0
    with pytest.raises(NotFoundError, match="need word vectors, but: no word vectors"):
        score(rows, metrics=["embedding_average"])
    (tmp_path / "glove").mkdir()
    (tmp_path / "glove" / "glove.6B.300d.txt").write_text("a 1 0\nb 0 1\nc 0 -1\n", "utf-8")
    monkeypatch.setenv("HEEDFUL_CACHE", str(tmp_path / "cache"))
    assert score(rows, metrics=["esconv"], bootstrap=0).value("embedding_average") == pytest.approx(0.0)
    monkeypatch.setenv("HEEDFUL_GLOVE", str(tmp_path / "elsewhere.txt"))
    assert "HEEDFUL_GLOVE names" in str(score(rows, metrics=["embedding"], bootstrap=0).lines[0].reason)


def test_the_mean_is_kept_and_the_file_is_read_for_new_words_only(glove: Path, tmp_path: Path) -> None:
    vectors = embedding.WordVectors(glove)
    np.testing.assert_allclose(vectors.table(["sad", "nowhere"]), of("sad", "nowhere"))
    kept = list((tmp_path / "cache" / "vectors").glob("tiny.3d-*.npy"))
    assert len(kept) == 1
    np.save(kept[0], np.array([7.0, 7.0, 7.0]))  # so that one sees who reads it
    again = embedding.WordVectors(glove)
    np.testing.assert_allclose(again.table(["job", "nowhere"]), [VECTORS["job"], (7.0, 7.0, 7.0)])
    glove.rename(tmp_path / "moved.txt")
    np.testing.assert_allclose(again.table(["nowhere", "job"]), [(7.0, 7.0, 7.0), VECTORS["job"]])
    with pytest.raises(FileNotFoundError):
        again.table(["work"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1 2 3\nb 1 2\nc 1 2 3 4\n", "line 2: expected a word and 3 numbers"),
        ("a 1 2 3\nb 1 two 3\n", "line 2: expected a word and 3 numbers"),
        ("", "the file is empty"),
    ],
)
def test_damaged_vectors(glove: Path, content: str, message: str) -> None:
    glove.write_text(content, "utf-8")
    with pytest.raises(DataError, match=message):
        embedding.WordVectors(glove).table(["a"])


def test_a_word2vec_header_is_no_word(glove: Path) -> None:
    glove.write_text(f"4 3\n{glove.read_text('utf-8')}", "utf-8")
    np.testing.assert_allclose(embedding.WordVectors(glove).table(["4", "sad"]), of("4", "sad"))


# ---------------------------------------------------------------------------------------------------- published rows


def test_a_table_is_about_one_protocol() -> None:
    rows = [anchors.table(block).rows[0] for block in ("Z", "L")]
    with pytest.raises(ConfigError, match=r"one protocol \(Z\), but rows of L"):
        AnchorTable(block=anchors.table("Z").block, about="replies", rows=tuple(rows))
    for about in ("replies", "strategies"):
        for block in anchors.blocks():
            try:
                found = anchors.table(block.id, about)
            except NotFoundError:
                continue
            assert {row.block for row in found.rows} == {block.id}
            assert found.title.startswith(f"Published, block {block.id}:")
            assert f"block {block.id}:" in found.markdown().splitlines()[0]
            assert found.to_dict()["block"]["id"] == block.id


def test_rows_of_the_specification() -> None:
    assert [block.id for block in anchors.blocks()] == ["Z", "Z?", "Z+", "L", "D", "O", "X"]
    by_name = {row.system: row for row in anchors.table("Z").rows}
    assert by_name["GLHG"].values == {
        "perplexity": 15.67, "bleu2": 7.57, "bleu4": 2.13, "rougeL_published": 16.37, "distinct1_published": 3.5,
        "distinct2_published": 21.61,
    }  # fmt: skip
    assert by_name["TransESC, leak-free re-run"].values["accuracy"] == 31.15
    assert by_name["one fixed generic reply"].kind == "floor"
    assert by_name["KEMI"].cell("bleu2") == "?"
    assert by_name["GLHG"].cell("accuracy") == "-"
    assert by_name["GLHG"].cell("distinct1_published") == "3.50"  # digits as printed
    strategies = anchors.table("Z+", "strategies", kinds=["published"]).rows
    assert [row.system for row in strategies][:2] == ["EmoDynamiX", "TransESC"]
    assert strategies[0].values == {"macro_f1": 27.7, "weighted_f1": 32.71, "preference_bias": 0.45}
    floors = {r.system: r.values for r in anchors.table("Z+", "strategies", kinds=["floor"]).rows}
    assert floors["class-balanced logistic regression"]["macro_f1"] == 25.07


def test_withdrawn_and_oracle_rows_are_marked() -> None:
    found = anchors.table("O")
    oracles = [row for row in found.rows if row.kind == "oracle"]
    assert [row.system for row in oracles] == ["BlenderBot Oracle", "DialoGPT Oracle"]
    assert oracles[0].cell("perplexity") == "16.03*"
    assert "18.61" in oracles[0].note
    assert "- *: withdrawn by its authors" in found.markdown()


def test_wrong_rows_and_names() -> None:
    with pytest.raises(NotFoundError, match=r"Unknown block 'Q'.*Known: Z"):
        anchors.table("Q")
    with pytest.raises(NotFoundError, match=r"block L has no such rows about strategies; blocks with some: Z\+"):
        anchors.table("L", "strategies")
    about = {"block": "Z", "system": "x", "split": "", "source": ""}
    with pytest.raises(DataError, match="kind is 'best'"):
        Anchor(**about, kind="best")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unknown columns: bleu9"):
        Anchor(**about, kind="published", printed={"bleu9": "1"})
    with pytest.raises(DataError, match="a value that is no number"):
        Anchor(**about, kind="published", printed={"bleu2": "7,5"})


# ----------------------------------------------------------------------------------------------- GLHG's stored losses


def test_three_perplexities_by_hand() -> None:
    found = perplexities([1.0, 3.0], [30, 10])
    assert found.token == pytest.approx(math.exp((1 * 30 + 3 * 10) / 40))
    assert found.of_mean_loss == pytest.approx(math.exp(2))
    assert found.mean == pytest.approx((math.exp(1) + math.exp(3)) / 2)
    for losses, tokens in (([], []), ([1.0], [1, 2]), ([math.nan], [1]), ([1.0], [0])):
        with pytest.raises(DataError, match="A perplexity needs"):
            perplexities(losses, tokens)


@pytest.mark.data("glhg_generations")
def test_glhg_rouge_l_and_perplexity(data_root: Path) -> None:
    path = data_root / "glhg_generations" / "generation-glhg.json.gz"
    rows, _ = read(path)
    rouge = score(rows, metrics=["rougeL_published", "rougeL"], bootstrap=0)
    assert round(rouge.value("rougeL_published") or 0, 2) == GLHG_MEASURED["rougeL_published"] == 16.05
    records = load(path)
    found = perplexities([r["loss"] for r in records], [r["token_num"] for r in records])
    assert round(found.token, 2) == GLHG_MEASURED["perplexity"] == 16.11
    # anchors.md, section 5: what the same losses give when they are averaged otherwise.
    assert (round(found.of_mean_loss, 2), round(found.mean, 2)) == (14.69, 27.19)
    by_name = {row.system: row.values for row in anchors.table("Z").rows}
    rescored = by_name["GLHG released outputs, re-scored"]
    table = score(rows, metrics=["published"], bootstrap=0)
    for name, value in rescored.items():
        assert value == pytest.approx(found.token if name == "perplexity" else table.value(name), abs=0.005), name
