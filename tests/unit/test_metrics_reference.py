"""Each metric equals the library or the published code that it names, on invented pairs full of edge cases."""

from __future__ import annotations

import importlib.util
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from conftest import needs
from heedful.errors import NotFoundError
from heedful.scoring import Rows, score
from heedful.scoring.files import read
from heedful.scoring.published import FIXED_REPLY, GLHG_PRINTED
from heedful.scoring.text import published_tokens
from heedful.scoring.wordnet import find, load

WORDS = (
    "i you feel feeling felt sad sorrow grief grieves hear sorry that's it's tired, alone; work (maybe) what? yes! no. "
    "and the The 3.5 well-being don't cannot goose geese dogs happier"
)


def pairs(n: int, seed: int) -> Rows:
    draw = random.Random(seed)
    words = WORDS.split()

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.choice((0, 1, 2, 3, 5, 8, 13, 21))))

    references = [text() for _ in range(n)]
    hypotheses = [r if draw.random() < 0.1 else text() for r in references]
    return Rows.of(hypotheses, references, clusters=[i // 5 for i in range(n)])


@pytest.fixture(params=[(1, 5), (7, 3), (120, 1)])
def rows(request: pytest.FixtureRequest) -> Rows:
    return pairs(*request.param)


def value(rows: Rows, name: str) -> float:
    found = score(rows, metrics=[name], bootstrap=0).value(name)
    assert found is not None
    return found


def test_sacrebleu(rows: Rows) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    expected = sacrebleu.corpus_bleu(rows.texts("hypothesis"), [rows.texts("reference")]).score
    assert value(rows, "sacrebleu") == pytest.approx(expected, abs=1e-9)


def test_sacrebleu_of_short_replies_and_of_none() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    for hypotheses, references in ((["a b"], ["a b"]), ([""], ["a b"]), (["x"], ["a b"]), (["a b c d"], ["a b x d"])):
        expected = sacrebleu.corpus_bleu(hypotheses, [references]).score
        assert value(Rows.of(hypotheses, references), "sacrebleu") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_equals_nltk_with_method3(rows: Rows, order: int) -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    references = [[published_tokens(text)] for text in rows.texts("reference")]
    hypotheses = [published_tokens(text) for text in rows.texts("hypothesis")]
    smoothing = bleu.SmoothingFunction().method3
    expected = bleu.corpus_bleu(references, hypotheses, (1 / order,) * order, smoothing_function=smoothing)
    assert value(rows, f"bleu{order}") == pytest.approx(100 * expected, abs=1e-9)


def test_rouge_per_reply(rows: Rows) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    table = score(rows, metrics=["rouge1", "rouge2", "rougeL"], bootstrap=0)
    both = zip(rows.texts("reference"), rows.texts("hypothesis"), strict=True)
    expected = [scorer.score(reference, hypothesis) for reference, hypothesis in both]
    for line in table.lines:
        fs = [100 * scores[line.name].fmeasure for scores in expected]
        np.testing.assert_allclose(line.per_sample, fs, atol=1e-9)
        assert line.value == pytest.approx(np.mean(fs))


def test_published_rouge_l_by_hand() -> None:
    # Longest common subsequence "i hear you" of 3; P = 3/4, R = 3/5, beta 1.2.
    p, r, b2 = 3 / 4, 3 / 5, 1.44
    rows = Rows.of(["i do hear you"], ["i can hear you well"])
    assert value(rows, "rougeL_published") == pytest.approx(100 * (1 + b2) * p * r / (r + b2 * p))


def test_distinct_as_coded_drops_each_last_gram(rows: Rows) -> None:
    for order in (1, 2):
        exact, coded = [], []
        for text in rows.texts("hypothesis"):
            tokens = published_tokens(text)
            exact += [tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)]
            coded += [tuple(tokens[i : i + order]) for i in range(len(tokens) - order)]
        for name, grams in ((f"distinct{order}", exact), (f"distinct{order}_published", coded)):
            if grams:
                assert value(rows, name) == pytest.approx(100 * len(set(grams)) / len(grams))
            else:
                line = score(rows, metrics=[name], bootstrap=0).line(name)
                assert (line.value, line.reason) == (None, "nothing to count in any row")


# ------------------------------------------------------------------------------------------------ METEOR, WordNet

SYNSETS = {
    # part -> synsets as lists of lemmas
    "noun": [["sorrow", "grief", "heavy_heart"], ["goose"], ["dog", "domestic_dog", "Canis"], ["work", "job"]],
    "verb": [["feel", "find"], ["grieve", "sorrow"], ["hear", "learn"]],
    "adj": [["sad(p)", "sorry"], ["happy", "glad(a)"], ["alone(p)", "lonely"]],
    "adv": [["well", "good"]],
}
EXCEPTIONS = {"noun": "geese goose\n", "verb": "felt feel\n", "adj": "happier happy\n", "adv": ""}
LETTER = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}


