"""The graph, fast and together, equals the graph one reply at a time; and what the specification asks of its parts."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import graph_kit as kit
from torch.nn.functional import leaky_relu

from heedful import formats
from heedful.errors import ConfigError, DataError
from heedful.formats import Sample, TokenTree, make
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding
from heedful.models.forward import likelihood
from heedful.models.generate import end_ids, generate
from heedful.models.graph import GraphShape, load_graph, new_graph, shape_for
from heedful.models.graph_layout import adjacency, lay_out, with_trunks
from heedful.models.graph_parts import Adapter, Edges, GraphAttention
from heedful.testing import conversation, tiny_model

SHAPES: dict[str, dict[str, Any]] = {
    "whole": {},
    "deeper": {"blocks": 4, "shape": {"layers": 3}},
    "gpt2": {"kind": "gpt2"},
    "no graph": {"shape": {"layers": 0}},
    "no g": {"shape": {"global_node": False, "problems": ()}},
    "no l": {"shape": {"local_node": False}},
    "no nodes": {"shape": {"global_node": False, "local_node": False, "problems": ()}},
    "short contexts": {"shape": {"context": 19}},
    "no neighbours": {"shape": {"radius": 0}},
    "means": {"shape": {"pooling": "mean"}},
    "far neighbours": {"shape": {"radius": 40, "layers": 1}},
}


def made(name: str) -> CausalModel:
    options = dict(SHAPES[name])
    return kit.graph_model(**{k: v for k, v in options.items() if k != "shape"}, **options.get("shape", {}))


@pytest.mark.parametrize("name", SHAPES)
def test_losses_and_monitor_equal_those_of_one_reply_at_a_time(name: str) -> None:
    causal = made(name)
    samples = kit.samples_of(causal, kit.talks(), cause="situation")
    assert len(samples) >= 10
    with torch.no_grad():
        expected = {s.id: kit.log_likelihood(causal, s) for s in samples}
        for size in (1, 100_000):
            for found in likelihood(causal, samples, tokens_per_batch=size):
                assert found.text_nll == pytest.approx(-expected[found.id][0].sum().item(), abs=1e-4)
        layout = lay_out(
            [TokenTree.merge(g) for g in with_trunks(samples)], pad_id=causal.pad_id, context=causal.graph.shape.context
        )
        if causal.graph.monitor is not None:
            _, parts = causal.graph.logits(causal.model, layout.tensors())
            said = causal.graph.said(parts)
            for sample, target in zip(layout.samples, layout.target, strict=True):
                torch.testing.assert_close(said[target][None], expected[sample][1], atol=1e-4, rtol=0)
    causal.graph = None
    plain = likelihood(causal, samples)
    assert max(abs(p.text_nll + expected[p.id][0].sum().item()) for p in plain) > 0.05  # the graph does say something


@pytest.mark.parametrize("name", ["whole", "no graph", "gpt2", "short contexts"])
def test_gradients_equal_the_sum_of_separate_ones(name: str) -> None:
    causal = made(name)
    samples = kit.samples_of(causal, kit.talks(2), cause="history")
    total = sum(len(s.target) for s in samples)
    modules = torch.nn.ModuleDict({"lm": causal.model, "graph": causal.graph})

    def gradients() -> dict[str, Any]:
        found = {n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}
        modules.zero_grad()
        return found

    gold = [k % 3 for k in range(len(samples))]
    for sample, problem in zip(samples, gold, strict=True):
        words, said = kit.log_likelihood(causal, sample)
        types = torch.nn.functional.cross_entropy(said, torch.tensor([problem]))
        (-words.sum() / total + 0.5 * types / len(samples)).backward()
    separate = gradients()
    layout = causal.graph.lay_out([TokenTree.merge(g) for g in with_trunks(samples)], pad_id=causal.pad_id)
    batch = layout.tensors()
    logits, parts = causal.graph.logits(causal.model, batch)
    by_id = {s.id: k for s, k in zip(samples, gold, strict=True)}
    wanted = torch.zeros(len(layout.guides), dtype=torch.long)
    for sample, target in zip(layout.samples, layout.target, strict=True):
        wanted[target] = by_id[sample]
    tokens = torch.nn.functional.cross_entropy(logits, batch["label"], reduction="sum") / total
    (tokens + 0.5 * torch.nn.functional.cross_entropy(causal.graph.said(parts), wanted)).backward()
    together = gradients()
    assert separate.keys() == together.keys() == {n for n, _ in modules.named_parameters()}
    for weight, expected in separate.items():
        torch.testing.assert_close(together[weight], expected, atol=1e-5, rtol=1e-4, msg=weight)
    moved = [n for n, g in together.items() if n.startswith("graph.") and g.abs().max() > 0]
    assert len(moved) > 10


def test_an_untrained_graph_changes_no_word() -> None:
    causal = kit.graph_model(open_gates=False)
    samples = kit.samples_of(causal, kit.talks())
    with_graph = [x.text_nll for x in likelihood(causal, samples)]
    said = {g.id: g.written.tokens for b in generate(causal, samples, Decoding(max_new_tokens=6)) for g in b}
    causal.graph = None
    assert with_graph == pytest.approx([x.text_nll for x in likelihood(causal, samples)], abs=1e-5)
    assert said == {g.id: g.written.tokens for b in generate(causal, samples, Decoding(max_new_tokens=6)) for g in b}


# ---------------------------------------------------------------------- decoding


@cache
def writer() -> tuple[CausalModel, tuple[Sample, ...]]:
    """A model whose replies end now and then, and differ with the memory."""
    causal = kit.graph_model()
    draw = torch.Generator().manual_seed(1)
    shape = causal.model.get_input_embeddings().weight.shape
    head = torch.randn(shape, generator=draw) * 0.4
    head[causal.tokenizer.eos_token_id] *= 3
    causal.model.config.tie_word_embeddings = False
    causal.model.get_output_embeddings().weight = torch.nn.Parameter(head)
    with torch.no_grad():
        for adapter in causal.graph.adapters:
            adapter.gamma.fill_(2.0)
    return causal, tuple(kit.samples_of(causal, kit.talks(), cause="situation"))


def written(settings: Decoding, **options: Any) -> dict[str, Any]:
    causal, samples = writer()
    return {g.id: g.written for batch in generate(causal, samples, settings, **options) for g in batch}


def test_greedy_words_equal_those_written_one_by_one_without_a_cache() -> None:
    causal, samples = writer()
    ends = end_ids(causal)
    expected = {}
    with torch.no_grad():
        for sample in samples:
            held, words = kit.memory(causal, sample)[0], []
            while len(words) < 9 and not (words and words[-1] in ends):
                words.append(int(kit.logits(causal, sample, words, held)[-1].argmax()))
            expected[sample.id] = tuple(words)
    for branches in (1, 3, 64):
        assert {k: w.tokens for k, w in written(Decoding(max_new_tokens=9), branches=branches).items()} == expected
    assert len({len(words) for words in expected.values()}) > 1
    causal_plain = replace(causal, graph=None)
    plain = {g.id: g.written.tokens for b in generate(causal_plain, samples, Decoding(max_new_tokens=9)) for g in b}
    assert plain != expected


def test_beams_find_what_a_search_one_by_one_finds() -> None:
    causal, samples = writer()
    ends, width, most = end_ids(causal), 3, 6
    found = written(Decoding(max_new_tokens=most, num_beams=width), branches=64)
    alone = written(Decoding(max_new_tokens=most, num_beams=width), branches=1)
    assert {k: w.tokens for k, w in found.items()} == {k: w.tokens for k, w in alone.items()}
    with torch.no_grad():
        for sample in samples:
            held = kit.memory(causal, sample)[0]
            words = found[sample.id].tokens
            table = kit.logits(causal, sample, words[:-1], held).log_softmax(-1)
            own = table.gather(1, torch.tensor(words)[:, None])[:, 0]
            np.testing.assert_allclose(found[sample.id].logprobs, own.numpy(), atol=1e-4)
            greedy = list(written(Decoding(max_new_tokens=most))[sample.id].tokens)
            other = kit.logits(causal, sample, greedy[:-1], held).log_softmax(-1)
            score = other.gather(1, torch.tensor(greedy)[:, None]).sum().item() / len(greedy)
            assert own.sum().item() / len(words) >= score - 1e-4
            assert words[-1] in ends or len(words) == most


def test_draws_have_the_probabilities_that_the_reply_alone_has() -> None:
    causal, samples = writer()
    settings = Decoding(max_new_tokens=5, do_sample=True, seed=5)
    found = written(settings)
    assert {k: w.tokens for k, w in found.items()} == {k: w.tokens for k, w in written(settings, branches=1).items()}
    with torch.no_grad():
        for sample in samples:
            words = found[sample.id].tokens
            table = kit.logits(causal, sample, words[:-1], kit.memory(causal, sample)[0]).log_softmax(-1)
            own = table.gather(1, torch.tensor(words)[:, None])[:, 0]
            np.testing.assert_allclose(found[sample.id].logprobs, own.numpy(), atol=1e-4)


def test_several_replies_to_one_prompt_share_its_memory() -> None:
    causal, samples = writer()
    twins = [replace(samples[k], id=f"{k}/{i}") for k in (0, 1) for i in range(3)]
    settings = Decoding(max_new_tokens=4, do_sample=True, seed=5)
    layout = causal.graph.lay_out([TokenTree.merge(g) for g in with_trunks(twins)], pad_id=causal.pad_id)
    assert len(layout.guides) == 2
    found = {g.id: g.written.tokens for b in generate(causal, twins, settings) for g in b}
    alone = {g.id: g.written.tokens for t in twins for b in generate(causal, [t], settings) for g in b}
    assert found == alone
    assert len(set(found.values())) > 2


# ---------------------------------------------------------------------- edges and scores


def test_rows_of_the_adjacency_of_six_tokens() -> None:
    """g, six tokens of which 3 and 4 are the seeker's last utterance, l; neighbours at most one step away."""
    found = adjacency(6, (3, 5), radius=1).astype(int)
    assert found.tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 0, 1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 1, 1, 1, 1],
        [1, 0, 0, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1, 1, 0, 1],
    ]
    nobody = adjacency(6, (0, 0), radius=1).astype(int)
    assert nobody[7].tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    padded = adjacency(4, (1, 2), radius=5, width=6)
    assert not padded[5:7].any()
    assert not padded[:, 5:7].any()


