"""The encrypted store: conversations, drafts, decisions, ledgers and the audit chain.

SQLite (through SQLCipher) in a file, or PostgreSQL. Fields with words of people are sealed in both. Layer: above
everything that trains or measures, so none of that can reach clinical rows; it imports only types, errors, privacy.
"""

from heedful.errors import MissingExtraError

try:
    import alembic  # noqa: F401
    import sqlalchemy  # noqa: F401
except ImportError as err:
    raise MissingExtraError("The store needs SQLAlchemy and alembic; run: pip install 'heedful[serve]'") from err

from heedful.store.audit import Verdict
from heedful.store.store import Store
from heedful.store.unit import Unit

__all__ = ["Store", "Unit", "Verdict"]
