"""Label sets: what every loader, classifier, prompt, annotation page and report means by a label.

Each set is one TOML file in this folder (`<name>.toml`); each table from one set to another is one TOML file in
`crosswalks/` (`<source>--<target>.toml`). Data hold canonical names, models hold ids, and the hash of a set is kept
with every checkpoint. From outside, a set is a `LabelSet` behind `module:attribute` (`parse_set` makes one).

>>> from heedful import taxonomy
>>> taxonomy.get("esconv_strategy").resolve(" [questions] ")
'Question'
>>> taxonomy.crosswalk("esconv_strategy", "esc_stage").map("Question")
'Exploration'

The meanings are heedful's own words. Several sets are research conventions, some are disputed, none is a diagnosis.
"""

from heedful.taxonomy import hope
from heedful.taxonomy._files import crosswalk, crosswalks, get, names, parse_set
from heedful.taxonomy._page import markdown
from heedful.taxonomy._sets import Cardinality, Crosswalk, LabelInfo, LabelSet, normalise

__all__ = [
    "Cardinality",
    "Crosswalk",
    "LabelInfo",
    "LabelSet",
    "crosswalk",
    "crosswalks",
    "get",
    "hope",
    "markdown",
    "names",
    "normalise",
    "parse_set",
]