def weights_of(layer: Any, tokens: Any, ends: Any, valid: Any, local: tuple[int, int]) -> tuple[Any, Any]:
    at = torch.arange(valid.shape[1])
    links = torch.stack([valid, ((at >= local[0]) & (at < local[1])).expand_as(valid)], dim=-1)
    kept: list[Any] = []
    layer(tokens, ends, Edges(valid, links, radius=2), layer.project(tokens), kept)
    return kept[0]


def test_padding_gets_no_weight_whatever_it_is() -> None:
    layer = GraphAttention(16, 4, slope=0.2, dropout=0.0)
    draw = torch.Generator().manual_seed(0)
    tokens, ends = torch.randn(1, 32, 16, generator=draw), torch.randn(1, 2, 16, generator=draw)
    valid = (torch.arange(32) < 18)[None]
    band, far = weights_of(layer, tokens, ends, valid, (3, 7))
    assert far[0, :, :, 18:32].abs().max() == 0
    assert band[0, 1, :, :2, 4:20].abs().max() == 0  # tokens 16 and 17 of their block: nothing from 18 on
    other = tokens.clone()
    other[:, 18:] = 1e4
    again = weights_of(layer, other, ends, valid, (3, 7))
    torch.testing.assert_close(again[1], far)
    torch.testing.assert_close(again[0][0, 0], band[0, 0])
    adapter = Adapter(16, 4)
    kept: list[Any] = []
    adapter(torch.randn(1, 3, 16), other, valid, kept)
    assert kept[0][..., 18:].abs().max() == 0
    torch.testing.assert_close(kept[0].sum(-1), torch.ones(1, 4, 3))


