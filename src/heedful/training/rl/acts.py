"""READER's response-act head from end to end: made, kept beside an adapter, loaded again, asked, and measured.

It predicts the act of the utterance that is due from what was said so far. Acts and speakers nearly coincide in such
data (hope-mesc.md, trap 4), so its figures never stand without those of three guesses that read no word.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from heedful import taxonomy
from heedful.errors import ConfigError, NotFoundError
from heedful.formats import pack
from heedful.formats.tree import TokenTree
from heedful.models.causal import CausalModel
from heedful.models.forward import states_and_logits, tensors
from heedful.models.generate import prompt_only
from heedful.scoring.base import Rows
from heedful.scoring.intervals import interval
from heedful.scoring.metrics.classification import ACCURACY, MACRO_F1, per_class_recall
from heedful.training.config import ActHeadConfig
from heedful.training.rl.advantages import Floats
from heedful.training.rl.experience import Prompt
from heedful.training.rl.heads import ActHead

HEADS = "heads.safetensors"
"""In a run's folder: what was trained beside the policy; names of acts and their set stand in its header."""
_TOGETHER = 8


def new_act_head(config: ActHeadConfig, width: int, *, seed: int) -> ActHead:
    """A head with first values drawn by `seed`; torch's global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ActHead(width, taxonomy.get(config.label_set).names, dropout=config.dropout)


def save_heads(folder: Path, heads: Mapping[str, torch.nn.Module], *, label_set: str | None) -> None:
    """Write the weights of `heads` as `<head>.<weight>`; nothing where there is none."""
    weights = {
        f"{name}.{k}": v.detach().cpu().contiguous()
        for name, head in heads.items()
        for k, v in head.state_dict().items()
    }
    if not weights:
        return
    act = heads.get("act")
    about = {"act.label_set": label_set or "", "act.labels": json.dumps(act.labels)} if isinstance(act, ActHead) else {}
    save_file(weights, str(folder / HEADS), metadata=about)


def load_act_head(head: ActHead, folder: Path, label_set: str) -> bool:
    """Put the act head of the run in `folder` into `head`; False if it has none.

    Raises:
        ConfigError: it was trained for other acts, or another order of them.
    """
    if not (folder / HEADS).is_file():
        return False
    with safe_open(str(folder / HEADS), framework="pt") as file:
        about = file.metadata() or {}
    weights = load_file(str(folder / HEADS))
    found = {name.removeprefix("act."): value for name, value in weights.items() if name.startswith("act.")}
    if not found:
        return False
    if about.get("act.label_set") != label_set or json.loads(about.get("act.labels", "[]")) != list(head.labels):
        raise ConfigError(
            f"The act head of {folder} knows the acts of '{about.get('act.label_set')}', and act_head.label_set is "
            f"'{label_set}'; take the same set, or start from a run without an act head."
        )
    head.load_state_dict(found)
    return True


def open_act_head(folder: Path) -> tuple[ActHead, str]:
    """The act head of a finished run and the name of its label set, ready to be asked.

    Raises:
        NotFoundError: the run has none.
    """
    labels: list[str] = []
    name = ""
    if (folder / HEADS).is_file():
        with safe_open(str(folder / HEADS), framework="pt") as file:
            about = file.metadata() or {}
            labels, name = json.loads(about.get("act.labels", "[]")), about.get("act.label_set", "")
            width = file.get_tensor("act.layers.0.weight").shape[1] if labels else 0
    if not labels:
        raise NotFoundError(
            f"{folder} has no act head: expected {HEADS} with one; train with act_head: {{label_set: ...}}."
        )
    head = ActHead(width, labels)
    load_act_head(head, folder, name)
    return head.eval(), name


def gold_act(prompt: Prompt, head: ActHead, label_set: str) -> int | None:
    """Number of the act that the due reply has; None where nobody labelled it."""
    label = prompt.task.reference.label(label_set) if prompt.task.reference else None
    return head.labels.index(label) if label in head.labels else None


def act_logits(causal: CausalModel, head: ActHead, prompts: Sequence[Prompt], *, half: bool = False) -> Floats:
    """What the head says of the reply that is due after each prompt, [P, classes]; without dropout."""
    model, parts = causal.model, []
    was, was_head = model.training, head.training
    model.eval()
    head.eval()
    for begin in range(0, len(prompts), _TOGETHER):
        part = prompts[begin : begin + _TOGETHER]
        trees = [TokenTree.merge([prompt_only(f"{i}", f"{i}", 0, p.tokens)]) for i, p in enumerate(part)]
        packed = pack(trees, pad_id=causal.pad_id)
        batch = {k: v.to(causal.device) for k, v in tensors(packed).items()}
        with torch.no_grad(), torch.autocast(causal.device.type, dtype=torch.bfloat16, enabled=half):
            states, _ = states_and_logits(model, batch)
            # Longer rows are packed first, so predictions come in another order than prompts.
            order = np.argsort([int(packed.samples[owner]) for owner in packed.owner])
            pooled = path_means(states, batch, torch.from_numpy(order).to(causal.device))
            parts.append(head(pooled).double().cpu().numpy())
    model.train(was)
    head.train(was_head)
    return np.concatenate(parts) if parts else np.zeros((0, len(head.labels)))


def path_means(states: torch.Tensor, batch: Mapping[str, torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Mean final state over what the token that makes prediction `at` may see, itself included: [S] -> [S, H].

    At the first prediction of a sample that is its prompt, and nothing of other samples or of the filling.
    """
    row, source = batch["row"][at], batch["source"][at]
    if "attention" in batch:
        inside = batch["attention"][row, source]
    else:
        inside = torch.arange(states.shape[1], device=states.device)[None] <= source[:, None]
    weights = inside.float()
    weights = weights / weights.sum(1, keepdim=True)
    means = states.new_zeros((len(at), states.shape[2]), dtype=torch.float32)
    for r in row.unique().tolist():
        mine = (row == r).nonzero()[:, 0]
        means = means.index_copy(0, mine, weights[mine] @ states[r].float())
    return means


