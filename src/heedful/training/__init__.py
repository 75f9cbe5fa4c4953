"""Loops that turn a configuration into a run folder. Importing this package does not import torch.

config (YAML) -> TrainConfig -> gather (corpus, format, trees) -> sft (transformers' Trainer) -> run folder
"""

from heedful.training.config import TrainConfig
from heedful.training.methods import Run
from heedful.training.run import dry_run, train

__all__ = ["Run", "TrainConfig", "dry_run", "train"]
