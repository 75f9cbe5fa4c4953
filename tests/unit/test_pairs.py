"""Encoder-decoders: what goes in, what comes out, and that nothing depends on what else is in the batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pairs_kit import pair, save_pair

from heedful import taxonomy
from heedful.errors import ConfigError
from heedful.formats import Sample, make
from heedful.formats.joined import unspaced
from heedful.models.architecture import PAIRED
from heedful.models.causal import CausalModel, add_markers, check_architecture, load
from heedful.models.decoding import Decoding
from heedful.models.forward import likelihood
from heedful.models.generate import generate
from heedful.models.pairs import NOTHING, check_fits, pair_logits, pair_tensors
from heedful.models.plan import PlanRule
from heedful.models.talk import Talk
from heedful.testing import STRATEGY_SET, conversation, conversations, tiny_model
from heedful.types import Conversation

STRATEGIES = taxonomy.get(STRATEGY_SET).names
LAYOUT = {1: {STRATEGY_SET: "Question"}, 3: {STRATEGY_SET: "Others"}, 4: {STRATEGY_SET: "Information"}}


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    """BlenderBot-small with the eight strategies."""
    causal = pair(tmp_path_factory.mktemp("bot"))
    add_markers(causal, make("joined").markers)
    return causal


def talk() -> Conversation:
    """The supporter writes twice in a row at the end."""
    conv = conversation("in the.", "you?", "the, you.", "in.", labels=LAYOUT)
    more = conversation("x", "the in.", labels={1: {STRATEGY_SET: "Information"}}).turns[1]
    return Conversation(id="toy", turns=(*conv.turns, more), source="heedful.testing")


def samples(causal: CausalModel, *, n: int = 4, max_length: int = 60) -> list[Sample]:
    fmt = make("joined")
    found = conversations(n, seed=7)
    return [s for conv in found for s in fmt.samples(conv, causal.tokenizer, max_length=max_length)]


def rule(causal: CausalModel, **more: Any) -> PlanRule:
    return PlanRule(marks=dict(zip(STRATEGIES, causal.marks, strict=True)), **more)


def written(causal: CausalModel, due: list[Sample], settings: Decoding, **more: Any) -> dict[str, tuple[int, ...]]:
    return {made.id: made.written.tokens for batch in generate(causal, due, settings, **more) for made in batch}


# ------------------------------------------------------------------ the layout of the released code


def test_strategies_are_the_last_eight_ids(bot: CausalModel) -> None:
    size = len(bot.tokenizer)
    assert bot.marks == tuple(range(size - 8, size))
    assert bot.tokenizer.convert_ids_to_tokens(list(bot.marks)) == [f"[{name}]" for name in STRATEGIES]
    assert bot.model.get_input_embeddings().num_embeddings == size
    assert bot.model.final_logits_bias.shape == (1, size)


def ids(causal: CausalModel, *pieces: str) -> tuple[int, ...]:
    """Pieces of BlenderBot's vocabulary -> ids; a name of a strategy stands for its token."""
    vocabulary = causal.tokenizer.get_vocab()
    return tuple(vocabulary[f"[{p}]" if p in STRATEGIES else p] for p in pieces)


def test_joint_is_laid_out_as_in_the_released_code(bot: CausalModel) -> None:
    """Turns joined by the end token, none after the last; gold strategies before earlier supporter turns; every
    supporter turn but a first one is a target, also after another one: [s] + y + [EOS]."""
    first, second, third = make("joined").samples(talk(), bot.tokenizer, max_length=512)
    assert first.prompt == ids(bot, "in", "the", ".")
    assert first.target == ids(bot, "Question", "you", "?", "__end__")
    assert second.prompt == ids(
        bot, "in", "the", ".", "__end__", "Question", "you", "?", "__end__", "the", ",", "you", "."
    )
    assert second.target == ids(bot, "Others", "in", ".", "__end__")
    assert third.prompt == (*second.prompt, *ids(bot, "__end__", "Others", "in", "."))
    assert third.target == ids(bot, "Information", "the", "in", ".", "__end__")
    assert (first.plan, second.plan, third.plan) == (1, 1, 1)


def test_vanilla_has_no_strategy_anywhere(bot: CausalModel) -> None:
    fmt = make({"name": "joined", "predict": False, "context_strategies": False})
    assert fmt.markers == ()
    found = fmt.samples(talk(), bot.tokenizer, max_length=512)
    assert not {*bot.marks} & {token for s in found for token in (*s.prompt, *s.target)}
    assert found[1].target == ids(bot, "in", ".", "__end__")
    assert found[1].plan == 0