def test_a_score_in_halves_is_the_score_of_joined_pairs() -> None:
    layer = GraphAttention(24, 3, slope=0.2, dropout=0.0)
    nodes = torch.randn(7, 24)
    looks, seen = layer.project(nodes)[1].chunk(2, dim=-1)
    halves = leaky_relu(looks[:, None] + seen[None], 0.2).permute(2, 0, 1).softmax(-1)
    joined, _ = kit.pairwise(layer, nodes, torch.ones(7, 7, dtype=torch.bool))
    torch.testing.assert_close(halves, joined, atol=1e-5, rtol=0)


def test_without_layers_the_monitor_teaches_the_global_node_alone() -> None:
    causal = kit.graph_model(adapters=1)
    causal.graph = new_graph(shape_for(causal.model, layers=0, problems=kit.PROBLEMS), seed=1)
    samples = kit.samples_of(causal, kit.talks(1))
    layout = causal.graph.lay_out([TokenTree.merge(g) for g in with_trunks(samples)], pad_id=causal.pad_id)
    _, parts = causal.graph.logits(causal.model, layout.tensors())
    said = causal.graph.said(parts)
    torch.nn.functional.cross_entropy(said, torch.zeros(len(said), dtype=torch.long)).backward()
    assert causal.graph.project["global"].weight.grad.abs().max() > 0
    grad = causal.graph.project["local"].weight.grad
    assert grad is None or grad.abs().max() == 0


