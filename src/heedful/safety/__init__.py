"""Wording that must not pass: rules about replies, about disclosures, and about what may be looked up.

All rules are data (`risk.toml`, `screen.toml`), each with its own test cases. They find what is said plainly, in
English, and nothing else: passing them is no proof of safety, and none of this is a crisis path.
"""

from heedful.safety.rules import Rule, Rules
from heedful.safety.rules import load as load_rules
from heedful.safety.screen import Screen, ScreenRule, in_danger, load_screen

__all__ = ["Rule", "Rules", "Screen", "ScreenRule", "in_danger", "load_rules", "load_screen"]