def test_the_last_tokens_of_the_input_are_kept(bot: CausalModel) -> None:
    fmt, tokenizer = make("joined"), bot.tokenizer
    whole = fmt.samples(talk(), tokenizer, max_length=512)[2]
    for length in range(1, len(whole.prompt) + 1):
        cut = fmt.samples(talk(), tokenizer, max_length=length)[2]
        assert cut.prompt == whole.prompt[-length:]
        assert cut.target == whole.target
        assert fmt.due(talk().before(4), tokenizer, name="x", max_length=length, new_tokens=99).prompt == cut.prompt
    starts = [fmt.samples(talk(), tokenizer, max_length=k)[2].start for k in (1, 3, 4, 5, 8, 9, 12, 13, 16)]
    assert starts == [3, 3, 3, 2, 2, 2, 1, 1, 0]  # the first turn of which something is left


def test_the_decoder_begins_with_the_start_token_and_padding_carries_no_loss(bot: CausalModel) -> None:
    first, second, third = make("joined").samples(talk(), bot.tokenizer, max_length=512)
    batch = pair_tensors(bot, [first, third])
    assert batch["decoder_input_ids"].tolist() == [[1, *first.target[:-1], 0], [1, *third.target[:-1]]]
    assert batch["labels"].tolist() == [[*first.target, NOTHING], [*third.target]]
    assert batch["input_ids"][0].tolist() == [*first.prompt, *[0] * (len(third.prompt) - len(first.prompt))]
    assert batch["attention_mask"].sum(1).tolist() == [len(first.prompt), len(third.prompt)]
    assert second.plan == 1


def test_reading_undoes_what_the_tokenizer_does_to_words(bot: CausalModel) -> None:
    fmt, tokenizer = make("joined"), bot.tokenizer
    turn = conversation("x", "It's late, isn't it? (you said)", labels={1: {STRATEGY_SET: "Others"}}).turns[1]
    tokens = tokenizer("".join(fmt.target(turn, tokenizer)), add_special_tokens=False).input_ids
    reply = fmt.parse(tokenizer.decode(tokens, skip_special_tokens=False), tokenizer)
    assert reply.plan == {STRATEGY_SET: "Others"}
    assert reply.text == "it's late, isn't it? (you said)"
    assert unspaced("i li@@") == "i li"


# ------------------------------------------------------------------ decisions


def test_the_strategy_is_chosen_among_eight_logits(bot: CausalModel) -> None:
    due = samples(bot)[:6]
    batch = pair_tensors(bot, due)
    with torch.no_grad():
        z = pair_logits(bot.model, batch)[:, 0, -8:].double().numpy()
    expected = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    found = [made for b in generate(bot, due, Decoding(max_new_tokens=3), plan=rule(bot)) for made in b]
    by_id = {made.id: made.written for made in found}
    for sample, row in zip(due, expected, strict=True):
        np.testing.assert_allclose(by_id[sample.id].probabilities, row, atol=1e-5)
        assert by_id[sample.id].tokens[0] == bot.marks[int(row.argmax())]


def test_a_strategy_can_be_given_and_drawn(bot: CausalModel) -> None:
    due = samples(bot)
    settings = Decoding(max_new_tokens=2)
    forced = written(bot, due, settings, plan=rule(bot, choose="given", given={s.id: "Information" for s in due}))
    assert {tokens[0] for tokens in forced.values()} == set(ids(bot, "Information"))
    one = written(bot, due, settings, plan=rule(bot, choose="sample", temperature=5.0, top_p=1.0))
    assert one == written(bot, due, settings, plan=rule(bot, choose="sample", temperature=5.0, top_p=1.0), branches=1)
    assert len({tokens[0] for tokens in one.values()}) > 1


@pytest.mark.parametrize(
    "settings", [Decoding(max_new_tokens=20), Decoding(max_new_tokens=20, do_sample=True, temperature=50.0)]
)
def test_no_strategy_is_written_after_the_first_token(bot: CausalModel, settings: Decoding) -> None:
    """At temperature 50 every token is about as likely as another, so eight of a hundred would be strategies."""
    due = samples(bot)
    found = written(bot, due, settings, plan=rule(bot))
    assert all(tokens[0] in bot.marks for tokens in found.values())
    assert not any(token in bot.marks for tokens in found.values() for token in tokens[1:])
    free = written(bot, due, settings)
    assert settings.do_sample <= any(token in bot.marks for tokens in free.values() for token in tokens[1:])