def test_with_layers_it_reaches_the_intention_too() -> None:
    causal = kit.graph_model()
    samples = kit.samples_of(causal, kit.talks(1))
    layout = causal.graph.lay_out([TokenTree.merge(g) for g in with_trunks(samples)], pad_id=causal.pad_id)
    _, parts = causal.graph.logits(causal.model, layout.tensors())
    causal.graph.said(parts).sum().backward()
    assert causal.graph.project["local"].weight.grad.abs().max() > 0


def test_blocks_with_adapters_are_those_of_the_specification() -> None:
    assert GraphShape(width=576, blocks=30).places == (10, 20, 30)
    assert GraphShape(width=32, blocks=2).places == (1, 2)
    assert GraphShape(width=32, blocks=24, adapters=2).places == (12, 24)


# ---------------------------------------------------------------------- the format


def test_the_words_are_those_of_the_plain_format() -> None:
    tokenizer = tiny_model().tokenizer
    talk = kit.talks(1)[0]
    plain = make({"name": "strategy", "predict": False, "context_strategies": False})
    ours = make("glhg").samples(talk, tokenizer, max_length=900)
    theirs = plain.samples(talk, tokenizer, max_length=900)
    assert [(s.prompt, s.target, s.start) for s in ours] == [(s.prompt, s.target, s.start) for s in theirs]


def text_of(causal: CausalModel, ids: tuple[int, ...]) -> str:
    return str(causal.tokenizer.decode(ids, skip_special_tokens=False))


