"""The crisis path, and wording that must not pass. Nothing here needs a model or a network.

What a help-seeker says: `crisis` (rules in four languages), `policy` (what is done about it), `state` (what is known of
a conversation, and who has to act), `texts` and `resources` (what is shown). What is sent: `gate`. What is looked up:
`screen`. How well it does: `evaluation`.

All rules are data, each with its own test cases. They find what somebody wrote down, and miss the rest: passing them is
no proof of safety.
"""

from heedful.safety.rules import Rule, Rules
from heedful.safety.rules import load as load_rules
from heedful.safety.screen import Screen, ScreenRule, in_danger, load_screen

__all__ = ["Rule", "Rules", "Screen", "ScreenRule", "in_danger", "load_rules", "load_screen"]
