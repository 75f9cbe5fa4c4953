"""Conversation <-> model input, a layer of its own.

    conversation --Format.samples--> Sample (prompt, target) --TokenTree.merge--> one pass per conversation

>>> from heedful.formats import make
>>> make("chat").fingerprint.split("#")[0]
'chat/v1'
"""

from collections.abc import Mapping
from typing import Any

from heedful.errors import ConfigError
from heedful.formats.base import Format, build, encode, neutral
from heedful.formats.sample import Guide, Overlong, Reply, Sample, Tokenizer, Window
from heedful.formats.tree import Packed, TokenTree, by_conversation, pack
from heedful.registry import Registry

FORMATS = Registry(
    "format",
    {
        "chat": "heedful.formats.chat:ChatFormat",
        "structured": "heedful.formats.structured:StructuredFormat",
        "strategy": "heedful.formats.strategy:StrategyFormat",
        "joined": "heedful.formats.joined:JoinedFormat",
        "qa": "heedful.formats.qa:QAFormat",
        "reader": "heedful.formats.reader:ReaderFormat",
        "kemi": "heedful.formats.kemi:KemiFormat",
        "seeker": "heedful.formats.seeker:SeekerFormat",
        "glhg": "heedful.formats.glhg:GLHGFormat",
    },
)

__all__ = [
    "FORMATS",
    "Format",
    "Guide",
    "Overlong",
    "Packed",
    "Reply",
    "Sample",
    "TokenTree",
    "Tokenizer",
    "Window",
    "by_conversation",
    "encode",
    "make",
    "neutral",
    "pack",
]


def make(spec: str | Mapping[str, Any]) -> Format:
    """A format from its name, or from a mapping with `name` and the format's options.

    Raises:
        NotFoundError: no such format.
        ConfigError: an option that it does not have.
    """
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("A format needs a 'name', for instance format: {name: chat}.")
    return build(FORMATS.get(name), options)
