"""The table of metrics, the suite, the records it reads and returns, and what happens when a part is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from heedful.errors import ConfigError, DataError, MissingExtraError, NotFoundError
from heedful.scoring import GROUPS, METRICS, Metric, Result, Rows, score
from heedful.scoring.published import FIXED_REPLY, HEADINGS, floors
from heedful.types import Trace

PAIR = Rows.of(["I am sorry to hear it."], ["I am so sorry."])


def test_every_entry_is_a_metric_of_its_name_with_a_definition() -> None:
    for name in METRICS.names():
        metric = METRICS.get(name)
        assert isinstance(metric, Metric)
        assert metric.name == name
        assert len(metric.definition) > 20
        assert "|heedful:" in metric.signature()


def test_groups_name_known_metrics() -> None:
    for entries in GROUPS.values():
        for entry in entries:
            assert set(entry.split("|")) <= set(METRICS.names())
    assert set(GROUPS["published"]) == set(HEADINGS)


def test_lines_keep_the_asked_order_and_come_once() -> None:
    table = score(PAIR, metrics=["length", "published", "bleu1"], bootstrap=0)
    assert [line.name for line in table.lines] == ["length", *GROUPS["published"]]


def test_unanswered_rows_are_unscored_with_a_reason() -> None:
    rows = Rows.of(["a b", None, "c"], ["a b", "x", None], clusters=[1, 1, 2])
    table = score(rows, metrics=["rouge1", "length"], bootstrap=10)
    rouge = table.line("rouge1")
    assert (rouge.value, rouge.n, rouge.unscored, rouge.reason) == (100.0, 1, 2, "no reply; no reference")
    np.testing.assert_array_equal(rouge.per_sample, [100.0, np.nan, np.nan])
    assert (table.line("length").n, table.line("length").reason) == (2, "no reply")
    nothing = score(Rows.of([None, None]), metrics=["length", "bleu1"]).lines
    assert [(line.value, line.n, line.reason) for line in nothing] == [(None, 0, "no reply")] * 2


def test_table_as_json_and_as_scores() -> None:
    table = score(Rows.of(["a b"], [None]), metrics=["length", "bleu1"], bootstrap=0)
    record = json.loads(json.dumps(table.to_dict()))
    assert [entry["name"] for entry in record["scores"]] == ["length", "bleu1"]
    length, bleu = table.scores()
    assert (length.value, bleu.value, bleu.reason) == (2.0, None, "no reference")


def test_errors_name_what_is_known() -> None:
    with pytest.raises(NotFoundError, match=r"Unknown metric 'rogue1'. Did you mean 'rouge1'\?.*Groups: .*published"):
        score(PAIR, metrics=["rogue1"])
    with pytest.raises(ConfigError, match="No metric was asked for"):
        score(PAIR, metrics=[])
    with pytest.raises(ConfigError, match="0 or more, but it is -1"):
        score(PAIR, bootstrap=-1)
    with pytest.raises(NotFoundError, match=r"no line 'bleu9'.*It has: length"):
        score(PAIR, metrics=["length"]).value("bleu9")
    with pytest.raises(DataError, match="2 rows but 1 references"):
        Rows.of(["a", "b"], ["a"])


def test_a_metric_from_outside_by_path() -> None:
    assert score(PAIR, metrics=[f"{__name__}:SHOUTING"], bootstrap=0).lines[0].value == 0.0
    with pytest.raises(ConfigError, match="names a tuple, but a Metric was expected"):
        score(PAIR, metrics=["heedful.types:ROLES"])


SHOUTING = Metric(
    name="shouting",
    title="shouting",
    definition="Share of replies in capitals.",
    signature=lambda: "shouting",
    compute=lambda rows: Result.mean([text.isupper() for text in rows.texts("hypothesis")]),
    needs=("hypothesis",),
)


def test_a_missing_library_is_an_instruction_or_unscored_in_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "nltk"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'heedful\[eval\]'"):
        score(PAIR, metrics=["meteor"])
    # Published tokens need no NLTK, so BLEU and distinct still work.
    assert score(PAIR, metrics=["published"], bootstrap=0).value("bleu1") is not None


def test_a_missing_encoder_is_unscored_in_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.scoring.metrics.bertscore.LIBRARIES", ("torch_of_nobody",))
    line = score(PAIR, metrics=["all"], bootstrap=0).line("bertscore")
    assert line.value is None
    assert line.reason == "not installed: torch_of_nobody; run: pip install 'heedful[train]'"


def test_rows_from_traces() -> None:
    traces = [
        Trace(id="t/1", conversation_id="t", turn=1, reply="Hello.", reference="Hi."),
        Trace(id="t/3", conversation_id="t", turn=3, reply="", finish="error"),
    ]
    rows = Rows.from_traces(traces, contexts={"t/1": "Are you there?"})
    assert (rows.hypotheses, rows.references) == (("Hello.", None), ("Hi.", None))
    assert (rows.contexts, rows.clusters) == (("Are you there?", None), ("t", "t"))


def test_text_stays_out_of_repr() -> None:
    rows = Rows.of(["a private sentence"], ["another one"])
    score(rows, metrics=["lexical"])
    assert repr(rows) == "Rows(1 rows, 1 clusters)"


def test_floors() -> None:
    rows = Rows.of(["x", None, "y"], ["a", "b", "c"], contexts=["said", "said", None])
    found = floors(rows)
    assert found["fixed reply"].hypotheses == (FIXED_REPLY, None, FIXED_REPLY)
    assert found["copy of last turn"].hypotheses == ("said", None, None)
    assert set(floors(Rows.of(["x"], ["a"]))) == {"fixed reply"}


def test_importing_scoring_imports_no_heavy_library() -> None:
    code = (
        "import sys, heedful.scoring, heedful.cli.score, heedful.models.encoder; "
        "heavy = {'torch', 'transformers', 'nltk', 'sklearn', 'scipy', 'sacrebleu', 'rouge_score', 'bert_score'}; "
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