def measure_acts(
    causal: CausalModel,
    head: ActHead,
    train: Sequence[Prompt],
    prompts: Sequence[Prompt],
    *,
    label_set: str,
    split: str | None,
    half: bool = False,
) -> dict[str, Any] | None:
    """Accuracy and macro-F1 of the head beside its floors, times 100, intervals of 95 % by bootstrap over sessions.

    Floors: `majority`, the most frequent act of the training part; `speaker`, the most frequent one after utterances
    of whoever spoke last, which the model knows too; `next_speaker`, the most frequent one of whoever speaks next,
    which it does not know.

    Args:
        train: what the floors count in.
        prompts: what is measured on.
        split: named in the result.

    Returns:
        None where not one reply that is due has a label.
    """
    known = [p for p in prompts if gold_act(p, head, label_set) is not None]
    if not known:
        return None
    found = [head.labels[k] for k in act_logits(causal, head, known, half=half).argmax(1)]
    return {"split": split, **figures(known, found, train, labels=head.labels, label_set=label_set)}


def figures(
    prompts: Sequence[Prompt],
    predicted: Sequence[str],
    train: Sequence[Prompt],
    *,
    labels: Sequence[str],
    label_set: str,
) -> dict[str, Any]:
    """See `measure_acts`; `predicted` has an act for each prompt, all of which have a gold one."""
    gold = [_act_of(p, label_set) or "" for p in prompts]
    rows: dict[str, Sequence[str]] = {"act_head": predicted, **_guesses(prompts, train, label_set, labels[0])}
    sessions = [p.task.context.id for p in prompts]
    table = {}
    for name, said in rows.items():
        filled = Rows.of(gold=gold, predicted=list(said), clusters=sessions, labels=tuple(labels))
        table[name] = {metric.name: _with_interval(metric, filled) for metric in (ACCURACY, MACRO_F1)}
    own = Rows.of(gold=gold, predicted=list(predicted), clusters=sessions, labels=tuple(labels))
    return {
        "label_set": label_set,
        "n": len(gold),
        "sessions": len(set(sessions)),
        "labels": dict(Counter(gold)),
        "rows": table,
        "recall": {k: None if v is None else 100 * v for k, v in per_class_recall(own).items()},
    }


def _guesses(prompts: Sequence[Prompt], train: Sequence[Prompt], label_set: str, last: str) -> dict[str, list[str]]:
    """Predictions that read no word: name -> one for each prompt; `last` where the training part has no label."""
    seen = [(p, act) for p in train if (act := _act_of(p, label_set)) is not None]
    most = _most([act for _, act in seen], last)

    def by(key: Any) -> list[str]:
        groups: dict[str, list[str]] = {}
        for p, act in seen:
            groups.setdefault(key(p), []).append(act)
        best = {name: _most(acts, most) for name, acts in groups.items()}
        return [best.get(key(p), most) for p in prompts]

    return {
        "majority": [most] * len(prompts),
        "speaker": by(lambda p: p.task.context.turns[-1].role if p.task.context.turns else ""),
        "next_speaker": by(lambda p: p.task.reference.role),
    }


def _act_of(prompt: Prompt, label_set: str) -> str | None:
    return prompt.task.reference.label(label_set) if prompt.task.reference else None


def _most(acts: Sequence[str], otherwise: str) -> str:
    return Counter(acts).most_common(1)[0][0] if acts else otherwise


def _with_interval(metric: Any, rows: Rows) -> dict[str, float | None]:
    result = metric.compute(rows)
    low, high = interval(result, rows.cluster_index) or (None, None)
    return {"value": result.value, "low": low, "high": high}
