"""The plan's own objective: a softmax over the marks, apart from the words; and a learning rate for their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from heedful import formats
from heedful.errors import ConfigError
from heedful.formats import TokenTree, pack
from heedful.models.causal import add_markers
from heedful.models.forward import tensors
from heedful.settings import check
from heedful.testing import conversations, tiny_model
from heedful.training.config import PlanLossConfig, TrainConfig
from heedful.training.plan_loss import PlanPart, new_rows, plan_part
from heedful.training.run import train

pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")


def part(**options: Any) -> PlanPart:
    return PlanPart(
        config=PlanLossConfig(**options), marks=torch.tensor([5, 7, 9]), weights=torch.tensor([1.0, 2.0, 0.5])
    )


def test_the_softmax_runs_over_the_marks_alone() -> None:
    logits = torch.zeros(2, 12)
    logits[0, [5, 7, 9]] = torch.tensor([1.0, 3.0, 0.0])
    logits[:, 11] = 50.0  # whatever the vocabulary wants
    logits[1, [5, 7, 9]] = torch.tensor([0.0, 0.0, 4.0])
    total, right = part(class_weight="none").loss(logits, torch.tensor([7, 5]))
    first = -torch.tensor([1.0, 3.0, 0.0]).log_softmax(0)[1] * 2.0
    second = -torch.tensor([0.0, 0.0, 4.0]).log_softmax(0)[0] * 1.0
    torch.testing.assert_close(total, first + second)
    assert int(right) == 1


def test_smoothing_asks_for_a_share_of_every_label() -> None:
    logits = torch.zeros(1, 12)
    logits[0, [5, 7, 9]] = torch.tensor([9.0, 0.0, 0.0])
    plain, smooth = (part(label_smoothing=s).loss(logits, torch.tensor([5]))[0] for s in (0.0, 0.2))
    assert float(smooth) > float(plain) + 0.5


def test_classes_are_weighed_by_how_often_they_are_learnt_from() -> None:
    causal, fmt = tiny_model(), formats.make("strategy")
    add_markers(causal, fmt.markers)
    talks = conversations(6, seed=2)
    trees = [TokenTree.merge(fmt.samples(c, causal.tokenizer, max_length=4000)) for c in talks]
    found = {}
    for how in ("none", "sqrt", "balanced"):
        config = check(TrainConfig, {"format": "strategy", "plan_loss": {"class_weight": how}})
        made = plan_part(config, causal, fmt, trees)
        assert made is not None
        found[how] = made.weights
    assert found["none"].tolist() == [1.0] * 8
    assert found["balanced"].max() > found["sqrt"].max() > 1
    plans = sum(int(tree.plan.sum()) for tree in trees)
    assert plans == sum(len(tree.samples) for tree in trees)
    batch = tensors(pack(trees, pad_id=causal.pad_id))
    assert len(batch["label"]) > plans


def test_a_format_without_a_plan_is_refused() -> None:
    config = check(TrainConfig, {"format": "chat", "plan_loss": {}})
    with pytest.raises(ConfigError, match="needs a format whose targets begin with one marker"):
        plan_part(config, tiny_model(), formats.make("chat"), [])
    assert plan_part(check(TrainConfig, {}), tiny_model(), formats.make("chat"), []) is None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "model"
    causal = tiny_model()
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    return folder


def go(base: Path, folder: Path, **more: Any) -> list[dict[str, Any]]:
    import json

    values = {
        "model_name_or_path": str(base), "dataset": "commons", "format": "strategy", "max_train_conversations": 8,
        "max_eval_conversations": 4, "max_steps": 12, "eval_steps": 4, "save_steps": 4, "learning_rate": 1e-3,
        "warmup_steps": 0, "logging_steps": 1, "lr_scheduler_type": "constant", 
        "precision": "fp32", "lora_rank": 2, "output_dir": str(folder), **more,
    }  # fmt: skip
    train(check(TrainConfig, values))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_the_run_learns_plans_and_says_how_many_are_right(base: Path, tmp_path: Path) -> None:
    rows = go(base, tmp_path / "run", plan_loss={"weight": 5.0, "class_weight": "none"}, new_token_learning_rate=0.01)
    right = [row["eval_plan_accuracy"] for row in rows if "eval_plan_accuracy" in row]
    assert len(right) == 3
    assert all(0 <= share <= 1 for share in right)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]


def test_without_it_everything_is_as_it_was(base: Path, tmp_path: Path) -> None:
    rows = go(base, tmp_path / "plain")
    assert not any("eval_plan_accuracy" in row for row in rows)


def test_new_rows_move_at_their_own_rate(base: Path, tmp_path: Path) -> None:
    """Adam's step is about its rate, so ten times the rate is ten times the way."""
    from safetensors.torch import load_file

    moved = {}
    for rate in (None, 1e-2):
        folder = tmp_path / f"rate-{rate}"
        go(base, folder, max_steps=1, eval_steps=1, save_steps=1, new_token_learning_rate=rate)
        saved = load_file(str(folder / "adapter_model.safetensors"))
        tables = [value for name, value in saved.items() if "trainable_tokens" in name]
        assert all(torch.equal(table, tables[0]) for table in tables)  # input and output share their rows
        moved[rate] = tables[0]
    start = tiny_model()
    add_markers(start, formats.make("strategy").markers)
    rows = start.model.get_input_embeddings().weight[-len(moved[None]) :].detach()
    way = {rate: float((table - rows).abs().max()) for rate, table in moved.items()}
    assert way[1e-2] == pytest.approx(10 * way[None], rel=0.05)


def test_rows_are_found_by_name() -> None:
    assert new_rows(tiny_model().model) == []