def test_a_guide_says_what_the_nodes_read() -> None:
    causal = kit.graph_model()
    talk = conversation(
        "I moved.", "Where to?", "A quiet flat.", "Is it too quiet?", "Yes, and I cannot sleep.", "Since when?", "May.",
        "I see.", situation="I miss the noise.", problem_type="Sleep Problems",
    )  # fmt: skip
    intents = ["to rest", None, "", "to rest"]
    turns = list(talk.turns)
    for k, intent in enumerate(intents):
        if intent is not None:
            found = ({"name": "atomic.xIntent", "text": intent}, {"name": "atomic.xReact", "text": "sad"})
            turns[2 * k] = replace(turns[2 * k], sources=found)
    talk = replace(talk, turns=tuple(turns))
    found = {s.turn: s for s in kit.samples_of(causal, [talk])}
    end = causal.tokenizer.eos_token
    causes = {k: text_of(causal, s.guide.cause) for k, s in found.items()}
    assert causes == {
        1: f"{end}I moved.",
        3: f"{end}I moved.{end}A quiet flat.",
        5: f"{end}I moved.{end}A quiet flat.{end}Yes, and I cannot sleep.",
        7: f"{end}I moved.{end}A quiet flat.{end}Yes, and I cannot sleep.",
    }
    assert [text_of(causal, s.guide.intention) for s in found.values()] == [
        f"{end}to rest", f"{end}none", f"{end}none", f"{end}to rest"
    ]  # fmt: skip
    for turn, sample in found.items():
        begin, stop = sample.guide.local
        assert text_of(causal, sample.prompt[begin:stop]) == talk.turns[turn - 1].text
        assert (sample.guide.context, sample.guide.problem) == (len(sample.prompt) - 1, "Sleep Problems")
    oracle = kit.samples_of(causal, [talk], cause="situation", relation="atomic.xReact", max_cause=2)
    assert text_of(causal, oracle[0].guide.intention) == f"{end}sad"
    assert len(oracle[0].guide.cause) == 3
    assert text_of(causal, oracle[0].guide.cause) in f"{end}I miss the noise."


def test_the_last_utterance_of_the_seeker_counts_whoever_spoke_after_it() -> None:
    causal = kit.graph_model()
    talk = conversation("I moved.", "Where to?", first="user")
    talk = replace(talk, turns=(*talk.turns, replace(talk.turns[1], text="And when?")))
    last = kit.samples_of(causal, [talk])[-1]
    assert text_of(causal, last.prompt[slice(*last.guide.local)]) == "I moved."
    opened = kit.samples_of(causal, kit.talks(1)[1:])[0]
    assert (opened.guide.local, text_of(causal, opened.guide.intention)) == (
        (0, 0),
        f"{causal.tokenizer.eos_token}none",
    )


def test_a_cut_context_has_no_local_tokens_of_what_was_cut() -> None:
    causal = kit.graph_model()
    long = conversation("I moved.", "Where to?", "To a flat. " * 4, *["So it is."] * 5, first="user")
    long = replace(long, turns=(*long.turns[:3], *(replace(t, role="assistant") for t in long.turns[3:])))
    samples = kit.samples_of(causal, [long], max_length=50)
    assert any(s.start > 2 for s in samples)
    for sample in samples:
        begin, stop = sample.guide.local
        assert (stop == 0) == (sample.start > 2)
        assert text_of(causal, sample.prompt[begin:stop]) == (
            "" if sample.start > 2 else long.turns[max(0, (sample.turn > 2) * 2)].text.strip()
        )
    with torch.no_grad():
        expected = [-kit.log_likelihood(causal, s)[0].sum().item() for s in samples]
    assert [x.text_nll for x in likelihood(causal, samples)] == pytest.approx(expected, abs=1e-4)


def test_formats_without_a_guide_and_texts_without_a_situation_are_refused() -> None:
    causal = kit.graph_model()
    plain = make("chat").samples(conversation("I moved.", "Where to?"), causal.tokenizer, max_length=200)
    for ask in (lambda: likelihood(causal, plain), lambda: list(generate(causal, plain, Decoding()))):
        with pytest.raises(ConfigError, match=r"needs a format that says what the graph reads.*set format: glhg"):
            ask()
    with pytest.raises(DataError, match=r"cause 'situation' needs a situation.*set format.cause: history"):
        make({"name": "glhg", "cause": "situation"}).check([conversation("I moved.", "Where to?")])
    with pytest.raises(ConfigError, match=r"max_cause and format.max_intention.*0 and 24"):
        make({"name": "glhg", "max_cause": 0})


# ---------------------------------------------------------------------- layout


