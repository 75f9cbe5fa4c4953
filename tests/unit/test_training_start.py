"""Training that starts from a run: its adapter becomes part of the weights, and anyone can open the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from training_kit import Bench, assert_same_run, losses
from transformers import AutoModelForCausalLM, AutoTokenizer

from heedful import corpora, formats
from heedful.errors import ConfigError
from heedful.formats import Sample
from heedful.models.causal import load
from heedful.models.forward import likelihood
from heedful.training import Run
from heedful.training.checkpoints import SEAL, is_complete
from heedful.training.sharing import inherited

pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")

FAST: dict[str, Any] = {"learning_rate": 0.02, "lr_scheduler_type": "constant", "max_train_conversations": 4}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def first(bench: Bench) -> Run:
    """A LoRA whose format added nine tokens."""
    return bench.run("first", format="strategy", max_steps=6, **FAST)


def samples_of(bench: Bench, run: Path) -> list[Sample]:
    fmt, tokenizer = formats.make("strategy"), AutoTokenizer.from_pretrained(str(run))
    talks = corpora.load(str(bench.data), "train")[:4]
    return [s for c in talks for s in fmt.samples(c, tokenizer, max_length=1024)]


def nll(model: Any, samples: list[Sample]) -> float:
    """Mean over all targets, one sample at a time, without heedful."""
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for sample in samples:
            ids = torch.tensor([[*sample.prompt, *sample.target]])
            found = model(input_ids=ids).logits[0, len(sample.prompt) - 1 : -1].log_softmax(-1)
            total -= float(found.gather(1, torch.tensor(sample.target)[:, None]).sum())
            count += len(sample.target)
    return total / count


def opened(run: Path) -> Any:
    """The run as transformers and peft open it, by what its own files name."""
    from peft import PeftModel

    size = len(AutoTokenizer.from_pretrained(str(run)))
    if not (run / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(str(run))
    base = json.loads((run / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    model = AutoModelForCausalLM.from_pretrained(base)
    if model.get_input_embeddings().num_embeddings < size:
        model.resize_token_embeddings(size)
    return PeftModel.from_pretrained(model, str(run))


def ours(run: Path, samples: list[Sample]) -> float:
    found = likelihood(load(str(run), device="cpu"), samples)
    return sum(f.text_nll + f.plan_nll for f in found) / sum(f.text_tokens + f.plan_tokens for f in found)


@pytest.mark.parametrize("delta", ["lora", "dora", "full"])
def test_a_run_of_a_run_goes_on_where_it_ended_and_can_be_opened(bench: Bench, first: Run, delta: str) -> None:
    samples = samples_of(bench, first.folder)
    reached = nll(opened(first.folder), samples)
    rate = {**FAST, "learning_rate": 5e-3} if delta == "full" else FAST
    second = bench.run(
        f"second {delta}", model_name_or_path=str(first.folder), delta=delta, format="strategy", max_steps=4, **rate
    )
    assert losses(second.folder)[0] == pytest.approx(reached, abs=1e-4)  # all four conversations are one batch
    learnt = nll(opened(second.folder), samples)
    assert learnt < reached - 0.02
    assert ours(second.folder, samples) == pytest.approx(learnt, abs=1e-5)
    if delta == "full":
        assert not (second.folder / "base").exists()
        assert second.summary["trainable_parameters"] == second.summary["parameters"]
        return
    named = json.loads((second.folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    assert Path(named) == (second.folder / "base").absolute()
    assert is_complete(second.folder / "base")
    bare = load(str(second.folder), device="cpu", adapter=False)
    assert nll(bare.model, samples) == pytest.approx(reached, abs=1e-5)


def test_the_tokens_of_another_format_come_on_top(bench: Bench, first: Run) -> None:
    second = bench.run("other format", model_name_or_path=str(first.folder), format="structured", max_steps=2, **FAST)
    before, after = (set(AutoTokenizer.from_pretrained(str(x.folder)).get_vocab()) for x in (first, second))
    assert set(formats.make("structured").markers) <= after
    assert before < after
    fmt, tokenizer = formats.make("structured"), AutoTokenizer.from_pretrained(str(second.folder))
    talks = corpora.load(str(bench.data), "train")[:4]
    samples = [s for c in talks for s in fmt.samples(c, tokenizer, max_length=1024)]
    assert ours(second.folder, samples) == pytest.approx(nll(opened(second.folder), samples), abs=1e-5)


def test_three_runs_in_a_row(bench: Bench, first: Run) -> None:
    samples = samples_of(bench, first.folder)
    second = bench.run("row 2", model_name_or_path=str(first.folder), format="strategy", max_steps=2, **FAST)
    reached = nll(opened(second.folder), samples)
    third = bench.run("row 3", model_name_or_path=str(second.folder), format="strategy", max_steps=2, **FAST)
    assert losses(third.folder)[0] == pytest.approx(reached, abs=1e-4)
    assert ours(third.folder, samples) == pytest.approx(nll(opened(third.folder), samples), abs=1e-5)


def test_a_moved_run_still_finds_its_base(bench: Bench, first: Run, tmp_path: Path) -> None:
    made = bench.run(str(tmp_path / "here"), model_name_or_path=str(first.folder), format="strategy", max_steps=2)
    samples = samples_of(bench, first.folder)
    expected = ours(made.folder, samples)
    there = tmp_path / "elsewhere" / "moved"
    there.parent.mkdir()
    shutil.move(made.folder, there)
    assert ours(there, samples) == pytest.approx(expected, abs=1e-6)
    assert ours(there / "checkpoints" / "checkpoint-2", samples) == pytest.approx(expected, abs=1e-6)


VALUES: dict[str, Any] = {"format": "strategy", "save_steps": 2, "max_steps": 6}


def test_the_base_is_used_again_on_resume(bench: Bench, first: Run, tmp_path: Path) -> None:
    """Even where the run that it came from is gone."""
    copy = tmp_path / "first"
    shutil.copytree(first.folder, copy)
    values = {**VALUES, "model_name_or_path": str(copy)}
    whole = bench.run(str(tmp_path / "whole"), **values)
    killed = bench.crash(str(tmp_path / "killed"), 4, **values)
    written = (killed / "base" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(copy)
    again = bench.run(str(killed), resume_from_checkpoint=True, **values)
    assert_same_run(again.folder, whole.folder)
    assert (killed / "base" / "model.safetensors").stat().st_mtime_ns == written
    assert again.summary["base_run"] == whole.summary["base_run"]


def test_half_a_base_is_written_anew(bench: Bench, first: Run, tmp_path: Path) -> None:
    values = {**VALUES, "model_name_or_path": str(first.folder)}
    whole = bench.run(str(tmp_path / "whole"), **values)
    killed = bench.crash(str(tmp_path / "killed"), 4, **values)
    (killed / "base" / SEAL).unlink()
    (killed / "base" / "model.safetensors").write_bytes(b"half")
    again = bench.run(str(killed), resume_from_checkpoint=True, **values)
    assert_same_run(again.folder, whole.folder)
    assert is_complete(killed / "base")


def test_the_base_of_a_run_that_died_early_is_not_taken_for_its_successors(
    bench: Bench, first: Run, tmp_path: Path
) -> None:
    killed = bench.crash(str(tmp_path / "run"), 1, **{**VALUES, "model_name_or_path": str(first.folder)})
    assert (killed / "base").is_dir()
    run = bench.run(str(killed), max_steps=2)
    assert not (run.folder / "base").exists()
    named = json.loads((run.folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    assert Path(named) == bench.model


def test_all_weights_from_an_adapter_can_be_resumed(bench: Bench, first: Run, tmp_path: Path) -> None:
    values = {**VALUES, "delta": "full", "model_name_or_path": str(first.folder)}
    whole = bench.run(str(tmp_path / "whole"), **values)
    killed = bench.crash(str(tmp_path / "killed"), 4, **values)
    assert_same_run(bench.run(str(killed), resume_from_checkpoint=True, **values).folder, whole.folder)


def test_a_base_in_bf16_is_rounded_once(bench: Bench, first: Run) -> None:
    """What is kept is fp32; what is trained on is what a resumed run would read."""
    run = bench.run(
        "bf16", model_name_or_path=str(first.folder), format="strategy", precision="bf16", max_steps=1, **FAST
    )
    kept = AutoModelForCausalLM.from_pretrained(str(run.folder / "base"), dtype="auto")
    assert kept.dtype == torch.float32
    samples = samples_of(bench, first.folder)
    assert losses(run.folder)[0] == pytest.approx(nll(opened(first.folder), samples), abs=0.05)


def test_an_adapter_that_cannot_be_merged_is_one_sentence(bench: Bench, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(str(bench.model))
    made = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    made.save_pretrained(str(tmp_path / "prompt"))
    with pytest.raises(ConfigError, match=r"adapter of '.*prompt' cannot be merged .*; start from a base model\.$"):
        bench.run(str(tmp_path / "run"), model_name_or_path=str(tmp_path / "prompt"))


# ---------------------------------------------------------------- what is inherited


def corpus_under(bench: Bench, name: str, licence: str) -> str:
    from dataclasses import replace

    path = bench.root / f"{name}.jsonl"
    corpora.write_jsonl(path, [replace(c, licence=licence) for c in corpora.load(str(bench.data), "train")])
    return str(path)


@pytest.mark.parametrize("delta", ["lora", "full"])
def test_the_licence_of_the_run_before_binds(bench: Bench, delta: str) -> None:
    closed, free = (corpus_under(bench, x, x) for x in ("CC-BY-NC-4.0", "CC0-1.0"))
    before = bench.run(f"closed {delta}", delta=delta, dataset=closed, max_steps=1)
    after = bench.run(f"free {delta}", model_name_or_path=str(before.folder), delta=delta, dataset=free, max_steps=1)
    alone = bench.run(f"alone {delta}", delta=delta, dataset=free, max_steps=1)
    assert after.summary["licence"] == "CC-BY-NC-4.0 + CC0-1.0"
    assert (alone.summary["publishable"], after.summary["publishable"]) == (True, False)
    text = (after.folder / "README.md").read_text("utf-8")
    assert "under: CC-BY-NC-4.0 + CC0-1.0. **Do not publish these weights**." in text
    assert f"| which was trained on | {closed}; hash `{before.summary['data_hash']}`; CC-BY-NC-4.0 |" in text
    third = bench.run(f"third {delta}", model_name_or_path=str(after.folder), delta=delta, dataset=free, max_steps=1)
    assert third.summary["publishable"] is False
    assert third.summary["base_run"]["dataset"] == f"{free}, before that on {closed}"
    free_twice = bench.run(f"twice {delta}", model_name_or_path=str(alone.folder), dataset=free, max_steps=1)
    assert (free_twice.summary["licence"], free_twice.summary["publishable"]) == ("CC0-1.0", True)


def test_a_checkpoint_and_a_base_inherit_from_their_run(bench: Bench, tmp_path: Path) -> None:
    assert inherited("smollm2-135m-instruct") is None
    assert inherited(str(bench.model)) is None
    killed = bench.crash(str(tmp_path / "killed"), 3, save_steps=1)
    for place in (killed, killed / "checkpoints" / "checkpoint-2"):
        found = inherited(str(place))
        assert found is not None
        assert (found["licence"], found["publishable"]) == (None, False)  # it never got a summary
    whole = bench.run(str(tmp_path / "whole"), max_steps=1)
    found = inherited(str(whole.folder / "checkpoints" / "checkpoint-1"))
    assert found is not None
    assert (found["licence"], found["publishable"]) == ("Apache-2.0", True)
    (tmp_path / "plain").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):  # an adapter on a run, made by peft alone
        shutil.copy(whole.folder / name, tmp_path / "plain" / name)
    named = tmp_path / "plain" / "adapter_config.json"
    named.write_text(json.dumps({**json.loads(named.read_text()), "base_model_name_or_path": str(whole.folder)}))
    assert inherited(str(tmp_path / "plain")) == {**found, "folder": str(whole.folder)}
