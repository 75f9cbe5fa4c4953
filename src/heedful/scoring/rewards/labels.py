"""Rewards that ask a scorer, or the plan, whether a reply does what the reference turn did.

`emotion`, `strategy` and `act` are one function: the scorer brings the label set. `tag` believes the model's own word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from heedful import classify
from heedful.errors import ConfigError
from heedful.scoring.rewards.base import Task, reward
from heedful.types import Score, Trace

Of = Literal["reference", "said"]
NO_GOLD = "no gold label"


@reward(low=0.0, high=1.0)
def label(
    traces: Sequence[Trace],
    tasks: Sequence[Task],
    *,
    scorer: str,
    of: Of = "reference",
    label: str | None = None,
    hard: bool = False,
) -> list[Score]:
    """Probability that a trained scorer gives, for the reply, to the label that the reference turn carries.

    A reply without a word gets 0: it carries no label, and nobody may earn a term by silence.

    Args:
        scorer: folder of a run with `method: scorer`.
        of: whose label is wanted, that of the reference turn or of the help-seeker's turn before the reply (`said`).
        label: this label for every reply, instead of a gold one.
        hard: 1 where the wanted label is the most probable one, else 0.

    Raises:
        ConfigError: a label that the scorer's set does not have, or a scorer that has seen the test part.
    """
    model = judge(scorer)
    if label is not None and label not in model.labels:
        raise ConfigError(f"The scorer {scorer} has no label '{label}'. It has: {', '.join(model.labels)}.")
    wanted = [label or gold_label(task, model.label_set, of) for task in tasks]
    asked = [i for i, name in enumerate(wanted) if name in model.labels and traces[i].reply.strip()]
    found = dict(zip(asked, _ask(model, [traces[i] for i in asked], [tasks[i] for i in asked]), strict=True))
    scores = []
    for i, name in enumerate(wanted):
        if name is None:
            scores.append(Score(name=model.label_set, value=None, source="reward", reason=NO_GOLD))
            continue
        if name not in model.labels:
            reason = "the gold label is not in the scorer's set"
            scores.append(Score(name=model.label_set, value=None, source="reward", reason=reason))
            continue
        row = found.get(i)
        value = 0.0
        if row is not None:
            at = model.labels.index(name)
            value = float(row.argmax() == at) if hard else float(row[at])
        scores.append(Score(name=model.label_set, value=value, source="reward"))
    return scores


def judge(scorer: str) -> classify.LabelModel:
    """The scorer in the folder `scorer`, opened once per process.

    Raises:
        NotFoundError: there is none.
        ConfigError: it was trained on the test part of its corpus.
    """
    model = classify.load(scorer)
    if model.record.get("train_split") == "test":
        raise ConfigError(
            f"The scorer {scorer} was trained on the test part of {model.record.get('dataset')}, so its judgement of "
            "replies there means nothing; train one on the training part."
        )
    return model


def gold_label(task: Task, label_set: str, of: Of) -> str | None:
    """The label of the reference turn, or of the seeker's last turn; None where there is none."""
    if of == "reference":
        return task.reference.label(label_set) if task.reference else None
    said = next((turn for turn in reversed(task.context.turns) if turn.role == "user"), None)
    return said.label(label_set) if said else None


def _ask(model: classify.LabelModel, traces: Sequence[Trace], tasks: Sequence[Task]) -> classify.Floats:
    contexts = [[turn.text for turn in task.context.turns] for task in tasks]
    return model.probabilities([trace.reply for trace in traces], contexts)


@reward(low=0.0, high=1.0)
def tag(trace: Trace, task: Task, *, label_set: str) -> Score:
    """1 if the label that the model announced in its plan equals that of the reference turn, else 0.

    A reply without an announced label gets 0, with that as its explanation.

    Args:
        label_set: layer of the reference turn, and key of the plan.
    """
    gold = gold_label(task, label_set, "reference")
    if gold is None:
        return Score(name="tag", value=None, source="reward", reason=NO_GOLD)
    written = trace.plan.get(label_set)
    if written is None:
        return Score(name="tag", value=0.0, source="reward", explanation="no tag was written")
    return Score(name="tag", value=float(written == gold), source="reward")
