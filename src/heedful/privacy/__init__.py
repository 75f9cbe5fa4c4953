"""Keys and encryption: what lies on disk is locked, and it is said plainly what opens it.

>>> cheap = {"memory_kib": 64, "iterations": 1, "lanes": 1}  # the default costs a fifth of a second
>>> keys = Keys.create("keys.json", "correct horse battery staple", cost=cheap)
>>> locked = keys.seal(b"I slept badly.", ("turns", "7", "text"))
>>> keys.unseal(locked, ("turns", "7", "text"))
b'I slept badly.'
"""

from heedful.privacy.cipher import Context, version_of
from heedful.privacy.keys import PURPOSES, Keys, Purpose

__all__ = ["PURPOSES", "Context", "Keys", "Purpose", "version_of"]
