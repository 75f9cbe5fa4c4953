"""Each delta method, trained by `heedful.training`: the loss falls, and others can open the folder without heedful."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from training_kit import Bench, losses
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from heedful import corpora, formats
from heedful.errors import ConfigError
from heedful.formats import Sample
from heedful.models import DELTAS
from heedful.models.causal import load
from heedful.models.forward import likelihood
from heedful.testing import save_tiny

UNUSED: dict[str, Any] = {"lora_rank": 16, "lora_alpha": 32}
"""The defaults, for methods that have neither rank nor scale and refuse other values."""
RATES = {"full": 5e-3, "ia3": 0.05, "vera": 0.05, "norms": 0.02, "bias": 0.02}
CASES = [("llama", name) for name in DELTAS.names() if name != "bias"] + [("gpt2", "bias"), ("gpt2", "lora")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    found = Bench(tmp_path_factory.mktemp("delta"))
    save_tiny(found.root / "gpt2", kind="gpt2")
    return found


class Last(TrainerCallback):
    """The likelihood of some samples at the last step, as the model in training sees it."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples, self.nll = samples, 0.0

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.eval()
        self.nll = plain_nll(model, self.samples)


def plain_nll(model: Any, samples: list[Sample]) -> float:
    """Sum over all targets, one sample at a time, without heedful."""
    total = 0.0
    with torch.no_grad():
        for sample in samples:
            ids = torch.tensor([[*sample.prompt, *sample.target]])
            found = model(input_ids=ids).logits[0, len(sample.prompt) - 1 : -1].log_softmax(-1)
            total -= float(found.gather(1, torch.tensor(sample.target)[:, None]).sum())
    return total


def base_model(folder: Path) -> Path:
    return Path(json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"])


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # peft, of any norm but torch's own
@pytest.mark.parametrize(("kind", "delta"), CASES)
def test_it_learns_and_anyone_can_open_it(bench: Bench, kind: str, delta: str) -> None:
    model = bench.model if kind == "llama" else bench.root / "gpt2"
    talks = corpora.load(str(bench.data), "train")[:2]
    fmt, tokenizer = formats.make("chat"), AutoTokenizer.from_pretrained(str(model))
    samples = [s for c in talks for s in fmt.samples(c, tokenizer, max_length=1024)]
    last = Last(samples)
    run = bench.run(
        f"{kind} {delta}",
        last,
        model_name_or_path=str(model),
        delta=delta,
        learning_rate=RATES.get(delta, 0.02),
        lr_scheduler_type="constant",
        max_train_conversations=2,
        max_steps=10,
        **(UNUSED if delta in ("ia3", "vera", "norms", "bias") else {}),
    )
    curve = losses(run.folder)
    assert len(curve) == 10
    assert curve[-1] < curve[0] - 0.02
    assert sum(b < a for a, b in itertools.pairwise(curve)) >= 7

    if delta == "full":
        opened = AutoModelForCausalLM.from_pretrained(str(run.folder))
        assert not (run.folder / "adapter_config.json").exists()
    else:
        from peft import PeftModel

        assert base_model(run.folder) == model
        opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(model)), str(run.folder))
    opened.eval()
    assert plain_nll(opened, samples) == pytest.approx(last.nll, rel=1e-5)
    assert AutoTokenizer.from_pretrained(str(run.folder)).get_vocab() == tokenizer.get_vocab()

    ours = load(str(run.folder), device="cpu")
    found = likelihood(ours, samples)
    assert sum(f.text_nll + f.plan_nll for f in found) == pytest.approx(last.nll, rel=1e-5)
    bare = plain_nll(AutoModelForCausalLM.from_pretrained(str(model)).eval(), samples)
    assert bare > last.nll + 1.0


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("delta", ["lora", "full"])
def test_a_format_with_new_tokens_can_be_opened_too(bench: Bench, delta: str) -> None:
    """`strategy` adds a token for each strategy; the tokenizer and their rows are in the run."""
    name = f"strategy {delta}"
    run = bench.run(name, delta=delta, format="strategy", max_steps=3, max_train_conversations=4)
    tokenizer = AutoTokenizer.from_pretrained(str(run.folder))
    fmt = formats.make("strategy")
    assert set(fmt.markers) <= set(tokenizer.get_vocab())
    samples = [
        s for c in corpora.load(str(bench.data), "train")[:4] for s in fmt.samples(c, tokenizer, max_length=1024)
    ]
    if delta == "full":
        opened = AutoModelForCausalLM.from_pretrained(str(run.folder))
    else:
        from peft import PeftModel

        base = AutoModelForCausalLM.from_pretrained(str(base_model(run.folder)))
        base.resize_token_embeddings(len(tokenizer))
        opened = PeftModel.from_pretrained(base, str(run.folder))
    ours = likelihood(load(str(run.folder), device="cpu"), samples)
    total = sum(f.text_nll + f.plan_nll for f in ours)
    assert plain_nll(opened.eval(), samples) == pytest.approx(total, rel=1e-5)


def test_a_run_can_be_trained_further(bench: Bench) -> None:
    """A run's folder is a model_name_or_path like any other; what it learnt is not lost without a word."""
    first = bench.run("stage 1", delta="full", max_steps=4, learning_rate=5e-3)
    second = bench.run("stage 2", model_name_or_path=str(first.folder), delta="full", max_steps=1)
    assert losses(second.folder)[0] < losses(first.folder)[0] - 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delta": "bias", **UNUSED}, "this model has none"),
        ({"delta": "norms"}, "norms has no rank and no alpha; remove lora_rank and lora_alpha"),
        ({"lora_target": ["no_such_layer"]}, "does not fit this model"),
        ({"delta": "ia3", "format": "strategy"}, "cannot train the 9 tokens"),
    ],
)
def test_a_method_that_does_not_fit_is_one_sentence(bench: Bench, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.run("unfit", **values)