def test_two_talks_of_one_name_are_told_apart() -> None:
    causal = kit.graph_model()
    one, two = (kit.samples_of(causal, [talk])[1] for talk in kit.talks(2)[:2])
    two = replace(two, conversation_id=one.conversation_id)
    twin = replace(one, id="twin", guide=replace(one.guide, intention=two.guide.cause))
    with torch.no_grad():
        expected = [-kit.log_likelihood(causal, s)[0].sum().item() for s in (one, two, twin)]
    assert [x.text_nll for x in likelihood(causal, [one, two, twin])] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(DataError, match="no beginning of the others"):
        causal.graph.lay_out([TokenTree.merge([one, two])], pad_id=2)
    with pytest.raises(DataError, match="another guide"):
        causal.graph.lay_out([TokenTree.merge([one, twin])], pad_id=2)


def test_a_prompt_without_a_word_before_the_reply_is_no_crash() -> None:
    causal = kit.graph_model()
    talk = conversation("", "Are you there?", "Yes.", "How are you?")
    samples = kit.samples_of(causal, [talk])
    assert samples[0].guide.context == 0
    found = likelihood(causal, samples[:1]) + likelihood(causal, samples)
    assert found[0].text_nll == pytest.approx(found[1].text_nll, abs=1e-4)
    assert all(np.isfinite(x.text_nll) for x in found)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_causes_pooled_alone_are_those_of_a_conversation(pooling: str) -> None:
    causal = kit.graph_model(pooling=pooling, layers=0)
    texts = [s.guide.cause for s in kit.samples_of(causal, kit.talks(), cause="situation") if s.guide]
    with torch.no_grad():
        found = causal.graph.pooled(causal.model, texts)
        for ids, row in zip(texts, found, strict=True):
            torch.testing.assert_close(row[None], kit.pooled(causal, ids), atol=1e-4, rtol=0)
        samples = kit.samples_of(causal, kit.talks(), cause="situation")
        said = causal.graph.said_of_cause(found)  # without layers a conversation adds nothing
        for sample, row in zip(samples, said, strict=True):
            torch.testing.assert_close(row[None], kit.log_likelihood(causal, sample)[1], atol=1e-4, rtol=0)


def test_texts_are_read_once() -> None:
    causal = kit.graph_model()
    talk = kit.with_intents(conversation(*["I moved.", "Where to?"] * 6, situation="It is quiet."))
    samples = kit.samples_of(causal, [talk], cause="situation")
    layout = causal.graph.lay_out([TokenTree.merge(samples)], pad_id=2)
    texts = {s.guide.cause for s in samples} | {s.guide.intention for s in samples}
    assert len(layout.cause_path) == 1
    assert len(layout.intention_path) == len({s.guide.intention for s in samples}) == 4
    assert layout.texts.filled <= sum(len(t) - 1 for t in texts) + 1


# ---------------------------------------------------------------------- on disk


def test_a_graph_is_kept_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    causal = kit.graph_model()
    causal.graph.save(tmp_path)
    again = load_graph(tmp_path)
    assert again.shape == causal.graph.shape
    for name, value in causal.graph.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)
    record = json.loads((tmp_path / "graph.json").read_text())
    (tmp_path / "graph.json").write_text(json.dumps({**record, "radius": 4, "width": 64}))
    with pytest.raises(ConfigError, match="another shape"):
        load_graph(tmp_path)
    (tmp_path / "graph.json").write_text(json.dumps({**record, "version": 9}))
    with pytest.raises(ConfigError, match="version 9"):
        load_graph(tmp_path)
    (tmp_path / "graph.json").write_text("{")
    with pytest.raises(ConfigError, match=r"graph.json is broken"):
        load_graph(tmp_path)
    (tmp_path / "graph.json").write_text(json.dumps(record))
    (tmp_path / "graph.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"graph.safetensors is broken"):
        load_graph(tmp_path)


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="must divide the model's hidden size 32"):
        GraphShape(width=32, blocks=2, heads=5)
    with pytest.raises(ConfigError, match="set monitor: 0"):
        GraphShape(width=32, blocks=2, global_node=False, problems=("a",))
    assert formats.make("glhg").name == "glhg"
