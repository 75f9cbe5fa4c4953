"""ChatMGL's adaptation on invented sessions in HOPE's form: loaders, dialogue acts, what its tables need."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora_kit import write_csv

from heedful import corpora
from heedful.errors import ConfigError, DataError, NotFoundError
from heedful.formats import Format, Sample, make
from heedful.scoring import Rows, score
from heedful.testing import conversation, tiny_tokenizer
from heedful.types import Conversation

SESSIONS: dict[int, list[tuple[str, str, str]]] = {
    3: [
        ("T", "gt", "Good morning."),
        ("P", "gt", "Morning."),
        ("P", "id", "I sleep badly."),
        ("T", "irq", "Since when?"),
        ("P", "id", "Since May."),
        ("T", "ack", "I see."),
        ("P", "wobble", "It is loud there."),
    ],
    4: [("T", "ynq", "Is it loud?"), ("P", "yna", "Yes, it is."), ("T", "comp", "That is hard.")],
}
"""Ten lines. The first session ends with the patient, the second begins with the therapist."""
SCORES = "heedful.scoring.metrics"


@pytest.fixture
def sessions(tmp_path: Path) -> list[Conversation]:
    for number, lines in SESSIONS.items():
        rows = [
            {"ID": f"{number}_{i}", "Type": who, "Utterance": text, "Dialog_Act": act}
            for i, (who, act, text) in enumerate(lines)
        ]
        write_csv(tmp_path / f"{number}.csv", rows)
    return corpora.load("hope", path=tmp_path)


def setup(**options: Any) -> tuple[Format, Any]:
    fmt = make({"name": "qa", **options})
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*fmt.markers]}, replace_extra_special_tokens=False)
    return fmt, tokenizer


def made(sessions: list[Conversation], **options: Any) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Samples, and their texts without the parts that are always the same."""
    fmt, tokenizer = setup(**options)
    found = [s for conv in sessions for s in fmt.samples(conv, tokenizer, max_length=10_000)]
    texts = [(tokenizer.decode(s.prompt), tokenizer.decode(s.target)) for s in found]
    return found, [(a.removesuffix("<|sep|>"), b.removesuffix("<|im_end|>")) for a, b in texts]


# ------------------------------------------------------------------ loaders on ten lines


def test_v1_pairs_a_patient_with_the_therapist_right_behind(sessions: list[Conversation]) -> None:
    _, pairs = made(sessions, loader="v1")
    assert pairs == [
        ("patient: I sleep badly.", " therapist: Since when?"),
        ("patient: Since May.", " therapist: I see."),
        ("patient: Yes, it is.", " therapist: That is hard."),
    ]


def test_v2_grows_with_the_session(sessions: list[Conversation]) -> None:
    _, pairs = made(sessions, loader="v2")
    assert pairs == [
        ("patient: Morning.", " therapist: Good morning. Since when?"),
        ("patient: Morning. I sleep badly.", " therapist: Good morning. Since when?"),
        ("patient: Morning. I sleep badly. Since May.", " therapist: Good morning. Since when? I see."),
        ("patient: Yes, it is.", " therapist: Is it loud? That is hard."),
    ]


def test_v2_sample_k_holds_exactly_the_first_k_patient_lines(sessions: list[Conversation]) -> None:
    found, pairs = made(sessions, loader="v2")
    for conv in sessions:
        said = [turn.text for turn in conv if turn.role == "user"]
        sources = [source for s, (source, _) in zip(found, pairs, strict=True) if s.conversation_id == conv.id]
        assert sources == [f"patient: {' '.join(said[: k + 1])}" for k in range(len(sources))]


def test_shift_takes_every_next_line(sessions: list[Conversation]) -> None:
    _, pairs = made(sessions, loader="shift")
    names = {"T": "therapist:", "P": "patient:"}
    assert pairs == [
        (f"{names[a]} {one}", f" {names[b]} {two}")
        for lines in SESSIONS.values()
        for (a, _, one), (b, _, two) in itertools.pairwise(lines)
    ]


@pytest.mark.parametrize("loader", ["v1", "v2", "shift"])
@pytest.mark.parametrize("merge", [False, True])
def test_no_pair_crosses_a_session(sessions: list[Conversation], loader: str, merge: bool) -> None:
    found, pairs = made(sessions, loader=loader, merge_turns=merge)
    assert {s.conversation_id for s in found} == {"3", "4"}
    for sample, pair in zip(found, pairs, strict=True):
        elsewhere = SESSIONS[7 - int(sample.conversation_id)]
        assert not any(text in " ".join(pair) for _, _, text in elsewhere)


@pytest.mark.data("hope_samples")
def test_the_eight_sessions_give_225_strict_pairs(data_root: Path) -> None:
    talks = corpora.load("hope", path=data_root / "hope_samples")
    counts = {name: sum(len(make({"name": "qa", "loader": name}).targets(c)) for c in talks) for name in ("v1", "v2")}
    assert counts == {"v1": 225, "v2": 237}


# ------------------------------------------------------------------ acts


def test_prefix_writes_the_gold_act_of_what_is_answered(sessions: list[Conversation]) -> None:
    found, pairs = made(sessions, acts="prefix")
    assert pairs == [
        ("patient: <act=ID>I sleep badly.", " therapist: Since when?"),
        ("patient: <act=ID>Since May.", " therapist: I see."),
        ("patient: <act=PA>Yes, it is.", " therapist: That is hard."),
    ]
    assert {s.plan for s in found} == {0}
    _, pairs = made(sessions, acts="prefix", loader="v2")
    assert pairs[2][0] == "patient: <act=GT>Morning. <act=ID>I sleep badly. <act=ID>Since May."
    _, pairs = made(sessions, acts="prefix", loader="shift")
    assert pairs[2] == ("patient: <act=ID>I sleep badly.", " therapist: Since when?")
    assert pairs[3] == ("therapist: <act=IRQ>Since when?", " patient: Since May.")


