"""Each delta method trains what it says, survives saving and loading, and works on merged samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from heedful.errors import ConfigError
from heedful.formats import Sample, TokenTree, by_conversation, make, pack
from heedful.models import DELTAS
from heedful.models.causal import CausalModel, add_markers, load
from heedful.models.decoding import Decoding
from heedful.models.delta import DeltaSettings, attach, trainable
from heedful.models.forward import likelihood, predictions, tensors
from heedful.models.generate import generate
from heedful.testing import conversations, save_tiny

SETTINGS = DeltaSettings(rank=4, alpha=8)
LLAMA = [name for name in DELTAS.names() if name != "bias"]
GPT2 = [name for name in DELTAS.names() if name != "vera"]
CASES = [("llama", name) for name in LLAMA] + [("gpt2", name) for name in GPT2]
cases = pytest.mark.parametrize(("kind", "name"), CASES)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_tiny(tmp_path_factory.mktemp(kind), kind=kind) for kind in ("llama", "gpt2")}


def samples_for(causal: CausalModel, spec: str = "chat") -> list[Sample]:
    fmt = make(spec)
    return [s for c in conversations(2, seed=9) for s in fmt.samples(c, causal.tokenizer, max_length=4000)]


def used(name: str, settings: DeltaSettings) -> DeltaSettings:
    """`settings` without what the method does not take."""
    if name in ("ia3", "norms", "bias"):
        return replace(settings, rank=16, alpha=32)
    return replace(settings, alpha=32) if name == "vera" else settings


def attached(base: Path, name: str, settings: DeltaSettings = SETTINGS, spec: str = "chat") -> CausalModel:
    causal = load(str(base), device="cpu")
    new = add_markers(causal, make(spec).markers)
    config = DELTAS.get(name)(replace(used(name, settings), new_tokens=new))
    if config is not None:
        causal.model = attach(causal.model, config, name=name)
    return causal


def train(causal: CausalModel, samples: list[Sample], *, steps: int = 1) -> list[float]:
    """Losses before each step and after the last."""
    model = causal.model.train()
    batch = tensors(pack([TokenTree.merge(g) for g in by_conversation(samples)], pad_id=causal.pad_id))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = -predictions(model, batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    model.eval()
    with torch.no_grad():
        losses.append(float(-predictions(model, batch).mean()))
    return losses


def changed(before: dict[str, Any], model: Any) -> set[str]:
    return {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}


def weights(model: Any) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def logits(causal: CausalModel, samples: list[Sample]) -> Any:
    ids = torch.tensor([[*samples[-1].prompt, *samples[-1].target]])
    with torch.no_grad():
        return causal.model(input_ids=ids).logits


@cases
def test_one_step_trains_only_what_is_meant_and_helps(bases: dict[str, Path], kind: str, name: str) -> None:
    causal = attached(bases[kind], name)
    samples = samples_for(causal)
    before = weights(causal.model)
    meant = {n for n, p in causal.model.named_parameters() if p.requires_grad}
    first, *_, last = train(causal, samples, steps=3)
    moved = changed(before, causal.model)
    assert moved
    assert moved <= meant
    assert last < first
    on, every = trainable(causal.model)
    assert on == sum(before[n].numel() for n in meant)
    assert every == sum(p.numel() for p in before.values())
    assert (on == every) == (name == "full")


@cases
def test_saved_and_loaded_it_is_the_same_model(bases: dict[str, Path], kind: str, name: str, tmp_path: Path) -> None:
    causal = attached(bases[kind], name)
    samples = samples_for(causal)
    untrained = logits(causal, samples)
    train(causal, samples, steps=2)
    expected = logits(causal, samples)
    assert (expected - untrained).abs().max() > 1e-3
    causal.model.save_pretrained(str(tmp_path / "run"))
    causal.tokenizer.save_pretrained(str(tmp_path / "run"))
    again = load(str(tmp_path / "run"), device="cpu")
    torch.testing.assert_close(logits(again, samples), expected, atol=1e-6, rtol=0)
    assert again.tokenizer.get_vocab() == causal.tokenizer.get_vocab()
    if name != "full":  # the base is still there under the run
        bare = load(str(tmp_path / "run"), device="cpu", adapter=False)
        torch.testing.assert_close(logits(bare, samples), untrained, atol=1e-6, rtol=0)


@cases
def test_merged_samples_are_exact_with_it(bases: dict[str, Path], kind: str, name: str) -> None:
    """Loss of one pass against separate passes, and tree decoding against transformers, after training."""
    spec = "strategy" if name in ("full", "lora", "rslora", "dora", "bias") else "chat"
    causal = attached(bases[kind], name, spec=spec)
    samples = samples_for(causal, spec)
    train(causal, samples, steps=2)
    together = likelihood(causal, samples)
    for sample, found in zip(samples, together, strict=True):
        (alone,) = likelihood(causal, [sample])
        assert found.text_nll / found.text_tokens == pytest.approx(alone.text_nll / alone.text_tokens, abs=1e-4)
        ids = torch.tensor([[*sample.prompt, *sample.target]])
        with torch.no_grad():
            plain = causal.model(input_ids=ids).logits[0, len(sample.prompt) - 1 : -1].log_softmax(-1)
        nll = -plain.gather(1, torch.tensor(sample.target)[:, None]).sum()
        assert found.text_nll + found.plan_nll == pytest.approx(float(nll), abs=1e-3)
    picked = samples[:3]
    replies = {g.id: g.written for b in generate(causal, picked, Decoding(max_new_tokens=6)) for g in b}
    for sample in picked:
        ids = torch.tensor([sample.prompt])
        out = causal.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=2
        )
        assert replies[sample.id].tokens == tuple(out[0, len(sample.prompt) :].tolist())


ROWS = [(k, n) for k in ("llama", "gpt2") for n in ("lora", "rslora", "dora", "full")] + [("gpt2", "bias")]


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_new_tokens_are_trained_saved_and_loaded(bases: dict[str, Path], kind: str, name: str, tmp_path: Path) -> None:
    causal = attached(bases[kind], name, spec="strategy")
    samples = samples_for(causal, "strategy")
    ids = torch.tensor(causal.tokenizer.convert_tokens_to_ids(list(make("strategy").markers)))
    rows, untrained = causal.model.get_input_embeddings()(ids).detach().clone(), logits(causal, samples)
    train(causal, samples, steps=3)
    after = causal.model.get_input_embeddings()(ids).detach()
    assert ((after - rows).abs().max(1).values > 1e-4).any()
    expected = logits(causal, samples)
    # The table of all other words is the base's; only the new rows need to be in the run.
    options = {} if name == "full" else {"save_embedding_layers": False}
    causal.model.save_pretrained(str(tmp_path / "run"), **options)
    causal.tokenizer.save_pretrained(str(tmp_path / "run"))
    again = load(str(tmp_path / "run"), device="cpu")
    assert samples_for(again, "strategy") == samples
    torch.testing.assert_close(again.model.get_input_embeddings()(ids), after, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(again, samples), expected, atol=1e-6, rtol=0)
    if name != "full":
        # What a trained run is compared with: the model as it was before the first step, not one with random rows.
        bare = load(str(tmp_path / "run"), device="cpu", adapter=False)
        torch.testing.assert_close(logits(bare, samples), untrained, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_a_run_that_holds_the_whole_table_is_loaded_too(bases: dict[str, Path], tmp_path: Path) -> None:
    """PEFT's own choice where a vocabulary has grown."""
    causal = attached(bases["llama"], "lora", spec="strategy")
    samples = samples_for(causal, "strategy")
    train(causal, samples, steps=2)
    causal.model.save_pretrained(str(tmp_path / "run"))
    causal.tokenizer.save_pretrained(str(tmp_path / "run"))
    again = load(str(tmp_path / "run"), device="cpu")
    torch.testing.assert_close(logits(again, samples), logits(causal, samples), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["ia3", "vera", "norms"])
