"""Knowledge: stores of vetted cases and commonsense, filtered before anything can be made from them, and retrieval.

    heedful knowledge build cases.jsonl
    heedful knowledge search cases "cannot sleep before exams"

>>> from heedful.knowledge import READERS
>>> READERS.names()
['atomic', 'cases', 'esc-graph', 'heal']
"""

from heedful.knowledge.build import Built, build
from heedful.knowledge.index import METHODS, Hit, Index
from heedful.knowledge.item import Item, Link
from heedful.knowledge.readers import READERS, Encoder, Reader
from heedful.knowledge.triples import Triple, triples

__all__ = [
    "METHODS",
    "READERS",
    "Built",
    "Encoder",
    "Hit",
    "Index",
    "Item",
    "Link",
    "Reader",
    "Triple",
    "build",
    "triples",
]
