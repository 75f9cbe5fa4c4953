"""A merged adapter computes what an unmerged one does, and is taken out again without a trace, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rl_kit import policy

from heedful.models.causal import CausalModel
from heedful.models.merged import merged
from heedful.testing import tiny_model

DELTAS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "rslora": {"rank": 4},
    "dora": {"rank": 4},
    "ia3": {"target_modules": ("k_proj", "v_proj", "down_proj")},
    "vera": {"rank": 4},
    "norms": {},
}
every = pytest.mark.parametrize("delta", DELTAS)


def made(delta: str, *, bf16: bool = False, kind: str = "llama", **more: Any) -> CausalModel:
    settings = {**DELTAS[delta], **more}
    if kind == "gpt2":
        settings.pop("target_modules", None)
    if delta == "norms":
        settings.setdefault("target_modules", ("input_layernorm", "post_attention_layernorm", "norm"))
    causal = policy(kind, delta, spread=0.1, **settings)
    if bf16:  # a frozen base in 16 bit with a trained part in 32, as `precision: auto` has it on a GPU
        for parameter in causal.model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    return causal


def logits(causal: CausalModel) -> Any:
    ids = torch.arange(3, 30)[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=_is_mixed(causal)):
        return causal.model(input_ids=ids).logits.float()


def _is_mixed(causal: CausalModel) -> bool:
    return any(p.dtype == torch.bfloat16 for p in causal.model.parameters())


def state(model: Any) -> dict[str, Any]:
    """Everything that could have changed: values, types, places in memory, and what an optimiser asks."""
    found = {n: (p.detach().clone(), p.dtype, p.data_ptr(), p.requires_grad) for n, p in model.named_parameters()}
    found |= {f"buffer {n}": (b.clone(), b.dtype, 0, False) for n, b in model.named_buffers()}
    modes = {n: m.training for n, m in model.named_modules()}
    flags = {
        n: (list(m.merged_adapters), m.disable_adapters)
        for n, m in model.named_modules()
        if hasattr(m, "merged_adapters")
    }
    return {"values": found, "modes": modes, "flags": flags}


def assert_same_state(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["modes"] == expected["modes"]
    assert found["flags"] == expected["flags"]
    assert list(found["values"]) == list(expected["values"])
    for name, (value, *rest) in expected["values"].items():
        assert torch.equal(found["values"][name][0], value), name
        assert found["values"][name][1:] == tuple(rest), name


@every
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_afterwards_all_is_as_before(delta: str, bf16: bool, dtype: str | None) -> None:
    causal = made(delta, bf16=bf16)
    before, said = state(causal.model), logits(causal)
    for _ in range(3):
        with merged(causal.model, dtype=dtype and getattr(torch, dtype)) as model:
            assert model is causal.model
            assert dtype is None or {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert_same_state(state(causal.model), before)
    assert torch.equal(logits(causal), said)


@every
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_inside_it_computes_what_the_adapter_does(delta: str, kind: str) -> None:
    if kind == "gpt2" and delta in ("vera", "norms"):
        pytest.skip("layer names here are Llama's")
    causal = made(delta, kind=kind)
    expected = logits(causal)
    with causal.model.disable_adapter():
        without = logits(causal)
    assert float((expected - without).abs().max()) > 0.05, "the adapter must do something"
    with merged(causal.model):
        found = logits(causal)
        linear = [m for m in causal.model.modules() if hasattr(m, "merged_adapters")]
        assert linear
        assert all(m.merged_adapters for m in linear)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_other_types_are_near() -> None:
    causal = made("lora")
    expected = logits(causal)
    with merged(causal.model, dtype=torch.bfloat16):
        assert _is_mixed(causal)
        found = logits(causal)
    assert 0 < float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


@every
def test_an_error_inside_leaves_nothing_behind(delta: str) -> None:
    causal = made(delta)
    before = state(causal.model)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), merged(causal.model, dtype=torch.bfloat16):
        fail()
    assert_same_state(state(causal.model), before)


def test_an_error_while_merging_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where memory runs out half-way."""
    causal = made("lora")
    before = state(causal.model)
    layers = [m for m in causal.model.modules() if hasattr(m, "merged_adapters")]

    def refuse(**_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(layers[5], "merge", refuse)
    with pytest.raises(MemoryError), merged(causal.model):
        pass
    monkeypatch.undo()
    assert_same_state(state(causal.model), before)


@pytest.mark.parametrize("delta", ["lora", "dora"])
def test_rows_of_new_tokens(delta: str) -> None:
    """Their trained rows are merged into the table, which input and output share here."""
    causal = tiny_model()
    causal.tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<b>"]})
    causal.model.resize_token_embeddings(len(causal.tokenizer), mean_resizing=False)
    new = tuple(range(len(causal.tokenizer) - 2, len(causal.tokenizer)))
    fresh = policy_on(causal, delta, new)
    before = state(fresh.model)
    ids = torch.tensor([[5, new[0], 9, new[1], 11]])
    with torch.no_grad():
        expected = fresh.model(input_ids=ids).logits
        with fresh.model.disable_adapter():
            assert float((fresh.model(input_ids=ids).logits - expected).abs().max()) > 0.05
        with merged(fresh.model):
            found = fresh.model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    assert_same_state(state(fresh.model), before)


def policy_on(causal: CausalModel, delta: str, new: tuple[int, ...]) -> CausalModel:
    from heedful.models import DELTAS as TABLE
    from heedful.models.delta import DeltaSettings, attach

    causal.model = attach(causal.model, TABLE.get(delta)(DeltaSettings(rank=4, new_tokens=new)), name=delta)
    noise = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in causal.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
    causal.model.eval()
    return causal


@every
def test_training_goes_on_afterwards(delta: str) -> None:
    """An optimiser made before the block still moves the weights that count, and gradients reach them."""
    causal = made(delta)
    trained = [p for p in causal.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    causal.model.train()
    with merged(causal.model):
        causal.model.eval()
        logits(causal)
        causal.model.train()
    before = logits(causal)
    causal.model(input_ids=torch.arange(3, 30)[None]).logits.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained)
    optimizer.step()
    assert float((logits(causal) - before).abs().max()) > 1e-4


def test_modes_within_the_block() -> None:
    """`eval()` and `train()` inside change nothing about what is merged: dropout is not applied to merged weights."""
    causal = made("lora", dropout=0.9)
    expected = logits(causal)
    causal.model.train()
    with merged(causal.model):
        for mode in (True, False):
            causal.model.train(mode)
            torch.testing.assert_close(logits(causal), expected, atol=1e-4, rtol=0)
    causal.model.eval()
    assert torch.equal(logits(causal), expected)


def test_an_adapter_that_is_off_stays_off() -> None:
    causal = made("lora")
    with causal.model.disable_adapter():
        without = logits(causal)
        with merged(causal.model):
            pass
        assert torch.equal(logits(causal), without)
    assert float((logits(causal) - without).abs().max()) > 0.05


def test_a_model_without_an_adapter_only_changes_its_type() -> None:
    causal = tiny_model()
    before, said = state(causal.model), logits(causal)
    with merged(causal.model):
        assert torch.equal(logits(causal), said)
    with merged(causal.model, dtype=torch.bfloat16):
        assert {p.dtype for p in causal.model.parameters()} == {torch.bfloat16}
        # Tied tables stay one tensor.
        assert causal.model.get_output_embeddings().weight is causal.model.get_input_embeddings().weight
    assert_same_state(state(causal.model), before)