def test_joint_has_the_model_write_the_act_of_its_reply(sessions: list[Conversation]) -> None:
    found, pairs = made(sessions, acts="joint")
    assert pairs == [
        ("patient: I sleep badly.", "<act=IRQ> therapist: Since when?"),
        ("patient: Since May.", "<act=ACK> therapist: I see."),
        ("patient: Yes, it is.", "<act=none> therapist: That is hard."),  # `comp` is none of the twelve
    ]
    assert {s.plan for s in found} == {1}
    _, pairs = made(sessions, acts="joint", loader="v2")
    assert pairs[2][1] == "<act=ACK> therapist: Good morning. Since when? I see."  # the act of the last reply


def test_a_predicted_act_is_read_back() -> None:
    fmt, tokenizer = setup(acts="joint")
    reply = fmt.parse("<act=IRQ> therapist: Since when?<|im_end|>", tokenizer)
    assert (reply.text, reply.plan) == ("Since when?", {"hope_act": "IRQ"})
    for text in ("<act=none> therapist: Since when?", "therapist: Since when?", "Since when?"):
        assert (fmt.parse(text, tokenizer).text, fmt.parse(text, tokenizer).plan) == ("Since when?", {})
    silent, _ = setup(acts="prefix")
    assert silent.parse("therapist: Since when?", tokenizer).plan == {}


def test_another_label_set_stands_in() -> None:
    talk = conversation("Noise.", "I see.", labels={1: {"mesc_strategy": "Open question"}})
    fmt, tokenizer = setup(acts="joint", act_set="mesc_strategy")
    plan, words = fmt.target(talk.turns[1], tokenizer)
    assert (plan, words) == ("<act=Open question>", " therapist: I see.<|im_end|>")
    assert fmt.parse(plan + words, tokenizer).plan == {"mesc_strategy": "Open question"}
    (sample,) = fmt.samples(talk, tokenizer, max_length=100)
    assert sample.plan == 1


def test_acts_are_in_the_vocabulary_and_nobody_can_type_one() -> None:
    fmt, tokenizer = setup(acts="joint")
    assert fmt.markers == ("<|sep|>", *(f"<act={a}>" for a in ("IRQ", "YNQ", "CRQ", "ORQ", "ID", "CD", "OD", "PA", "NA",
                                                                "GT", "ACK", "GC", "none")))  # fmt: skip
    typed = conversation("Noise.", "<act=IRQ> I see. <act=none>").turns[1]
    assert fmt.words(typed, tokenizer) == "< act=IRQ> I see. < act=none>"


def test_acts_off_change_neither_input_nor_fingerprint(sessions: list[Conversation]) -> None:
    assert made(sessions)[1] == made(sessions, acts="none", act_set="mesc_strategy")[1]
    plain = make("qa")
    assert plain.markers == ("<|sep|>",)
    assert plain.fingerprint == make({"name": "qa", "act_set": "mesc_strategy"}).fingerprint
    assert plain.fingerprint == "qa/v2#556af64d"  # of runs from before there were acts
    prints = {make({"name": "qa", "acts": a, "act_set": s}).fingerprint
              for a in ("prefix", "joint") for s in ("hope_act", "mesc_strategy")}  # fmt: skip
    assert len(prints | {plain.fingerprint}) == 5


def test_acts_that_are_not_there_are_refused(sessions: list[Conversation]) -> None:
    with pytest.raises(ConfigError, match=r"format\.acts of 'qa'"):
        make({"name": "qa", "acts": "both"})
    with pytest.raises(NotFoundError, match="Did you mean 'hope_act'"):
        make({"name": "qa", "act_set": "hope_acts"})
    make({"name": "qa", "acts": "prefix"}).check(sessions)
    make({"name": "qa", "acts": "joint"}).check(sessions)
    for acts, role in (("prefix", "user"), ("joint", "assistant")):
        with pytest.raises(DataError, match=rf"with acts needs labels of 'mesc_strategy' on turns of role '{role}'"):
            make({"name": "qa", "acts": acts, "act_set": "mesc_strategy"}).check(sessions)


# ------------------------------------------------------------------ scores


def test_sentence_bleu_is_nltks() -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    texts = [
        ("so it began in May at home", "so it began in May at work"),
        ("so it began in May", "it began in May so long ago and never ended"),
        ("when did it begin to be so loud there", "when did it begin to be loud"),
        ("Yes.", "Yes."),
        ("", "Yes, it is."),
        ("nothing in common here at all", "since when is that"),
    ]
    rows = Rows.of([a for a, _ in texts], [b for _, b in texts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK remarks on every order without a match
        expected = np.mean([bleu.sentence_bleu([b.split()], a.split()) for a, b in texts])
    (line,) = score(rows, metrics=[f"{SCORES}.sentence_bleu:SENTENCE_BLEU"], bootstrap=0).lines
    assert line.value == pytest.approx(100 * expected, abs=1e-9)
    assert line.per_sample is not None
    assert line.per_sample[0] == pytest.approx(100 * (6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** 0.25)
    assert line.per_sample[3:].tolist() == [0, 0, 0]


def test_length_of_references() -> None:
    rows = Rows.of(["a", "b b"], ["one two three", "four"])
    (line,) = score(rows, metrics=[f"{SCORES}.reference_length:REFERENCE_LENGTH"], bootstrap=0).lines
    assert (line.value, line.higher_is_better) == (2.0, None)
