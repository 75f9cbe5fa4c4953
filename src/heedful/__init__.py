"""heedful: an open workbench for supportive dialogue.

Data flows one way: corpora -> formats -> models -> scoring -> training / evaluation -> cli. Importing this package is
quick and quiet: no torch, no network, no logging; the names below are loaded on first use.

>>> import heedful
>>> talks = heedful.load_corpus("commons", split="test")
>>> talks[0].source
'commons'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heedful.registry import load_path

if TYPE_CHECKING:
    from heedful.corpora import load as load_corpus
    from heedful.errors import ConfigError, DataError, HeedfulError, LabelError, UserError
    from heedful.evaluation import EvalConfig, evaluate
    from heedful.formats import Format, Sample, TokenTree
    from heedful.formats import make as make_format
    from heedful.models.causal import CausalModel
    from heedful.models.causal import load as load_model
    from heedful.models.decoding import Decoding
    from heedful.models.generate import generate
    from heedful.models.talk import Talk
    from heedful.scoring import Metric, Rows, compare, score
    from heedful.taxonomy import get as label_set
    from heedful.training import TrainConfig, train
    from heedful.types import Conversation, Label, Score, Span, Trace, Turn

_PUBLIC = {
    "CausalModel": "heedful.models.causal:CausalModel",
    "ConfigError": "heedful.errors:ConfigError",
    "Conversation": "heedful.types:Conversation",
    "DataError": "heedful.errors:DataError",
    "Decoding": "heedful.models.decoding:Decoding",
    "EvalConfig": "heedful.evaluation:EvalConfig",
    "Format": "heedful.formats:Format",
    "HeedfulError": "heedful.errors:HeedfulError",
    "Label": "heedful.types:Label",
    "LabelError": "heedful.errors:LabelError",
    "Metric": "heedful.scoring:Metric",
    "Rows": "heedful.scoring:Rows",
    "Sample": "heedful.formats:Sample",
    "Score": "heedful.types:Score",
    "Span": "heedful.types:Span",
    "Talk": "heedful.models.talk:Talk",
    "TokenTree": "heedful.formats:TokenTree",
    "Trace": "heedful.types:Trace",
    "TrainConfig": "heedful.training:TrainConfig",
    "Turn": "heedful.types:Turn",
    "UserError": "heedful.errors:UserError",
    "compare": "heedful.scoring:compare",
    "evaluate": "heedful.evaluation:evaluate",
    "generate": "heedful.models.generate:generate",
    "label_set": "heedful.taxonomy:get",
    "load_corpus": "heedful.corpora:load",
    "load_model": "heedful.models.causal:load",
    "make_format": "heedful.formats:make",
    "score": "heedful.scoring:score",
    "train": "heedful.training:train",
}

__all__ = [
    "CausalModel",
    "ConfigError",
    "Conversation",
    "DataError",
    "Decoding",
    "EvalConfig",
    "Format",
    "HeedfulError",
    "Label",
    "LabelError",
    "Metric",
    "Rows",
    "Sample",
    "Score",
    "Span",
    "Talk",
    "TokenTree",
    "Trace",
    "TrainConfig",
    "Turn",
    "UserError",
    "compare",
    "evaluate",
    "generate",
    "label_set",
    "load_corpus",
    "load_model",
    "make_format",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = globals()[name] = load_path(_PUBLIC[name])
        return value
    raise AttributeError(f"module 'heedful' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