@pytest.mark.parametrize("planned", [True, False])
def test_bounds_count_new_words_alone(bot: CausalModel, planned: bool) -> None:
    """In the released code min_length 10 means 8 new tokens, as the begin token and the strategy count."""
    end = bot.tokenizer.eos_token_id
    bot.model.final_logits_bias[0, end] = 50.0  # it would end at once
    try:
        plan = rule(bot) if planned else None
        found = written(bot, samples(bot), Decoding(min_new_tokens=5, max_new_tokens=9), plan=plan)
    finally:
        bot.model.final_logits_bias[0, end] = 0.0
    assert {len(tokens) for tokens in found.values()} == {6 + planned}
    assert all(tokens.index(end) == 5 + planned for tokens in found.values())
    longest = written(bot, samples(bot), Decoding(min_new_tokens=9, max_new_tokens=9), plan=plan)
    assert {len(tokens) for tokens in longest.values()} == {9 + planned}


# ------------------------------------------------------------------ batches

WAYS = {
    "greedy": Decoding(max_new_tokens=8),
    "sampled": Decoding(max_new_tokens=8, do_sample=True, top_p=0.9, temperature=0.7, no_repeat_ngram_size=3),
    "beams": Decoding(max_new_tokens=8, num_beams=3),
    "consensus": Decoding(max_new_tokens=8, do_sample=True, num_candidates=3),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("planned", [True, False])
def test_words_do_not_depend_on_the_batch(bot: CausalModel, way: str, planned: bool) -> None:
    due, plan = samples(bot), rule(bot) if planned else None
    together = written(bot, due, WAYS[way], plan=plan)
    assert len(together) == len(due) > 6
    assert written(bot, due, WAYS[way], plan=plan, branches=1) == together
    assert written(bot, due[3:5], WAYS[way], plan=plan) == {s.id: together[s.id] for s in due[3:5]}


@pytest.mark.parametrize("kind", PAIRED)
@pytest.mark.parametrize("beams", [1, 3])
def test_words_equal_those_of_transformers(kind: str, beams: int, tmp_path: Path) -> None:
    causal = pair(tmp_path / kind, kind, seed=3)
    fmt = make({"name": "joined", "predict": False, "context_strategies": False})
    due = [s for c in conversations(2, seed=5) for s in fmt.samples(c, causal.tokenizer, max_length=40)]
    found = written(causal, due, Decoding(max_new_tokens=7, num_beams=beams))
    for sample in due:
        expected = causal.model.generate(
            torch.tensor([sample.prompt]), max_new_tokens=7, num_beams=beams, do_sample=False, forced_eos_token_id=None,
            forced_bos_token_id=None,
        )  # fmt: skip
        reply = expected[0, 1:].tolist()
        end = causal.tokenizer.eos_token_id
        reply = reply[: reply.index(end) + 1] if end in reply else reply
        assert list(found[sample.id]) == reply


def test_an_input_may_not_be_copied_by_the_trigram(bot: CausalModel) -> None:
    """`no_repeat_ngram_size` looks at input and reply, as transformers' two settings do together."""
    due = samples(bot)[:4]
    found = written(bot, due, Decoding(max_new_tokens=9, no_repeat_ngram_size=2))
    for sample in due:
        expected = bot.model.generate(
            torch.tensor([sample.prompt]), max_new_tokens=9, num_beams=1, do_sample=False, no_repeat_ngram_size=2,
            encoder_no_repeat_ngram_size=2, forced_eos_token_id=None,
        )  # fmt: skip
        assert list(found[sample.id]) == expected[0, 1:].tolist()[: len(found[sample.id])]


# ------------------------------------------------------------------ likelihood


def by_hand(causal: CausalModel, sample: Sample) -> tuple[float, float]:
    """-log p of the words and of the strategy: one row, no padding; words among the base vocabulary."""
    before = [1, *sample.target[:-1]]
    with torch.no_grad():
        logits = causal.model(
            input_ids=torch.tensor([sample.prompt]), decoder_input_ids=torch.tensor([before])
        ).logits[0].double()  # fmt: skip
    base = logits.shape[1] - len(causal.marks)
    targets = list(enumerate(sample.target))
    words = [-float(logits[k, :base].log_softmax(0)[token]) for k, token in targets[sample.plan :]]
    plan = [-float(logits[k].log_softmax(0)[token]) for k, token in targets[: sample.plan]]
    return math.fsum(words), math.fsum(plan)


@pytest.mark.parametrize("tokens", [1, 100, 4096])
def test_perplexity_is_that_of_words_after_the_gold_strategy(bot: CausalModel, tokens: int) -> None:
    due = samples(bot)
    found = likelihood(bot, due, tokens_per_batch=tokens)
    assert [loss.id for loss in found] == [s.id for s in due]
    for loss, sample in zip(found, due, strict=True):
        words, plan = by_hand(bot, sample)
        assert loss.text_nll == pytest.approx(words, rel=1e-5)
        assert loss.plan_nll == pytest.approx(plan, rel=1e-5)
        assert (loss.text_tokens, loss.plan_tokens) == (len(sample.target) - 1, 1)
        assert (loss.words, loss.characters) == (len(sample.text.split()), len(sample.text))


def test_a_turn_without_words_is_no_number_lost(bot: CausalModel) -> None:
    silent = Sample(id="x", conversation_id="x", turn=1, prompt=(), target=(5, 6, 2))
    (loss,) = likelihood(bot, [silent])
    assert math.isfinite(loss.text_nll)
    assert written(bot, [silent], Decoding(max_new_tokens=3))["x"]


# ------------------------------------------------------------------ who may open what


def test_only_callers_that_can_work_with_it_get_one(tmp_path: Path) -> None:
    folder = str(save_pair(tmp_path / "bot"))
    for refused in (load, check_architecture):
        with pytest.raises(ConfigError, match="encoder-decoder, which only method: seq2seq, chat, evaluations"):
            refused(folder)
    check_architecture(folder, accept="any")
    with pytest.raises(ConfigError, match="method: sft"):
        check_architecture("smollm2-135m-instruct", accept="pairs")


def test_an_encoder_decoder_that_was_never_tried_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("prophetnet").save_pretrained(str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"never tried.*blenderbot-small"):
        check_architecture(str(tmp_path / "other"), accept="any")
    AutoConfig.for_model("bart", decoder_start_token_id=None).save_pretrained(str(tmp_path / "headless"))
    with pytest.raises(ConfigError, match="decoder_start_token_id"):
        check_architecture(str(tmp_path / "headless"), accept="any")


def test_a_format_for_the_other_kind_is_refused(bot: CausalModel) -> None:
    check_fits(bot, make("joined"))
    with pytest.raises(ConfigError, match="format: joined"):
        check_fits(bot, make("strategy"))
    with pytest.raises(ConfigError, match="format: strategy"):
        check_fits(tiny_model(), make("joined"))
    with pytest.raises(ConfigError, match="format: joined"):
        Talk(bot, make("chat"), Decoding())


def test_what_is_longer_than_the_models_positions_is_refused(bot: CausalModel) -> None:
    long = Sample(id="x", conversation_id="x", turn=1, prompt=(5,) * 513, target=(5, 2))
    for ask in (lambda s: likelihood(bot, [s]), lambda s: written(bot, [s], Decoding(max_new_tokens=3))):
        with pytest.raises(ConfigError, match="max_length: 512"):
            ask(long)
    reply = Sample(id="x", conversation_id="x", turn=1, prompt=(5,), target=(5,) * 513)
    with pytest.raises(ConfigError, match="decoder"):
        likelihood(bot, [reply])
    with pytest.raises(ConfigError, match="decoder"):
        written(bot, samples(bot)[:1], Decoding(max_new_tokens=512), plan=rule(bot))


# ------------------------------------------------------------------ a talk


def test_a_talk_streams_its_reply_and_keeps_its_strategy(bot: CausalModel) -> None:
    from heedful.agents.plan import settle_plan

    fmt = make("joined")
    chat = Talk(bot, fmt, Decoding(max_new_tokens=12, do_sample=True), max_length=40, plan=settle_plan("argmax", fmt))
    chat.say("in the. you?")
    pieces: list[str] = []
    reply = chat.reply(pieces.append)
    assert "".join(pieces) == reply.text
    assert set(chat.thought["probabilities"][STRATEGY_SET]) == set(STRATEGIES)
    assert chat.conversation.turns[-1].label(STRATEGY_SET) == reply.plan[STRATEGY_SET]
    chat.say("the.")
    assert bot.tokenizer.decode(chat.prompt()).count(f"[{reply.plan[STRATEGY_SET]}]") == 1
