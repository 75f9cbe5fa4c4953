"""Recipes: one file whose stages lead from data to a report, each of them resumable.

file + key=value -> read -> Pipeline (every stage checked) -> run -> stage folders, pipeline.json, index.html
"""

from heedful.pipeline.recipe import Pipeline, Step, is_recipe, read
from heedful.pipeline.run import Done, Look, look, run

__all__ = ["Done", "Look", "Pipeline", "Step", "is_recipe", "look", "read", "run"]
