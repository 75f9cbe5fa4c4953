"""Corpus x system x metrics -> a folder with replies, scores beside trivial baselines, and a report."""

from heedful.evaluation.config import EvalConfig
from heedful.evaluation.run import Evaluation, evaluate

__all__ = ["EvalConfig", "Evaluation", "evaluate"]
