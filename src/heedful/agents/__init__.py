"""Planners: what is worked out before a reply is written.

A planner reads conversations and gives them back with something added to their turns: labels that it predicts, and
sources that it looked up. Formats write it into the input, traces keep it, and pages show it. What it adds to a turn
depends on that turn and those before it alone, so one walk over a talk serves training, evaluation and chat.

>>> from heedful import agents
>>> agents.make(["none"]).fingerprint
'none'
"""

from heedful.agents.base import PLANNERS, Planner, Planners, make, needed

__all__ = ["PLANNERS", "Planner", "Planners", "make", "needed"]
