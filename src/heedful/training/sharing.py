"""What the data allow: the licences of a run's conversations and of the runs that it goes on from.

Weights are called free to share only where every licence is known to allow it. A corpus of the table has been judged
by a person (`licence_class`); in a file only an exact SPDX identifier counts, since "MIT (as the scraper says)" is
somebody's hope and no licence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heedful import corpora
from heedful.types import Conversation

NOT_STATED = "not stated"
AND = " + "
"""Between the licences of mixed data."""

FREE_CLASSES = ("CC0", "R")
FREE_LICENCES = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "ODC-By-1.0",
        "PDDL-1.0",
    }
)
"""SPDX identifiers that allow to publish what was made from the data, at most with a notice."""


def licence_of(conversations: Iterable[Conversation]) -> str | None:
    """All licences of the data, since the strictest one binds; None if no conversation states any."""
    return joined([c.licence for c in conversations])


def joined(licences: Iterable[str | None]) -> str | None:
    """Several licences, each of which may be such a list itself, as one text; None if none is stated."""
    found = {part for licence in licences for part in (licence or NOT_STATED).split(AND)}
    return None if found <= {NOT_STATED} else AND.join(sorted(found))


def is_free(dataset: str, licence: str | None) -> bool:
    """Whether weights trained on these data may be published.

    Args:
        dataset: a corpus of the table, whose class decides, or a file, where `licence` does.
        licence: what `licence_of` says.
    """
    if not corpora.is_file(dataset):
        return corpora.get(dataset).info.licence_class in FREE_CLASSES
    return licence is not None and set(licence.split(AND)) <= FREE_LICENCES


def inherited(name: str) -> dict[str, Any] | None:
    """What a run that starts from `name` takes over: data and licence of the run that made it, or None if none did.

    A run without a summary (killed, or its summary removed) has a licence that nobody knows, so nothing is free.
    """
    path = Path(name).expanduser()
    # The folder of a run, its merged base, or one of its checkpoints.
    places = [path, path.parent if path.name == "base" else path.parent.parent]
    run = next((p for p in places if (p / "config.resolved.yaml").is_file()), None) if path.is_dir() else None
    if run is None:
        named = _read(path / "adapter_config.json").get("base_model_name_or_path")
        return inherited(named) if isinstance(named, str) and named and Path(named) != path else None
    summary = _read(run / "summary.json")
    before = summary.get("base_run") or {}
    return {
        "folder": name,
        "dataset": summary.get("dataset", NOT_STATED) + (f", before that on {before['dataset']}" if before else ""),
        "data_hash": summary.get("data_hash", NOT_STATED),
        "licence": summary.get("licence"),
        "publishable": summary.get("publishable") is True,
        "model_note": summary.get("model_note", ""),
    }


def combined(dataset: str, licence: str | None, base: Mapping[str, Any] | None) -> tuple[str | None, bool]:
    """Licence and freedom of weights that hold both a run's own data and those of the run before it."""
    free = is_free(dataset, licence)
    if base is None:
        return licence, free
    return joined([licence, base["licence"]]), free and bool(base["publishable"])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
