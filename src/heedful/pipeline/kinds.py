"""What a stage of a recipe can be: any training method, an evaluation, a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from heedful import corpora, formats
from heedful.errors import ConfigError, unknown
from heedful.registry import Registry
from heedful.scoring.rewards import make
from heedful.settings import Settings
from heedful.training.methods import METHODS, Method


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of stage.

    Args:
        config: the class that checks its settings; has `output_dir`.
        run: `(config, say=..., callbacks=..., command=...)`; leaves `summary.json` in the stage's folder.
        names: `(config)`; looks up what the settings name, without data or models, even if folders are still missing.
        plan: `(config) -> mapping` of what it would do, read from the data; None if that is only known when it runs.
        trains: whether it goes on from checkpoints and writes `summary.json` as the last thing that matters. Others
            keep what they made as they make it and go on by being run again.
    """

    config: type[Settings]
    run: Callable[..., object] = field(repr=False)
    names: Callable[[Any], None] = field(repr=False)
    plan: Callable[[Any], Mapping[str, Any]] | None = field(default=None, repr=False)
    trains: bool = False


STAGES = Registry(
    "stage method",
    {
        "eval": "heedful.pipeline.eval_stage:EVAL",
        "study": "heedful.pipeline.study_stage:STUDY",
    },
)
"""name -> Kind. What trains is found in `heedful.training.methods.METHODS`."""


def kind_of(name: str) -> Kind:
    """The kind of stage that `method: name` asks for.

    Raises:
        NotFoundError: neither a stage nor a training method; the message lists both.
    """
    known = dict.fromkeys(METHODS.names(), METHODS) | dict.fromkeys(STAGES.names(), STAGES)
    if ":" not in name and name not in known:
        raise unknown("stage method", name, known)
    found = known.get(name, METHODS).get(name)
    if not isinstance(found, Kind | Method):
        raise ConfigError(f"'{name}' is no stage: expected a Method or a Kind, got {type(found).__name__}.")
    return found if isinstance(found, Kind) else _training(found)


def _training(method: Method) -> Kind:
    def run(config: Any, *, say: Any, callbacks: tuple[Any, ...], command: str) -> object:
        return method.train(config, say=say, callbacks=callbacks)

    return Kind(config=method.config, run=run, names=known_names, plan=method.plan, trains=True)


def known_names(config: Any) -> None:
    """Look up corpus, format and rewards of a configuration, as far as it has them.

    Raises:
        UserError: one of them does not exist, or does not have an option that it is given.
    """
    dataset, fmt = getattr(config, "dataset", None), getattr(config, "format", None)
    if dataset is not None and not corpora.is_file(dataset):
        corpora.get(dataset)
    if fmt is not None:
        formats.make(fmt)
    for key in ("rewards", "heldout"):
        make(getattr(config, key, None) or ())
