"""Crisis rules: layer 1 of the crisis path. They need no model and no network, and no switch turns them off.

Rules are data, one file a language (`en.toml`, `es.toml`, `de.toml`, `zh.toml`), each with its own test cases. They
find what is said plainly, veiled or in slang in ways that somebody wrote down; they miss what nobody did. Finding
nothing says nothing about a person's safety.

>>> from heedful.safety import crisis
>>> found = crisis.assess("I have had enough. I am going to k1ll myself tonight")
>>> found.tier, found.level
('immediate', 5)
"""

from heedful.safety.crisis._assess import Assessment, Match, assess
from heedful.safety.crisis._rules import (
    BEHAVIOURS,
    CLASSES,
    LANGUAGES,
    TIERS,
    Behaviour,
    Rule,
    RuleSet,
    Tier,
    load,
    parse,
)

__all__ = [
    "BEHAVIOURS",
    "CLASSES",
    "LANGUAGES",
    "TIERS",
    "Assessment",
    "Behaviour",
    "Match",
    "Rule",
    "RuleSet",
    "Tier",
    "assess",
    "load",
    "parse",
]
