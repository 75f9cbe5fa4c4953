"""A suite from runs to one page: protocol, floors, systems with intervals, strategies, pictures, limits.

    suite -> study (replies, scores, paired tests) -> floors -> strategies of each system
          -> comparison.json, comparison.html, comparison.md, pictures/*.svg

The page holds no word of the corpus: pictures and tables are made of numbers. Examples stand on the study's own page.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful import corpora, taxonomy
from heedful.errors import ConfigError, NotFoundError
from heedful.evaluation import report
from heedful.evaluation.comparison_text import markdown
from heedful.evaluation.floors import Floors, floors
from heedful.evaluation.progress import strategy_progress
from heedful.evaluation.run import write_json
from heedful.evaluation.study import Say, Study, study
from heedful.evaluation.study_config import StudyConfig
from heedful.evaluation.suites import Suite
from heedful.evaluation.traces import read_records
from heedful.pages import page as pages
from heedful.pages.charts import standalone
from heedful.pages.pictures import bars, matrix
from heedful.scoring import anchors
from heedful.scoring.base import Rows
from heedful.scoring.metrics.classification import confusion, per_class_recall
from heedful.scoring.suite import resolve, score
from heedful.settings import check
from heedful.types import Conversation, Trace

STRATEGY_SCORES = ("accuracy", "macro_f1", "weighted_f1", "preference_bias", "top3")
TEXT_SCORES = (
    "ppl_token", "ppl_word", "bleu1", "bleu2", "bleu4", "rougeL_published", "distinct1_published",
    "distinct2_published",
    "distinct2_per1000", "f1", "meteor", "bertscore", "length",
)  # fmt: skip
"""What the table of replies shows, where it was measured; the study's page has all of it."""
_ABOUT: tuple[anchors.About, ...] = ("replies", "strategies")
LIMITS = (
    "BLEU and ROUGE measure words in common with one reply that one person wrote. One fixed kind sentence is level "
    "with published systems in them, so they are no evidence that a reply helps anybody.",
    "A strategy that differs from the corpus' may be as good: several fit most turns, and the labels are one "
    "annotator's. Accuracy says how well a system guesses what this supporter did.",
    "Oracle and forced rows are handed a strategy; they bound what a better predictor could bring, and are no systems.",
    "Systems that read the seeker's own account from before the talk (`situation`) know what no listener knows.",
    "Systems that write strategies read the corpus' own strategies of earlier turns, as the released code does, and so "
    "do a selector and the floors; in use they would read their own. Vanilla, GLHG and KEMI read none.",
    "A selector writes nothing: it picks replies of the training part and was fitted to overlap itself, so its BLEU "
    "and ROUGE say what those measures can be driven to, and decoding does not touch it.",
    "GLHG was trained with the seeker's situation; the row without it (`glhg`) reads what training never left out.",
    "Tables of strategies are of the first decoding and its first seed.",
    "Perplexity of a system with strategies is given the corpus' strategy of the reply, whatever it would have chosen "
    "itself; so Joint and Oracle share one number, and it is no number of a deployed system.",
    "Each row is one training run. Intervals are over dialogues, not over training seeds.",
    "No row here was judged by a help-seeker or a clinician.",
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A finished comparison."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / "comparison.html"


def compare(
    suite: Suite, config: StudyConfig, *, say: Say = lambda text: None, command: str = "", fresh_floors: bool = False
) -> Comparison:
    """Run a suite's study and put everything that belongs beside it on one page.

    Raises:
        UserError: something in configuration, data or models.
    """
    if config.split is None or config.dataset is None:
        raise ConfigError("A comparison is of one part of one corpus; name both, for instance split=test.")
    dataset, split = config.dataset, config.split
    done = study(config, say=say, command=command)
    trivial = None
    if suite.floors:
        say("floors")
        trivial = floors(
            dataset, split, bootstrap=config.bootstrap, seed=config.seed, folder=done.folder / "floors",
            merge_turns=config.merge_turns, options=config.dataset_options, max_conversations=config.max_conversations,
            fresh=fresh_floors, say=say,
        )  # fmt: skip
    say("strategies")
    conversations = corpora.load(dataset, split, **config.dataset_options)[: config.max_conversations]
    if config.merge_turns:
        conversations = [conv.merged() for conv in conversations]
    summary = {
        "kind": "comparison",
        "title": suite.title,
        **{
            key: done.summary[key]
            for key in ("heedful", "created", "command", "corpus", "seed", "bootstrap", "machine")
        },
        "block": suite.block,
        "decodings": done.summary["decodings"],
        "systems": done.summary["systems"],
        "metrics": {name: done.summary["metrics"][name] for name in TEXT_SCORES if name in done.summary["metrics"]},
        "scores": _texts(done),
        "findings": done.summary["findings"],
        "looks": sum(row["low"] is not None for row in done.summary["comparisons"]),
        "strategies": _strategies(suite, config, done, conversations),
        "floors": trivial.to_dict() if trivial else None,
        "published": _published(suite, config),
        "limits": list(LIMITS),
    }
    write_json(done.folder / "comparison.json", summary)
    _pictures(done.folder / "pictures", summary)
    pages.write(done.folder / "comparison.html", render(summary))
    pages.write(done.folder / "comparison.md", markdown(summary, drawn(summary)))
    return Comparison(folder=done.folder, summary=summary)


def _texts(done: Study) -> dict[str, Any]:
    return {
        decoding: {
            system: {name: found[name] for name in TEXT_SCORES if name in found} for system, found in systems.items()
        }
        for decoding, systems in done.summary["scores"].items()
    }


def _strategies(
    suite: Suite, config: StudyConfig, done: Study, conversations: Sequence[Conversation]
) -> dict[str, Any] | None:
    """Per system that chooses its labels itself: scores with intervals, the confusion matrix, shares over the talk.

    What others were handed is said in `handed`, and not scored.
    """
    if suite.labels is None:
        return None
    label_set = suite.labels
    labels = taxonomy.get(label_set).names
    gold = {f"{c.id}/{i}": turn.label(label_set) for c in conversations for i, turn in enumerate(c.turns)}
    decoding = next(iter(config.decodings))
    found: dict[str, Any] = {}
    handed = []
    for name, spec in config.systems.items():
        file = done.folder / "traces" / f"{name}.{decoding}.{config.seeds(decoding)[0]}.jsonl"
        traces = [t for t in map(Trace.from_dict, read_records(file)[1]) if label_set in t.plan]
        if not traces:
            continue
        choose = spec.plan if isinstance(spec.plan, str) else spec.plan.choose if spec.plan else None
        if choose not in ("argmax", "sample", None):
            handed.append(name)
            continue
        found[name] = {**_scored(traces, gold, label_set, config), "choose": choose or "as any other token"}
        predicted = {trace.id: str(trace.plan[label_set]) for trace in traces}
        found[name]["progress"] = strategy_progress(conversations, predicted, label_set=label_set).to_dict()
    return {
        "label_set": label_set,
        "labels": list(labels),
        "systems": found,
        "handed": handed,
        "gold": strategy_progress(conversations, label_set=label_set).to_dict(),
    }


def _scored(
    traces: Sequence[Trace], gold: Mapping[str, str | None], label_set: str, config: StudyConfig
) -> dict[str, Any]:
    labels = taxonomy.get(label_set).names
    spreads = [(trace.plan.get("probabilities") or {}).get(label_set) for trace in traces]
    rows = Rows.of(
        gold=[gold[trace.id] for trace in traces],
        predicted=[str(trace.plan[label_set]) for trace in traces],
        distributions=[[spread[label] for label in labels] if spread else None for spread in spreads],
        clusters=[trace.conversation_id for trace in traces],
        labels=labels,
    )
    table = score(rows, metrics=STRATEGY_SCORES, bootstrap=config.bootstrap, seed=config.seed)
    return {
        "scores": {
            line.name: {"value": line.value, "low": line.low, "high": line.high, "n": line.n, "reason": line.reason}
            for line in table.lines
        },
        "confusion": confusion(rows).astype(int).tolist(),
        "recall": per_class_recall(rows),
    }


def _published(suite: Suite, config: StudyConfig) -> list[dict[str, Any]]:
    """Published rows of the suite's own protocol block, replies and strategies apart; none beside other places."""
    changed = ("dataset", "dataset_options", "split", "max_conversations", "merge_turns")
    asked = check(StudyConfig, {**suite.study, "systems": dict(config.systems)}, where="suite")
    if suite.block is None or any(getattr(asked, name) != getattr(config, name) for name in changed):
        return []
    found = []
    for about in _ABOUT:
        try:
            found.append(anchors.table(suite.block, about).to_dict())
        except NotFoundError:  # this block has none of that kind
            continue
    return found


# ------------------------------------------------------------------------------------------------------ what is drawn


def _pictures(folder: Path, summary: Mapping[str, Any]) -> None:
    """The pictures as files of their own, for documents."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn(summary).items():
        scratch = folder / f"{name}.svg.part"
        scratch.write_text(standalone(svg), "utf-8")
        os.replace(scratch, folder / f"{name}.svg")


def drawn(summary: Mapping[str, Any]) -> dict[str, str]:
    """Name -> SVG: strategies over the course of the talk (the corpus and each system), and each confusion matrix."""
    about = summary["strategies"]
    if about is None:
        return {}
    labels = about["labels"]
    out = {"progress-gold": _course(about["gold"], "gold", labels, "the corpus")}
    for name, found in about["systems"].items():
        out[f"progress-{name}"] = _course(found["progress"], "predicted", labels, name)
        title = f"Strategies of {name}: rows are the corpus' labels, columns what was chosen"
        out[f"confusion-{name}"] = matrix(found["confusion"], labels, title=title)
    return out


def _course(progress: Mapping[str, Any], which: str, labels: Sequence[str], who: str) -> str:
    shares = progress[which]
    ordinals = ["1st fifth", "2nd", "3rd", "4th", "5th"]
    names = ordinals if progress["parts"] == len(ordinals) else [str(k + 1) for k in range(progress["parts"])]
    rows = {name: [shares[label][k] for label in labels] for k, name in enumerate(names)}
    return bars(rows, labels, title=f"Strategies over the course of the talk: {who}")


def render(summary: Mapping[str, Any]) -> str:
    """The page as text; the same summary gives the same text."""
    shown = pages.clean(json.loads(json.dumps(summary)))
    view = {
        "c": shown,
        "pictures": drawn(shown),
        "floors": Floors.from_dict(shown["floors"]) if shown["floors"] else None,
        "strategy_scores": {metric.name: metric.title for metric, _ in resolve(STRATEGY_SCORES)},
    }
    return report.environment().get_template("comparison.html.j2").render(view)
