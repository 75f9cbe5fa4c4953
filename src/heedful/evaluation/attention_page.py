"""A picture of a graph's attention for one reply: which tokens each node and the written words looked at (glhg.md).

It shows words of a conversation, so the page is readable by its owner alone and nothing of it goes to a log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful import corpora
from heedful.errors import ConfigError, NotFoundError
from heedful.evaluation import report
from heedful.evaluation.config import LookConfig
from heedful.evaluation.run import look_folder, settle
from heedful.models.causal import add_markers, load
from heedful.models.graph_view import Attention, Floats, attention
from heedful.pages import page as pages

_DARKEST = 0.75


def attention_page(config: LookConfig, at: str) -> Path:
    """Write the page for the reply at `at`, `<conversation id>/<turn>`.

    Raises:
        ConfigError: the model has no graph, or `at` is of another form.
        NotFoundError: no such conversation in the part.
        DataError: no reply stands there.
    """
    name, _, turn = at.rpartition("/")
    if not name or not turn.isdigit():
        raise ConfigError(f"--at takes CONVERSATION/TURN, such as test-0000/3, but got '{at}'.")
    setting = settle(config.as_eval())
    talks = corpora.load(setting.dataset, config.split, **setting.dataset_options)
    found = next((conv for conv in talks if conv.id == name), None)
    if found is None:
        raise NotFoundError(f"There is no conversation '{name}' in split '{config.split}' of {setting.dataset}.")
    causal = load(config.model_name_or_path, dtype=config.dtype)
    add_markers(causal, setting.fmt.markers)
    conv = setting.fmt.prepare(setting.planners.plan([found])[0])
    seen = attention(causal, setting.fmt, conv, int(turn), max_length=setting.max_length)
    about = {"id": name, "turn": int(turn), "model": config.model_name_or_path}
    return pages.write(look_folder(config, setting, "attention") / f"{name}-{turn}.html", render(seen, about))


def render(seen: Attention, about: Mapping[str, Any]) -> str:
    """The page as text."""
    view = {
        **about,
        "ends": list(zip(seen.ends, seen.texts, strict=True)),
        "problems": sorted(seen.problems.items(), key=lambda pair: -pair[1]),
        "views": views(seen),
    }
    return report.environment().get_template("attention.html.j2").render({"a": pages.clean(view)})


def views(seen: Attention) -> list[dict[str, Any]]:
    """What is shown: each end's row of the last layer, and per block what the reply's words read, heads averaged."""
    out = []
    if seen.edges is not None:
        mean = seen.edges.mean(axis=0)
        for k, name in enumerate(seen.ends):
            note = "One row of the last layer, mean over its heads; underlined: tokens that the local node sees."
            out.append(_view(f"The {name} node looks at", note, mean[k], seen))
    for place, weights in seen.reading.items():
        note = f"Mean over heads and the {weights.shape[1]} tokens of the reply."
        out.append(_view(f"The reply reads, after block {place}", note, weights.mean(axis=(0, 1)), seen))
    return out


def _view(title: str, note: str, row: Floats, seen: Attention) -> dict[str, Any]:
    ends, tokens = row[: len(seen.ends)], row[len(seen.ends) :]
    most = float(tokens.max()) if len(tokens) else 0.0
    begin, end = seen.local
    return {
        "title": title,
        "note": note,
        "ends": _shares(seen.ends, ends),
        "rest": float(tokens.sum()),
        "tokens": [
            {
                "text": text,
                "share": float(share),
                "shade": f"{_DARKEST * float(share) / most if most else 0.0:.3f}",
                "local": begin <= k < end,
            }
            for k, (text, share) in enumerate(zip(seen.tokens, np.asarray(tokens), strict=True))
        ],
    }


def _shares(names: Sequence[str], values: Floats) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in zip(names, values, strict=True)]