@pytest.fixture(scope="session")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "wordnet.py"
    spec = importlib.util.spec_from_file_location("wordnet_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny_wordnet(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dozen synsets in the file format of WordNet, assembled by the script, in NLTK's only data folder."""
    data = pytest.importorskip("nltk.data")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("cntlist.rev", "index.sense"):
        (source / name).write_text("")
    for part, synsets in SYNSETS.items():
        text, offsets = "  1 licence line\n", {}
        for lemmas in synsets:
            for lemma in lemmas:
                offsets.setdefault(lemma.split("(")[0].lower(), []).append(len(text))
            listed = " ".join(f"{lemma} 0" for lemma in lemmas)
            frames = "00 " if part == "verb" else ""
            text += f"{len(text):08d} 04 {LETTER[part]} {len(lemmas):02x} {listed} 000 {frames}| invented gloss  \n"
        lines = [
            f"{lemma} {LETTER[part]} {len(at)} 0 {len(at)} 0 {' '.join(f'{o:08d}' for o in at)}  \n"
            for lemma, at in sorted(offsets.items())
        ]
        (source / f"data.{part}").write_text(text)
        (source / f"index.{part}").write_text("  1 licence line\n" + "".join(lines))
        (source / f"{part}.exc").write_text(EXCEPTIONS[part])
    target = tmp_path / "nltk_data"
    folder: Path = script.assemble(source, target)
    monkeypatch.setattr(data, "path", [str(target)])
    return folder


@pytest.fixture
def nltk_wordnet(tiny_wordnet: Path) -> Iterator[Any]:
    """NLTK's reader of the same files."""
    module = pytest.importorskip("nltk.corpus.reader.wordnet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK warns that there is no multilingual part
        reader = module.WordNetCorpusReader(str(tiny_wordnet), None)
    yield reader
    for stream in reader._data_file_map.values():
        stream.close()  # NLTK leaves them open


def test_synonyms_equal_nltk(tiny_wordnet: Path, nltk_wordnet: Any) -> None:
    ours = load(str(tiny_wordnet))
    for word in ("sorrow", "geese", "dogs", "felt", "grieves", "sad", "happier", "well", "works", "unknown", "Canis"):
        names = {lemma.name() for s in nltk_wordnet.synsets(word) for lemma in s.lemmas()}
        assert ours.synonyms(word) == {name for name in names if "_" not in name} | {word}, word


def test_meteor_equals_nltk(nltk_wordnet: Any, rows: Rows) -> None:
    meteor_score = pytest.importorskip("nltk.translate.meteor_score").meteor_score
    both = zip(rows.texts("reference"), rows.texts("hypothesis"), strict=True)
    expected = [100 * meteor_score([published_tokens(r)], published_tokens(h), wordnet=nltk_wordnet) for r, h in both]
    line = score(rows, metrics=["meteor"], bootstrap=0).line("meteor")
    np.testing.assert_allclose(line.per_sample, expected, atol=1e-9)


def test_wordnet_as_a_zip_file(tiny_wordnet: Path) -> None:
    rows = Rows.of(["such grief"], ["such sorrow"])
    as_folder = value(rows, "meteor")
    shutil.make_archive(str(tiny_wordnet), "zip", tiny_wordnet.parent, "wordnet")
    shutil.rmtree(tiny_wordnet)
    assert value(Rows.of(rows.hypotheses, rows.references), "meteor") == as_folder > 0


def test_meteor_without_wordnet_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("nltk.data"), "path", [])
    rows = Rows.of(["she felt sorrow"], ["she feels grief"])
    names = [line.name for line in score(rows, metrics=["lexical"], bootstrap=0).lines]
    assert "meteor_exact_stem" in names
    assert "meteor" not in names
    with pytest.raises(NotFoundError, match=r"WordNet, which is not here.*meteor_exact_stem"):
        score(rows, metrics=["meteor"])


def test_synonyms_raise_meteor(tiny_wordnet: Path) -> None:
    rows = Rows.of(["such grief"], ["such sorrow"])
    assert value(rows, "meteor") > value(rows, "meteor_exact_stem") > 0


def test_meteor_on_the_real_wordnet() -> None:
    needs(find(), "needs WordNet: install wordnet-base and wordnet-sense-index, then `make words`")
    meteor_score = pytest.importorskip("nltk.translate.meteor_score").meteor_score
    rows = pairs(60, 2)
    both = zip(rows.texts("reference"), rows.texts("hypothesis"), strict=True)
    expected = [100 * meteor_score([published_tokens(r)], published_tokens(h)) for r, h in both]
    np.testing.assert_allclose(score(rows, metrics=["meteor"]).line("meteor").per_sample, expected, atol=1e-9)


def test_lexnames(script: ModuleType, tmp_path: Path) -> None:
    lines = script.lexnames().splitlines()
    assert len(lines) == 45
    assert (lines[3], lines[29], lines[44]) == ("03\tnoun.Tops\t1", "29\tverb.body\t2", "44\tadj.ppl\t3")
    with pytest.raises(FileNotFoundError, match="wordnet-sense-index"):
        script.assemble(tmp_path, tmp_path / "out")


# ------------------------------------------------------------------------------------------------ published numbers


@pytest.mark.data("glhg_generations")
def test_glhg_table_is_reproduced(data_root: Path) -> None:
    rows, columns = read(data_root / "glhg_generations" / "generation-glhg.json.gz")
    assert (columns.generation, columns.reference, columns.cluster) == ("generation", "response", "sample_id")
    table = score(rows, metrics=["published"], bootstrap=0)
    assert len(rows) == 2801
    for name, printed in GLHG_PRINTED.items():
        found = table.value(name)
        assert found is not None
        assert round(found, 2) == pytest.approx(printed, abs=0.0101), name
    assert table.value("rougeL_published") == pytest.approx(16.05, abs=0.005)
    fixed = score(rows.with_hypotheses([FIXED_REPLY] * len(rows)), metrics=["published"], bootstrap=0)
    # esconv.md: one fixed reply scores B-2 6.4, B-4 1.6 and R-L 16.2.
    assert [round(fixed.value(name) or 0, 1) for name in ("bleu2", "bleu4", "rougeL_published")] == [6.4, 1.6, 16.2]
