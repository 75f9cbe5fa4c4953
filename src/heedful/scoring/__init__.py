"""Scores of replies and labels: named metrics, intervals over dialogues, paired comparisons. Heavy imports come late.

>>> from heedful.scoring import Rows, score
>>> rows = Rows.of(["I am sorry to hear that."], ["I am so sorry to hear it."], clusters=["talk-1"])
>>> table = score(rows, metrics=["rouge1", "length"], bootstrap=0)
>>> round(table.value("rouge1"), 1), table.value("length")
(76.9, 6.0)
"""

from heedful.scoring.base import Metric, Result, Rows
from heedful.scoring.metrics import GROUPS, METRICS
from heedful.scoring.suite import Comparison, Line, Table, compare, score

__all__ = ["GROUPS", "METRICS", "Comparison", "Line", "Metric", "Result", "Rows", "Table", "compare", "score"]