def test_methods_without_rows_refuse_new_tokens(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot train the 2 tokens"):
        DELTAS.get(name)(DeltaSettings(new_tokens=(500, 501)))


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("ia3", {"rank": 8}, "delta: ia3 has no rank; remove lora_rank."),
        ("ia3", {"dropout": 0.1}, "delta: ia3 has no dropout; remove lora_dropout."),
        ("norms", {"alpha": 8, "rank": 4}, "delta: norms has no rank and no alpha; remove lora_rank and lora_alpha."),
        ("vera", {"alpha": 8}, "delta: vera has no alpha; remove lora_alpha."),
        ("bias", {"rank": 4}, "delta: bias has no rank; remove lora_rank."),
        ("bias", {"dropout": 0.1}, "delta: bias has no dropout; remove lora_dropout."),
    ],
)
def test_settings_that_would_do_nothing_are_refused(name: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DELTAS.get(name)(DeltaSettings(**values))
    assert str(caught.value) == says
    DELTAS.get(name)(DeltaSettings())
    DELTAS.get("vera")(DeltaSettings(rank=4, dropout=0.1))


def test_bias_refuses_a_model_without_biases(bases: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="this model has none; use lora"):
        attached(bases["llama"], "bias")


def test_bias_trains_only_biases(bases: dict[str, Path]) -> None:
    model = attached(bases["gpt2"], "bias").model
    meant = {n for n, p in model.named_parameters() if p.requires_grad}
    assert meant
    assert all(n.endswith(".bias") for n in meant)
    assert meant == {n for n, _ in model.named_parameters() if n.endswith(".bias")}


def test_norms_trains_only_norms(bases: dict[str, Path]) -> None:
    model = attached(bases["llama"], "norms").model
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 5  # two a layer and the last one
    assert all("norm" in n for n in trained)


def test_a_method_that_does_not_fit_says_so(bases: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="vera does not fit this model"):
        attached(bases["gpt2"], "vera")
    with pytest.raises(ConfigError, match="lora does not fit this model"):
        attached(bases["llama"], "lora", DeltaSettings(target_modules=("no_such_layer",)))


def test_a_delta_method_starts_as_the_base(bases: dict[str, Path]) -> None:
    base = load(str(bases["llama"]), device="cpu")
    samples = samples_for(base)
    expected = logits(base, samples)
    for name in LLAMA:
        torch.testing.assert_close(logits(attached(bases["llama"], name), samples), expected, atol=1e-5, rtol=0)


def test_trained_weights_are_fp32_on_a_bf16_base(bases: dict[str, Path]) -> None:
    causal = load(str(bases["llama"]), dtype="bfloat16", device="cpu")
    model = attach(causal.model, DELTAS.get("lora")(SETTINGS), name="lora")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_settings_reach_the_method(bases: dict[str, Path]) -> None:
    few, many = (
        trainable(attached(bases["llama"], "lora", DeltaSettings(rank=r, target_modules=("q_proj", "v_proj"))).model)[0]
        for r in (2, 4)
    )
    assert many == 2 * few
    every = trainable(attached(bases["llama"], "lora", DeltaSettings(rank=2)).model)[0]
    assert every > few
    assert DELTAS.get("lora")(DeltaSettings(dropout=0.25)).lora_dropout == 0.25
